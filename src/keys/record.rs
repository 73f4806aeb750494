//! A key as its store describes it, every field of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;

use crate::config::Quota;
use crate::keys::api_key::{Draft, Secret, Terms};
use crate::keys::token::KeyHash;
use crate::permission::Permissions;

/// A key with all its secrets' digests: the current one and those rotated out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeyRecord {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) hash: KeyHash,
    pub(crate) previous: Vec<Secret>,
    pub(crate) permissions: Permissions,
    pub(crate) environment: Option<String>,
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) not_before: Option<Timestamp>,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) disabled: bool,
    /// `None` where the configuration's defaults hold; an empty list where no limit holds.
    pub(crate) rate_limits: Option<Vec<Quota>>,
    pub(crate) max_concurrent: Option<u32>,
    pub(crate) allow_from: Vec<IpNet>,
    pub(crate) routes: Option<Vec<String>>,
    /// For people and their tools; nothing is decided by it.
    pub(crate) metadata: BTreeMap<String, String>,
}

impl KeyRecord {
    /// A key of these fields alone.
    pub(crate) fn new(id: String, hash: KeyHash, permissions: Permissions) -> Self {
        KeyRecord {
            id,
            name: None,
            hash,
            previous: Vec::new(),
            permissions,
            environment: None,
            created_at: None,
            not_before: None,
            expires_at: None,
            disabled: false,
            rate_limits: None,
            max_concurrent: None,
            allow_from: Vec::new(),
            routes: None,
            metadata: BTreeMap::new(),
        }
    }

    /// The digests of all its secrets.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = KeyHash> + '_ {
        std::iter::once(self.hash).chain(self.previous.iter().map(|secret| secret.hash))
    }

    /// What narrows the key; `None` where nothing does.
    pub(crate) fn terms(&self) -> Option<Arc<Terms>> {
        let terms = Terms {
            environment: self.environment.clone(),
            not_before: self.not_before,
            rate_limits: self.rate_limits.clone(),
            max_concurrent: self.max_concurrent,
            allow_from: self.allow_from.clone(),
            routes: self.routes.clone(),
            previous: self.previous.clone(),
        };
        (terms != Terms::default()).then(|| Arc::new(terms))
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
            terms: self.terms(),
        }
    }
}

/// Whether `text` may be a name or an environment: upstream is sent it as a header's value.
pub(crate) fn is_label(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control) && text.trim() == text
}

/// The word for a key to which the configuration's default limits do not apply.
pub(crate) const NO_LIMITS: &str = "none";
