//! The names of a request's credential in logs.

use http::HeaderValue;

/// The ids that name a request's credential.
#[derive(Clone, Debug, Default)]
pub(crate) enum Naming {
    /// The request had no credential, or more than one.
    #[default]
    Nothing,
    /// The request had a secret of the key with this id.
    Key(HeaderValue),
    /// The request had a refused secret of the key with the first id; the answer named the
    /// credential by the second id.
    KeyBy(Box<(HeaderValue, String)>),
    /// The credential matched no key. It is named by this id, which no caller can choose.
    Unknown(Box<str>),
    /// The credential matched no key. Its token contains this key id, which the caller has chosen.
    Claimed(Box<str>),
}

impl Naming {
    /// Returns the id of the key or of the unknown credential, never a claimed key id.
    pub(super) fn key_id(&self) -> Option<&str> {
        match self {
            Naming::Key(id) => id.to_str().ok(),
            Naming::KeyBy(ids) => ids.0.to_str().ok(),
            Naming::Unknown(id) => Some(id),
            Naming::Nothing | Naming::Claimed(_) => None,
        }
    }

    /// Returns the key id inside a forged token.
    pub(super) fn claimed_key_id(&self) -> Option<&str> {
        match self {
            Naming::Claimed(id) => Some(id),
            _ => None,
        }
    }

    /// Returns the id by which the answer named the credential, if it differs from the key's id.
    pub(super) fn credential_id(&self) -> Option<&str> {
        match self {
            Naming::KeyBy(ids) => Some(&ids.1),
            _ => None,
        }
    }
}
