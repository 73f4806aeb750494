//! All that is known of identities: the rules in service, the issuers' keys, the tokens that were verified, and
//! the holders that have come. Workers, the thread that asks issuers, the reload thread and the admin listener
//! share it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};

use super::certificate::ClientCertificate;
use super::denied::Denied;
use super::holders::{self, Holders};
use super::jwks::KeySet;
use super::known_tokens::{Basis, KnownTokens, Verified};
use super::reason::Reason;
use super::rules::{Path, Rule, Rules, Trusted};
use super::source::{Pace, Place, ShownSource, Source};
use super::token::{Accepted, Refused, judged_but_for_keys, verified};
use crate::clock::Clock;
use crate::config::fault::{Fault, Faults};
use crate::config::{Auth, Issuer, KeysPlace};
use crate::key_cache::LiveKey;
use crate::keys::id_secret::IdSecret;
use crate::keys::{Credential, KeyHash};
use crate::late_thread::LateThread;
use crate::limit::Limiter;
use crate::observe::usage::{KeyLabel, Usage, UsageBook};
use crate::pem;
use crate::regular_file;

/// The most holders, and the most tokens that are known as verified.
const MOST: usize = 128 * 1024;

/// Time between two tokens that are verified for addresses that have used up their failed attempts, in
/// nanoseconds, and how many may come at once.
const BLOCKED_INTERVAL: u64 = 20_000_000;
const BLOCKED_BURST: u64 = 25;

/// All that is known of identities.
pub(crate) struct Identities {
    in_service: ArcSwap<Rules>,
    next_rules: AtomicU64,
    /// The number of changes of keys and denied tokens so far.
    epoch: AtomicU64,
    tokens: KnownTokens,
    holders: Holders,
    /// When the next token may be verified for an address that has used up its failed attempts, in nanoseconds.
    spare: AtomicU64,
    changes: watch::Sender<()>,
    /// Notified when the thread has something to do.
    pub(super) wake: Arc<Notify>,
    clock: Clock,
    thread: LateThread,
}

/// What is known of identities, as it is shown to operators.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) issuers: Vec<ShownSource>,
    /// Whether the keys of each issuer may still be used.
    pub(crate) are_fresh: Vec<bool>,
    pub(crate) holders: usize,
    pub(crate) tokens: usize,
    pub(crate) denied: usize,
}

/// The content of the files that identities need, read before any of it is put into service. A file at fault
/// holds up no other one.
#[derive(Debug)]
pub(crate) struct ReadFiles {
    denied: Option<Denied>,
    keys: Vec<(Arc<Source>, KeySet)>,
    pub(crate) faults: Vec<Fault>,
}

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identities").field("in_service", &self.in_service).finish_non_exhaustive()
    }
}

impl Identities {
    pub(crate) fn new(clock: Clock) -> Self {
        Self::with_room(clock, MOST)
    }

    fn with_room(clock: Clock, most: usize) -> Self {
        Identities {
            in_service: ArcSwap::default(),
            next_rules: AtomicU64::new(1),
            epoch: AtomicU64::new(0),
            tokens: KnownTokens::with_room(most),
            holders: Holders::with_room(most),
            spare: AtomicU64::new(0),
            changes: watch::Sender::new(()),
            wake: Arc::default(),
            clock,
            thread: LateThread::default(),
        }
    }

    /// Compiles what a configuration says of identities. Keys of issuers that stay the same stay known.
    ///
    /// # Errors
    ///
    /// All faults of the files that are not in service yet.
    pub(crate) fn compile(&self, auth: &Auth, ids: &Arc<IdSecret>) -> Result<Rules, Faults> {
        let before = self.in_service.load();
        let mut faults = Vec::new();
        let mut issuers = Vec::with_capacity(auth.jwt.len());
        for issuer in &auth.jwt {
            match self.source(issuer, &before) {
                Ok(source) => issuers.push(Trusted {
                    issuer: issuer.clone(),
                    name: Path::of(&issuer.name),
                    source,
                    rules: issuer.identities.iter().map(Rule::new).collect(),
                }),
                Err(fault) => faults.push(fault),
            }
        }
        let denied = match &auth.deny {
            _ if before.deny == auth.deny => before.denied.clone(),
            None => Arc::default(),
            Some(path) => match Denied::read(path) {
                Ok(denied) => Arc::new(ArcSwap::from_pointee(denied)),
                Err(of_file) => {
                    faults.extend(of_file.0);
                    Arc::default()
                }
            },
        };
        match faults.is_empty() {
            true => Ok(Rules {
                number: self.next_rules.fetch_add(1, Ordering::Relaxed),
                issuers,
                certificates: auth.certificates.iter().map(Rule::new).collect(),
                denied,
                deny: auth.deny.clone(),
                ids: Some(ids.clone()),
            }),
            false => Err(Faults(faults)),
        }
    }

