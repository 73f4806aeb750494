//! All state that a start makes from a configuration before a socket is bound.

use std::sync::Arc;

use jiff::Timestamp;

use super::descriptors::carried_by_descriptors;
use super::first_keys::{FirstKeys, Purpose};
use super::{warnings, weakness};
use crate::acme::Storage;
use crate::clock::Clock;
use crate::config::fault::{Fault, Faults};
use crate::config::{Config, Listener};
use crate::identity::{Identities, lost_ids};
use crate::key_cache::KeyCache;
use crate::key_store::id_secret;
use crate::keys::id_secret::IdSecret;
use crate::limit::{BudgetReport, Limiter, Unsettled};
use crate::net::authority_client;
use crate::net::tls::{self, ListenerTls};
use crate::observe::ledger::Ledger;
use crate::observe::untold::{Collected, Untold};
use crate::random_id::random_id;
use crate::reload::{FileWarnings, StoodKeys};
use crate::shared::{self, Asker, Ours, Settings, Sharing};
use crate::snapshot::Snapshot;
use crate::state::{Fleet, Keeper, Keeping, State};
use crate::upstream::Endpoints;
use crate::upstream::queue::Queues;

/// All state that the start, and also `bearward check`, makes from a configuration before a socket
/// is bound.
pub(crate) struct Prepared {
    pub(crate) snapshot: Snapshot,
    pub(crate) keys: KeyCache,
    pub(super) stood_keys: StoodKeys,
    pub(crate) limiter: Limiter,
    pub(super) sharing: Option<Arc<Sharing>>,
    pub(super) asker: Option<Asker>,
    pub(super) kept: KeptState,
    pub(super) endpoints: Endpoints,
    pub(super) queues: Queues,
    pub(crate) identities: Identities,
    pub(super) tls: Vec<Option<Arc<ListenerTls>>>,
    /// Warnings about files that everybody can change.
    pub(crate) alarms: Vec<String>,
    /// Warnings about settings that are allowed, but most likely a mistake.
    pub(crate) warnings: Vec<String>,
}

impl Prepared {
    /// Reads all files that the configuration names, and returns all of their faults.
    pub(super) fn new(
        config: &Config,
        ids: Result<Arc<IdSecret>, Fault>,
        clock: &Clock,
        purpose: Purpose,
    ) -> Result<Self, Faults> {
        Self::read(config, ids, clock, purpose).map_err(|faults| config.named_files.placed(faults))
    }

    fn read(
        config: &Config,
        ids: Result<Arc<IdSecret>, Fault>,
        clock: &Clock,
        purpose: Purpose,
    ) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let ids = ids.unwrap_or_else(|fault| {
            faults.push(fault);
            Arc::new(IdSecret::random())
        });
        if purpose == Purpose::Service {
            faults.extend(lost_ids(&config.auth, &ids));
        }
        let first = FirstKeys::read(config, &ids, purpose).unwrap_or_else(|of_keys| {
            faults.extend(of_keys.0);
            FirstKeys::default()
        });
        let mut tls = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            match listener_tls(listener, purpose) {
                Ok(config) => tls.push(config),
                Err(of_tls) => faults.extend(of_tls.0),
            }
        }
        if let Some(path) = config.admin.as_ref().and_then(|admin| admin.token_file.as_ref()) {
            faults.extend(weakness::token_fault(path));
        }
        let (Limits { limiter, sharing, asker, kept }, of_limits) = Limits::of(config, purpose, clock);
        faults.extend(of_limits);
        let endpoints = Endpoints::default();
        let queues = Queues::default();
        let identities = Identities::new(clock.clone());
        match Snapshot::new(config, ids, &limiter, &endpoints, &queues, &identities) {
            Ok(snapshot) if faults.is_empty() => {
                snapshot.put_into_service(&endpoints, &queues, &identities);
                let FileWarnings { alarms, mut warnings } = FileWarnings::of(config);
                warnings.extend(warnings::of(config, &first.set, &snapshot, &tls));
                let (keys, stood_keys) = first.into_service();
                Ok(Prepared {
                    snapshot,
                    keys,
                    stood_keys,
                    limiter,
                    sharing,
                    asker,
                    kept,
                    endpoints,
                    queues,
                    identities,
                    tls,
                    alarms,
                    warnings,
                })
            }
            Ok(_) => Err(Faults(faults)),
            Err(of_upstreams) => {
                faults.extend(of_upstreams.0);
                Err(Faults(faults))
            }
        }
    }

    /// Makes the same state as [`Prepared::new`], but writes no file, for `bearward check` and
    /// `bearward explain`.
    pub(crate) fn of(config: &Config, clock: &Clock) -> Result<Self, Faults> {
        Self::new(config, id_secret::for_check(&config.keys), clock, Purpose::Check)
    }

    /// Returns the settings of shared limits, if there are any.
    pub(crate) fn shared_settings(&self) -> Option<Arc<Settings>> {
        self.sharing.as_ref().map(|sharing| sharing.settings())
    }

    /// Returns the faults of keys with which a server starts nevertheless: entries at fault, and what
    /// is missing for a key store in a Redis server.
    pub(crate) fn faults_of_keys(&self) -> Faults {
        let StoodKeys { refused, unread, redis, .. } = &self.stood_keys;
        let mut faults = refused.0.clone();
        if let Some(redis) = redis {
            let missing = redis.check();
            // A server that lacks a permission also can't be read.
            match missing.is_empty() {
                true => faults.extend(unread.iter().flat_map(|unread| unread.0.clone())),
                false => faults.extend(missing),
            }
        }
        Faults(faults)
    }

    /// Returns the number of secrets that the keys have.
    pub(crate) fn secrets(&self) -> usize {
        self.keys.len()
    }
}

