//! The directory of accounts and certificates (`acme.storage`).
//!
//! | entry | content |
//! |---|---|
//! | `certificates/NAME.pem` | a private key, and its certificate chain behind it |
//! | `accounts/DIGEST.json` | an account at an authority, with its private key |
//! | `orders/NAME.json` | the order that is open, and the attempts that have failed |
//! | `challenges/DIGEST` | what the authority is told when it asks |
//! | `locks/NAME` | who orders now |
//!
//! Invariants: each file is complete whenever it has its name; only its owner can read it.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::certificate::Life;
use super::challenges::Question;
use super::progress::Progress;
use crate::config::fault::Fault;
use crate::config::{Acme, CertificatePair};
use crate::digest::{Sha256, sha256};
use crate::pem;
use crate::regular_file;

const CERTIFICATES: &str = "certificates";
const ACCOUNTS: &str = "accounts";
const ORDERS: &str = "orders";
const CHALLENGES: &str = "challenges";
const LOCKS: &str = "locks";
const DIRECTORIES: [&str; 5] = [CERTIFICATES, ACCOUNTS, ORDERS, CHALLENGES, LOCKS];
/// Number of bytes of a digest in the name of a file.
const DIGEST_BYTES: usize = 8;
/// Age after which what a process has left is removed.
const LONGEST_USE: Duration = Duration::from_secs(3600);
/// Age after which an answer to an authority counts no more: its order has ended.
const LONGEST_ANSWER: Duration = Duration::from_secs(600);
/// Greatest number of answers that are read.
const MOST_ANSWERS: usize = 1000;
/// Longest beginning of a name that is a domain, so that the name of each file has room.
const LONGEST_PREFIX: usize = 100;
/// The last line of a certificate (RFC 7468, section 2).
const END: &str = "-----END CERTIFICATE-----";
/// The beginning of the names of files that are not complete yet.
pub(super) const TEMPORARY: &str = ".bearward-";

/// The directory of accounts and certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Storage(PathBuf);

/// A certificate of the storage that can be used.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) file: PathBuf,
    pub(crate) key: CertifiedKey,
    pub(crate) life: Life,
}

