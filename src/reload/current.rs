//! The configuration in service, and the state of the files that were read for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::part::Part;
use super::watch::{FileSet, Stamps};
use crate::config::{Config, Listener};
use crate::key_store::LastGood;
use crate::key_store::redis::RedisStore;
use crate::net::tls::{ListenerTls, Swappable};
use crate::proxy::Gateway;

/// How long files must stay unchanged before a requested reload reads them.
pub(super) const ASKED_SETTLE: Duration = Duration::from_millis(100);
/// The longest time that a requested reload waits for files to stop changing.
const ASKED_PATIENCE: Duration = Duration::from_secs(2);

/// The configuration in service, and the state of the files that were read for it.
pub(super) struct Current {
    pub(super) gateway: Arc<Gateway>,
    /// The last good configuration.
    pub(super) config: Config,
    pub(super) listeners: Vec<Running>,
    pub(super) sets: Vec<(Part, FileSet)>,
    /// The key store, if it is in a Redis server.
    pub(super) redis: Option<Arc<RedisStore>>,
    /// The ids of the keys in service, for each file of a key directory.
    pub(super) last_good: LastGood,
}

impl Current {
    pub(super) fn set(&mut self, part: Part) -> Option<&mut FileSet> {
        self.sets.iter_mut().find(|(known, _)| *known == part).map(|(_, set)| set)
    }

    /// Waits until no file changes for [`ASKED_SETTLE`], but at most for [`ASKED_PATIENCE`].
    /// Returns whether the files have stopped changing.
    pub(super) fn await_settled(&self) -> bool {
        let stamps = || self.sets.iter().map(|(_, set)| Stamps::of(set.files())).collect::<Vec<_>>();
        let until = Instant::now() + ASKED_PATIENCE;
        let mut before = stamps();
        while Instant::now() < until {
            std::thread::sleep(ASKED_SETTLE);
            let now = stamps();
            if now == before {
                return true;
            }
            before = now;
        }
        false
    }
}

/// A bound listener with its current certificates.
pub(super) struct Running {
    pub(super) listener: Listener,
    pub(super) swappable: Option<Swappable>,
    /// The digest of the files from which the listener's certificates were reloaded; `None` if the
    /// digest is unknown.
    pub(super) digest: Option<[u8; 32]>,
}

impl Running {
    pub(super) fn serve_with(&mut self, config: Arc<ListenerTls>, digest: Option<[u8; 32]>) {
        if let Some(swappable) = &self.swappable {
            swappable.store(config);
            self.digest = digest;
        }
    }
}
