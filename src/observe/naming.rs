//! How logs name the credential of a request.

use http::HeaderValue;

/// What is known of a request's credential, by the ids that name it.
#[derive(Clone, Debug, Default)]
pub(crate) enum Naming {
    /// There was none, or there were too many.
    #[default]
    Nothing,
    /// It is a secret of the key with this id.
    Key(HeaderValue),
    /// The same, refused; the answer named the credential by the second id.
    KeyBy(Box<(HeaderValue, String)>),
    /// It is a secret of no key, and has this id, which nobody can choose.
    Unknown(Box<str>),
    /// It is a secret of no key, and claims this id: whoever presents a token has chosen the id inside it.
    Claimed(Box<str>),
}

impl Naming {
    /// The id of the key, or of the unknown credential. Never one that was only claimed.
    pub(super) fn key_id(&self) -> Option<&str> {
        match self {
            Naming::Key(id) => id.to_str().ok(),
            Naming::KeyBy(ids) => ids.0.to_str().ok(),
            Naming::Unknown(id) => Some(id),
            Naming::Nothing | Naming::Claimed(_) => None,
        }
    }

    /// The id that a forged token claims.
    pub(super) fn claimed_key_id(&self) -> Option<&str> {
        match self {
            Naming::Claimed(id) => Some(id),
            _ => None,
        }
    }

    /// The id that the answer named the credential by, where that is another one than the key's.
    pub(super) fn credential_id(&self) -> Option<&str> {
        match self {
            Naming::KeyBy(ids) => Some(&ids.1),
            _ => None,
        }
    }
}
