//! `credential`: the header that authenticates bearward to an upstream.

use http::{HeaderName, HeaderValue};

use crate::bom;
use crate::config::decode::Decoder;
use crate::config::files::ReadFile;
use crate::config::form::{Form, text};
use crate::config::header_name::{has_other_meaning, header_name};
use crate::config::secret::{SecretValue, env_or_file};
use crate::config::section::{nested, section};
use crate::config::tree::Node;
use crate::placeholder;

/// The credential that the upstream gets instead of the caller's key.
#[derive(Clone)]
pub(crate) struct UpstreamCredential {
    pub(crate) header: HeaderName,
    pub(crate) value: HeaderValue,
    /// The file that the credential was read from, so that a reload notices a change of the file.
    pub(crate) file: Option<ReadFile>,
}

impl std::fmt::Debug for UpstreamCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamCredential").field("header", &self.header).finish_non_exhaustive()
    }
}

section! {
    /// The credential that the upstream gets instead of the caller's key.
    #[derive(Clone, Debug)]
    struct Written in "an upstream's credential" {
        /// The header of the credential. In authorization, a single word is sent as a Bearer token.
        header: HeaderName = text(header_name).shown().or(http::header::AUTHORIZATION);
        secret: SecretValue = env_or_file("a credential");
    }
}

pub(super) fn credential() -> Form<UpstreamCredential> {
    nested().then(made)
}

fn made(d: &mut Decoder<'_>, node: &Node, written: Written) -> Option<UpstreamCredential> {
    let Written { header, secret } = written;
    if has_other_meaning(&header) {
        let message = format!("`{header}` has another meaning: it can't carry a credential");
        return d.hinted(node.at, message, "as in authorization or x-api-key");
    }
    let text = bom::without(secret.text()).trim();
    if text.is_empty() {
        d.fault(node.at, "the credential is empty");
        return None;
    }
    if let Some(found) = placeholder::find_in_header(text) {
        return d.hinted(node.at, format!("the credential is {}", found.what), found.hint);
    }
    let is_bare = header == http::header::AUTHORIZATION && !text.contains(' ');
    let value = if is_bare { format!("Bearer {text}") } else { text.to_owned() };
    let Ok(mut value) = HeaderValue::try_from(value) else {
        d.fault(node.at, "the credential is not the value of a header");
        return None;
    };
    value.set_sensitive(true);
    Some(UpstreamCredential { header, value, file: secret.file })
}
