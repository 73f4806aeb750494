//! Reads a changed part of the state completely before anything of this part is applied.

use std::path::Path;
use std::sync::Arc;

use super::current::{ASKED_SETTLE, Current, Running};
use super::files::{Baseline, certificates_of};
use super::part::Part;
use super::watch::{digest_of, openable};
use crate::acme::Storage;
use crate::config::fault::{Fault, Faults};
use crate::config::{Config, Listener, StorePlace, Tls};
use crate::identity::{ReadFiles, lost_ids};
use crate::key_cache::{KeyCache, KeySet};
use crate::key_store::Store;
use crate::key_store::id_secret;
use crate::key_store::provisions::{Provided, Provisions};
use crate::key_store::redis::RedisStore;
use crate::key_store::{AtFault, Pace, Reading};
use crate::keys::id_secret::IdSecret;
use crate::net::authority_client;
use crate::net::tls::{self, ListenerTls};
use crate::proxy::Gateway;
use crate::shared::Settings;
use crate::snapshot::Snapshot;

/// A part of the state that was read completely and can be applied.
pub(super) enum Ready {
    Config(Box<ReadyConfig>),
    Keys(KeySet),
    /// The files of denied tokens, and of issuers' keys.
    Identities(ReadFiles),
    /// The new certificates of each listener, with the listener's number and the digest of the files; then the
    /// faults of files, of which what was read before stays in service.
    Certificates(Vec<(usize, Arc<ListenerTls>, Option<[u8; 32]>)>, Vec<Fault>),
}

pub(super) struct ReadyConfig {
    pub(super) config: Config,
    /// The listeners as they will run once the configuration is applied.
    pub(super) listeners: Vec<Listener>,
    pub(super) baseline: Baseline,
    pub(super) keys: Option<KeySet>,
    /// The key store of the configuration, if it is in a Redis server.
    pub(super) redis: Option<Arc<RedisStore>>,
    pub(super) certificates: Vec<Option<Arc<ListenerTls>>>,
    pub(super) compiled: Snapshot,
    /// What the configuration says of the limits of all replicas, if they are shared.
    pub(super) shared: Option<Settings>,
}

impl Current {
    pub(super) fn read(&self, part: Part) -> Result<Ready, Faults> {
        // The other parts look at each file themselves, so that one at fault holds up no other. A key store may be
        // a directory.
        if part == Part::Config {
            let sets = self.sets.iter().filter(|(known, _)| *known == part);
            openable(sets.flat_map(|(_, set)| set.files())).map_err(|faults| self.placed(faults))?;
        }
        Ok(match part {
            Part::Config => Ready::Config(Box::new(self.read_config()?)),
            Part::Keys => {
                let ids = self.gateway.snapshot.load().ids.clone();
                let provided = self.provided(&self.config);
                Ready::Keys(self.read_keys(
                    &self.store_of(&self.config)?,
                    (&ids, &provided),
                    AtFault::Held,
                )?)
            }
            Part::Certificates => self.read_certificates(),
            Part::Identities => {
                let mut files = self.gateway.identities.read_files();
                files.faults = self.placed(Faults(files.faults)).0;
                Ready::Identities(files)
            }
        })
    }

    /// Moves each fault of a whole file to the position where the running configuration names the
    /// file.
    fn placed(&self, faults: Faults) -> Faults {
        self.config.named_files.placed(faults)
    }

    fn read_config(&self) -> Result<ReadyConfig, Faults> {
        let config = match &self.config.source {
            Some(source) => Config::load_again(&source.path)?,
            None => self.config.clone(),
        };
        if config.has_budgets() && !self.provided(&config).keeps_budgets {
            let fault = Fault::of_file(Path::new("state"), "budgets are kept only after a restart");
            return Err(fault.hint("restart bearward with this configuration").into());
        }
        let named_files = config.named_files.clone();
        self.read_files_of(config).map_err(|faults| named_files.placed(faults))
    }

    fn read_files_of(&self, config: Config) -> Result<ReadyConfig, Faults> {
        let running = self.listeners.iter();
        let listeners: Vec<_> = running.map(|running| counterpart(&running.listener, &config)).collect();
        let baseline = Baseline::of(&Config { listeners: listeners.clone(), ..config.clone() });
        let looked_at = Part::ALL.into_iter().filter(|part| *part != Part::Keys);
        openable(looked_at.flat_map(|part| baseline.files(part)))?;
        let is_elsewhere =
            |part| self.sets.iter().any(|(known, set)| *known == part && set.files() != baseline.files(part));
        // If the new configuration names files at new paths, these files are read together with the
        // configuration, once they have settled. After a fault in any of these files, the
        // configuration is not applied either.
        if Part::ALL.into_iter().any(is_elsewhere) {
            std::thread::sleep(ASKED_SETTLE);
        }
        let reads_keys = is_elsewhere(Part::Keys)
            || config.keys.path != self.config.keys.path
            || config.keys.allow_plaintext != self.config.keys.allow_plaintext;
        let serving = self.gateway.snapshot.load().ids.clone();
        let ids = id_secret::renewed(&serving, &config.keys, &self.config.keys)?;
        if let Some(fault) = lost_ids(&config.auth, &ids) {
            return Err(fault.into());
        }
        // The ids of keys in a plain list are derived from the id secret, so a new secret requires
        // reading the keys again.
        let provided = self.provided(&config);
        let reads_keys =
            reads_keys || !Arc::ptr_eq(&ids, &serving) || provided != self.provided(&self.config);
        let is_same_store = config.keys.path == self.config.keys.path;
        // For a store at a new path, no last good form of an entry is known, so a faulty entry
        // causes the refusal of the whole store.
        let store = self.store_of(&config)?;
        self.check_needs(&store, &ids, &provided)?;
        let at_fault =
            if is_same_store && !is_elsewhere(Part::Keys) { AtFault::Held } else { AtFault::Refused };
        let keys = reads_keys.then(|| self.read_keys(&store, (&ids, &provided), at_fault)).transpose()?;
        let redis = match store {
            Store::Redis(redis) => Some(redis),
            _ => None,
        };
        let reads_certificates = is_elsewhere(Part::Certificates);
        let mut certificates = Vec::with_capacity(listeners.len());
        for (wanted, running) in listeners.iter().zip(&self.listeners) {
            let is_other = reads_certificates || wanted.tls != running.listener.tls;
            let section = wanted.tls.as_ref().filter(|_| is_other);
            let before = running.swappable.as_ref().map(|tls| tls.load_full());
            if let Some(storage) = new_storage(section, running.listener.tls.as_ref()) {
                storage.open()?;
            }
            if let Some(acme) = section.and_then(Tls::acme) {
                authority_client::check(acme)?;
            }
            let made = section.map(|section| tls::server_config(section, before.as_deref()));
            certificates.push(made.transpose()?);
        }
        let compiled = {
            let Gateway { limiter, endpoints, queues, identities, .. } = &*self.gateway;
            Snapshot::new(&config, ids, limiter, endpoints, queues, identities)?
        };
        let shared = config.shared.as_ref().map(Settings::of).transpose()?;
        Ok(ReadyConfig { config, listeners, baseline, keys, redis, certificates, compiled, shared })
    }

