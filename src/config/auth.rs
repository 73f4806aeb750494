//! `auth`: the parts of a request that may carry a key.

use http::HeaderName;
use http::header::{COOKIE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};

use crate::config::decode::Decoder;
use crate::config::form::{boolean, non_empty, one_of, text};
use crate::config::header_name::{has_other_meaning, header_name};
use crate::config::section::section;
use crate::config::tree::Node;

section! {
    /// The parts of a request that may carry a key.
    #[derive(Clone, Debug)]
    pub(crate) struct Auth: Default in "auth" {
        /// Headers that may carry a key, in the order they are read.
        headers: Vec<HeaderName> =
            non_empty(text(key_header).shown()).or(vec![http::header::AUTHORIZATION]);
        /// Whether a request with two different credentials is refused, or the one that is a key counts.
        conflict: Conflict = one_of(&CONFLICTS).or(Conflict::Refuse);
        /// Whether the password of a Basic credential is taken as the key.
        basic: bool = boolean().or(false);
        /// Whether `Sec-WebSocket-Protocol: openai-insecure-api-key.KEY` is taken as the key.
        websocket_protocol: bool = boolean().or(false);
    }
}

/// The answer to a request with two different credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// It is refused.
    #[default]
    Refuse,
    /// The credential that is a key counts.
    Any,
}

const CONFLICTS: [(&str, Conflict); 2] = [("refuse", Conflict::Refuse), ("any", Conflict::Any)];

/// A header that may carry a key. It must have no other meaning, since it is removed from the request.
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
