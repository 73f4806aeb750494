//! Who may ask the admin listener, and by what name.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::Visitor;
use crate::bom;
use crate::denial::Denial;
use crate::gate;
use crate::guard::client::Client;
use crate::keys::Permission;
use crate::proxy::Gateway;
use crate::regular_file;

/// What a key that is narrowed to routes must name to be let in here; for metrics, the second will do, so that whoever scrapes
/// can change nothing. No route of a configuration can have such a name.
const ROUTES: [&str; 2] = ["bearward:admin", "bearward:metrics"];

/// Whoever asks, as the audit names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Actor {
    /// Somebody on this machine, who has shown nothing.
    Local,
    /// Whoever holds the admin token.
    Token,
    /// A key with `admin`.
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

impl Visitor {
    /// Refuses names that are not ours: a page in a browser on this machine could have its own name lead here, and read
    /// what loopback may (DNS rebinding). An address can't be led anywhere, and a unix socket is no place for a browser.
    pub(super) fn check_site(&self, parts: &Parts) -> Result<(), Denial> {
        // A browser says so itself (W3C Fetch Metadata). A link to the page is none of that: whoever set it learns nothing.
        let told = |name| parts.headers.get(name).map(|value| value.as_bytes());
        let is_link = told("sec-fetch-dest") == Some(b"document") && parts.method == Method::GET;
        if told("sec-fetch-site").is_some_and(|site| matches!(site, b"cross-site" | b"same-site")) && !is_link
        {
            return Err(Denial::bad_content("A page of another site may not ask this"));
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
                host == "localhost" || bare.parse::<IpAddr>().is_ok() || self.admin.hosts.contains(&host)
            });
        if is_ours { Ok(()) } else { Err(Denial::misdirected(named)) }
    }

    /// Whether a request carries the admin token, or a key with `admin` that is not narrowed to routes, or to ours among them.
    /// `scrapes`: metrics are asked for, and nothing else.
    pub(super) async fn authorize(&self, headers: &HeaderMap, scrapes: bool) -> Result<Actor, Denial> {
        let Gateway { snapshot, limiter, clock, .. } = &*self.admin.gateway;
        let client = Client::of_peer(self.peer);
        // Whoever guesses is told to wait, and a right guess is not looked at until then. A key with `admin` still is.
        let is_limited = gate::wait_of(&client, &snapshot.load(), limiter).is_some();
        if !is_limited && self.has_token(headers).await {
            return Ok(Actor::Token);
        }
        let snapshot = snapshot.load();
        let context = self.admin.gateway.context(&snapshot, clock.wall());
        let (_, outcome) = gate::authenticate(headers, &snapshot.admin_auth, &client, context);
        let principal = outcome?;
        let key = &principal.key().key;
        let [all, metrics] = ROUTES;
        gate::may_use(key, Permission::Admin, all).or_else(|denial| match scrapes {
            true => gate::may_use(key, Permission::Admin, metrics),
            false => Err(denial),
        })?;
        Ok(Actor::Key(key.id().to_owned()))
    }

    /// [`Visitor::authorize`] for a look, where a browser may send the credential, too: as a password (RFC 7617), with
    /// any name. It sends one along wherever it is led, so for a change that is none.
    pub(super) async fn authorize_look(&self, headers: &HeaderMap, scrapes: bool) -> Result<Actor, Denial> {
        match password(headers) {
            Some(bearer) => self.authorize(&HeaderMap::from_iter([(AUTHORIZATION, bearer)]), scrapes).await,
            None => self.authorize(headers, scrapes).await,
        }
    }

    async fn has_token(&self, headers: &HeaderMap) -> bool {
        let Some(path) = self.admin.token_file.clone() else { return false };
        // Read at each request, which is rare: a token that was changed counts at once.
        let shown = path.display().to_string();
        let read = tokio::task::spawn_blocking(move || regular_file::read_text(&path)).await;
        let token = match read.unwrap_or_else(|_panic| Err(std::io::ErrorKind::Other.into())) {
            Ok(token) => token,
            Err(error) => {
                tracing::error!(file = shown, %error, "the admin token can't be read");
                return false;
            }
        };
        let token = bom::without(&token).trim();
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else { return false };
        let Some((scheme, given)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else {
            return false;
        };
        let is_same = given.trim().as_bytes().ct_eq(token.as_bytes());
        !token.is_empty() && scheme.eq_ignore_ascii_case("bearer") && is_same.into()
    }
}

/// The password of a Basic credential, as the Bearer credential that it stands for.
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