    /// Returns the keys of an issuer: those that are known already, or new ones, which are read if they are in a
    /// file.
    fn source(&self, issuer: &Issuer, before: &Rules) -> Result<Arc<Source>, Fault> {
        let place = Place::of(issuer);
        let known = before.issuers.iter().find(|trusted| trusted.source.place == place);
        if let Some(known) = known {
            return Ok(known.source.clone());
        }
        if let Some(path) = &issuer.ca {
            pem::authorities(path)?;
        }
        if let Some(path) = &issuer.token_file {
            let fault = |message: String| Fault::of_file(path, message);
            let read = regular_file::read_text(path);
            let text = read.map_err(|error| Fault::unreadable(path, "the token", &error))?;
            if text.trim().is_empty() {
                return Err(fault("the file of the token is empty".to_owned()));
            }
        }
        let source = Source::new(place, pace_of(issuer), self.wake.clone(), self.clock.clone());
        if let KeysPlace::File(path) = &issuer.jwks {
            source.take_file(read_keys(path)?);
        }
        // The same keys are reached in another way now. Until that is tried, they stay known.
        let is_same = |trusted: &&Trusted| trusted.source.place.has_keys_of(&source.place);
        if let Some(known) = before.issuers.iter().find(is_same) {
            source.inherit(&known.source);
        }
        Ok(Arc::new(source))
    }

    /// Puts compiled rules into service, in place of earlier ones.
    pub(crate) fn put_into_service(&self, rules: &Arc<Rules>) {
        for trusted in &rules.issuers {
            trusted.source.set_pace(pace_of(&trusted.issuer));
        }
        self.in_service.store(rules.clone());
        self.changes.send_replace(());
        self.wake.notify_one();
        if let Err(error) = self.start() {
            tracing::error!(%error, "the thread that asks issuers for their keys can't be started");
        }
    }

    pub(crate) fn in_service(&self) -> Arc<Rules> {
        self.in_service.load_full()
    }

    /// Reads the files of the rules in service again: denied tokens, and keys in files.
    pub(crate) fn read_files(&self) -> ReadFiles {
        let rules = self.in_service.load_full();
        let mut faults = Vec::new();
        let denied = rules.deny.as_deref().map(Denied::read).transpose().unwrap_or_else(|of_file| {
            faults.extend(of_file.0);
            None
        });
        let mut keys = Vec::new();
        for trusted in &rules.issuers {
            let KeysPlace::File(path) = &trusted.issuer.jwks else { continue };
            match read_keys(path) {
                Ok(read) => keys.push((trusted.source.clone(), read)),
                Err(fault) => faults.push(fault),
            }
        }
        ReadFiles { denied, keys, faults }
    }

    /// Puts the content of files into service.
    pub(crate) fn take_files(&self, files: ReadFiles) {
        let ReadFiles { denied, keys, faults: _ } = files;
        if let Some(denied) = denied {
            tracing::info!(entries = denied.len(), "denied tokens reloaded");
            self.in_service.load().denied.store(Arc::new(denied));
        }
        for (source, keys) in keys {
            source.take_file(keys);
        }
        self.note_change();
    }

    /// Notes that keys or denied tokens have changed. What was verified is verified again.
    pub(super) fn note_change(&self) {
        // The data was changed before, so whoever sees the new number sees the new data.
        self.epoch.fetch_add(1, Ordering::Release);
        self.changes.send_replace(());
    }

    /// Lets requests in service be judged again.
    pub(crate) fn judge_again(&self) {
        self.changes.send_replace(());
    }

