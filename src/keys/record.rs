//! A key with all fields of its entry in the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::keys::api_key::Draft;
use crate::keys::terms::Terms;
use crate::keys::token::KeyHash;
use crate::permission::Permissions;

/// A key with all its fields. [`super::fields`] describes them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeyRecord {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    /// The digest of the current secret.
    pub(crate) hash: KeyHash,
    /// When the current secret was made.
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) permissions: Permissions,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) disabled: bool,
    pub(crate) terms: Terms,
    /// Labels for people and their tools. No decision about a request depends on them.
    pub(crate) metadata: BTreeMap<String, String>,
}

impl KeyRecord {
    /// Makes a key with these fields, and no others.
    pub(crate) fn new(id: String, hash: KeyHash, permissions: Permissions) -> Self {
        KeyRecord {
            id,
            name: None,
            hash,
            created_at: None,
            permissions,
            expires_at: None,
            disabled: false,
            terms: Terms::default(),
            metadata: BTreeMap::new(),
        }
    }

    /// Returns the digests of all secrets of the key, the current one first.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = KeyHash> + '_ {
        std::iter::once(self.hash).chain(self.terms.previous.iter().map(|secret| secret.hash))
    }

    /// Returns the fields that decide on requests.
    pub(crate) fn draft(&self) -> Draft<'_> {
        Draft {
            id: &self.id,
            name: self.name.as_deref(),
            disabled: self.disabled,
            permissions: self.permissions,
            created_at: self.created_at,
            expires_at: self.expires_at,
            terms: (self.terms != Terms::default()).then(|| Arc::new(self.terms.clone())),
        }
    }
}

/// Whether `text` may be a name or an environment. The upstream gets both as header values.
pub(crate) fn is_label(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control) && text.trim() == text
}

/// The value of `rate_limits` that exempts a key from the configuration's default limits.
pub(crate) const NO_LIMITS: &str = "none";