/// Returns the name of a certificate: one of its domains, and a digest of the directory and of all domains. A
/// certificate for other domains, or of another authority, has another name; the order of the domains does not
/// matter.
pub(crate) fn name_of(acme: &Acme) -> String {
    let mut domains: Vec<&String> = acme.domains.iter().collect();
    domains.sort_unstable();
    let mut digest = Sha256::new();
    let first: String = domains.first().map_or("", |first| first).chars().take(LONGEST_PREFIX).collect();
    for part in std::iter::once(&acme.directory).chain(domains) {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    format!("{first}-{}", hex(&digest.finish()))
}

impl Storage {
    /// Returns the storage of a certificate. Nothing is created yet.
    pub(crate) fn of(acme: &Acme) -> Self {
        Storage(acme.storage.clone())
    }

    /// Creates the directory, with mode 0700, and the directories in it.
    ///
    /// # Errors
    ///
    /// A directory can't be created, nothing can be written to it, or it has other files as well.
    pub(crate) fn open(&self) -> Result<(), Fault> {
        let fault = |error: io::Error| {
            let message = format!("the storage of certificates can't be used: {error}");
            Fault::of_file(&self.0, message).hint("a directory that bearward may write to, as `acme.storage`")
        };
        let make = |path: &Path| match DirBuilder::new().mode(0o700).create(path) {
            Err(_) if path.is_dir() => Ok(()),
            made => made,
        };
        match make(&self.0) {
            // The parent, too, as for `/var/lib/bearward/acme` on a new machine.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let parent = self.0.parent().ok_or(error).and_then(make);
                parent.and_then(|()| make(&self.0)).map_err(fault)?;
            }
            made => made.map_err(fault)?,
        }
        self.close_to_others()?;
        for directory in DIRECTORIES {
            make(&self.0.join(directory)).map_err(fault)?;
        }
        tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(self.0.join(ORDERS)).map(drop).map_err(fault)
    }

    /// Lets nobody but the owner into the directory, if it is this user's. The directory of a mounted volume
    /// may belong to another user; the files in it can be read by their owner alone nevertheless.
    fn close_to_others(&self) -> Result<(), Fault> {
        self.check()?;
        if let Ok(found) = fs::metadata(&self.0)
            && found.mode() & 0o077 != 0
            && found.uid() == rustix::process::geteuid().as_raw()
        {
            let _stays_open = fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700));
        }
        Ok(())
    }

    /// Checks that the directory has no other files, if it is there. It may be `/var/lib`, which nobody could
    /// enter any more once it is closed to others.
    ///
    /// # Errors
    ///
    /// The directory has other files.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().filter_map(Result::ok);
        let is_foreign = |name: &str| !DIRECTORIES.contains(&name) && name != "lost+found";
        let mut names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        match names.find(|name| is_foreign(name)) {
            Some(name) => {
                let message = format!("the storage of certificates has other files in it, such as {name}");
                Err(Fault::of_file(&self.0, message).hint("a directory of its own, as `acme.storage`"))
            }
            None => Ok(()),
        }
    }

    /// Returns the file of the certificate with this name.
    pub(crate) fn certificate_file(&self, name: &str) -> PathBuf {
        self.0.join(CERTIFICATES).join(format!("{name}.pem"))
    }

    /// Returns the certificate with this name, if it is there, is valid, and is for all `domains`.
    pub(crate) fn certificate(
        &self,
        name: &str,
        domains: &[String],
        provider: &CryptoProvider,
        now: Timestamp,
    ) -> Option<Stored> {
        let stored = load(self.certificate_file(name), provider)?;
        (stored.life.covers(domains) == domains.len() && !stored.life.has_ended(now)).then_some(stored)
    }

    /// Returns the certificate to be served until the one for all `domains` is there: the one that is for most
    /// of them, as after a domain was added.
    pub(crate) fn substitute(
        &self,
        domains: &[String],
        provider: &CryptoProvider,
        now: Timestamp,
    ) -> Option<Stored> {
        let entries = fs::read_dir(self.0.join(CERTIFICATES)).ok()?;
        let files = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "pem"));
        let stored = files.filter_map(|file| load(file, provider));
        let usable = stored.filter(|stored| !stored.life.has_ended(now) && stored.life.covers(domains) > 0);
        usable.max_by_key(|stored| (stored.life.covers(domains), stored.life.not_after))
    }

    /// Replaces the certificate with this name. `chain` and `key`: PEM. What could not be loaded again, as
    /// [`Self::certificate`] does, replaces nothing.
    pub(super) fn write_certificate(
        &self,
        name: &str,
        (chain, key): (&str, &str),
        provider: &CryptoProvider,
    ) -> io::Result<()> {
        // The key comes first: what is read as the key must not be one that the authority has sent along.
        let end = chain.rfind(END).map_or(chain.len(), |end| end + END.len());
        let chain = chain.get(..end).unwrap_or(chain);
        let content = Zeroizing::new(format!("{}\n{chain}\n", key.trim_end()));
        write_if(&self.certificate_file(name), content.as_bytes(), |written| {
            load(written.to_owned(), provider).is_some_and(|stored| stored.key.keys_match().is_ok())
        })
    }

    /// Whether the certificate with this name has this private key, PEM.
    pub(super) fn holds_key(&self, name: &str, key: &str) -> bool {
        let text = regular_file::read_text(&self.certificate_file(name));
        text.is_ok_and(|text| memchr::memmem::find(text.as_bytes(), key.trim().as_bytes()).is_some())
    }

    pub(super) fn progress(&self, name: &str) -> Progress {
        self.read(&self.order_file(name)).unwrap_or_default()
    }

    pub(super) fn write_progress(&self, name: &str, progress: &Progress) -> io::Result<()> {
        self.write_json(&self.order_file(name), progress)
    }

    fn order_file(&self, name: &str) -> PathBuf {
        self.0.join(ORDERS).join(format!("{name}.json"))
    }

    /// Returns the file of the account at an authority.
    pub(super) fn account_file(&self, acme: &Acme) -> PathBuf {
        let external = acme.external_account.as_ref().map(|external| external.key_id.as_str());
        let digest = sha256(format!("{}\0{}", acme.directory, external.unwrap_or_default()));
        self.0.join(ACCOUNTS).join(format!("{}.json", hex(&digest)))
    }

    /// Returns the file of the lock of whoever makes the account.
    pub(super) fn account_lock_file(&self, acme: &Acme) -> PathBuf {
        let file = self.account_file(acme);
        self.0.join(LOCKS).join(file.file_stem().unwrap_or_default())
    }

    pub(super) fn lock_file(&self, name: &str) -> PathBuf {
        self.0.join(LOCKS).join(name)
    }

    /// Keeps the answer to a question of the authority, for all processes with this storage.
    pub(super) fn publish(&self, question: &Question, answer: &str) -> io::Result<()> {
        write(&self.challenge_file(question), answer.as_bytes())
    }

    /// Returns all answers that processes have put here of late, with the digests of their questions.
    pub(super) fn published(&self) -> Vec<(String, String)> {
        let entries = fs::read_dir(self.0.join(CHALLENGES)).into_iter().flatten().filter_map(Result::ok);
        let answers = entries.take(MOST_ANSWERS).filter_map(|entry| {
            let modified = entry.metadata().ok()?.modified().ok()?;
            // An age that can't be told, since the clock was set back, is none.
            let is_old = modified.elapsed().is_ok_and(|age| age > LONGEST_ANSWER);
            let answer = regular_file::read_text(&entry.path()).ok().filter(|_| !is_old)?;
            Some((entry.file_name().into_string().ok()?, answer.to_string()))
        });
        answers.collect()
    }

    /// Removes an answer, unless another process has put its own there meanwhile.
    pub(super) fn withdraw(&self, question: &Question, answer: &str) {
        let file = self.challenge_file(question);
        if regular_file::read_text(&file).is_ok_and(|text| *text == answer) {
            let _gone_already = fs::remove_file(file);
        }
    }

    fn challenge_file(&self, question: &Question) -> PathBuf {
        self.0.join(CHALLENGES).join(digest_of(question))
    }

    /// Removes what processes that were killed have left: files that are not complete, and old answers.
    pub(super) fn clean(&self) {
        for directory in DIRECTORIES {
            let Ok(entries) = fs::read_dir(self.0.join(directory)) else { continue };
            for entry in entries.filter_map(Result::ok) {
                let is_left =
                    directory == CHALLENGES || entry.file_name().to_string_lossy().starts_with(TEMPORARY);
                let modified = entry.metadata().and_then(|found| found.modified());
                let age = modified.ok().and_then(|modified| modified.elapsed().ok());
                if is_left && age.is_some_and(|age| age > LONGEST_USE) {
                    let _gone_already = fs::remove_file(entry.path());
                }
            }
        }
    }

    /// Reads a file of JSON; `None` if it is not there, or can't be understood.
    pub(super) fn read<T: DeserializeOwned>(&self, path: &Path) -> Option<T> {
        let text = regular_file::read_text(path).ok()?;
        match serde_json::from_str(&text) {
            Ok(content) => Some(content),
            Err(_) => {
                tracing::warn!(file = %path.display(), "the file can't be understood, and counts as missing");
                None
            }
        }
    }

    pub(super) fn write_json(&self, path: &Path, content: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(content).map(Zeroizing::new)?;
        write(path, &text)
    }
}

