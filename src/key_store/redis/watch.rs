//! Follows a store: a thread registers this replica, hears of changes, and notices if the server
//! can't be reached.
//!
//! The thread does not read entries. It tells the reader ([`News`]), and tells again at the next
//! heartbeat as long as the server has another version than the one in service. So every change is
//! noticed after [`HEARTBEAT`] at the latest, even if a push message is lost.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::RedisStore;
use super::link::{LinkError, connect, reached, track};
use super::registration::{REGISTRATION, registration};
use super::scripts::{Scripts, list, number, version};
use super::version::{Health, Pushes, Version};
use crate::config::fault::Faults;
use crate::key_store::availability::Availability;
use crate::random_id::random_id;
use crate::redis_link::{MultiplexedConnection, PushInfo, PushKind, RedisResult, Value};
use crate::thread_supervisor::Ended;

/// Time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// The time after which a heartbeat has no answer. With it, a connection that was lost without a
/// word is noticed within 1.5 s.
const BEAT_TIMEOUT: Duration = Duration::from_millis(1000);
/// Shortest time between two heartbeats, so that endless push messages cost little.
const SHORTEST: Duration = Duration::from_millis(10);
/// Time between two attempts to connect: at first, and at most.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// How long a push message about entries waits for the one about the state, which comes with an
/// edit by bearward.
const SETTLE: Duration = Duration::from_millis(20);
/// Time between two questions to the sentinels.
const RECONCILE: Duration = Duration::from_secs(10);
/// Time after which all entries are read even if nothing seems to have changed: another program may
/// have changed an entry at the very moment of an edit.
const READ_ALL: Duration = Duration::from_secs(600);
/// The longest time after a new connection until all entries are read, because another program may
/// have changed an entry meanwhile. Not all replicas do so at the same time.
const READ_ALL_LATER: Duration = Duration::from_secs(5);

/// What the reader is told.
pub(crate) enum News {
    /// The store may have changed.
    Changed,
    /// The store can't be read.
    Away(Faults),
}

/// The work of the thread.
pub(crate) struct Watcher {
    pub(crate) store: Arc<RedisStore>,
    /// How long the known keys are accepted while the server can't be reached.
    pub(crate) max_stale: Option<Duration>,
    pub(crate) availability: Arc<Availability>,
    /// The number by which this thread decides about the availability.
    pub(crate) turn: u64,
    /// Tells the reader; returns whether the reader will hear of it.
    pub(crate) tell: Box<dyn Fn(News) -> bool + Send>,
    pub(crate) stop: Arc<Stop>,
}

/// Asks the thread to end.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    is_asked: AtomicBool,
    asked: Notify,
}

impl Stop {
    pub(crate) fn ask(&self) {
        self.is_asked.store(true, Ordering::Release);
        self.asked.notify_one();
    }

    fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::Acquire)
    }
}

/// The push messages of one connection.
#[derive(Debug, Default)]
struct Pushed {
    counts: Mutex<Pushes>,
    has_come: Notify,
}

/// What the server knows, by a heartbeat.
struct Beat {
    version: Option<Version>,
    replicas: u64,
}

