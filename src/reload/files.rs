//! The files that a configuration names, for each part of the state that is reloaded.

use std::path::PathBuf;

use super::part::Part;
use super::watch::{FileSet, Stamps};
use crate::acme::{Storage, name_of};
use crate::config::{Config, KeysPlace, Listener, ReadFile, StorePlace};

/// The files of a configuration, and their state before they were read.
#[derive(Debug)]
pub(crate) struct Baseline {
    files: Vec<(Vec<PathBuf>, Stamps)>,
}

impl Baseline {
    pub(crate) fn of(config: &Config) -> Self {
        let files = Part::ALL.map(|part| files_of(part, config, &config.listeners));
        Baseline { files: files.into_iter().map(|files| (files.clone(), Stamps::of(&files))).collect() }
    }

    /// Whether all files are still in the state that was noted before they were read.
    pub(super) fn is_current(&self) -> bool {
        self.files.iter().all(|(files, stamps)| Stamps::of(files) == *stamps)
    }

    /// Returns the files from which a part of the state is reloaded.
    pub(super) fn files(&self, part: Part) -> &[PathBuf] {
        let index = Part::ALL.iter().position(|known| *known == part);
        index.and_then(|index| self.files.get(index)).map_or(&[], |(files, _)| files)
    }

    pub(super) fn into_sets(self, config: &Config) -> impl Iterator<Item = FileSet> {
        let read = read_with(config);
        let of_part = move |part| if part == Part::Config { read.clone() } else { Vec::new() };
        let parts = Part::ALL.into_iter().zip(self.files);
        parts.map(move |(part, (files, stamps))| FileSet::new(files, stamps, &of_part(part)))
    }
}

/// Returns the files whose content the configuration contains: its own file, upstreams' credentials,
/// the id secret, the password of the server that has shared limits, and secrets of external accounts.
fn read_with(config: &Config) -> Vec<ReadFile> {
    let credentials =
        config.upstreams.iter().filter_map(|upstream| upstream.credential.as_ref()?.file.clone());
    let id_secret = config.keys.id_secret.iter().filter_map(|secret| secret.file.clone());
    let of_shared = config.shared.iter().filter_map(|shared| shared.password.as_ref()?.file.clone());
    let acme = config.listeners.iter().filter_map(|listener| listener.tls.as_ref()?.acme());
    let of_acme = acme.filter_map(|acme| acme.external_account.as_ref()?.hmac_key.file.clone());
    let own = config.source.iter().cloned();
    own.chain(credentials).chain(id_secret).chain(of_shared).chain(of_acme).collect()
}

fn files_of(part: Part, config: &Config, listeners: &[Listener]) -> Vec<PathBuf> {
    match part {
        Part::Config => {
            let upstreams = config.upstreams.iter();
            let of_upstreams = upstreams.flat_map(|upstream| {
                let tls = &upstream.tls;
                let client = tls.client.iter();
                let client = client.flat_map(|pair| [pair.certificate.clone(), pair.private_key.clone()]);
                tls.ca.iter().cloned().chain(client)
            });
            let of_shared = config.shared.iter().flat_map(|shared| {
                let client = shared.tls.client.iter();
                let client = client.flat_map(|pair| [pair.certificate.clone(), pair.private_key.clone()]);
                shared.tls.ca.iter().cloned().chain(client)
            });
            let of_issuers = config.auth.jwt.iter().filter_map(|issuer| issuer.ca.clone());
            let read = read_with(config).into_iter().map(|read| read.path);
            read.chain(of_upstreams).chain(of_shared).chain(of_issuers).collect()
        }
        Part::Keys => match &config.keys.path {
            StorePlace::Path(path) => vec![path.clone()],
            StorePlace::Redis(_) => Vec::new(),
        },
        Part::Certificates => listeners.iter().flat_map(certificates_of).collect(),
        Part::Identities => {
            let of_issuers = config.auth.jwt.iter().filter_map(|issuer| match &issuer.jwks {
                KeysPlace::File(path) => Some(path.clone()),
                _ => None,
            });
            of_issuers.chain(config.auth.deny.clone()).collect()
        }
    }
}

pub(super) fn certificates_of(listener: &Listener) -> Vec<PathBuf> {
    let Some(tls) = &listener.tls else { return Vec::new() };
    let pairs = tls.files().iter();
    let pairs = pairs.flat_map(|pair| [pair.certificate.clone(), pair.private_key.clone()]);
    // The file of a certificate that bearward gets by itself may not be there yet.
    let stored = tls.acme().map(|acme| Storage::of(acme).certificate_file(&name_of(acme)));
    pairs.chain(stored).chain(tls.client_ca.clone()).chain(tls.client_crl.clone()).collect()
}
