//! Checks whether a client may use the admin listener.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::state::Admin;
use crate::bom;
use crate::denial::Denial;
use crate::gate;
use crate::guard::client::Client;
use crate::keys::Permission;
use crate::proxy::Gateway;
use crate::{regular_file, unreadable};

/// Reserved route names for the admin listener. A key that is restricted to routes needs the first
/// name for all access, or the second name for metrics only, so that the key of a metrics scraper
/// can change nothing. A configuration can't define a route with one of these names.
const ROUTES: [&str; 2] = ["bearward:admin", "bearward:metrics"];

/// The caller of a request to the admin listener. The audit log contains the caller's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Actor {
    /// A client on this machine that needed no credential.
    Local,
    /// A client that sent the admin token.
    Token,
    /// A client that sent a key with the permission `admin`. The value is the key's id.
    Key(String),
}

impl Actor {
    pub(super) fn name(&self) -> &str {
        match self {
            Actor::Local => "loopback",
            Actor::Token => "the admin token",
            Actor::Key(id) => id,
        }
    }
}

/// The client of a connection to the admin listener.
pub(super) struct Visitor {
    pub(super) admin: Arc<Admin>,
    pub(super) is_local: bool,
    pub(super) peer: Option<IpAddr>,
}

impl Visitor {
    /// Refuses requests with foreign host names, against DNS rebinding: a foreign site could let
    /// its name resolve to this machine, and its page in a local browser could then read what
    /// loopback may read. A host that is an IP address can't be rebound, and browsers do not use
    /// unix sockets.
    pub(super) fn check_site(&self, parts: &Parts) -> Result<(), Denial> {
        // A browser marks each request that another site caused (W3C Fetch Metadata), and these
        // requests are refused. A click on a link to the status page is allowed, because the
        // linking site can't read the page.
        let header = |name| parts.headers.get(name).map(|value| value.as_bytes());
        let is_link = header("sec-fetch-dest") == Some(b"document") && parts.method == Method::GET;
        if header("sec-fetch-site").is_some_and(|site| matches!(site, b"cross-site" | b"same-site"))
            && !is_link
        {
            return Err(Denial::bad_content("A page of another site may not send this request"));
        }
        if self.peer.is_none() && self.is_local {
            return Ok(());
        }
        let mut hosts = parts.headers.get_all(HOST).iter();
        let named = match (parts.uri.authority(), hosts.next(), hosts.next()) {
            (Some(authority), _, None) => authority.as_str(),
            (None, Some(host), None) => host.to_str().unwrap_or_default(),
            _ => return Err(Denial::bad_content("One Host header is needed")),
        };
        let is_ours = !named.contains('@')
            && named.parse::<Authority>().is_ok_and(|authority| {
                let host = authority.host().to_ascii_lowercase();
                let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
                host == "localhost"
                    || bare.parse::<IpAddr>().is_ok()
                    || self.admin.config.hosts.contains(&host)
            });
        if is_ours { Ok(()) } else { Err(Denial::misdirected(named)) }
    }

    /// Finds the caller of a request: a client with the admin token, or a key with the permission
    /// `admin`. A key that is restricted to routes needs the first name of [`ROUTES`]. If `scrapes`
    /// is set, the request is for metrics only, and the second name is enough.
    pub(super) async fn authorize(&self, headers: &HeaderMap, scrapes: bool) -> Result<Actor, Denial> {
        let Gateway { snapshot, limiter, clock, .. } = &*self.admin.gateway;
        let client = Client::of_peer(self.peer);
        // A client with too many failed attempts has to wait. Until then, the listener refuses even
        // the right admin token from this client, but accepts a key with the permission `admin`.
        let is_limited = gate::is_limited(&client, &snapshot.load_full(), limiter).await;
        if !is_limited && self.has_token(headers).await {
            return Ok(Actor::Token);
        }
        let snapshot = snapshot.load();
        let context = self.admin.gateway.context(&snapshot, clock.wall());
        let (_, outcome) = gate::authenticate((headers, None), &snapshot.admin_auth, &client, context).await;
        let principal = outcome?;
        let key = &principal.key().key;
        let [all, metrics] = ROUTES;
        gate::may_use(key, Permission::Admin, all).or_else(|denial| match scrapes {
            true => gate::may_use(key, Permission::Admin, metrics),
            false => Err(denial),
        })?;
        Ok(Actor::Key(key.id().to_owned()))
    }

    /// Finds the caller of a request that only reads, like [`Visitor::authorize`]. A browser may
    /// also send the credential as a password (RFC 7617), with any user name. A request for a
    /// change can't use a password, because browsers add a saved password to every request, even to
    /// a request that another site caused.
    pub(super) async fn authorize_look(&self, headers: &HeaderMap, scrapes: bool) -> Result<Actor, Denial> {
        match password(headers) {
            Some(bearer) => self.authorize(&HeaderMap::from_iter([(AUTHORIZATION, bearer)]), scrapes).await,
            None => self.authorize(headers, scrapes).await,
        }
    }

    async fn has_token(&self, headers: &HeaderMap) -> bool {
        let Some(path) = self.admin.config.token_file.clone() else { return false };
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else { return false };
        let Some((scheme, given)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else {
            return false;
        };
        // The token file is read at each request, so that a changed token is in effect at once.
        // Requests to the admin listener are rare.
        let read = tokio::task::spawn_blocking(move || {
            regular_file::read_text(&path).inspect_err(|error| {
                let hint = unreadable::advice(&path, error);
                tracing::error!(file = %path.display(), %error, hint, "the admin token can't be read");
            })
        });
        let Ok(Ok(token)) = read.await else { return false };
        let token = bom::without(&token).trim();
        let is_same = given.trim().as_bytes().ct_eq(token.as_bytes());
        !token.is_empty() && scheme.eq_ignore_ascii_case("bearer") && is_same.into()
    }
}

/// Returns the password of a Basic credential as a Bearer credential.
fn password(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else { return None };
    let (scheme, coded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = Zeroizing::new(STANDARD.decode(coded.trim()).ok()?);
    let (_, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    let mut bearer = HeaderValue::try_from(format!("Bearer {password}")).ok()?;
    bearer.set_sensitive(true);
    Some(bearer)
}
