//! The names of a request's credential in logs.

use http::HeaderValue;

/// The ids that name a request's credential.
#[derive(Clone, Debug, Default)]
pub(crate) enum Naming {
    /// There was no credential, or more than one.
    #[default]
    Nothing,
    /// A secret of the key with this id.
    Key(HeaderValue),
    /// A refused secret of the key with the first id; the answer named the credential by the second
    /// one.
    KeyBy(Box<(HeaderValue, String)>),
    /// A secret of no key, with an id that no caller can choose.
    Unknown(Box<str>),
    /// A secret of no key, which claims this id: the caller has chosen the id inside the token.
    Claimed(Box<str>),
}

impl Naming {
    /// The id of the key, or of the unknown credential; never a claimed one.
    pub(super) fn key_id(&self) -> Option<&str> {
        match self {
            Naming::Key(id) => id.to_str().ok(),
            Naming::KeyBy(ids) => ids.0.to_str().ok(),
            Naming::Unknown(id) => Some(id),
            Naming::Nothing | Naming::Claimed(_) => None,
        }
    }

    /// The key id inside a forged token.
    pub(super) fn claimed_key_id(&self) -> Option<&str> {
        match self {
            Naming::Claimed(id) => Some(id),
            _ => None,
        }
    }

    /// The id by which the answer named the credential, where that is not the key's.
    pub(super) fn credential_id(&self) -> Option<&str> {
        match self {
            Naming::KeyBy(ids) => Some(&ids.1),
            _ => None,
        }
    }
}
