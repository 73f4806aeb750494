//! The store in a Redis or Valkey server: a hash from the id of each key to the same JSON as a line
//! of the JSON Lines store has. It contains hashes of secrets, and no secrets.
//!
//! All names of a store have one hash tag (`{bw:keys}`), so that they are in one slot of a cluster.
//! Each edit is one script ([`editing`]), which compares what the editor has read, increases the
//! generation of the store and notes which entries changed. A server reads the changes after the
//! generation that it knows, or all entries ([`loading`]). [`watch`] follows the store.
//!
//! A store without its name in the hash `state` is no store: the server was flushed, or restarted
//! empty. What was known stays in service then.
//! Invariant: text of the server is bounded, and no message quotes an entry.

mod editing;
mod link;
mod loading;
mod names;
mod registration;
mod scripts;
mod version;
mod waiting;
pub(crate) mod watch;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use zeroize::Zeroizing;

use crate::config::KeyServer;
use crate::config::fault::{Fault, Faults};
use crate::random_id::random_id;
use link::Link;
use names::Names;
use registration::{ANNOUNCED, Announced};
use version::{Edited, Taken, Version};
pub(crate) use version::{Health, Waited};

/// A store in a Redis server, with what is known of it.
pub(crate) struct RedisStore {
    server: KeyServer,
    names: Names,
    link: Mutex<Link>,
    taken: Mutex<Taken>,
    /// Notified when another version was put into service.
    has_taken: Notify,
    /// Whether a reader was told of changes, and has not begun to read.
    is_told: AtomicBool,
    health: Mutex<Health>,
    /// Whether the watcher has connected anew, perhaps to another master.
    has_moved: AtomicBool,
    /// The registration that the watcher takes over.
    announced: Mutex<Option<Announced>>,
    /// The last edit that was made through this `RedisStore`.
    edited: Mutex<Option<Edited>>,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("server", &self.server).finish_non_exhaustive()
    }
}

impl RedisStore {
    pub(crate) fn new(server: KeyServer) -> Self {
        RedisStore {
            names: Names::new(&server.prefix),
            link: Mutex::new(Link::new(server.clone())),
            server,
            taken: Mutex::default(),
            has_taken: Notify::new(),
            is_told: AtomicBool::new(false),
            health: Mutex::default(),
            has_moved: AtomicBool::new(false),
            announced: Mutex::default(),
            edited: Mutex::default(),
        }
    }

    /// Returns the server and the access to it.
    pub(crate) fn server(&self) -> &KeyServer {
        &self.server
    }

    /// Registers this replica before it loads the store for service, so that an edit after the load
    /// is waited for.
    pub(crate) fn announce(&self) {
        let id = random_id();
        // Without a registration, the load most likely fails, too; the watcher registers later.
        if apart(|| self.link().register(&self.names, &id)).is_ok() {
            *self.announced() = Some(Announced { id, renewed_at: Instant::now() });
        }
    }

    /// Renews the registration that was announced, if it is time. A load may take longer than its life.
    fn keep_announced(&self, link: &mut Link) {
        if let Some(announced) = &mut *self.announced()
            && announced.renewed_at.elapsed() > ANNOUNCED / 4
        {
            // A connection that is lost fails the load.
            let _is_kept = link.register(&self.names, &announced.id);
            announced.renewed_at = Instant::now();
        }
    }

    fn announced(&self) -> MutexGuard<'_, Option<Announced>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server has exactly the version in service. Also notes that a reader has begun to
    /// read.
    ///
    /// # Errors
    ///
    /// Why the store can't be read.
    pub(crate) fn is_current(&self) -> Result<bool, Faults> {
        self.is_told.store(false, Ordering::Release);
        let Some(version) = self.taken().to_compare() else { return Ok(false) };
        let read = apart(|| self.link().changes(&self.names, &version));
        Ok(read.map_err(|error| self.fault(error))?.is_nothing_since(&version))
    }

    /// Notes that the version that was loaded last is in service.
    pub(crate) fn put_into_service(&self) {
        self.taken().put_into_service(Instant::now());
        self.has_taken.notify_one();
    }

    /// Lets the next load read all entries.
    fn distrust(&self) {
        self.taken().is_distrusted = true;
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the health of the store, as its watcher last found it.
    pub(crate) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        if self.has_moved.swap(false, Ordering::AcqRel) {
            link.disconnect();
        }
        link
    }

    fn version_in_service(&self) -> Option<Version> {
        self.taken().in_service.clone()
    }

    /// Returns how long the server has not confirmed the version in service; `None` if no version
    /// is in service.
    fn unconfirmed_for(&self) -> Option<Duration> {
        self.taken().confirmed_at.map(|at| at.elapsed())
    }

    fn fault(&self, message: impl fmt::Display) -> Faults {
        Fault::of_file(&self.server.url, message.to_string()).into()
    }

    /// Returns the fault of a server that has no store.
    pub(crate) fn no_store(&self) -> Faults {
        let fault =
            Fault::of_file(&self.server.url, "the server has no key store: it is new, or has lost its data");
        let hint = "`bearward keys create` begins a store, and `bearward keys copy` brings one";
        fault.hint(hint).into()
    }

    /// Returns the secret of key ids that the server keeps; if it keeps none, `new` from now on.
    /// Returns `None` if the server keeps none and `new` is empty.
    ///
    /// # Errors
    ///
    /// The server can't be reached.
    pub(crate) fn id_secret(&self, new: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Faults> {
        let kept = apart(|| self.link().id_secret(&self.names, new)).map_err(|error| self.fault(error))?;
        Ok(Some(kept).filter(|kept| !kept.is_empty()))
    }

    /// Tries a connection and each command that is needed. Returns the faults.
    pub(crate) fn check(&self) -> Vec<Fault> {
        let faults = |faults: Faults| faults.0;
        let refused = match apart(|| self.link().permitted(&self.names)) {
            Ok(refused) => refused,
            Err(error) => return faults(self.fault(error)),
        };
        if !refused.is_empty() {
            let message = format!("the server's user may not run: {}", refused.join(", "));
            let hint = "docs/keys.md has the rules of a user with the least rights";
            return vec![Fault::of_file(&self.server.url, message).hint(hint)];
        }
        Vec::new()
    }
}

/// Runs blocking work. A thread that runs asynchronous tasks may not block in another runtime, so
/// the work then gets a thread of its own.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    if tokio::runtime::Handle::try_current().is_err() {
        return work();
    }
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
