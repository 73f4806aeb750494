//! `auth`: the parts of a request that may carry a key.

use std::path::PathBuf;

use http::HeaderName;
use http::header::{COOKIE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};

use crate::config::decode::Decoder;
use crate::config::form::{boolean, non_empty, one_of, path, text};
use crate::config::header_name::{has_other_meaning, header_name};
use crate::config::identity::{Identity, certificate_identities};
use crate::config::issuer::{Issuer, issuers};
use crate::config::section::section;
use crate::config::tree::Node;

section! {
    /// The parts of a request that may carry a key.
    #[derive(Clone, Debug)]
    pub(crate) struct Auth: Default in "auth" {
        /// Headers that may carry a key, in the order in which they are read.
        headers: Vec<HeaderName> =
            non_empty(text(key_header).shown()).or(vec![http::header::AUTHORIZATION]);
        /// What happens to a request with two different credentials. `refuse`: it is answered with
        /// 400. `any`: the credential that matches a key counts.
        conflict: Conflict = one_of(&CONFLICTS).or(Conflict::Refuse);
        /// Whether the password of a Basic credential is accepted as a key.
        basic: bool = boolean().or(false);
        /// Whether KEY in `Sec-WebSocket-Protocol: openai-insecure-api-key.KEY` is accepted as a
        /// key.
        websocket_protocol: bool = boolean().or(false);
        /// Issuers whose tokens (JWTs) identify their holders. A credential with two dots is then a token,
        /// and never a key.
        jwt: Vec<Issuer> = issuers().or_default().narrowing();
        /// What the holders of client certificates may do, at listeners with `client_ca`: the first entry
        /// whose conditions hold. With a key or token on the same request, the certificate does not count.
        certificates: Vec<Identity> = certificate_identities().or_default().narrowing();
        /// A file of tokens that are refused although they are valid: `jti: […]` and `sub: […]`. It is
        /// watched.
        deny: Option<PathBuf> = path().optional().narrowing();
    }
}

impl Auth {
    /// Whether tokens or certificates identify anybody.
    pub(crate) fn has_identities(&self) -> bool {
        !self.jwt.is_empty() || !self.certificates.is_empty()
    }

    /// Returns all identities of tokens and certificates.
    pub(crate) fn identities(&self) -> impl Iterator<Item = &Identity> {
        self.jwt.iter().flat_map(|issuer| &issuer.identities).chain(&self.certificates)
    }
}

/// The answer to a request with two different credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// The request is refused.
    #[default]
    Refuse,
    /// The credential that matches a key is used.
    Any,
}

const CONFLICTS: [(&str, Conflict); 2] = [("refuse", Conflict::Refuse), ("any", Conflict::Any)];

/// Decodes the name of a header that may carry a key. The header must have no other meaning,
/// because bearward removes it from the request.
fn key_header(d: &mut Decoder<'_>, node: &Node) -> Option<HeaderName> {
    const TAKEN: [HeaderName; 3] = [COOKIE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL];
    let name = header_name(d, node)?;
    if TAKEN.contains(&name) || has_other_meaning(&name) {
        let hint = match name == SEC_WEBSOCKET_PROTOCOL {
            true => "`websocket_protocol: true` takes a key from it",
            false => "as in authorization or x-api-key",
        };
        return d.hinted(node.at, format!("`{name}` has another meaning: it can't carry a key"), hint);
    }
    Some(name)
}
