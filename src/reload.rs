//! Reloads the configuration, the keys and the certificates while requests are served. A separate
//! thread watches the files and reads a changed part completely. It then applies the part, or keeps
//! the earlier state if there are faults.
//!
//! Invariant: an unreadable file changes nothing, and a faulty entry leaves its key as it was. Each
//! of the parts is reloaded separately, so that a broken certificate does not delay a
//! revocation.

mod current;
mod file_access;
mod files;
mod handle;
mod inbox;
mod mounts;
mod part;
mod read;
mod refusal;
mod restart;
mod stood;
mod store_watch;
mod watch;
mod watch_set;

use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::config::fault::{Fault, Faults};
use crate::config::{Config, StorePlace};
use crate::key_cache::{Difference, KeySet};
use crate::key_store::redis::watch::News;
use crate::observe::reloads::Extent;
use crate::proxy::Gateway;
use crate::thread_supervisor::Ended;
use current::{Current, Running};
pub(crate) use file_access::{FileWarnings, unreadable_by_group};
pub(crate) use files::Baseline;
pub(crate) use handle::{Handle, Outcome, Report};
use handle::{Message, reloading};
use inbox::{Heard, INBOX, waiting};
pub(crate) use part::Part;
use read::{Ready, ReadyConfig};
use refusal::{Refusal, Refusals};
use restart::needs_restart;
pub(crate) use stood::{Stood, StoodKeys};
use store_watch::StoreWatch;
use watch::{Directories, FilesState, Touched};
use watch_set::WatchSet;

/// Poll interval for files that changed while they were read.
const UNSETTLED_LOOK: Duration = Duration::from_millis(30);

/// The state of the reloading thread.
pub(crate) struct Reloader {
    current: Current,
    refusals: Refusals,
    /// The configuration with which the process was started. Some changes of this configuration
    /// take effect only after a restart.
    started: Config,
    needs_restart: Vec<&'static str>,
    /// What was logged about files that everybody can change.
    alarms: Vec<String>,
    generation: u64,
    directories: Directories,
    /// Whether an event found no room in the inbox.
    has_missed: Arc<AtomicBool>,
    inbox: mpsc::Receiver<Message>,
    sender: mpsc::SyncSender<Message>,
    /// The thread that follows the key store in a Redis server.
    store_watch: Option<StoreWatch>,
}

