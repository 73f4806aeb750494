//! Caches the outlook of the keys: how many keys there are, how many are due for rotation, and
//! which expire next.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::key_cache::Outlook;
use crate::keys::rotation::ROTATION_AGE;
use crate::proxy::Gateway;

/// Maximum age of the cached outlook. After a reload, the outlook is computed again even earlier.
/// The outlook is cached because computing it takes long with a million keys.
const OUTLOOK_AGE: Duration = Duration::from_secs(30);

/// The cached outlook of the keys, with the generation and the time at which the outlook was
/// computed.
#[derive(Debug, Default)]
pub(crate) struct CachedOutlook(Mutex<Option<(u64, Instant, Outlook)>>);

impl CachedOutlook {
    pub(super) fn outlook(&self, gateway: &Gateway) -> Outlook {
        let generation = gateway.reloads.state().generation;
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some((of, at, outlook)) if *of == generation && at.elapsed() < OUTLOOK_AGE => outlook.clone(),
            _ => {
                let age = gateway.snapshot.load().max_age.map_or(ROTATION_AGE, |max_age| max_age.age);
                let outlook = Outlook::of(&gateway.keys, Timestamp::now(), age);
                *cached = Some((generation, Instant::now(), outlook.clone()));
                outlook
            }
        }
    }
}
