//! Configuration, keys and certificates while traffic runs: a thread of its own watches their files, reads what has
//! changed whole, and applies it or leaves all as it was.
//!
//! Invariant: a file that is wrong changes nothing. Each of the three parts stands by itself, so that a broken
//! certificate does not hold up a revocation.

mod handle;
mod watch;

use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::config::fault::{Fault, Faults};
use crate::config::{Config, Listener};
use crate::keys::Store;
use crate::net::tls::{self, Swappable};
use crate::proxy::Gateway;
use crate::snapshot::Snapshot;
use handle::Message;
pub(crate) use handle::{Handle, Outcome, Part, Report};
use watch::{Directories, FileSet, Look, Stamps, Touched};

/// A reload that somebody asked for takes what has stood still for this long.
const ASKED_SETTLE: Duration = Duration::from_millis(100);
/// … and waits no longer than this for it.
const ASKED_PATIENCE: Duration = Duration::from_secs(2);

/// What waits to be heard; more is noted as missed.
const INBOX: usize = 1024;

/// Notes the files of a configuration, and the state that they are in before they are read.
#[derive(Debug)]
pub(crate) struct Baseline {
    files: Vec<(Vec<PathBuf>, Stamps)>,
}

impl Baseline {
    pub(crate) fn of(config: &Config) -> Self {
        let files = Part::ALL.map(|part| files_of(part, config, &config.listeners));
        Baseline { files: files.into_iter().map(|files| (files.clone(), Stamps::of(&files))).collect() }
    }
}

fn files_of(part: Part, config: &Config, listeners: &[Listener]) -> Vec<PathBuf> {
    match part {
        Part::Config => {
            let upstreams = config.upstreams.iter();
            let of_upstreams = upstreams.flat_map(|upstream| {
                let credential = upstream.credential.iter().filter_map(|credential| credential.file.clone());
                let tls = &upstream.tls;
                let client = tls.client.iter();
                let client = client.flat_map(|pair| [pair.certificate.clone(), pair.private_key.clone()]);
                credential.chain(tls.ca.clone()).chain(client)
            });
            config.source.iter().cloned().chain(of_upstreams).collect()
        }
        Part::Keys => vec![config.keys.path.clone()],
        Part::Certificates => {
            let sections = listeners.iter().filter_map(|listener| listener.tls.as_ref());
            let files = sections.flat_map(|tls| {
                let pairs = tls.certificates.iter();
                let pairs = pairs.flat_map(|pair| [pair.certificate.clone(), pair.private_key.clone()]);
                pairs.chain(tls.client_ca.clone())
            });
            files.collect()
        }
    }
}