impl Reloader {
    /// Makes the state of the thread, and a handle to it. `stood.tls` are the TLS configurations of
    /// the listeners of `config`, in the same order.
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        config: Config,
        baseline: Baseline,
        stood: Stood,
    ) -> (Self, Handle) {
        let Stood { tls, keys, alarms } = stood;
        let StoodKeys { refused, unread, last_good, redis } = keys;
        let (sender, inbox) = mpsc::sync_channel(INBOX);
        let has_missed = Arc::new(AtomicBool::new(false));
        let (touched_sender, missed) = (sender.clone(), has_missed.clone());
        let directories = Directories::new(move |touched| {
            // A directory may have more events than the reloading thread can handle. Events that
            // find no room in the inbox are dropped, so that they do not pile up in memory.
            if touched_sender.try_send(Message::Touched(touched)).is_err() {
                missed.store(true, Ordering::Relaxed);
            }
        });
        let sets = baseline.into_sets(&config).collect::<Vec<_>>();
        let running = |(listener, swappable)| Running { listener, swappable, digest: None };
        let current = Current {
            gateway,
            listeners: config.listeners.iter().cloned().zip(tls).map(running).collect(),
            config: config.clone(),
            sets: Part::ALL.into_iter().zip(sets).collect(),
            last_good,
            redis,
        };
        let mut reloader = Reloader {
            current,
            refusals: Refusals::default(),
            started: config,
            needs_restart: Vec::new(),
            alarms,
            generation: 0,
            directories,
            has_missed,
            inbox,
            sender: sender.clone(),
            store_watch: None,
        };
        if let Some(unread) = unread {
            reloader.refuse(Part::Keys, unread.into());
        }
        if !refused.0.is_empty() {
            reloader.refuse(Part::Keys, Refusal { faults: refused, extent: Extent::Entries { held: 0 } });
        }
        (reloader, Handle(sender))
    }

    /// Watches the files and reloads changed parts until the thread is asked to stop.
    pub(crate) fn run(mut self) -> Ended {
        let poll = self.current.config.keys.watch.poll;
        self.watch();
        self.follow_store();
        // The first check is due at once: it finds changes between the first reading and the start
        // of the watch.
        let mut next_look = Instant::now();
        let mut next_poll = Instant::now() + poll;
        loop {
            let wait = next_look.min(next_poll).saturating_duration_since(Instant::now());
            match self.inbox.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ended::Early,
                Ok(message) => match self.take(message) {
                    Heard::Nothing => {}
                    Heard::Change => next_look = Instant::now(),
                    Heard::Stop => return Ended::Asked,
                },
            }
            self.current.gateway.hooks.takes_up_work("reload");
            let now = Instant::now();
            if now < next_look.min(next_poll) {
                continue;
            }
            let is_poll = now >= next_poll;
            if is_poll {
                next_poll = now + poll;
            }
            let again = self.check(is_poll);
            if again.is_none() {
                // Symbolic links may have new targets, even if the content is the same, so the
                // watch is set up again.
                self.watch();
            }
            next_look = now + again.unwrap_or(poll);
        }
    }

    /// Handles all messages in the inbox. Callers that ask for a reload at the same time share one
    /// reload.
    fn take(&mut self, first: Message) -> Heard {
        let (mut heard, mut asking) = (Heard::Nothing, None);
        // First: whoever finds no room in the inbox notes that.
        let messages = waiting(first, &self.inbox);
        if self.has_missed.swap(false, Ordering::Relaxed) {
            self.current.sets.iter_mut().for_each(|(_, set)| set.missed());
            heard = Heard::Change;
        }
        for message in messages {
            match message {
                Message::Stop => return Heard::Stop,
                Message::Touched(touched) => {
                    if self.heard(&touched) {
                        heard = Heard::Change;
                    }
                }
                Message::Store(news) => self.take_news(news),
                Message::Asked(reply) => asking.get_or_insert_with(Vec::new).push(reply),
            }
        }
        if let Some(replies) = asking {
            let report = self.asked();
            for reply in replies {
                let _caller_left = reply.send(report.clone());
            }
        }
        heard
    }

    /// Takes news of the key store in a Redis server.
    fn take_news(&mut self, news: News) {
        let Some(redis) = &self.current.redis else { return };
        let is_current = match news {
            News::Away(faults) => Err(faults),
            News::Changed => redis.is_current(),
        };
        self.check_store(is_current);
    }

    /// Reads the key store in a Redis server again, if it has changed.
    fn check_store(&mut self, is_current: Result<bool, Faults>) -> Outcome {
        match is_current {
            Ok(true) if !self.refusals.is_whole(Part::Keys) => Outcome::Unchanged,
            Ok(_) => self.reload(Part::Keys).unwrap_or_else(|| Outcome::unsettled(Part::Keys)),
            Err(faults) => Outcome::Refused(self.refuse(Part::Keys, faults.into())),
        }
    }

    /// Starts the thread that follows the key store, if the store is in a Redis server and is not
    /// followed yet.
    fn follow_store(&mut self) {
        let Current { gateway, config, redis, .. } = &self.current;
        let max_stale = config.keys.max_stale;
        gateway.followed_store.store(redis.clone());
        let Some(redis) = redis else {
            self.store_watch = None;
            gateway.keys.availability.take_over(Some(true));
            return;
        };
        if !self.store_watch.as_ref().is_some_and(|watch| watch.is_of(redis, max_stale)) {
            self.store_watch = None;
            match StoreWatch::start(redis, max_stale, gateway, self.sender.clone()) {
                Ok(watch) => self.store_watch = Some(watch),
                Err(error) => {
                    let fault = Fault::of_file(&redis.server().url, format!("can't be followed: {error}"));
                    self.refuse(Part::Keys, Faults::from(fault).into());
                }
            }
        }
    }

    /// Watches all directory entries on the paths of the files.
    fn watch(&mut self) {
        let mut watch_set = WatchSet::default();
        self.current.sets.iter_mut().for_each(|(_, set)| watch_set.join(set.watch_set()));
        self.directories.watch(&watch_set);
    }

    /// Passes an event to all sets of files. Returns whether the event concerns one of the files.
    fn heard(&mut self, touched: &Touched) -> bool {
        // `any` would stop at the first match, but each set has to note the event.
        self.current.sets.iter_mut().fold(false, |matters, (_, set)| set.heard(touched) || matters)
    }

    /// Checks all parts and reloads those whose changes have settled. Returns the time until the
    /// next check, if a change has not settled yet.
    fn check(&mut self, is_poll: bool) -> Option<Duration> {
        let mut again: Option<Duration> = None;
        for part in Part::ALL {
            let mut state =
                self.current.set(part).map_or(FilesState::Same, |set| set.check(Instant::now(), is_poll));
            // A part that was refused may be read again at a poll, because its fault may have been
            // temporary.
            let is_due = is_poll && self.refusals.may_have_passed(part, &self.current.config.keys.path)
                || part == Part::Keys && self.refusals.blank_for().is_some_and(|left| left.is_zero());
            if state == FilesState::Changed || (state == FilesState::Same && is_due) {
                state = match self.reload(part) {
                    Some(_done) => FilesState::Same,
                    None => FilesState::Changing(UNSETTLED_LOOK),
                };
            }
            if let FilesState::Changing(wait) = state {
                if part == Part::Keys {
                    self.refusals.forget_blank();
                }
                again = Some(again.map_or(wait, |earlier| earlier.min(wait)));
            }
        }
        let of_blank = self.refusals.blank_for();
        again.into_iter().chain(of_blank).min()
    }

    /// Reloads the changed and the refused parts at a caller's request.
    fn asked(&mut self) -> Report {
        let _no_manager = sd_notify::notify(&reloading());
        let has_settled = self.current.await_settled();
        let mut parts = Vec::new();
        for part in Part::ALL {
            let stands_refused = self.refusals.are_of(part);
            if part == Part::Keys
                && let Some(redis) = &self.current.redis
            {
                let is_current = redis.is_current();
                let outcome = self.check_store(is_current);
                parts.push((part, outcome));
                continue;
            }
            let state = self.current.set(part).map_or(FilesState::Same, |set| {
                match has_settled || set.is_as_taken() {
                    true => set.look_settled(),
                    false => FilesState::Changing(UNSETTLED_LOOK),
                }
            });
            let outcome = match state {
                FilesState::Same if !stands_refused => Some(Outcome::Unchanged),
                FilesState::Same | FilesState::Changed => self.reload(part),
                FilesState::Changing(_) => None,
            };
            parts.push((part, outcome.unwrap_or_else(|| Outcome::unsettled(part))));
        }
        self.watch();
        let _no_manager = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        Report { generation: self.generation, parts, needs_restart: self.needs_restart.clone() }
    }

    /// Reads a part again and applies it, or keeps the current state if there are faults. Returns
    /// `None` if its files changed while they were read: the next check reads them again.
    fn reload(&mut self, part: Part) -> Option<Outcome> {
        // A panic over one file must not end the thread: other files must still be reloaded.
        let ready =
            panic::catch_unwind(AssertUnwindSafe(|| self.current.read(part))).unwrap_or_else(|_panic| {
                Err(Fault::of_file(Path::new(part.name()), "an internal error; the log has more").into())
            });
        let has_moved = match &ready {
            Ok(Ready::Config(ready)) => !ready.baseline.is_current(),
            _ => false,
        };
        let set = self.current.set(part)?;
        let has_moved = has_moved || !set.is_as_taken();
        if has_moved {
            set.forget();
        }
        if part == Part::Keys && (has_moved || ready.is_err()) {
            self.refusals.forget_blank();
        }
        if has_moved {
            return None;
        }
        let applied = ready.map_err(Refusal::from).and_then(|ready| self.apply(ready));
        self.current.gateway.limiter.forget_unused_windows();
        let outcome = match applied {
            Ok(()) => {
                self.refusals.forget(part);
                self.generation += 1;
                self.current.gateway.reloads.applied(part.name(), self.generation);
                Outcome::Applied
            }
            Err(refusal) => Outcome::Refused(self.refuse(part, refusal)),
        };
        // After the outcome, which waits for no look at many files.
        let config = &self.current.config;
        let found = panic::catch_unwind(AssertUnwindSafe(|| FileWarnings::of(config))).unwrap_or_default();
        found.raise(&mut self.alarms);
        Some(outcome)
    }

    /// Notes a refusal, and logs it if it was not logged before. Returns its faults.
    fn refuse(&mut self, part: Part, refusal: Refusal) -> Faults {
        let Refusal { extent, faults } = &refusal;
        self.current.gateway.reloads.refused(part.name(), self.generation, *extent, faults);
        let faults = faults.clone();
        self.refusals.note(part, refusal);
        faults
    }

    /// Replaces a part in service by the part that was read.
    fn apply(&mut self, ready: Ready) -> Result<(), Refusal> {
        match ready {
            Ready::Config(ready) => self.apply_config(*ready),
            Ready::Keys(set) => {
                let place = self.current.config.keys.path.clone();
                return self.apply_keys_at(&place, set);
            }
            Ready::Identities(mut files) => {
                let faults = std::mem::take(&mut files.faults);
                self.current.gateway.identities.take_files(files);
                return if faults.is_empty() { Ok(()) } else { Err(Faults(faults).into()) };
            }
            Ready::Certificates(good, faults) => {
                for (number, config, digest) in good {
                    let Some(running) = self.current.listeners.get_mut(number) else { continue };
                    running.serve_with(config, digest);
                    tracing::info!(listener = %running.listener.address, "certificates reloaded");
                }
                self.current.gateway.identities.judge_again();
                if !faults.is_empty() {
                    return Err(Faults(faults).into());
                }
            }
        }
        Ok(())
    }

    /// Applies the keys of a store, unless a writer may be about to fill the store in service.
    fn apply_keys_at(&mut self, place: &StorePlace, set: KeySet) -> Result<(), Refusal> {
        if *place == self.current.config.keys.path {
            self.refusals.has_stood_blank(&set, place.path(), self.current.gateway.keys.len())?;
        }
        self.apply_keys(set)
    }

    /// Applies the valid keys. Fails with the faulty entries, if there are any.
    fn apply_keys(&mut self, set: KeySet) -> Result<(), Refusal> {
        let difference = self.current.gateway.keys.replace(&set);
        let (added, changed, removed) = (difference.added, difference.changed, difference.removed);
        let (keys, secrets) = (set.keys, self.current.gateway.keys.len());
        if difference != Difference::default() || set.refused.is_empty() {
            tracing::info!(added, changed, removed, keys, secrets, "keys reloaded");
        }
        if let Some(redis) = &self.current.redis {
            redis.put_into_service();
        }
        if keys == 0 && difference != Difference::default() {
            tracing::warn!(file = %self.current.config.keys.path.path().display(), "the key store has no keys: nobody is let in");
        }
        self.current.last_good = set.last_good;
        if set.refused.is_empty() {
            return Ok(());
        }
        self.generation += u64::from(difference != Difference::default());
        Err(Refusal { faults: Faults(set.refused), extent: Extent::Entries { held: set.held } })
    }

    fn apply_config(&mut self, ready: ReadyConfig) {
        let ReadyConfig { config, listeners, baseline, keys, redis, certificates, compiled, shared } = ready;
        let Gateway { snapshot, endpoints, queues, identities, sharing, .. } = &*self.current.gateway;
        self.needs_restart = needs_restart(&config, &self.started, &self.current.listeners);
        self.current.gateway.reloads.needs_restart(&self.needs_restart);
        let compiled = Arc::new(compiled);
        snapshot.store(compiled.clone());
        compiled.put_into_service(endpoints, queues, identities);
        if let (Some(sharing), Some(shared)) = (sharing, shared) {
            sharing.configure(shared);
        }
        self.current.gateway.acme.configure(&listeners);
        self.current.redis = redis;
        match keys.map(|set| self.apply_keys_at(&config.keys.path, set)) {
            // Faults of single files in a key directory count as faults of the keys, and do not
            // refuse the configuration.
            Some(Err(refusal)) => {
                self.refuse(Part::Keys, refusal);
            }
            // The configuration may have what an entry had lacked.
            Some(Ok(())) => {
                self.refusals.forget(Part::Keys);
                self.current.gateway.reloads.applied(Part::Keys.name(), self.generation + 1);
            }
            None => {}
        }
        for ((running, wanted), certificate) in
            self.current.listeners.iter_mut().zip(listeners).zip(certificates)
        {
            running.listener = wanted;
            if let Some(certificate) = certificate {
                running.serve_with(certificate, None);
            }
        }
        // A set of files whose paths did not change keeps its state.
        for ((part, set), new) in self.current.sets.iter_mut().zip(baseline.into_sets(&config)) {
            if set.files() != new.files() {
                *set = new;
                // Of these, only new files were read with the configuration.
                if *part == Part::Identities {
                    set.forget();
                }
            }
        }
        self.current.config = config;
        self.follow_store();
        let restart = self.needs_restart.join(", ");
        match restart.is_empty() {
            true => tracing::info!("configuration reloaded"),
            false => {
                tracing::warn!(
                    needs_restart = restart,
                    "configuration reloaded, except for fields that take a restart"
                );
            }
        }
    }
}
