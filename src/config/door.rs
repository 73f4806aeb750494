//! `serves`: listeners at which another proxy asks whether it may forward a request.

use crate::config::decode::Decoder;
use crate::config::form::one_of;
use crate::config::section::section;
use crate::config::tree::Node;

/// A listener at which another proxy asks, instead of one at which clients are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Door {
    pub(crate) asker: Asker,
    /// What happens to keys with limits that can't be held here.
    pub(crate) unenforceable: Unenforceable,
}

/// The proxy that asks, and the protocol in which it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Asker {
    /// nginx's `auth_request`.
    Nginx,
    /// Caddy's `forward_auth`.
    Caddy,
    /// Traefik's `ForwardAuth`.
    Traefik,
    /// Envoy's filter `ext_authz` with an `http_service`.
    Envoy,
    /// Envoy's filter `ext_authz` with a `grpc_service`.
    ExtAuthz,
}

impl Asker {
    pub(crate) const ALL: [Asker; 5] =
        [Asker::Nginx, Asker::Caddy, Asker::Traefik, Asker::Envoy, Asker::ExtAuthz];

    /// Returns the name of the door in logs and metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Asker::Nginx => "nginx",
            Asker::Caddy => "caddy",
            Asker::Traefik => "traefik",
            Asker::Envoy => "envoy",
            Asker::ExtAuthz => "ext_authz",
        }
    }

    /// Returns the door with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Asker::ALL.into_iter().find(|asker| asker.name() == name)
    }

    /// Whether the proxy may send the body of a request along.
    pub(crate) fn may_send_body(self) -> bool {
        self == Asker::ExtAuthz
    }
}

/// What happens to a key with a limit that can't be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unenforceable {
    /// Its requests are refused.
    Refuse,
    /// Its requests pass, and that limit does not hold for them.
    Ignore,
}

section! {
    /// What a listener serves.
    #[derive(Clone, Debug)]
    pub(super) struct Served in "a listener" {
        /// What the listener serves. `proxy`: requests of clients. `forward_auth`: a proxy named by
        /// `asked_by` asks over HTTP whether it may forward a request. `ext_authz`: Envoy asks over
        /// gRPC. The last two need an address on loopback, a unix socket, or `trusted_proxies`.
        serves: Service = one_of(&SERVICES).or(Service::Proxy);
        /// The proxy that asks at this listener. It determines which headers hold the original request.
        asked_by: Option<Asker> = one_of(&ASKERS).optional();
        /// Where another proxy asks, what happens to a key with a limit that can't be held there, such as
        /// `max_concurrent`. `refuse`: its requests are refused with 403. `ignore`: that limit does not hold.
        unenforceable: Option<Unenforceable> = one_of(&UNENFORCEABLE).optional();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Proxy,
    ForwardAuth,
    ExtAuthz,
}

const SERVICES: [(&str, Service); 3] =
    [("proxy", Service::Proxy), ("forward_auth", Service::ForwardAuth), ("ext_authz", Service::ExtAuthz)];

const ASKERS: [(&str, Asker); 4] =
    [("nginx", Asker::Nginx), ("caddy", Asker::Caddy), ("traefik", Asker::Traefik), ("envoy", Asker::Envoy)];

const UNENFORCEABLE: [(&str, Unenforceable); 2] =
    [("refuse", Unenforceable::Refuse), ("ignore", Unenforceable::Ignore)];

/// Returns the door that a listener is; `None` if it serves clients.
pub(super) fn door(d: &mut Decoder<'_>, node: &Node, served: Served) -> Option<Option<Door>> {
    let Served { serves, asked_by, unenforceable } = served;
    let asker = match (serves, asked_by) {
        (Service::Proxy, None) if unenforceable.is_none() => return Some(None),
        (Service::Proxy, _) => {
            let (message, hint) = (
                "`asked_by` and `unenforceable` are for listeners at which a proxy asks",
                "serves: forward_auth",
            );
            return d.hinted(node.at, message, hint);
        }
        (Service::ForwardAuth, Some(asker)) => asker,
        (Service::ForwardAuth, None) => {
            let hint = "asked_by: nginx, caddy, traefik or envoy";
            return d.hinted(node.at, "forward_auth needs the proxy that asks", hint);
        }
        (Service::ExtAuthz, None) => Asker::ExtAuthz,
        (Service::ExtAuthz, Some(_)) => {
            return d.hinted(node.at, "only Envoy asks over ext_authz", "leave `asked_by` out");
        }
    };
    Some(Some(Door { asker, unenforceable: unenforceable.unwrap_or(Unenforceable::Refuse) }))
}
