//! Configuration, keys and certificates while traffic runs: a thread of its own watches their files, reads what has
//! changed whole, and applies it or leaves all as it was.
//!
//! Invariant: a file that can't be read changes nothing, and an entry at fault changes nothing of its key. Each of the three parts stands by itself, so that a broken
//! certificate does not hold up a revocation.

mod files;
mod handle;
mod read;
mod refusal;
mod watch;
mod watch_set;

use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::config::fault::{Fault, Faults};
use crate::config::{Config, Listener};
use crate::key_cache::Difference;
use crate::key_cache::KeySet;
use crate::key_store::LastGood;
use crate::net::tls::{ListenerTls, Swappable};
use crate::observe::reloads::Extent;
use crate::proxy::Gateway;
use crate::threads::Ended;
pub(crate) use files::Baseline;
use handle::Message;
pub(crate) use handle::{Handle, Outcome, Part, Report};
use read::{Ready, ReadyConfig};
use refusal::Refusal;
use watch::{Directories, FileSet, Look, Stamps, Touched};
use watch_set::WatchSet;

/// A reload that somebody asked for takes what has stood still for this long.
const ASKED_SETTLE: Duration = Duration::from_millis(100);
/// … and waits no longer than this for it.
const ASKED_PATIENCE: Duration = Duration::from_secs(2);

/// What changed while it was read is looked at again so soon.
const UNSETTLED_LOOK: Duration = Duration::from_millis(30);
/// What waits to be heard; more is noted as missed.
const INBOX: usize = 1024;

/// What the inbox held.
#[derive(Clone, Copy)]
enum Heard {
    Nothing,
    /// Something that makes a look due.
    Change,
    Stop,
}

/// A listener that is bound, with the certificates that it has now.
struct Running {
    listener: Listener,
    swappable: Option<Swappable>,
    /// Of the files that its certificates were reloaded from, where that is known.
    digest: Option<[u8; 32]>,
}

/// What was read at the start, and how that stands.
pub(crate) struct Stood {
    pub(crate) tls: Vec<Option<Swappable>>,
    /// Files of a key directory that were left out.
    pub(crate) refused: Faults,
    pub(crate) last_good: LastGood,
}

/// The thread's state.
pub(crate) struct Reloader {
    gateway: Arc<Gateway>,
    /// What the process was started with: what a restart would change is told against it.
    started: Config,
    /// The last good configuration.
    config: Config,
    listeners: Vec<Running>,
    sets: Vec<(Part, FileSet)>,
    /// What each part stands refused for, so that it is told once.
    refused: Vec<(Part, Refusal)>,
    /// Which keys each file of a key directory has in service.
    last_good: LastGood,
    /// A key file without lines, in this state since then.
    blank: Option<(Stamps, Instant)>,
    needs_restart: Vec<&'static str>,
    generation: u64,
    directories: Directories,
    /// Something was told that found no room in the inbox.
    has_missed: Arc<AtomicBool>,
    inbox: mpsc::Receiver<Message>,
}

