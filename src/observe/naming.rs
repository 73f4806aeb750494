//! The ids by which logs name a request's credential.

use http::HeaderValue;

/// The ids that name a request's credential.
#[derive(Clone, Debug, Default)]
pub(crate) enum Naming {
    /// The request had no credential, or credentials that conflict.
    #[default]
    Nothing,
    /// The request had a secret of a key, and this is the id of the key.
    Key(HeaderValue),
    /// The request had a token or a certificate, and these are the id and the name of its holder.
    Holder(Box<(HeaderValue, Option<String>)>),
    /// The request had a refused secret of a key. The first id is the id of the key; the answer
    /// named the credential by the second id.
    KeyBy(Box<(HeaderValue, String)>),
    /// The credential matched no key. Logs name the credential by this id, which no caller can
    /// choose.
    Unknown(Box<str>),
    /// The credential matched no key, and is a bearward token that contains this key id. The caller
    /// has chosen the key id.
    Claimed(Box<str>),
}

impl Naming {
    /// Returns the id of the key, or the id of a credential that matched no key; never a key id
    /// that the caller has chosen.
    pub(super) fn key_id(&self) -> Option<&str> {
        match self {
            Naming::Key(id) => id.to_str().ok(),
            Naming::Holder(of_holder) => of_holder.0.to_str().ok(),
            Naming::KeyBy(ids) => ids.0.to_str().ok(),
            Naming::Unknown(id) => Some(id),
            Naming::Nothing | Naming::Claimed(_) => None,
        }
    }

    /// Whether the request named an existing key or holder.
    pub(super) fn is_known(&self) -> bool {
        matches!(self, Naming::Key(_) | Naming::Holder(_) | Naming::KeyBy(_))
    }

    /// Returns the name of the holder of a token or certificate. Who gave it its claims has chosen the name.
    pub(super) fn key_name(&self) -> Option<&str> {
        match self {
            Naming::Holder(of_holder) => of_holder.1.as_deref(),
            _ => None,
        }
    }

    /// Returns the key id in a bearward token that matched no key.
    pub(super) fn claimed_key_id(&self) -> Option<&str> {
        match self {
            Naming::Claimed(id) => Some(id),
            _ => None,
        }
    }

    /// Returns the id that the answer gave for the refused credential, if this id is not the id of
    /// the key.
    pub(super) fn credential_id(&self) -> Option<&str> {
        match self {
            Naming::KeyBy(ids) => Some(&ids.1),
            _ => None,
        }
    }
}