/// What survives a restart: the thread that writes it, its handle, and the ledger of usage; nothing if the
/// configuration has no `state`.
#[derive(Default)]
pub(super) struct KeptState {
    pub(super) keeper: Option<Keeper>,
    pub(super) keeping: Option<Arc<Keeping>>,
    pub(super) ledger: Option<Arc<Ledger>>,
    told: Told,
}

/// What a state directory has for the server of shared limits.
#[derive(Default)]
struct Told {
    /// The name by which that server knows what the directory has told; `None` without a directory.
    origin: Option<String>,
    unsettled: Vec<BudgetReport>,
}

impl KeptState {
    /// Returns what a replica tells the server of shared limits, and lets the directory keep what was not
    /// told. `id`: that of the replica.
    fn of_fleet(self, id: &str, now: Timestamp) -> (Ours, Self) {
        let Told { origin, unsettled } = self.told;
        let (unsettled, unsent) = Unsettled::restored(unsettled, now);
        let (survives, unsettled) = (origin.is_some(), Arc::new(unsettled));
        let untold = Arc::new(Untold::new(origin.unwrap_or_else(|| id.to_owned()), survives));
        let ledger = self.ledger.unwrap_or_default();
        let collected = (!survives).then(|| Collected::new(ledger.clone()));
        let fleet = Fleet::new(untold.clone(), unsettled.clone());
        let keeper = self.keeper.map(|keeper| keeper.of_fleet(fleet, now));
        let kept = KeptState { keeper, keeping: self.keeping, ledger: Some(ledger), told: Told::default() };
        (Ours { untold, collected, unsettled, unsent }, kept)
    }
}

/// The limits of keys, where they are shared, and what survives a restart.
struct Limits {
    limiter: Limiter,
    sharing: Option<Arc<Sharing>>,
    asker: Option<Asker>,
    kept: KeptState,
}

impl Limits {
    /// Makes the limits, and returns all faults of what they need.
    fn of(config: &Config, purpose: Purpose, clock: &Clock) -> (Self, Vec<Fault>) {
        let mut faults = Vec::new();
        let (sharing, asker) = shared_limits(config, clock).unwrap_or_else(|of_shared| {
            faults.extend(of_shared.0);
            (None, None)
        });
        let limiter = Limiter::new(clock.clone(), carried_by_descriptors());
        let limiter = match &sharing {
            Some(sharing) => limiter.shared_by(sharing.clone()),
            None => limiter,
        };
        let asker = asker.map(|asker| asker.recording(limiter.attempts()));
        let (limiter, kept) = kept(config, purpose, clock, limiter);
        let kept = kept.unwrap_or_else(|of_state| {
            faults.push(of_state);
            KeptState::default()
        });
        let (asker, kept) = match (asker, &sharing) {
            (Some(asker), Some(sharing)) => {
                let (ours, kept) = kept.of_fleet(&sharing.id, clock.wall());
                (Some(asker.telling_of(ours)), kept)
            }
            _ => (None, kept),
        };
        (Limits { limiter, sharing, asker, kept }, faults)
    }
}

/// Opens the state directory for a start, and lets the limiter keep its state there. A check only looks
/// whether it can be read.
fn kept(
    config: &Config,
    purpose: Purpose,
    clock: &Clock,
    limiter: Limiter,
) -> (Limiter, Result<KeptState, Fault>) {
    let Some(directory) = &config.state else { return (limiter, Ok(KeptState::default())) };
    if purpose == Purpose::Check {
        return (limiter, State::check(&directory.path).map_or(Ok(KeptState::default()), Err));
    }
    match State::open(&directory.path, clock.wall()) {
        Ok((state, kept)) => {
            let ledger = Some(state.ledger.clone());
            let told = Told { origin: Some(state.origin.clone()), unsettled: state.unsettled.clone() };
            let (limiter, changed) = limiter.keeping(kept);
            let (keeper, keeping) = Keeper::new(state, changed, clock.clone());
            (limiter, Ok(KeptState { keeper: Some(keeper), keeping: Some(Arc::new(keeping)), ledger, told }))
        }
        Err(fault) => (limiter, Err(fault)),
    }
}

/// Makes the TLS configuration of a listener. A storage of certificates that can't be written is no fault while
/// there is a certificate in it: the log and the status tell of it, and the certificate is not renewed.
fn listener_tls(listener: &Listener, purpose: Purpose) -> Result<Option<Arc<ListenerTls>>, Faults> {
    let Some(section) = &listener.tls else { return Ok(None) };
    let opened = section.acme().map(Storage::of).map_or(Ok(()), |storage| match purpose {
        Purpose::Service => storage.open(),
        Purpose::Check => storage.check(),
    });
    if let Some(acme) = section.acme() {
        authority_client::check(acme)?;
    }
    let config = tls::server_config(section, None)?;
    match opened {
        Err(fault) if config.is_waiting() => Err(fault.into()),
        Err(fault) => {
            tracing::warn!("{fault}");
            Ok(Some(config))
        }
        Ok(()) => Ok(Some(config)),
    }
}

/// Makes the handle of shared limits and the work of their thread, if limits are shared.
fn shared_limits(config: &Config, clock: &Clock) -> Result<(Option<Arc<Sharing>>, Option<Asker>), Faults> {
    let Some(shared) = &config.shared else { return Ok((None, None)) };
    let (sharing, asker) = shared::share(Settings::of(shared)?, random_id(), clock.clone());
    Ok((Some(Arc::new(sharing)), Some(asker)))
}
