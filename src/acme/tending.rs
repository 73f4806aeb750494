//! What one process does for one certificate: it waits until the certificate is due, takes the lock, orders,
//! and notes the outcome.

use std::io::ErrorKind;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use instant_acme::{Account, CertificateIdentifier, HttpClient};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{sleep, timeout};

use super::account;
use super::fault::{Cause, Failure};
use super::fleet::{FleetLock, Taken};
use super::lock::{Lock, RENEWAL};
use super::order::{Issued, Ordering};
use super::progress::{KeptFault, Progress};
use super::publisher::Publisher;
use super::registry::Managed;
use super::schedule::{self, Kind};
use super::storage::{Storage, Stored};
use super::tools::{Connected, Tools};
use crate::config::Acme;
use crate::digest::sha256;
use crate::observe::audit::{CertificateEvent, certificate_event};

/// Longest time of an attempt. What has not been done then goes on with the next one.
const ATTEMPT: Duration = Duration::from_secs(300);
/// Longest time between two looks at the storage: another process may have renewed the certificate, and the
/// clock may have been set.
const LOOK: Duration = Duration::from_secs(30);
/// Pause before the next attempt to take the lock.
const LOCKED: Duration = Duration::from_millis(500);
/// Greatest number of times that an attempt goes on after the authority has refused a nonce, which the client
/// has then sent three times. Some of an authority's data centres may not know the nonces of the others.
const MOST_NONCES: u32 = 3;
/// Pause before it goes on.
const NONCE: Duration = Duration::from_millis(500);
/// Longest time between two questions for renewal information, and after one that failed.
const RENEWAL_INFO: SignedDuration = SignedDuration::from_hours(6);
/// Longest time for which a note of an earlier process holds up an order: its clock may have been wrong.
const LONGEST_NOTED: SignedDuration = SignedDuration::from_hours(72);
/// Number of failures in a row after which a process that was started again, or has new settings, waits like any
/// other. Before, it asks at once.
const FREE_STARTS: u32 = 3;

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
    /// When an operator has last had a say: the start of this process, or a change of the settings.
    told_at: Timestamp,
    /// Whether this process has made no attempt since then.
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
        let (storage, told_at) = (Storage::of(&acme), tools.clock.wall());
        let (next_info, suggested, unwritten) = (None, None, None);
        Tending { tools, managed, acme, storage, told_at, is_first: true, next_info, suggested, unwritten }
    }

    /// Gets the certificate, and renews it, without an end.
    pub(super) async fn run(mut self) {
        loop {
            let acme = self.managed.acme.load_full();
            if *acme != *self.acme {
                (self.acme, self.told_at, self.is_first) = (acme, self.now(), true);
            }
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
        let stored = self.storage.progress(&self.managed.name);
        match &self.unwritten {
            Some(unwritten) if unwritten.noted_at > stored.noted_at => unwritten.clone(),
            _ => stored,
        }
    }

    /// Decides what is to be done now.
    async fn plan(&mut self) -> Plan {
        let (stored, progress) = (self.stored(), self.progress());
        let mut due = self.now();
        if let Some(stored) = &stored {
            self.ask_for_renewal_info(stored).await;
            let of_life = schedule::renewal(&stored.life);
            let suggested = self.suggested.as_ref().filter(|suggested| suggested.of == stored.life.not_after);
            due = suggested.map_or(of_life, |suggested| suggested.at.min(of_life));
        }
        // Also without a certificate: what was got may be of no use.
        if let Some(got) = progress.got_at {
            due = due.max(self.bounded(schedule::earliest(got, progress.hasty)));
        }
        if let Some(retry_at) = progress.retry_at {
            let free = progress.fault.as_ref().filter(|_| self.may_skip_pause(&progress));
            due = due.max(self.bounded(free.map_or(retry_at, |fault| schedule::after_failure(fault.at))));
        }
        self.managed.update(|state| {
            state.not_after = stored.as_ref().map(|stored| stored.life.not_after);
            state.due_at = Some(due);
            state.fault = progress.fault.clone();
        });
        if due <= self.now() { Plan::Ask } else { Plan::Wait(due) }
    }

    /// Whether the pause after a failure need not be waited for: an operator has had a say since, most likely to
    /// mend what was wrong.
    fn may_skip_pause(&self, progress: &Progress) -> bool {
        self.is_first
            && !progress.is_asked_to_wait
            && progress.failures < FREE_STARTS
            && progress.fault.as_ref().is_some_and(|fault| fault.at < self.told_at)
    }

    /// Returns a noted time, or an earlier one: the clock of whoever has noted it may have been wrong.
    fn bounded(&self, noted: Timestamp) -> Timestamp {
        self.now().checked_add(LONGEST_NOTED).map_or(noted, |longest| noted.min(longest))
    }

    /// Asks when the authority suggests to renew the certificate (RFC 9773), if it has that information and
    /// was not asked of late.
    async fn ask_for_renewal_info(&mut self, stored: &Stored) {
        let now = self.now();
        if self.is_first && self.next_info.is_none() {
            // A start with a valid certificate asks nobody.
            self.next_info = now.checked_add(schedule::first_question(&stored.life)).ok();
        }
        let is_of_another = self.suggested.as_ref().is_some_and(|known| known.of != stored.life.not_after);
        if !is_of_another && self.next_info.is_some_and(|next| now < next) {
            return;
        }
        let later = |wait: SignedDuration| now.checked_add(wait).ok();
        self.next_info = later(RENEWAL_INFO);
        let Some(leaf) = stored.key.cert.first() else { return };
        let Ok(id) = CertificateIdentifier::try_from(leaf) else { return };
        let asked = async {
            let Connected { http, .. } = (self.tools.connect)(&self.acme).ok()?;
            let account = account::known(&self.acme, &self.storage, &*http).await.ok()??;
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
        let mut attempt = Attempt::Over;
        // Another process may have been faster.
        if let Plan::Ask = self.plan().await {
            self.storage.clean();
            self.managed.update(|state| state.is_asking = true);
            let ordered = self.order_in_time(&held).await;
            self.managed.update(|state| state.is_asking = false);
            match ordered.and_then(|issued| self.take_over(&issued).map(|()| issued)) {
                Ok(issued) => self.issued(&issued),
                // The other process notes what becomes of the order.
                Err(failure) if failure.cause == Cause::TakenOver => attempt = Attempt::ByAnother,
                Err(failure) => self.failed(failure),
            }
        }
        if let Some(of_fleet) = held.of_fleet {
            self.tools.fleet.end(of_fleet).await;
        }
        attempt
    }

    /// Takes the lock of the storage, and that of all replicas; `None` if another process has one of them.
    async fn lock(&self) -> Result<Option<Held>, Failure> {
        let opened = self.storage.open();
        opened.map_err(|fault| Failure::here(fault.message, fault.hint.unwrap_or_default()))?;
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
        let ordering = timeout(ATTEMPT, AssertUnwindSafe(self.order_with_nonces(held)).catch_unwind());
        tokio::select! {
            ordered = ordering => match ordered {
                Ok(Ok(ordered)) => ordered,
                Ok(Err(_panic)) => Err(Failure::new("an internal error; the log has more", "report it")),
                Err(_elapsed) => Err(Failure::new(
                    format!("the order took longer than {} s", ATTEMPT.as_secs()),
                    "nothing; the next attempt goes on with the same order",
                )),
            },
            () = lost => Err(Failure::taken_over()),
        }
    }

    /// Renews both locks. Returns `false` if another process has one of them. One that can't be written is
    /// still held.
    async fn renew(&self, held: &Held) -> bool {
        let is_held = held.lock.renew(self.now()).unwrap_or(true);
        match &held.of_fleet {
            Some(of_fleet) => self.tools.fleet.renew(of_fleet).await && is_held,
            None => is_held,
        }
    }

    /// Orders, and goes on with the same order where only a nonce was refused: that is no failure.
    async fn order_with_nonces(&self, held: &Held) -> Result<Issued, Failure> {
        let mut refused = 0;
        loop {
            match self.order(held).await {
                Err(failure) if failure.cause == Cause::RefusedNonce && refused < MOST_NONCES => refused += 1,
                ordered => return ordered,
            }
            self.uncount_attempt();
            sleep(NONCE).await;
        }
    }

    /// Forgets that an attempt went on with the open order.
    fn uncount_attempt(&self) {
        let mut progress = self.progress();
        if let Some(order) = &mut progress.order {
            order.attempts = order.attempts.saturating_sub(1);
            // At worst, another order is made.
            let _counted = self.storage.write_progress(&self.managed.name, &progress);
        }
    }

    async fn order(&self, held: &Held) -> Result<Issued, Failure> {
        let (acme, storage, name) = (&*self.acme, &self.storage, self.managed.name.as_str());
        let Connected { http, retry_after } = (self.tools.connect)(acme).map_err(|faults| {
            Failure::here(faults.to_string(), "mend the file of `acme.ca`; bearward reads it again by itself")
        })?;
        let asked =
            |failure: Failure| Failure { retry_after: failure.retry_after.or_else(&*retry_after), ..failure };
        let account = self.account(&*http).await.map_err(asked)?;
        let mut progress = self.progress();
        if progress.order.as_ref().is_some_and(|order| storage.holds_key(name, &order.key)) {
            // What was ordered is there already: a process was killed before it could note that.
            progress.order = None;
        }
        if !self.renew(held).await {
            return Err(Failure::taken_over());
        }
        let answers = Publisher::new(self.tools.clone(), storage.clone());
        let replaced = self.stored().and_then(|stored| Some((stored.key.cert.first()?.clone(), stored.life)));
        let (account, answers, now) = (&account, &answers, self.now());
        let ordering = Ordering { acme, name, storage, account, answers, replaced, now };
        ordering.run(&mut progress).await.map_err(asked)
    }

    /// Returns the account, which is made if there is none. Of several certificates and processes, one makes it.
    async fn account(&self, http: &dyn Fn() -> Box<dyn HttpClient>) -> Result<Account, Failure> {
        let (acme, storage) = (&*self.acme, &self.storage);
        loop {
            if let Some(account) = account::known(acme, storage, http).await? {
                return Ok(account);
            }
            let lock = Lock::take(&storage.account_lock_file(acme), self.now());
            if let Some(_lock) = lock.map_err(|error| Failure::of_storage(&error))? {
                return match account::known(acme, storage, http).await? {
                    Some(account) => Ok(account),
                    None => account::make(acme, storage, http).await,
                };
            }
            sleep(LOCKED).await;
        }
    }

    /// Puts a certificate into the storage, where all processes find it.
    fn take_over(&self, issued: &Issued) -> Result<(), Failure> {
        let Issued { chain, key, .. } = issued;
        let (name, provider) = (&self.managed.name, &*self.tools.provider);
        self.storage.write_certificate(name, (chain, key), provider).map_err(|error| match error.kind() {
            ErrorKind::InvalidData => Failure::new(
                "the authority has issued a certificate that is not for the key, or can't be read",
                "check `acme.directory`",
            ),
            _ => Failure::of_storage(&error),
        })
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
        if cause == Cause::UnknownAccount {
            account::forget(&self.acme, &self.storage);
            progress.order = None;
        }
        if kind != Kind::Here {
            progress.failures = progress.failures.saturating_add(1);
        }
        progress.is_asked_to_wait = kind == Kind::RateLimited || retry_after.is_some();
        let mut pause = schedule::pause(progress.failures, kind, retry_after, fastrand::f64());
        if let Some(stored) = self.stored().filter(|_| !progress.is_asked_to_wait) {
            pause = schedule::while_serving(pause, stored.life.not_after.duration_since(now));
        }
        progress.retry_at = now.checked_add(pause).ok();
        let fault = KeptFault { message: message.clone(), advice: advice.clone(), at: now };
        progress.fault = Some(fault.clone());
        let due_at = progress.retry_at;
        let retry_at = due_at.map(|at| at.to_string()).unwrap_or_default();
        self.note(progress);
        self.is_first = false;
        self.managed.update(|state| {
            state.failed += 1;
            state.fault = Some(fault);
            // Whoever sees the fault sees when the next attempt is, which the next plan may put later.
            state.due_at = due_at;
        });
        let domains = self.acme.domains.join(", ");
        tracing::error!(domains, why = message, advice, retry_at, "got no certificate from the authority");
        self.audit("certificate_failed", None, Some(&message));
    }

    /// Writes the progress, or keeps it in mind where it can't be written.
    fn note(&mut self, progress: Progress) {
        let progress = Progress { noted_at: Some(self.now()), ..progress };
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