    /// Returns the key store of a configuration. A store in a Redis server that is in use already is
    /// the same one, with what is known of it.
    fn store_of(&self, config: &Config) -> Result<Store, Fault> {
        match (&config.keys.path, &self.redis) {
            (StorePlace::Redis(server), Some(redis)) if **server == *redis.server() => {
                Ok(Store::Redis(redis.clone()))
            }
            (place, _) => {
                let store = Store::allowed_at(place, config.keys.allow_plaintext)?;
                store.announce();
                Ok(store)
            }
        }
    }

    /// Returns what a configuration has that keys may need. A place to keep budgets takes a restart.
    fn provided(&self, config: &Config) -> Provided {
        Provided::by(config).kept(self.gateway.limiter.keeps_budgets())
    }

    /// Checks that the configuration has what the keys need. If a key in service needs what it does not
    /// have, all keys of the store are read: unchanged entries, and last good forms, are checked too.
    ///
    /// # Errors
    ///
    /// The faults of the store.
    fn check_needs(&self, store: &Store, ids: &IdSecret, provided: &Provided) -> Result<(), Faults> {
        let Provided { groups, keeps_budgets } = provided;
        let mut is_left = false;
        self.gateway.keys.for_each(|live| {
            is_left |= live.key.group().is_some_and(|group| !groups.contains(group));
            is_left |= !keeps_budgets && !live.key.budgets().is_empty();
        });
        if !is_left {
            return Ok(());
        }
        let nothing = KeyCache::default();
        let reading = Reading { provisions: Provisions::Of(provided), ..Reading::first(&nothing, ids) };
        let set = store.load(Reading { pace: Pace::Background, ..reading })?;
        if set.refused.is_empty() { Ok(()) } else { Err(Faults(set.refused)) }
    }

    fn read_keys(
        &self,
        store: &Store,
        (ids, provided): (&IdSecret, &Provided),
        at_fault: AtFault,
    ) -> Result<KeySet, Faults> {
        let (known, last_good) = (&*self.gateway.keys, &self.last_good);
        let provisions = Provisions::Of(provided);
        let reading = Reading { known, last_good, ids, provisions, at_fault, pace: Pace::Background };
        if at_fault == AtFault::Refused { store.load_first(reading) } else { store.load(reading) }
    }

    /// Reads the listeners' certificates. A file at fault holds up no other file.
    fn read_certificates(&self) -> Ready {
        let (mut good, mut faults) = (Vec::new(), Vec::new());
        for (number, Running { listener, digest, swappable }) in self.listeners.iter().enumerate() {
            let Some(section) = &listener.tls else { continue };
            let now = digest_of(&certificates_of(listener));
            // Replacing certificates by the same ones would needlessly end all TLS session
            // resumptions.
            if now.is_some() && now == *digest {
                continue;
            }
            let Some(before) = swappable.as_ref().map(|tls| tls.load_full()) else { continue };
            let (config, of_listener) = tls::renewed(section, &before);
            // Files at fault are no state that was taken over: they are read again the next time.
            let taken = now.filter(|_| of_listener.is_empty());
            good.extend(config.map(|config| (number, config, taken)));
            faults.extend(of_listener);
        }
        Ready::Certificates(good, self.placed(Faults(faults)).0)
    }
}

/// Returns the storage of certificates that a listener did not have before.
fn new_storage(section: Option<&Tls>, before: Option<&Tls>) -> Option<Storage> {
    let storage = Storage::of(section?.acme()?);
    let is_known = before.and_then(Tls::acme).is_some_and(|acme| Storage::of(acme) == storage);
    (!is_known).then_some(storage)
}

/// Returns the listener of `config` that has the address of `running`. Returns `running` itself if
/// no listener has this address, or if TLS would be turned on or off, or if it would serve something else.
/// Other settings of a listener than `tls` take a restart.
fn counterpart(running: &Listener, config: &Config) -> Listener {
    let same = config.listeners.iter().find(|listener| listener.address == running.address);
    let is_like = |listener: &&Listener| {
        listener.tls.is_some() == running.tls.is_some() && listener.door == running.door
    };
    let tls = same.filter(is_like).unwrap_or(running).tls.clone();
    Listener { tls, ..running.clone() }
}
