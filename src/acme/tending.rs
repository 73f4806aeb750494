//! What one process does for one certificate: it waits until the certificate is due, takes the lock, orders,
//! and notes the outcome.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use instant_acme::{CertificateIdentifier, HttpClient};
use jiff::{SignedDuration, Timestamp};
use rustls::crypto::CryptoProvider;
use tokio::time::{sleep, timeout};

use super::account;
use super::fault::{Cause, Failure};
use super::fleet::{Fleet, FleetLock, OfServer, Taken};
use super::lock::{Lock, RENEWAL};
use super::order::{Issued, Ordering};
use super::progress::{KeptFault, Progress};
use super::publisher::Publisher;
use super::registry::Managed;
use super::schedule;
use super::storage::{Storage, Stored};
use crate::clock::Clock;
use crate::config::Acme;
use crate::config::fault::Faults;
use crate::digest::sha256;
use crate::observe::Logs;
use crate::observe::audit::{CertificateEvent, certificate_event};

/// Longest time of an attempt. What has not been done then goes on with the next one.
const ATTEMPT: Duration = Duration::from_secs(300);
/// Longest time between two looks at the storage: another process may have renewed the certificate, and the
/// clock may have been set.
const LOOK: Duration = Duration::from_secs(30);
/// Pause before the next attempt to take the lock.
const LOCKED: Duration = Duration::from_millis(500);
/// Longest time between two questions for renewal information, and after one that failed.
const RENEWAL_INFO: SignedDuration = SignedDuration::from_hours(6);
/// Longest time for which a note of an earlier process holds up an order: its clock may have been wrong.
const LONGEST_NOTED: SignedDuration = SignedDuration::from_hours(72);
/// Number of failures in a row after which a process that is started again waits like any other. Before, it
/// asks at once: most likely its operator has mended something.
const FREE_STARTS: u32 = 3;

/// An HTTP client for an authority, and what that has said of the next attempt.
pub(crate) struct Connected {
    /// Makes a client.
    pub(crate) http: Box<dyn Fn() -> Box<dyn HttpClient>>,
    /// Returns the time to wait that the authority has asked for, in its last answer.
    pub(crate) retry_after: Box<dyn Fn() -> Option<Duration>>,
}

/// Makes the HTTP client for an authority, or returns the faults of the files that it needs.
type Connect = fn(&Acme) -> Result<Connected, Faults>;

/// What the thread works with.
pub(crate) struct Tools {
    clock: Clock,
    connect: Connect,
    pub(super) fleet: Fleet,
    logs: Logs,
    provider: Arc<CryptoProvider>,
}

impl Tools {
    /// `of_server`: returns the server that replicas share, if there is one.
    pub(crate) fn new(
        clock: Clock,
        connect: Connect,
        of_server: OfServer,
        logs: Logs,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        Tools { clock, connect, fleet: Fleet::new(of_server), logs, provider }
    }
}

/// What is to be done for a certificate.
enum Plan {
    /// Nothing before this time.
    Wait(Timestamp),
    /// An order.
    Ask,
}

/// The outcome of an attempt.
enum Attempt {
    Over,
    /// Another process orders the certificate now.
    ByAnother,
}

/// Both locks of an order.
struct Held {
    lock: Lock,
    of_fleet: Option<FleetLock>,
}

/// The time that an authority suggests for the renewal of the certificate that ends at `of`.
struct Suggestion {
    at: Timestamp,
    of: Timestamp,
}

/// One certificate, and what this process has found out of it beside what is in the storage.
pub(super) struct Tending {
    tools: Rc<Tools>,
    managed: Arc<Managed>,
    acme: Arc<Acme>,
    storage: Storage,
    /// Whether this process has not ended an attempt yet.
    is_first: bool,
    /// When the authority is asked for renewal information again.
    next_info: Option<Timestamp>,
    suggested: Option<Suggestion>,
    /// The progress that could not be written, so that it is not forgotten.
    unwritten: Option<Progress>,
}