impl Watcher {
    /// Runs on this thread until it is asked to stop.
    pub(crate) fn run(self) -> Ended {
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                runtime.block_on(self.follow());
                Ended::Asked
            }
            Err(_no_runtime) => Ended::Early,
        }
    }

    async fn follow(&self) {
        let announced = self.store.announced().take();
        let id = announced.map_or_else(random_id, |announced| announced.id);
        let (mut pause, mut told) = (RECONNECT.0, None);
        while !self.stop.is_asked() {
            let pushed = Arc::new(Pushed::default());
            let failure = match self.connect(&pushed).await {
                Ok(connection) => {
                    self.store.has_moved.store(true, Ordering::Release);
                    let session = Session::new(self, &id, connection, pushed);
                    let failure = session.serve().await;
                    if session.has_worked.get() {
                        (pause, told) = (RECONNECT.0, None);
                    }
                    failure
                }
                Err(error) => Some(error),
            };
            self.note_availability();
            let Some(error) = failure else { return };
            self.store.health().is_reachable = false;
            self.tell_of_absence(&mut told, self.store.fault(error));
            let rest = sleep(pause);
            tokio::pin!(rest);
            tokio::select! {
                () = &mut rest => {}
                () = self.stop.asked.notified() => {}
            }
            pause = (pause * 2).min(RECONNECT.1);
        }
    }

    /// Connects, and asks for push messages about the entries and the state.
    async fn connect(&self, pushed: &Arc<Pushed>) -> Result<MultiplexedConnection, LinkError> {
        let names = &self.store.names;
        let (entries, state, pushed) = (names.entries.clone(), names.state.clone(), pushed.clone());
        let on_push = Arc::new(move |push: PushInfo| pushed.take(&push, &entries, &state));
        let mut connection = connect(self.store.server(), names, Some(on_push)).await?;
        track(&mut connection, names).await?;
        Ok(connection)
    }

    /// Notes whether the keys in service may be used.
    fn note_availability(&self) {
        let is_fresh = self
            .store
            .unconfirmed_for()
            .is_some_and(|age| self.max_stale.is_none_or(|longest| age < longest));
        if self.availability.set(self.turn, is_fresh) {
            match is_fresh {
                true => tracing::info!("the keys are in service"),
                false => {
                    tracing::error!("the key store could not be read for keys.max_stale: no key is accepted")
                }
            }
        }
    }

    /// Tells the reader of changes, unless it was told and has not begun to read.
    fn tell_of_changes(&self) {
        // The reader may begin before `tell` returns, so a message that is on its way is not noted here.
        if !self.store.is_told.swap(true, Ordering::AcqRel) && !(self.tell)(News::Changed) {
            self.store.is_told.store(false, Ordering::Release);
        }
    }

    /// Tells the reader that the store can't be read, unless it was told so before.
    fn tell_of_absence(&self, told: &mut Option<Faults>, faults: Faults) {
        if told.as_ref() != Some(&faults) && (self.tell)(News::Away(faults.clone())) {
            *told = Some(faults);
        }
    }
}

impl Pushed {
    fn take(&self, push: &PushInfo, entries: &str, state: &str) {
        if push.kind == PushKind::Invalidate {
            let mut counts = self.counts();
            match push.data.first() {
                Some(Value::Array(names)) => {
                    let is_of = |name: &str| {
                        names
                            .iter()
                            .any(|key| matches!(key, Value::BulkString(key) if key == name.as_bytes()))
                    };
                    counts.of_entries += u64::from(is_of(entries));
                    counts.of_state += u64::from(is_of(state));
                }
                // The server was flushed.
                _ => counts.of_entries += 1,
            }
        }
        self.has_come.notify_one();
    }

    fn counts(&self) -> MutexGuard<'_, Pushes> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time of one connection.
struct Session<'w> {
    watcher: &'w Watcher,
    id: &'w str,
    connection: MultiplexedConnection,
    scripts: Scripts,
    pushed: Arc<Pushed>,
    /// Whether the store was there at the last heartbeat.
    has_worked: Cell<bool>,
    /// What the reader was told last, while the store is not there.
    told: RefCell<Option<Faults>>,
    /// When all entries have to be read.
    read_all_at: Cell<Instant>,
    /// When the sentinels are asked, and the master that they named first.
    ask_master_at: Cell<Instant>,
    master: RefCell<Option<String>>,
}

impl<'w> Session<'w> {
    fn new(
        watcher: &'w Watcher,
        id: &'w str,
        connection: MultiplexedConnection,
        pushed: Arc<Pushed>,
    ) -> Self {
        let now = Instant::now();
        let read_all_at = Cell::new(now + READ_ALL_LATER.mul_f64(fastrand::f64()));
        let scripts = Scripts::default();
        Session {
            watcher,
            id,
            connection,
            scripts,
            pushed,
            has_worked: Cell::new(false),
            told: RefCell::default(),
            read_all_at,
            ask_master_at: Cell::new(now),
            master: RefCell::default(),
        }
    }