/// Loads a certificate with its key; `None` if the file is not there, or is of no use.
fn load(file: PathBuf, provider: &CryptoProvider) -> Option<Stored> {
    let pair = CertificatePair { certificate: file.clone(), private_key: file.clone() };
    if !file.exists() {
        return None;
    }
    match pem::certified_key(&pair, provider) {
        Ok(key) if is_whole(&file) => {
            let life = Life::of(key.cert.first()?)?;
            Some(Stored { file, key, life })
        }
        unusable => {
            let why = unusable.err().map_or_else(|| "it is cut off".to_owned(), |fault| fault.message);
            tracing::warn!(file = %file.display(), why, "a stored certificate is of no use");
            None
        }
    }
}

/// Whether a file ends with the end of a certificate. A reader of PEM passes over one that is cut off.
fn is_whole(file: &Path) -> bool {
    let content = regular_file::read(file);
    content.is_ok_and(|content| content.trim_ascii_end().ends_with(END.as_bytes()))
}

/// Returns the digest by which a question is known in the storage.
pub(super) fn digest_of(question: &Question) -> String {
    hex(&sha256(question.text()))
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    write_if(path, content, |_| true)
}

/// Writes a file so that a reader finds the whole old one or the whole new one, also after a loss of power.
/// `is_sound`: whether the new one, at a place of its own, may replace the old one.
fn write_if(path: &Path, content: &[u8], is_sound: impl FnOnce(&Path) -> bool) -> io::Result<()> {
    replace(path, content, is_sound).map_err(|error| at(path, &error))
}