impl Reloader {
    /// Prepares the thread. `listeners` are those of `config`, in order.
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        config: Config,
        baseline: Baseline,
        stood: Stood,
    ) -> (Self, Handle) {
        let Stood { tls, refused, last_good } = stood;
        let (sender, inbox) = mpsc::sync_channel(INBOX);
        let has_missed = Arc::new(AtomicBool::new(false));
        let (told, missed) = (sender.clone(), has_missed.clone());
        let directories = Directories::new(move |touched| {
            // A directory may be busier than this thread: what is told must not pile up.
            if told.try_send(Message::Touched(touched)).is_err() {
                missed.store(true, Ordering::Relaxed);
            }
        });
        let sets = baseline.into_sets(&config).collect::<Vec<_>>();
        let running = |(listener, swappable)| Running { listener, swappable, digest: None };
        let mut reloader = Reloader {
            gateway,
            listeners: config.listeners.iter().cloned().zip(tls).map(running).collect(),
            started: config.clone(),
            config,
            sets: Part::ALL.into_iter().zip(sets).collect(),
            refused: Vec::new(),
            last_good,
            blank: None,
            needs_restart: Vec::new(),
            generation: 0,
            directories,
            has_missed,
            inbox,
        };
        if !refused.0.is_empty() {
            reloader.refuse(Part::Keys, Refusal { faults: refused, extent: Extent::Entries { held: 0 } });
        }
        (reloader, Handle(sender))
    }

    /// Watches and reloads until it is told to stop.
    pub(crate) fn run(mut self) -> Ended {
        let poll = self.config.keys.watch.poll;
        self.watch();
        // What changed between the first reading and the watch is found here.
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
            let now = Instant::now();
            if now < next_look.min(next_poll) {
                continue;
            }
            let is_poll = now >= next_poll;
            if is_poll {
                next_poll = now + poll;
            }
            let again = self.look(is_poll);
            if again.is_none() {
                // Links may lead elsewhere now, even to the same content.
                self.watch();
            }
            next_look = now + again.unwrap_or(poll);
        }
    }

    /// Takes in what has come, all of it: who asks while others ask already is told with them.
    fn take(&mut self, first: Message) -> Heard {
        let (mut heard, mut asking) = (Heard::Nothing, None);
        if self.has_missed.swap(false, Ordering::Relaxed) {
            self.sets.iter_mut().for_each(|(_, set)| set.missed());
            heard = Heard::Change;
        }
        let mut next = Some(first);
        // As much as was there; what comes meanwhile has its own turn.
        for _ in 0..=INBOX {
            let Some(message) = next else { break };
            match message {
                Message::Stop => return Heard::Stop,
                Message::Touched(touched) => {
                    if self.heard(&touched) {
                        heard = Heard::Change;
                    }
                }
                Message::Asked(reply) => asking.get_or_insert_with(Vec::new).extend(reply),
            }
            next = self.inbox.try_recv().ok();
        }
        if let Some(replies) = asking {
            let report = self.asked();
            for reply in replies {
                let _caller_left = reply.send(report.clone());
            }
        }
        heard
    }

    /// Watches all that leads to the files that matter now.
    fn watch(&mut self) {
        let mut ways = WatchSet::default();
        self.sets.iter_mut().for_each(|(_, set)| ways.join(set.ways()));
        self.directories.watch(&ways);
    }

    /// Whether the system told of something that matters.
    fn heard(&mut self, touched: &Touched) -> bool {
        // No short cut: each set takes note.
        self.sets.iter_mut().fold(false, |matters, (_, set)| set.heard(touched) || matters)
    }

    /// Looks at all parts and reloads those that have settled. Says when to look again, if something moves.
    fn look(&mut self, is_poll: bool) -> Option<Duration> {
        let mut again: Option<Duration> = None;
        for part in Part::ALL {
            let mut look = self.set(part).map_or(Look::Same, |set| set.look(Instant::now(), is_poll));
            // What could not be read may have been a passing fault.
            let is_due = is_poll && self.may_have_passed(part)
                || part == Part::Keys && self.blank_for().is_some_and(|left| left.is_zero());
            if look == Look::Changed || (look == Look::Same && is_due) {
                look = match self.reload(part) {
                    Some(_done) => Look::Same,
                    None => Look::Changing(UNSETTLED_LOOK),
                };
            }
            if let Look::Changing(wait) = look {
                if part == Part::Keys {
                    self.blank = None;
                }
                again = Some(again.map_or(wait, |earlier| earlier.min(wait)));
            }
        }
        let of_blank = self.blank_for();
        again.into_iter().chain(of_blank).min()
    }

    /// Reloads because somebody asked.
    fn asked(&mut self) -> Report {
        let _no_manager = sd_notify::notify(&reloading());
        let has_settled = self.await_settled();
        let mut parts = Vec::new();
        for part in Part::ALL {
            let stands_refused = self.stands_refused(part);
            let look = self.set(part).map_or(Look::Same, |set| match has_settled || set.is_as_taken() {
                true => set.look_settled(),
                false => Look::Changing(UNSETTLED_LOOK),
            });
            let outcome = match look {
                Look::Same if !stands_refused => Some(Outcome::Unchanged),
                Look::Same | Look::Changed => self.reload(part),
                Look::Changing(_) => None,
            };
            parts.push((part, outcome.unwrap_or_else(|| unsettled(part))));
        }
        self.watch();
        let _no_manager = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        Report { generation: self.generation, parts, needs_restart: self.needs_restart.clone() }
    }

    /// Waits until nothing has moved for a moment, and not for ever: says whether that came.
    fn await_settled(&self) -> bool {
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

    fn set(&mut self, part: Part) -> Option<&mut FileSet> {
        self.sets.iter_mut().find(|(known, _)| *known == part).map(|(_, set)| set)
    }

    /// Reads a part anew and applies it, or keeps what is there. `None` where its files changed while they were read:
    /// what was read is nothing then, and the next look begins anew.
    fn reload(&mut self, part: Part) -> Option<Outcome> {
        // Whatever a file provokes, the next one must still be read.
        let ready = panic::catch_unwind(AssertUnwindSafe(|| self.read(part))).unwrap_or_else(|_panic| {
            Err(Fault::of_file(Path::new(part.name()), "an internal error; the log has more").into())
        });
        let has_moved = match &ready {
            Ok(Ready::Config(ready)) => !ready.baseline.is_current(),
            _ => false,
        };
        let set = self.set(part)?;
        let has_moved = has_moved || !set.is_as_taken();
        if has_moved {
            set.forget();
        }
        if part == Part::Keys && (has_moved || ready.is_err()) {
            self.blank = None;
        }
        if has_moved {
            return None;
        }
        let applied = ready.map_err(Refusal::from).and_then(|ready| self.apply(ready));
        self.gateway.limiter.forget_unused_windows();
        let outcome = match applied {
            Ok(()) => {
                self.refused.retain(|(refused, _)| *refused != part);
                self.generation += 1;
                self.gateway.reloads.applied(part.name(), self.generation);
                Outcome::Applied
            }
            Err(refusal) => Outcome::Refused(self.refuse(part, refusal)),
        };
        Some(outcome)
    }

    /// Puts what was read in the place of what was there.
    fn apply(&mut self, ready: Ready) -> Result<(), Refusal> {
        match ready {
            Ready::Config(ready) => self.apply_config(*ready),
            Ready::Keys(set) => {
                self.has_stood_blank(&set)?;
                return self.apply_keys(set);
            }
            Ready::Certificates(good, faults) => {
                for (number, config, digest) in good {
                    let Some(running) = self.listeners.get_mut(number) else { continue };
                    running.serve_with(config, digest);
                    tracing::info!(listener = %running.listener.address, "certificates reloaded");
                }
                if !faults.is_empty() {
                    return Err(Faults(faults).into());
                }
            }
        }
        Ok(())
    }

    /// Entries at fault are told; the others' keys are live.
    fn apply_keys(&mut self, set: KeySet) -> Result<(), Refusal> {
        let difference = self.gateway.keys.replace(&set);
        let (added, changed, removed) = (difference.added, difference.changed, difference.removed);
        let (keys, secrets) = (set.keys, self.gateway.keys.len());
        if difference != Difference::default() || set.refused.is_empty() {
            tracing::info!(added, changed, removed, keys, secrets, "keys reloaded");
        }
        if keys == 0 && difference != Difference::default() {
            tracing::warn!(file = %self.config.keys.path.display(), "the key store has no keys: nobody is let in");
        }
        self.last_good = set.last_good;
        if set.refused.is_empty() {
            return Ok(());
        }
        self.generation += u64::from(difference != Difference::default());
        Err(Refusal { faults: Faults(set.refused), extent: Extent::Entries { held: set.held } })
    }

    fn apply_config(&mut self, ready: ReadyConfig) {
        let ReadyConfig { config, listeners, baseline, keys, certificates, compiled } = ready;
        let Gateway { snapshot, endpoints, .. } = &*self.gateway;
        self.needs_restart = needs_restart(&config, &self.started, &self.listeners);
        self.gateway.reloads.needs_restart(&self.needs_restart);
        let compiled = Arc::new(compiled);
        snapshot.store(compiled.clone());
        endpoints.adopt(compiled.endpoint_sets());
        if let Some(Err(refusal)) = keys.map(|set| self.apply_keys(set)) {
            // Files of a directory, the others of which are good: no fault of the configuration.
            self.refuse(Part::Keys, refusal);
        }
        for ((running, wanted), certificate) in self.listeners.iter_mut().zip(listeners).zip(certificates) {
            running.listener = wanted;
            if let Some(certificate) = certificate {
                running.serve_with(certificate, None);
            }
        }
        // Those whose files stay keep their state.
        for ((_, set), new) in self.sets.iter_mut().zip(baseline.into_sets(&config)) {
            if set.files() != new.files() {
                *set = new;
            }
        }
        self.config = config;
        let restart = self.needs_restart.join(", ");
        match restart.is_empty() {
            true => tracing::info!("configuration reloaded"),
            false => {
                tracing::warn!(
                    needs_restart = restart,
                    "configuration reloaded, but for what takes a restart"
                );
            }
        }
    }
}

