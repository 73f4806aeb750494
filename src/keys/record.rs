//! A key as its store describes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::keys::api_key::Draft;
use crate::keys::terms::Terms;
use crate::keys::token::KeyHash;
use crate::permission::Permissions;

/// A key with all its fields, see [`super::fields`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeyRecord {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    /// Of the current secret.
    pub(crate) hash: KeyHash,
    /// When the current secret was made.
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) permissions: Permissions,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) disabled: bool,
    pub(crate) terms: Terms,
    /// For people and their tools; no decision depends on it.
    pub(crate) metadata: BTreeMap<String, String>,
}

impl KeyRecord {
    /// A key with these fields alone.
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

    /// The digests of all its secrets, the current one first.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = KeyHash> + '_ {
        std::iter::once(self.hash).chain(self.terms.previous.iter().map(|secret| secret.hash))
    }

    /// The key as requests are judged by it.
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

/// Whether `text` may be a name or an environment: upstream gets it as a header's value.
pub(crate) fn is_label(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control) && text.trim() == text
}

/// The value of `rate_limits` for a key to which the configuration's default limits do not apply.
pub(crate) const NO_LIMITS: &str = "none";