impl Tending {
    pub(super) fn new(tools: Rc<Tools>, managed: Arc<Managed>) -> Self {
        let acme = managed.acme.load_full();
        let storage = Storage::of(&acme);
        let (next_info, suggested, unwritten) = (None, None, None);
        Tending { tools, managed, acme, storage, is_first: true, next_info, suggested, unwritten }
    }

    /// Gets the certificate, and renews it, without an end.
    pub(super) async fn run(mut self) {
        loop {
            self.acme = self.managed.acme.load_full();
            let pause = match self.plan().await {
                Plan::Wait(until) => {
                    let left = Duration::try_from(until.duration_since(self.now())).unwrap_or_default();
                    left.clamp(Duration::from_millis(50), LOOK)
                }
                Plan::Ask => match self.attempt().await {
                    Attempt::Over => Duration::ZERO,
                    // Replicas that wait for the same lock look for it at different times.
                    Attempt::ByAnother => LOCKED + LOCKED.mul_f64(fastrand::f64()),
                },
            };
            let _in_time_or_changed = timeout(pause, self.managed.changed.notified()).await;
        }
    }

    fn now(&self) -> Timestamp {
        self.tools.clock.wall()
    }

    /// Returns the certificate in the storage, if it can be used.
    fn stored(&self) -> Option<Stored> {
        self.storage.certificate(&self.managed.name, &self.acme.domains, &self.tools.provider, self.now())
    }

    fn progress(&self) -> Progress {
        self.unwritten.clone().unwrap_or_else(|| self.storage.progress(&self.managed.name))
    }

    /// Decides what is to be done now.
    async fn plan(&mut self) -> Plan {
        let (stored, progress) = (self.stored(), self.progress());
        let mut due = self.now();
        if let Some(stored) = &stored {
            self.ask_for_renewal_info(stored).await;
            let of_life = schedule::renewal(&stored.life);
            let suggested = self.suggested.as_ref().filter(|suggested| suggested.of == stored.life.not_after);
            let got = progress.got_at.unwrap_or(stored.life.not_before);
            due = suggested.map_or(of_life, |suggested| suggested.at.min(of_life));
            due = due.max(schedule::earliest(got, progress.hasty));
        }
        let is_free = self.is_first && progress.failures < FREE_STARTS;
        if let Some(retry_at) = progress.retry_at.filter(|_| progress.failures > 0 && !is_free) {
            let longest = self.now().checked_add(LONGEST_NOTED).unwrap_or(retry_at);
            due = due.max(retry_at.min(longest));
        }
        self.managed.update(|state| {
            state.not_after = stored.as_ref().map(|stored| stored.life.not_after);
            state.due_at = Some(due);
            state.fault = progress.fault.clone().filter(|_| progress.failures > 0);
        });
        if due <= self.now() { Plan::Ask } else { Plan::Wait(due) }
    }

    /// Asks when the authority suggests to renew the certificate (RFC 9773), if it has that information and
    /// was not asked of late.
    async fn ask_for_renewal_info(&mut self, stored: &Stored) {
        let now = self.now();
        let is_of_another = self.suggested.as_ref().is_some_and(|known| known.of != stored.life.not_after);
        if !is_of_another && self.next_info.is_some_and(|next| now < next) {
            return;
        }
        let later = |wait: SignedDuration| now.checked_add(wait).ok();
        (self.next_info, self.suggested) = (later(RENEWAL_INFO), None);
        // The account has the address of the information.
        let has_account = self.storage.account_file(&self.acme).exists();
        let Some(leaf) = stored.key.cert.first().filter(|_| has_account) else { return };
        let Ok(id) = CertificateIdentifier::try_from(leaf) else { return };
        let asked = async {
            let Connected { http, .. } = (self.tools.connect)(&self.acme).ok()?;
            let account = account::account(&self.acme, &self.storage, &*http).await.ok()?;
            account.renewal_info(&id).await.ok()
        };
        let asked = timeout(LOOK, AssertUnwindSafe(asked).catch_unwind()).await;
        let Ok(Ok(Some((info, wait)))) = asked else { return };
        let at = |time: i64| Timestamp::from_second(time).ok();
        let window = &info.suggested_window;
        let (start, end) = (at(window.start.unix_timestamp()), at(window.end.unix_timestamp()));
        let (Some(start), Some(end)) = (start, end) else { return };
        // The same share of the window for all replicas, and whenever it is asked for.
        let share = sha256(leaf.as_ref()).first().copied().unwrap_or_default();
        let chance = f64::from(share) / f64::from(u8::MAX);
        self.suggested =
            Some(Suggestion { at: schedule::suggested(start, end, chance), of: stored.life.not_after });
        let wait = SignedDuration::try_from(wait).unwrap_or(RENEWAL_INFO);
        self.next_info = later(wait.clamp(schedule::LEAST_INTERVAL, RENEWAL_INFO));
    }