impl Running {
    fn serve_with(&mut self, config: Arc<ListenerTls>, digest: Option<[u8; 32]>) {
        if let Some(swappable) = &self.swappable {
            swappable.store(config);
            self.digest = digest;
        }
    }
}

/// What somebody is told who asks while a file is being written.
fn unsettled(part: Part) -> Outcome {
    let message = "is being written; it is taken once it stands still";
    Outcome::Refused(Fault::of_file(Path::new(part.name()), message).into())
}

fn reloading() -> Vec<sd_notify::NotifyState<'static>> {
    // systemd 253 and later wants the time with it.
    let time = sd_notify::NotifyState::monotonic_usec_now().ok();
    std::iter::once(sd_notify::NotifyState::Reloading).chain(time).collect()
}

/// What a new configuration says that a running process can't take on.
fn needs_restart(config: &Config, started: &Config, listeners: &[Running]) -> Vec<&'static str> {
    let bound = listeners.iter().map(|running| &running.listener);
    let bound = bound.map(|listener| (&listener.address, listener.tls.is_some()));
    let wanted = config.listeners.iter().map(|listener| (&listener.address, listener.tls.is_some()));
    let differences = [
        ("listeners", !bound.eq(wanted)),
        ("admin", config.admin != started.admin),
        ("workers", config.workers != started.workers),
        ("limits.connections", config.limits.connections != started.limits.connections),
        ("log", config.log != started.log),
        ("metrics", config.metrics != started.metrics),
        ("traces", config.traces != started.traces),
        ("keys.watch", config.keys.watch != started.keys.watch),
    ];
    differences.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}
