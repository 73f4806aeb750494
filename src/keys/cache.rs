//! The keys as the request path sees them: a concurrent map from digest to key.
//!
//! A reload applies the difference between two sets key by key, new before gone, and never blocks a look-up.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasherDefault, Hasher};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use dashmap::DashMap;
use http::HeaderValue;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::keys::{ApiKey, KeyHash, KeyRecord, Secret};
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
#[derive(Debug)]
pub(crate) struct KeyCache {
    by_hash: DashMap<KeyHash, Match, BuildHasherDefault<DigestHasher>>,
    /// Sends a word when keys have left or were turned off.
    losses: watch::Sender<()>,
}

/// What a replacement changed, in secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) added: usize,
    pub(crate) changed: usize,
    pub(crate) removed: usize,
}

impl Default for KeyCache {
    fn default() -> Self {
        KeyCache { by_hash: DashMap::default(), losses: watch::Sender::new(()) }
    }
}

/// Ready once a secret opens nothing any more.
pub(crate) struct Revocation(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Revocation {
    /// Polls it; ready once, and then not to be polled again.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Revocation")
    }
}

impl KeyCache {
    /// Puts `records` in the place of all that was there, and says what that changed.
    ///
    /// New and changed keys come first, then the ones that are gone leave: at no moment is a key that
    /// stands in both sets missing. A key that stays as it was is not touched.
    pub(crate) fn replace(&self, records: Vec<KeyRecord>) -> Difference {
        let mut difference = Difference::default();
        let mut kept = HashSet::with_capacity(records.len());
        for KeyRecord { key, secrets } in records {
            let known = secrets.iter().find_map(|secret| self.find(&secret.hash));
            let key = match known {
                Some(known) if known.key.key == key => known.key,
                _ => Arc::new(LiveKey::new(key)),
            };
            for Secret { hash, expires_at } in secrets {
                kept.insert(hash);
                match self.find(&hash) {
                    Some(old) if Arc::ptr_eq(&old.key, &key) && old.expires_at == expires_at => continue,
                    Some(_) => difference.changed += 1,
                    None => difference.added += 1,
                }
                self.by_hash.insert(hash, Match { key: key.clone(), expires_at });
            }
        }
        let gone: Vec<KeyHash> = {
            let hashes = self.by_hash.iter().map(|entry| *entry.key());
            hashes.filter(|hash| !kept.contains(hash)).collect()
        };
        for hash in &gone {
            self.by_hash.remove(hash);
        }
        difference.removed = gone.len();
        if difference.removed + difference.changed > 0 {
            self.losses.send_replace(());
        }
        difference
    }

    /// Ready once the secret with this digest is gone, or its key is turned off.
    pub(crate) fn revocation(self: &Arc<Self>, hash: KeyHash) -> Revocation {
        let (keys, mut losses) = (self.clone(), self.losses.subscribe());
        Revocation(Box::pin(async move {
            // The look comes after the subscription, so that nothing goes unseen between the two.
            while keys.find(&hash).is_some_and(|found| !found.key.key.disabled) {
                // The sender lives in `keys`.
                if losses.changed().await.is_err() {
                    return;
                }
            }
        }))
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
        let stays = cache.find(&KeyHash::of(b"b")).unwrap().key;
        let difference = cache.replace(records(&["b", "c"]));
        assert_eq!(difference, Difference { added: 1, changed: 0, removed: 1 });
        assert!(
            Arc::ptr_eq(&stays, &cache.find(&KeyHash::of(b"b")).unwrap().key),
            "what stays is not touched"
        );
        let found =
            |name: &str| cache.find(&KeyHash::of(name.as_bytes())).map(|found| found.key.key.id.clone());
        assert_eq!(found("a"), None);
        assert_eq!(found("b").as_deref(), Some("key_b"));
        assert_eq!(found("c").as_deref(), Some("key_c"));
        assert_eq!(cache.len(), 2);
    }

    #[tokio::test]
    async fn a_revocation_is_told_to_whom_it_concerns_alone() {
        let cache = Arc::new(KeyCache::default());
        cache.replace(records(&["a", "b"]));
        let mut of_a = cache.revocation(KeyHash::of(b"a"));
        let mut of_b = cache.revocation(KeyHash::of(b"b"));
        let look = async |revocation: &mut Revocation| {
            std::future::poll_fn(|cx| Poll::Ready(revocation.poll(cx))).await.is_ready()
        };
        assert!(!look(&mut of_a).await && !look(&mut of_b).await);
        cache.replace(records(&["b"]));
        assert!(look(&mut of_a).await && !look(&mut of_b).await);
        let mut off = records(&["b"]);
        off[0].key.disabled = true;
        cache.replace(off);
        assert!(look(&mut of_b).await);
        assert!(look(&mut cache.revocation(KeyHash::of(b"nobody"))).await);
    }
}