    /// Orders the certificate, if no other process does.
    async fn attempt(&mut self) -> Attempt {
        let held = match self.lock().await {
            Ok(Some(held)) => held,
            Ok(None) => return Attempt::ByAnother,
            Err(failure) => {
                self.failed(failure);
                return Attempt::Over;
            }
        };
        // Another process may have been faster.
        if let Plan::Ask = self.plan().await {
            self.storage.clean();
            self.managed.update(|state| state.is_asking = true);
            let ordered = self.order_in_time(&held).await;
            self.managed.update(|state| state.is_asking = false);
            match ordered.and_then(|issued| self.take_over(&issued).map(|()| issued)) {
                Ok(issued) => self.issued(&issued),
                Err(failure) => self.failed(failure),
            }
        }
        let tools = self.tools.clone();
        if let Some(of_fleet) = held.of_fleet {
            tools.fleet.end(of_fleet).await;
        }
        Attempt::Over
    }

    /// Takes the lock of the storage, and that of all replicas; `None` if another process has one of them.
    async fn lock(&self) -> Result<Option<Held>, Failure> {
        let opened = self.storage.open();
        opened.map_err(|fault| Failure::new(fault.message, fault.hint.unwrap_or_default()))?;
        let lock = Lock::take(&self.storage.lock_file(&self.managed.name), self.now());
        let Some(lock) = lock.map_err(|error| Failure::of_storage(&error))? else { return Ok(None) };
        Ok(match self.tools.fleet.lock(&self.managed.name).await {
            Taken::Held(of_fleet) => Some(Held { lock, of_fleet: Some(of_fleet) }),
            Taken::Nowhere => Some(Held { lock, of_fleet: None }),
            Taken::ByAnother => None,
        })
    }

    /// Orders for as long as the locks are held, and at most for [`ATTEMPT`].
    async fn order_in_time(&self, held: &Held) -> Result<Issued, Failure> {
        let lost = async {
            while self.renew(held).await {
                sleep(RENEWAL).await;
            }
        };
        let ordering = timeout(ATTEMPT, AssertUnwindSafe(self.order(held)).catch_unwind());
        tokio::select! {
            ordered = ordering => match ordered {
                Ok(Ok(ordered)) => ordered,
                Ok(Err(_panic)) => Err(Failure::new("an internal error; the log has more", "report it")),
                Err(_elapsed) => Err(Failure::new(
                    format!("the order took longer than {} s", ATTEMPT.as_secs()),
                    "nothing; the next attempt goes on with the same order",
                )),
            },
            () = lost => Err(taken_over()),
        }
    }

    async fn renew(&self, held: &Held) -> bool {
        let is_held = held.lock.renew(self.now()).unwrap_or(true);
        match &held.of_fleet {
            Some(of_fleet) => self.tools.fleet.renew(of_fleet).await && is_held,
            None => is_held,
        }
    }