/// The thread's state.
pub(crate) struct Reloader {
    gateway: Arc<Gateway>,
    /// What the process was started with: what a restart would change is told against it.
    started: Config,
    /// The last good configuration.
    config: Config,
    /// The listeners that are bound, with the certificates that they have now.
    listeners: Vec<(Listener, Option<Swappable>)>,
    sets: Vec<(Part, FileSet)>,
    /// The faults of each part that stands refused, so that they are told once.
    refused: Vec<(Part, Faults)>,
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
        tls: Vec<Option<Swappable>>,
    ) -> (Self, Handle) {
        let (sender, inbox) = mpsc::sync_channel(INBOX);
        let has_missed = Arc::new(AtomicBool::new(false));
        let (told, missed) = (sender.clone(), has_missed.clone());
        let directories = Directories::new(move |touched| {
            // A directory may be busier than this thread: what is told must not pile up.
            if told.try_send(Message::Touched(touched)).is_err() {
                missed.store(true, Ordering::Relaxed);
            }
        });
        let sets = baseline.files.into_iter().map(|(files, stamps)| FileSet::new(files, stamps));
        let reloader = Reloader {
            gateway,
            listeners: config.listeners.iter().cloned().zip(tls).collect(),
            started: config.clone(),
            config,
            sets: Part::ALL.into_iter().zip(sets).collect(),
            refused: Vec::new(),
            needs_restart: Vec::new(),
            generation: 0,
            directories,
            has_missed,
            inbox,
        };
        (reloader, Handle(sender))
    }

    /// Watches and reloads until it is told to stop.
    pub(crate) fn run(mut self) {
        let poll = self.config.keys.watch.poll;
        self.watch();
        // What changed between the first reading and the watch is found here.
        let mut next_look = Instant::now();
        let mut next_poll = Instant::now() + poll;
        loop {
            let wait = next_look.min(next_poll).saturating_duration_since(Instant::now());
            match self.inbox.recv_timeout(wait) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(Message::Touched(touched)) => {
                    // No short cut: what was missed is forgotten with this look.
                    if self.heard(&touched) | self.has_missed.swap(false, Ordering::Relaxed) {
                        next_look = Instant::now();
                    }
                }
                Ok(Message::Asked(reply)) => {
                    let report = self.asked();
                    if let Some(reply) = reply {
                        let _caller_left = reply.send(report);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
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

    /// Watches all that leads to the files that matter now.
    fn watch(&mut self) {
        let entries = self.sets.iter_mut().flat_map(|(_, set)| set.entries().clone()).collect();
        self.directories.watch(&entries);
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
            let look = self.set(part).map_or(Look::Same, |set| set.look(Instant::now(), is_poll));
            let stands_refused = is_poll && self.refused.iter().any(|(refused, _)| *refused == part);
            match look {
                Look::Changing(wait) => again = Some(again.map_or(wait, |earlier| earlier.min(wait))),
                Look::Changed => {
                    self.reload(part);
                }
                // What could not be read may have been a passing fault.
                Look::Same if stands_refused => {
                    self.reload(part);
                }
                Look::Same => {}
            }
        }
        again
    }

    /// Reloads because somebody asked.
    fn asked(&mut self) -> Report {
        let _no_manager = sd_notify::notify(&reloading());
        self.await_settled();
        let mut parts = Vec::new();
        for part in Part::ALL {
            let look = self.set(part).map_or(Look::Same, FileSet::look_settled);
            let stands_refused = self.refused.iter().any(|(refused, _)| *refused == part);
            let outcome = match look {
                Look::Same if !stands_refused => Outcome::Unchanged,
                _ => self.reload(part),
            };
            parts.push((part, outcome));
        }
        self.watch();
        let _no_manager = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        Report { generation: self.generation, parts, needs_restart: self.needs_restart.clone() }
    }

    /// Waits until nothing has moved for a moment, and not for ever.
    fn await_settled(&self) {
        let stamps = || self.sets.iter().map(|(_, set)| Stamps::of(set.files())).collect::<Vec<_>>();
        let until = Instant::now() + ASKED_PATIENCE;
        let mut before = stamps();
        loop {
            std::thread::sleep(ASKED_SETTLE);
            let now = stamps();
            if now == before || Instant::now() >= until {
                return;
            }
            before = now;
        }
    }

    fn set(&mut self, part: Part) -> Option<&mut FileSet> {
        self.sets.iter_mut().find(|(known, _)| *known == part).map(|(_, set)| set)
    }

    /// Reads a part anew and applies it, or keeps what is there.
    fn reload(&mut self, part: Part) -> Outcome {
        // Whatever a file provokes, the next one must still be read.
        let applied = panic::catch_unwind(AssertUnwindSafe(|| match part {
            Part::Config => self.reload_config(),
            Part::Keys => self.reload_keys(),
            Part::Certificates => self.reload_certificates(),
        }));
        let applied = applied.unwrap_or_else(|_panic| {
            Err(Fault::of_file(Path::new(part.name()), "an internal error; the log has more").into())
        });
        let outcome = match applied {
            Ok(()) => {
                self.refused.retain(|(refused, _)| *refused != part);
                self.generation += 1;
                Outcome::Applied
            }
            Err(faults) => {
                self.tell_refusal(part, &faults);
                Outcome::Refused(faults)
            }
        };
        self.gateway.metrics.reloaded(part.name(), matches!(outcome, Outcome::Applied), self.generation);
        outcome
    }

    fn tell_refusal(&mut self, part: Part, faults: &Faults) {
        let is_told = self.refused.iter().any(|(refused, known)| *refused == part && known == faults);
        if is_told {
            return;
        }
        for fault in &faults.0 {
            let file = fault.file.display();
            let (part, line, column) = (part.name(), fault.at.line, fault.at.column);
            let hint = fault.hint.as_deref();
            tracing::error!(part, %file, line, column, fault = fault.message, hint, "refused; what was there before stays");
        }
        self.refused.retain(|(refused, _)| *refused != part);
        self.refused.push((part, faults.clone()));
    }

    fn reload_keys(&self) -> Result<(), Faults> {
        let records = Store::at(&self.config.keys.path)?.load()?;
        let difference = self.gateway.keys.replace(records);
        let (added, changed, removed) = (difference.added, difference.changed, difference.removed);
        tracing::info!(added, changed, removed, secrets = self.gateway.keys.len(), "keys reloaded");
        Ok(())
    }

    fn reload_certificates(&self) -> Result<(), Faults> {
        let mut faults = Vec::new();
        for (listener, swappable) in &self.listeners {
            let (Some(section), Some(swappable)) = (&listener.tls, swappable) else { continue };
            match tls::server_config(section) {
                Ok(config) => {
                    swappable.store(config);
                    tracing::info!(listener = %listener.address, "certificates reloaded");
                }
                // The other listeners' are theirs.
                Err(of_listener) => faults.extend(of_listener.0),
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
    }

    fn reload_config(&mut self) -> Result<(), Faults> {
        let config = match &self.config.source {
            Some(path) => Config::load(path)?,
            None => self.config.clone(),
        };
        // What lies where it has not lain before is read with the configuration: both are good, or neither is taken.
        let listeners: Vec<_> =
            self.listeners.iter().map(|(running, _)| counterpart(running, &config)).collect();
        let baseline = Baseline::of(&Config { listeners: listeners.clone(), ..config.clone() });
        let moved = config.keys.path != self.config.keys.path;
        let records = moved.then(|| Store::at(&config.keys.path)?.load()).transpose()?;
        let mut certificates = Vec::new();
        for (wanted, (running, _)) in listeners.iter().zip(&self.listeners) {
            let is_other = wanted.tls != running.tls;
            let section = wanted.tls.as_ref().filter(|_| is_other);
            certificates.push(section.map(tls::server_config).transpose()?);
        }
        let Gateway { snapshot, keys, limiter, endpoints, .. } = &*self.gateway;
        let compiled = Snapshot::new(&config, limiter, endpoints)?;

        self.needs_restart = needs_restart(&config, &self.started, &self.listeners);
        endpoints.keep_only(&compiled.upstreams);
        snapshot.store(Arc::new(compiled));
        if let Some(records) = records {
            keys.replace(records);
        }
        for (((running, swappable), wanted), certificate) in
            self.listeners.iter_mut().zip(listeners).zip(certificates)
        {
            if let (Some(swappable), Some(certificate)) = (swappable, certificate) {
                swappable.store(certificate);
            }
            *running = wanted;
        }
        self.renew_sets(baseline);
        let restart = self.needs_restart.join(", ");
        self.config = config;
        match restart.is_empty() {
            true => tracing::info!("configuration reloaded"),
            false => tracing::warn!(
                needs_restart = restart,
                "configuration reloaded, but for what takes a restart"
            ),
        }
        Ok(())
    }

    /// Goes over to the files of a new configuration; those that stay keep their state.
    fn renew_sets(&mut self, baseline: Baseline) {
        for ((_, set), (files, stamps)) in self.sets.iter_mut().zip(baseline.files) {
            if set.files() != files.as_slice() {
                *set = FileSet::new(files, stamps);
            }
        }
    }
}

fn reloading() -> Vec<sd_notify::NotifyState<'static>> {
    // systemd 253 and later wants the time with it.
    let time = sd_notify::NotifyState::monotonic_usec_now().ok();
    std::iter::once(sd_notify::NotifyState::Reloading).chain(time).collect()
}

/// A listener that runs, as a new configuration has it; as it runs where it can't be changed to that.
fn counterpart(running: &Listener, config: &Config) -> Listener {
    let same = config.listeners.iter().find(|listener| listener.address == running.address);
    same.filter(|listener| listener.tls.is_some() == running.tls.is_some()).unwrap_or(running).clone()
}

/// What a new configuration says that a running process can't take on.
fn needs_restart(
    config: &Config,
    started: &Config,
    listeners: &[(Listener, Option<Swappable>)],
) -> Vec<&'static str> {
    let bound = listeners.iter().map(|(listener, _)| (&listener.address, listener.tls.is_some()));
    let wanted = config.listeners.iter().map(|listener| (&listener.address, listener.tls.is_some()));
    let differences = [
        ("listeners", !bound.eq(wanted)),
        ("admin", config.admin != started.admin),
        ("workers", config.workers != started.workers),
        ("limits.connections", config.limits.connections != started.limits.connections),
        ("log", config.log != started.log),
        ("keys.watch", config.keys.watch != started.keys.watch),
    ];
    differences.into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
}
