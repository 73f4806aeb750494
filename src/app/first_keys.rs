//! Reads the keys for a start, and for `bearward check`.

use std::sync::Arc;

use crate::config::Config;
use crate::config::fault::Faults;
use crate::key_cache::{KeyCache, KeySet};
use crate::key_store::provisions::{Provided, Provisions};
use crate::key_store::redis::RedisStore;
use crate::key_store::{AtFault, Reading, Store};
use crate::keys::id_secret::IdSecret;
use crate::reload::StoodKeys;

/// What the state is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Service,
    /// `bearward check` and `bearward explain`, which nobody waits for.
    Check,
}

/// The keys that a start has read.
#[derive(Default)]
pub(super) struct FirstKeys {
    pub(super) set: KeySet,
    /// Why a store in a Redis server could not be read.
    pub(super) unread: Option<Faults>,
    /// The store, if it is in a Redis server.
    pub(super) redis: Option<Arc<RedisStore>>,
}

impl FirstKeys {
    /// Reads the key store. A Redis server that can't be read is no reason not to start: other replicas
    /// may start at the same time, and the server may come back before this process does.
    pub(super) fn read(config: &Config, ids: &IdSecret, purpose: Purpose) -> Result<Self, Faults> {
        let store = Store::allowed_at(&config.keys.path, config.keys.allow_plaintext)?;
        if purpose == Purpose::Service {
            store.announce();
        }
        let nothing = KeyCache::default();
        let provided = Provided::by(config);
        let reading = Reading { provisions: Provisions::Of(&provided), ..Reading::first(&nothing, ids) };
        let Store::Redis(redis) = &store else {
            // Without keys, there may be holders of tokens and certificates.
            let set = match config.auth.has_identities() {
                true => store.load(Reading { at_fault: AtFault::Refused, ..reading })?,
                false => store.load_first(reading)?,
            };
            return Ok(FirstKeys { set, ..FirstKeys::default() });
        };
        // An entry at fault is left out and reported, as in a directory of key files.
        let read = store.load_first(Reading { at_fault: AtFault::Held, ..reading });
        let redis = Some(redis.clone());
        Ok(match read {
            Ok(set) => FirstKeys { set, unread: None, redis },
            Err(faults) => FirstKeys { unread: Some(faults), redis, ..FirstKeys::default() },
        })
    }

    /// Puts the keys into service. Also returns what the reload has to know of them.
    pub(super) fn into_service(self) -> (KeyCache, StoodKeys) {
        let FirstKeys { set, unread, redis } = self;
        let keys = KeyCache::from(&set);
        keys.availability.take_over(Some(unread.is_none()));
        if let Some(redis) = redis.as_ref().filter(|_| unread.is_none()) {
            redis.put_into_service();
        }
        let KeySet { refused, last_good, .. } = set;
        (keys, StoodKeys { refused: Faults(refused), unread, last_good, redis })
    }
}
