//! Checks what identities need of the rest of the configuration.

use crate::config::auth::Auth;
use crate::config::decode::Decoder;
use crate::config::fault::Position;
use crate::config::group::Group;
use crate::config::identity::Identity;
use crate::config::keys::Keys;
use crate::config::listener::Listener;
use crate::config::route::Route;
use crate::config::tree::Node;

/// The parts of a configuration that identities need.
pub(super) struct Needed<'a> {
    pub(super) auth: &'a Auth,
    pub(super) listeners: &'a [Listener],
    pub(super) keys: &'a Keys,
    pub(super) groups: &'a [Group],
    pub(super) routes: &'a [Route],
    pub(super) keeps_budgets: bool,
    pub(super) is_shared: bool,
}

/// Refuses identities that name what the configuration does not have, and settings without effect.
pub(super) fn refuse_what_identities_lack(d: &mut Decoder<'_>, root: &Node, config: &Needed<'_>) {
    let auth = root.field("auth");
    let of_auth = |field: &str| auth.and_then(|auth| auth.field(field));
    for (number, issuer) in config.auth.jwt.iter().enumerate() {
        let node =
            of_auth("jwt").and_then(|issuers| issuers.item(number)).and_then(|item| item.field("identities"));
        refuse_missing(d, root.at, node, &issuer.identities, config);
    }
    refuse_missing(d, root.at, of_auth("certificates"), &config.auth.certificates, config);
    let at = |field: &str| auth.map_or(root.at, |auth| auth.position_of(field));
    let asks_for_certificates = config.listeners.iter().any(|listener| {
        listener.door.is_none() && listener.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
    });
    if !config.auth.certificates.is_empty() && !asks_for_certificates {
        d.fault(at("certificates"), "no listener of clients asks for certificates").hint =
            Some("`tls: {client_ca: …}` at the listener".to_owned());
    }
    if config.auth.deny.is_some() && config.auth.jwt.is_empty() {
        d.fault(at("deny"), "`deny` is a list of tokens, and there is no `jwt`").hint =
            Some("`client_crl` at the listener for certificates, `revoke` for keys".to_owned());
    }
    if config.auth.has_identities() && config.is_shared && config.keys.id_secret.is_none() {
        let field = if config.auth.jwt.is_empty() { "certificates" } else { "jwt" };
        d.fault(
            at(field),
            "each replica would name the same holder differently, and so have its limits for itself",
        )
        .hint = Some("the same `keys.id_secret` for all replicas".to_owned());
    }
}

/// Refuses identities that name a group or a route that is not there, or have budgets that a restart would
/// forget. `node`: the list of identities.
fn refuse_missing(
    d: &mut Decoder<'_>,
    otherwise: Position,
    node: Option<&Node>,
    identities: &[Identity],
    config: &Needed<'_>,
) {
    for (number, identity) in identities.iter().enumerate() {
        let item = node.and_then(|list| list.item(number));
        let at = |field: &str| item.map_or(otherwise, |item| item.position_of(field));
        if let Some(group) = &identity.group
            && !config.groups.iter().any(|known| known.name == *group)
        {
            let known = config.groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>().join(", ");
            let hint = match known.is_empty() {
                true => "the configuration has no `groups`".to_owned(),
                false => format!("the configuration has: {known}"),
            };
            d.fault(at("group"), format!("there is no group `{group}`")).hint = Some(hint);
        }
        for route in identity.routes.iter().flatten() {
            let is_of_admin = ["bearward:admin", "bearward:metrics"].contains(&route.as_str());
            if !is_of_admin && !config.routes.iter().any(|known| known.name == *route) {
                d.fault(at("routes"), format!("there is no route `{route}`")).hint =
                    Some("the name of a route of `routes`, or of its preset".to_owned());
            }
        }
        if identity.budgets.as_ref().is_some_and(|budgets| !budgets.is_empty()) && !config.keeps_budgets {
            d.fault(at("budgets"), "budgets, and nothing keeps what was used of them").hint =
                Some("`state: {path: DIRECTORY}`, or `shared` for several replicas".to_owned());
        }
    }
}