    async fn order(&self, held: &Held) -> Result<Issued, Failure> {
        let (acme, storage, name) = (&*self.acme, &self.storage, self.managed.name.as_str());
        let Connected { http, retry_after } = (self.tools.connect)(acme).map_err(|faults| {
            Failure::new(faults.to_string(), "mend the file of `acme.ca`; bearward reads it again by itself")
        })?;
        let asked =
            |failure: Failure| Failure { retry_after: failure.retry_after.or_else(&*retry_after), ..failure };
        let account = account::account(acme, storage, &*http).await.map_err(asked)?;
        let mut progress = self.progress();
        if progress.order.as_ref().is_some_and(|order| storage.holds_key(name, &order.key)) {
            // What was ordered is there already: a process was killed before it could note that.
            progress.order = None;
        }
        if !held.lock.renew(self.now()).unwrap_or(false) {
            return Err(taken_over());
        }
        let answers = Publisher::new(&self.tools.fleet, storage);
        let replaced = self.stored().and_then(|stored| stored.key.cert.first().cloned());
        let (account, answers, provider) = (&account, &answers, &*self.tools.provider);
        let ordering = Ordering { acme, name, storage, account, answers, provider, replaced };
        ordering.run(&mut progress).await.map_err(asked)
    }

    /// Puts a certificate into the storage, where all processes find it.
    fn take_over(&self, issued: &Issued) -> Result<(), Failure> {
        let written = self.storage.write_certificate(&self.managed.name, &issued.chain, &issued.key);
        written.map_err(|error| Failure::of_storage(&error))
    }

    fn issued(&mut self, issued: &Issued) {
        let (now, progress) = (self.now(), self.progress());
        // That there was a time since the last one means that the last one was renewed early.
        let is_hasty = progress.got_at.is_some_and(|got| schedule::is_hasty(&issued.life, got, now));
        let hasty = if is_hasty { progress.hasty.saturating_add(1) } else { 0 };
        let (omits_replaces, got_at) = (progress.omits_replaces, Some(now));
        self.note(Progress { hasty, omits_replaces, got_at, ..Progress::default() });
        (self.is_first, self.next_info, self.suggested) = (false, None, None);
        self.managed.update(|state| {
            state.issued += 1;
            state.fault = None;
        });
        let domains = self.acme.domains.join(", ");
        tracing::info!(domains, not_after = %issued.life.not_after, "got a certificate from the authority");
        self.audit("certificate_issued", Some(issued.life.not_after), None);
    }

    fn failed(&mut self, failure: Failure) {
        let (now, mut progress) = (self.now(), self.progress());
        let Failure { kind, message, advice, retry_after, cause } = failure;
        match cause {
            Cause::UnknownAccount => {
                account::forget(&self.acme, &self.storage);
                progress.order = None;
            }
            Cause::Replaces => progress.omits_replaces = true,
            Cause::Other => {}
        }
        progress.failures = progress.failures.saturating_add(1);
        let pause = schedule::pause(progress.failures, kind, retry_after, fastrand::f64());
        progress.retry_at = now.checked_add(pause).ok();
        let fault = KeptFault { message: message.clone(), advice: advice.clone(), at: now };
        progress.fault = Some(fault.clone());
        let retry_at = progress.retry_at.map(|at| at.to_string()).unwrap_or_default();
        self.note(progress);
        self.is_first = false;
        self.managed.update(|state| {
            state.failed += 1;
            state.fault = Some(fault);
        });
        let domains = self.acme.domains.join(", ");
        tracing::error!(domains, why = message, advice, retry_at, "got no certificate from the authority");
        self.audit("certificate_failed", None, Some(&message));
    }

    /// Writes the progress, or keeps it in mind where it can't be written.
    fn note(&mut self, progress: Progress) {
        let written = self.storage.write_progress(&self.managed.name, &progress);
        self.unwritten = written.is_err().then_some(progress);
    }

    fn audit(&self, event: &'static str, not_after: Option<Timestamp>, reason: Option<&str>) {
        let Some(writer) = &self.tools.logs.audit else { return };
        let (domains, directory) = (&*self.acme.domains.join(","), &*self.acme.directory);
        let expires_at = not_after.map(|end| end.to_string());
        certificate_event(writer, CertificateEvent { event, domains, directory, expires_at, reason });
    }
}

fn taken_over() -> Failure {
    Failure::new("another process has taken over the order", "nothing")
}