    /// Sends heartbeats until the connection breaks. Returns why it has broken; `None` if the thread
    /// has to end.
    async fn serve(&self) -> Option<LinkError> {
        let store = &self.watcher.store;
        loop {
            let beginning = Instant::now();
            let beat = match timeout(BEAT_TIMEOUT, self.beat(REGISTRATION)).await {
                Ok(Ok(beat)) => beat,
                Ok(Err(error)) => return Some(error.into()),
                Err(_elapsed) => {
                    let message = "the server does not answer".to_owned();
                    return Some(LinkError { message, is_open: true });
                }
            };
            self.take(beat);
            self.watcher.note_availability();
            if beginning >= self.read_all_at.get() {
                self.read_all();
            }
            if beginning >= self.ask_master_at.get()
                && let Err(error) = self.ask_for_master(beginning).await
            {
                return Some(error);
            }
            sleep_until(beginning + SHORTEST).await;
            tokio::select! {
                () = sleep_until(beginning + HEARTBEAT) => {}
                () = store.has_taken.notified() => {}
                () = self.pushed.has_come.notified() => self.heard().await,
                () = self.watcher.stop.asked.notified() => {}
            }
            if self.watcher.stop.is_asked() {
                // The registration ends by itself if this fails.
                let _is_left = timeout(BEAT_TIMEOUT, self.beat(Duration::ZERO)).await;
                return None;
            }
        }
    }

    /// Asks the sentinels, if there are any, whether the server is still the master. A master that is
    /// separated from its sentinels does not know that it was replaced.
    ///
    /// # Errors
    ///
    /// Another server is the master. Sentinels that do not answer are no error.
    async fn ask_for_master(&self, now: Instant) -> Result<(), LinkError> {
        self.ask_master_at.set(now + RECONCILE);
        let Ok(Some(master)) = reached(self.watcher.store.server())?.master().await else { return Ok(()) };
        match self.master.replace(Some(master.clone())) {
            Some(before) if before != master => {
                Err(LinkError { message: "another server is the master now".to_owned(), is_open: false })
            }
            _ => Ok(()),
        }
    }

    async fn beat(&self, life: Duration) -> RedisResult<Beat> {
        let store = &self.watcher.store;
        let arguments = registration(self.id, life, store.version_in_service());
        let (arguments, names) = (arguments.each_ref().map(String::as_bytes), store.names.of_registration());
        let answer = self.scripts.beat.run(&mut self.connection.clone(), &names, &arguments).await?;
        let mut values = list(answer)?.into_iter();
        Ok(Beat { version: version(&mut values)?, replicas: number(values.next())? })
    }

    /// Compares what the server has with what is in service.
    fn take(&self, beat: Beat) {
        let store = &self.watcher.store;
        *store.health() = Health {
            is_reachable: true,
            generation: store.version_in_service().map(|version| version.generation),
            replicas: beat.replicas,
        };
        let Some(version) = beat.version else {
            self.has_worked.set(false);
            return self.watcher.tell_of_absence(&mut self.told.borrow_mut(), store.no_store());
        };
        *self.told.borrow_mut() = None;
        let is_in_service = store.taken().confirm(&version, std::time::Instant::now());
        // After an outage, the reader has to learn that it is over.
        if !is_in_service || !self.has_worked.replace(true) {
            self.watcher.tell_of_changes();
        }
    }

    /// Tells the reader of a push message, and finds out whether another program has changed
    /// entries.
    async fn heard(&self) {
        let store = &self.watcher.store;
        self.watcher.tell_of_changes();
        if !self.pushed.counts().are_unexplained() {
            return;
        }
        sleep(SETTLE).await;
        if self.pushed.counts().are_unexplained() {
            // Entries that are at fault, or that change all the time, must not keep the reader busy.
            let pause = 2 * store.taken().load_time.min(HEARTBEAT);
            sleep(pause).await;
            *self.pushed.counts() = Pushes::default();
            self.read_all();
        }
    }

    fn read_all(&self) {
        self.read_all_at.set(Instant::now() + READ_ALL);
        self.watcher.store.distrust();
        self.watcher.tell_of_changes();
    }
}
