//! The keys as the request path sees them: a concurrent map from digest to key.
//!
//! A reload applies the difference between two sets key by key, new before gone, and never blocks a look-up.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, OnceLock};

use dashmap::DashMap;
use http::HeaderValue;
use jiff::Timestamp;

use crate::keys::{ApiKey, KeyHash, KeyRecord};
use crate::limit::{KeyState, Limiter, Window};

/// A key in service: its description, and what is prepared from it once instead of per request.
#[derive(Debug)]
pub(crate) struct LiveKey {
    pub(crate) key: ApiKey,
    pub(crate) headers: IdentityHeaders,
    /// Looked up on the key's first use: most of a million keys never come.
    limits: OnceLock<KeyLimits>,
}

/// A key's own limits in service.
#[derive(Debug)]
pub(crate) struct KeyLimits {
    pub(crate) state: Arc<KeyState>,
    /// `None` where the key names no limits, so that the configuration's defaults hold.
    pub(crate) windows: Option<Vec<Arc<Window>>>,
}

/// The values of the `x-bearward-*` headers that upstream gets.
#[derive(Debug)]
pub(crate) struct IdentityHeaders {
    pub(crate) key_id: HeaderValue,
    pub(crate) key_name: Option<HeaderValue>,
    pub(crate) environment: Option<HeaderValue>,
    pub(crate) permissions: HeaderValue,
}

impl LiveKey {
    fn new(key: ApiKey) -> Self {
        // Ids, names and permissions are free of control characters: their decoders refused those.
        let value = |text: &str| HeaderValue::from_bytes(text.as_bytes()).ok();
        let empty = || HeaderValue::from_static("");
        let headers = IdentityHeaders {
            key_id: value(&key.id).unwrap_or_else(empty),
            key_name: key.name.as_deref().and_then(value),
            environment: key.environment.as_deref().and_then(value),
            permissions: value(&key.permission_names().join(",")).unwrap_or_else(empty),
        };
        LiveKey { key, headers, limits: OnceLock::new() }
    }

    pub(crate) fn limits(&self, limiter: &Limiter) -> &KeyLimits {
        self.limits.get_or_init(|| {
            let own = self.key.rate_limits.as_ref();
            KeyLimits {
                state: limiter.state(&self.key.id),
                windows: own.map(|quotas| quotas.iter().map(|quota| limiter.window(None, *quota)).collect()),
            }
        })
    }
}

/// What a digest opens, and until when.
#[derive(Clone, Debug)]
pub(crate) struct Match {
    pub(crate) key: Arc<LiveKey>,
    pub(crate) expires_at: Option<Timestamp>,
}

/// All keys in service, by the digests of their secrets.
#[derive(Debug, Default)]
pub(crate) struct KeyCache {
    by_hash: DashMap<KeyHash, Match, BuildHasherDefault<DigestHasher>>,
}

impl KeyCache {
    /// Puts `records` in the place of all that was there.
    ///
    /// New and changed keys come first, then the ones that are gone leave: at no moment is a key that
    /// stands in both sets missing.
    pub(crate) fn replace(&self, records: Vec<KeyRecord>) {
        let mut kept = HashSet::with_capacity(records.len());
        for KeyRecord { key, secrets } in records {
            let key = Arc::new(LiveKey::new(key));
            for secret in secrets {
                kept.insert(secret.hash);
                let found = Match { key: key.clone(), expires_at: secret.expires_at };
                self.by_hash.insert(secret.hash, found);
            }
        }
        self.by_hash.retain(|hash, _| kept.contains(hash));
    }

    /// The key that this digest opens, valid or not.
    pub(crate) fn find(&self, hash: &KeyHash) -> Option<Match> {
        self.by_hash.get(hash).map(|found| found.value().clone())
    }

    /// How many secrets open something.
    pub(crate) fn len(&self) -> usize {
        self.by_hash.len()
    }
}

/// A digest is uniform already, so its own first bytes serve as its hash.
#[derive(Default)]
pub(crate) struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::keys::yaml;

    fn records(names: &[&str]) -> Vec<KeyRecord> {
        let mut source = String::from("keys:\n");
        for name in names {
            let hash = KeyHash::of(name.as_bytes()).to_stored();
            source.push_str(&format!("  - {{id: key_{name}, hash: {hash}, permissions: [read]}}\n"));
        }
        yaml::parse(Path::new("keys.yaml"), &source).unwrap()
    }

    #[test]
    fn a_new_set_replaces_the_old_one() {
        let cache = KeyCache::default();
        cache.replace(records(&["a", "b"]));
        cache.replace(records(&["b", "c"]));
        let found =
            |name: &str| cache.find(&KeyHash::of(name.as_bytes())).map(|found| found.key.key.id.clone());
        assert_eq!(found("a"), None);
        assert_eq!(found("b").as_deref(), Some("key_b"));
        assert_eq!(found("c").as_deref(), Some("key_c"));
        assert_eq!(cache.len(), 2);
    }
}