/// Names the file in an error.
pub(super) fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn replace(path: &Path, content: &[u8], is_sound: impl FnOnce(&Path) -> bool) -> io::Result<()> {
    let directory = path.parent().ok_or(ErrorKind::InvalidInput)?;
    // Its mode is 0600 from the beginning.
    let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().sync_data()?;
    if !is_sound(file.path()) {
        return Err(ErrorKind::InvalidData.into());
    }
    file.persist(path)?;
    match fs::File::open(directory)?.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

fn hex(digest: &[u8; 32]) -> String {
    digest.iter().take(DIGEST_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};
    use rustls::crypto::aws_lc_rs;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    /// A chain and its key, PEM.
    fn issued(names: &[&str], end: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(end, 1, 1));
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn it_is_closed_to_others_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage(directory.path().join("new").join("acme"));
        storage.open().unwrap();
        assert_eq!((mode_of(&storage.0), mode_of(&storage.0.join(CERTIFICATES))), (0o700, 0o700));
        fs::set_permissions(&storage.0, fs::Permissions::from_mode(0o755)).unwrap();
        storage.open().unwrap();
        assert_eq!(mode_of(&storage.0), 0o700, "it is ours");
        // Whoever names `/var/lib` must not lock everybody out of it.
        let foreign = directory.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("file"), "").unwrap();
        fs::set_permissions(&foreign, fs::Permissions::from_mode(0o755)).unwrap();
        let fault = Storage(foreign.clone()).open().unwrap_err();
        assert!(fault.message.contains("other files"), "{}", fault.message);
        assert_eq!(mode_of(&foreign), 0o755);
        assert!(!foreign.join(CERTIFICATES).exists());
        let file = Storage(foreign.join("file"));
        assert!(file.open().is_err());
    }

    #[test]
    fn a_certificate_is_replaced_only_by_one_that_can_be_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage(directory.path().join("acme"));
        storage.open().unwrap();
        let (provider, now) = (aws_lc_rs::default_provider(), "2026-01-01T00:00:00Z".parse().unwrap());
        let (chain, key) = issued(&["a.example"], 2030);
        storage.write_certificate("name", (&chain, &key), &provider).unwrap();
        let file = storage.certificate_file("name");
        assert_eq!(mode_of(&file), 0o600);
        assert!(storage.holds_key("name", &key));
        let (other_chain, other_key) = issued(&["a.example"], 2031);
        let with_foreign_key = format!("{other_key}{other_chain}");
        for (chain, key) in [
            (&*other_chain, &*key),
            (&*with_foreign_key, &*key),
            ("", &*other_key),
            ("nonsense", &*other_key),
            (&*other_chain, ""),
        ] {
            assert!(storage.write_certificate("name", (chain, key), &provider).is_err());
            let stored = storage.certificate("name", &names(&["a.example"]), &provider, now).unwrap();
            assert_eq!(stored.life.not_after.to_string(), "2030-01-01T00:00:00Z");
        }
        assert_eq!(fs::read_dir(storage.0.join(CERTIFICATES)).unwrap().count(), 1);
        // What stands behind the chain is left out, and a chain that is cut off is none.
        let with_text = format!("{other_chain}{other_chain}trailing text");
        storage.write_certificate("other", (&with_text, &other_key), &provider).unwrap();
        let path = storage.certificate_file("other");
        let whole = fs::read(&path).unwrap();
        let stored = |names: &[String]| storage.certificate("other", names, &provider, now);
        assert_eq!(stored(&names(&["a.example"])).unwrap().key.cert.len(), 2);
        fs::write(&path, &whole[..whole.len() - 100]).unwrap();
        assert!(stored(&names(&["a.example"])).is_none());
        assert!(storage.certificate("name", &names(&["a.example", "b.example"]), &provider, now).is_none());
        let later = "2030-01-01T00:00:00Z".parse().unwrap();
        assert!(storage.certificate("name", &names(&["a.example"]), &provider, later).is_none());
    }

    #[test]
    fn the_best_certificate_of_the_storage_serves_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage(directory.path().join("acme"));
        storage.open().unwrap();
        let (provider, now) = (aws_lc_rs::default_provider(), "2026-01-01T00:00:00Z".parse().unwrap());
        for (name, of, end) in [
            ("one", &["a.example"][..], 2040),
            ("two", &["a.example", "b.example"], 2030),
            ("later", &["a.example", "b.example"], 2031),
            ("ended", &["a.example", "b.example", "c.example"], 2025),
            ("other", &["d.example"], 2050),
        ] {
            let (chain, key) = issued(of, end);
            storage.write_certificate(name, (&chain, &key), &provider).unwrap();
        }
        let wanted = names(&["a.example", "b.example", "c.example"]);
        let found = storage.substitute(&wanted, &provider, now).unwrap();
        assert_eq!(found.file, storage.certificate_file("later"));
        assert!(storage.substitute(&names(&["e.example"]), &provider, now).is_none());
    }

    #[test]
    fn only_ones_own_answer_is_withdrawn() {
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage(directory.path().join("acme"));
        storage.open().unwrap();
        let question = Question::of_name("A.example").unwrap();
        storage.publish(&question, "token.one").unwrap();
        assert_eq!(storage.published(), [(digest_of(&question), "token.one".to_owned())]);
        storage.publish(&question, "token.two").unwrap();
        storage.withdraw(&question, "token.one");
        assert_eq!(storage.published(), [(digest_of(&question), "token.two".to_owned())]);
        storage.withdraw(&question, "token.two");
        assert_eq!(storage.published(), []);
    }
}