    /// Whether one more token may be verified for an address that has used up its failed attempts. Few are, so
    /// that a flood of forged tokens costs little, and others behind the same address are let in nevertheless.
    pub(crate) fn may_verify_for_blocked(&self) -> bool {
        let (now, most) = (self.clock.monotonic_nanos(), BLOCKED_INTERVAL * BLOCKED_BURST);
        let spare = |arrival: u64| {
            let arrival = arrival.max(now);
            (arrival - now < most).then_some(arrival + BLOCKED_INTERVAL)
        };
        self.spare.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spare).is_ok()
    }

    /// Returns a receiver that is notified whenever the rules, the keys or the denied tokens change.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn basis(&self, rules: &Rules) -> Basis {
        Basis { rules: rules.number, epoch: self.epoch.load(Ordering::Acquire) }
    }

    /// Seconds of the monotonic clock.
    fn seconds(&self) -> u32 {
        u32::try_from(self.clock.monotonic_nanos() / 1_000_000_000).unwrap_or(u32::MAX)
    }

    /// Returns the holder of a token that was verified before; `None` if it was not, by these rules.
    pub(crate) fn known_holder(
        &self,
        hash: &KeyHash,
        rules: &Rules,
        now: Timestamp,
    ) -> Option<Result<(Arc<LiveKey>, Timestamp), Refused>> {
        let known = self.tokens.get(hash)?;
        if known.basis != self.basis(rules) {
            return None;
        }
        let trusted = rules.issuers.get(usize::from(known.issuer))?;
        if !trusted.source.is_fresh(trusted.issuer.max_stale) {
            let keys_of = Some(trusted.source.clone());
            return Some(Err(Refused { keys_of, ..Refused::from(Reason::KeysUnknown) }));
        }
        if known.is_expired(now) {
            let key = &known.live.key;
            let (id, subject) = (Some(key.id().to_owned()), key.name().map(str::to_owned));
            let ended = Some(known.expires_at());
            return Some(Err(Refused { id, subject, ended, ..Refused::from(Reason::Expired) }));
        }
        known.note_use(self.seconds());
        Some(Ok((known.live.clone(), known.expires_at())))
    }

    /// Verifies a token, and returns its holder and its end. The next request with it finds it by
    /// [`Self::known_holder`].
    ///
    /// # Errors
    ///
    /// Why it identifies nobody.
    pub(crate) fn verify(
        &self,
        (token, hash): (&Credential, &KeyHash),
        rules: &Rules,
        now: Timestamp,
    ) -> Result<(Arc<LiveKey>, Timestamp), Refused> {
        // What changes from here on makes this verification worthless.
        let basis = self.basis(rules);
        let accepted = verified(token.as_bytes(), rules, now)?;
        let holder = self.holders.get(&accepted.id, accepted.name.as_deref(), accepted.rule);
        let Some(live) = holder else {
            self.wake.notify_one();
            return Err(Refused { id: Some(accepted.id), ..Refused::from(Reason::NoRoom) });
        };
        let (issuer, expires_at) = (accepted.issuer, accepted.expires_at);
        let verified = Verified::new(live.clone(), basis, issuer, expires_at, self.seconds());
        self.tokens.put(*hash, Arc::new(verified));
        if self.is_crowded() {
            self.wake.notify_one();
        }
        Ok((live, expires_at))
    }

    /// Returns the holder of a certificate.
    ///
    /// # Errors
    ///
    /// The id of the holder, and why the certificate identifies nobody.
    pub(crate) fn holder_of(
        &self,
        certificate: &ClientCertificate,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<Arc<LiveKey>, (String, Reason)> {
        let judged = certificate.judged(rules, |id, name, rule| self.holders.get(id, name, rule));
        let holder = judged.holder.clone();
        holder
            .and_then(|live| certificate.check(now).map(|()| live))
            .map_err(|reason| (judged.id.clone(), reason))
    }

    /// Judges the token of a request in service by these rules, in all but its signature. Returns its holder as it
    /// would be now, which is not kept, and the token's end.
    ///
    /// # Errors
    ///
    /// Why the token would identify nobody, whatever the issuer's keys are.
    pub(crate) fn judge_token_again(
        &self,
        token: &Credential,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<(Arc<LiveKey>, Timestamp), Refused> {
        let Accepted { id, name, rule, expires_at, .. } = judged_but_for_keys(token.as_bytes(), rules, now)?;
        Ok((Arc::new(holders::made(&id, name.as_deref(), rule)), expires_at))
    }

    /// Judges the certificate of a request in service by these rules. Returns its holder as it would be now, which
    /// is not kept.
    ///
    /// # Errors
    ///
    /// Why the certificate identifies nobody.
    pub(crate) fn judge_certificate_again(
        &self,
        certificate: &ClientCertificate,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<Arc<LiveKey>, Reason> {
        certificate.check(now)?;
        let (rule, name) = certificate.rule(rules)?;
        Ok(Arc::new(holders::made(&certificate.id_by(rules), name, rule)))
    }

    /// Forgets what has ended, and what was used longest ago if there is too much. Returns the labels in metrics
    /// of forgotten holders.
    pub(crate) fn sweep(&self, limiter: &Limiter, usage: &UsageBook) -> Vec<KeyLabel> {
        let now = self.clock.wall();
        // A holder whose tokens are known is in use, so these go first.
        let is_crowded = self.is_crowded();
        self.tokens.sweep(self.basis(&self.in_service.load()), now, (self.seconds(), is_crowded));
        self.holders.sweep(limiter, usage, now)
    }

    /// Whether there are so many tokens or holders that some should go.
    pub(super) fn is_crowded(&self) -> bool {
        self.tokens.is_crowded() || self.holders.is_crowded()
    }

    pub(crate) fn shown(&self) -> Shown {
        let rules = self.in_service.load();
        let is_fresh = |trusted: &Trusted| trusted.source.is_fresh(trusted.issuer.max_stale);
        Shown {
            issuers: rules.issuers.iter().map(|trusted| trusted.source.shown()).collect(),
            are_fresh: rules.issuers.iter().map(is_fresh).collect(),
            holders: self.holders.len(),
            tokens: self.tokens.len(),
            denied: rules.denied.load().len(),
        }
    }

    /// Returns the holders that were used last, at most `most`, with their usage.
    pub(crate) fn latest(&self, usage: &UsageBook, most: usize) -> Vec<(Arc<LiveKey>, Arc<Usage>)> {
        self.holders.latest(usage, most)
    }

    /// Sets how the thread is started, and starts it as soon as there are identities.
    ///
    /// # Errors
    ///
    /// There are identities now, and the thread can't be started.
    pub(crate) fn start_with(
        &self,
        starter: impl FnOnce(Runtime) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        self.thread.set(starter);
        self.start()
    }

    fn start(&self) -> io::Result<()> {
        let rules = self.in_service.load();
        match rules.accept_tokens() || rules.accept_certificates() {
            true => self.thread.start(),
            false => Ok(()),
        }
    }

    /// Returns the issuers' keys in service.
    pub(super) fn sources(&self) -> Vec<Arc<Source>> {
        self.in_service.load().issuers.iter().map(|trusted| trusted.source.clone()).collect()
    }
}

/// Returns the fault of budgets of identities whose holders would have other ids after a restart, and so would begin
/// anew.
pub(crate) fn lost_ids(auth: &Auth, ids: &IdSecret) -> Option<Fault> {
    let has_budgets = auth.identities().any(|identity| identity.budgets.is_some());
    (has_budgets && !ids.is_kept()).then(|| {
        let message =
            "a restart would give the holders of tokens and certificates other ids, and new budgets";
        let fault = Fault::of_file(std::path::Path::new("keys.id_secret"), message);
        fault.hint("a secret in the configuration, as in {env: ID_SECRET}")
    })
}

fn pace_of(issuer: &Issuer) -> Pace {
    Pace { timeout: issuer.timeout, refresh: issuer.refresh }
}

fn read_keys(path: &std::path::Path) -> Result<KeySet, Fault> {
    let fault = |message: String| Fault::of_file(path, message);
    let content = regular_file::read(path).map_err(|error| Fault::unreadable(path, "the keys", &error))?;
    KeySet::parse(&content).map_err(|reason| fault(format!("no set of keys: {reason}")))
}

/// Time between two sweeps.
pub(super) const SWEEP: Duration = Duration::from_secs(10);
