//! Finds or makes the secret with which key ids are made (docs/decisions/026).
//!
//! The secret is the value of `keys.id_secret`. If this setting is not configured, the secret is in
//! a file beside the store, or in the Redis server of the store. If it can't be kept, the secret is
//! random and is lost when the process ends.
//! Invariant: the secret appears in no message, no log and no `Debug` output.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::config::fault::Fault;
use crate::config::{ID_SECRET_LENGTH, KeyServer, Keys, StorePlace};
use crate::key_store::ownership;
use crate::key_store::redis::RedisStore;
use crate::keys::id_secret::IdSecret;

/// The name of the secret's file. A directory store ignores the file, because its name begins with
/// a dot.
pub(crate) const FILE_NAME: &str = ".bearward-id-secret";
/// The largest accepted size of the secret's file in bytes. A larger file was put there by mistake.
const MAX_BYTES: u64 = 4096;
/// How often bearward tries to create the file. Another process may create the file, or remove
/// bearward's temporary file, at the same moment.
const ATTEMPTS: usize = 3;

/// Returns the secret for a server: the configured secret, the one in the file beside the store
/// (which the first start creates), or a random one.
///
/// # Errors
///
/// The file beside the store was not written by bearward.
pub(crate) fn for_service(keys: &Keys) -> Result<Arc<IdSecret>, Fault> {
    let secret = for_command(Some(keys), &keys.path)?;
    if !secret.is_kept() {
        tracing::warn!(
            store = %keys.path.path().display(),
            "no secret for key ids can be kept beside the key store: ids of unknown credentials, and of keys in a .txt \
             file, change at each restart; `keys.id_secret` keeps them"
        );
    }
    Ok(secret)
}

/// Returns the secret for a command that works on the store at `path`.
///
/// # Errors
///
/// Fails with the same errors as [`for_service`].
pub(crate) fn for_command(keys: Option<&Keys>, place: &StorePlace) -> Result<Arc<IdSecret>, Fault> {
    match (configured(keys), place) {
        (Some(secret), _) => Ok(secret),
        (None, StorePlace::Path(path)) => match read(&file_beside(path))? {
            Some(secret) => Ok(secret),
            None => made(&file_beside(path)),
        },
        (None, StorePlace::Redis(server)) => {
            let new = hex().unwrap_or_default();
            Ok(kept_in(server, &new).unwrap_or_else(|| Arc::new(IdSecret::random())))
        }
    }
}

/// Returns the secret for a check of the configuration, which writes no file. If there is no secret
/// yet, a random one is returned.
///
/// # Errors
///
/// Fails with the same errors as [`for_service`].
pub(crate) fn for_check(keys: &Keys) -> Result<Arc<IdSecret>, Fault> {
    let found = match (configured(Some(keys)), &keys.path) {
        (Some(secret), _) => Some(secret),
        (None, StorePlace::Path(path)) => read(&file_beside(path))?,
        (None, StorePlace::Redis(server)) => kept_in(server, ""),
    };
    Ok(found.unwrap_or_else(|| Arc::new(IdSecret::random())))
}

/// Returns the secret for a new configuration. The secret stays the same if `keys.id_secret` has
/// not changed. Without `keys.id_secret`, the secret stays the same if the path of the store has
/// not changed, because the secret's file is beside the store.
///
/// # Errors
///
/// Fails with the same errors as [`for_service`].
pub(crate) fn renewed(secret: &Arc<IdSecret>, now: &Keys, before: &Keys) -> Result<Arc<IdSecret>, Fault> {
    let is_same_place = now.id_secret.is_some() || now.path == before.path;
    match now.id_secret == before.id_secret && is_same_place {
        true => Ok(secret.clone()),
        false => for_service(now),
    }
}

fn configured(keys: Option<&Keys>) -> Option<Arc<IdSecret>> {
    let configured = keys.and_then(|keys| keys.id_secret.as_ref())?;
    Some(Arc::new(IdSecret::kept(configured.value())))
}

/// Returns the secret that a Redis server keeps, or keeps from now on. Returns `None` if the server
/// can't be reached: key ids are only labels.
fn kept_in(server: &KeyServer, new: &str) -> Option<Arc<IdSecret>> {
    let secret = RedisStore::new(server.clone()).id_secret(new).ok()??;
    (secret.len() >= ID_SECRET_LENGTH).then(|| Arc::new(IdSecret::kept(&secret)))
}

/// Creates the file, and makes it durable before it is visible. If another process has created the
/// file in the meantime, the secret of that file is used.
fn made(path: &Path) -> Result<Arc<IdSecret>, Fault> {
    for _ in 0..ATTEMPTS {
        match create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_read_only) => break,
        }
        if let Some(secret) = read(path)? {
            return Ok(secret);
        }
    }
    Ok(Arc::new(IdSecret::random()))
}

/// Returns the path of the secret's file: in a directory store, or in the directory of a key file.
pub(crate) fn file_beside(store: &Path) -> PathBuf {
    if store.is_dir() {
        return store.join(FILE_NAME);
    }
    match store.parent() {
        Some(parent) if parent != Path::new("") => parent.join(FILE_NAME),
        _ => PathBuf::from(FILE_NAME),
    }
}

/// Reads the secret from a file that bearward wrote. Returns `None` if the file does not exist, or
/// if this user may not read it.
///
/// A symbolic link is refused: any user who may write to the directory could point it at any file. The one
/// exception is the link by which the kubelet mounts a file of a Secret, which leads to a file of the same name.
fn read(path: &Path) -> Result<Option<Arc<IdSecret>>, Fault> {
    let hint = "remove it, and the next start makes another; ids of unknown credentials change with it";
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let flags = i32::try_from(flags).unwrap_or_default();
    let place = in_mounted_secret(path).unwrap_or_else(|| path.to_owned());
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(&place) {
        Ok(file) => file,
        Err(error) if is_out_of_reach(&error) => return Ok(None),
        Err(error) => {
            let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
            let message = match is_link {
                true => "the secret of key ids is a symbolic link, which is not followed".to_owned(),
                false => format!("the secret of key ids can't be read: {error}"),
            };
            return Err(Fault::of_file(path, message).hint(hint));
        }
    };
    let fault = |message: &str| Err(Fault::of_file(path, message).hint(hint));
    let Some(metadata) = file.metadata().ok().filter(fs::Metadata::is_file) else {
        return fault("the secret of key ids is not a regular file");
    };
    if is_planted(path, &metadata) || is_planted(&place, &metadata) {
        return fault("the secret of key ids is another user's, in a directory that all users may write to");
    }
    let mut text = Zeroizing::new(Vec::new());
    if let Err(error) = file.take(MAX_BYTES + 1).read_to_end(&mut text) {
        return fault(&format!("the secret of key ids can't be read: {error}"));
    }
    let secret = text.trim_ascii();
    if text.len() as u64 > MAX_BYTES || secret.len() < ID_SECRET_LENGTH {
        return fault("the secret of key ids is not the one that bearward wrote");
    }
    Ok(Some(Arc::new(IdSecret::kept(secret))))
}

/// Returns where the file of a mounted Secret is, if `path` is a link as the kubelet makes them: to `..data/NAME`, where
/// `..data` leads to a directory beside it whose name begins with `..`. Nothing else is followed.
fn in_mounted_secret(path: &Path) -> Option<PathBuf> {
    let directory = directory_of(path);
    let target = fs::read_link(path).ok().filter(|target| *target == Path::new("..data").join(FILE_NAME))?;
    let version = fs::read_link(directory.join(target.parent()?)).ok()?;
    let is_beside = version.file_name() == Some(version.as_os_str());
    let is_version = is_beside && version.as_os_str().as_encoded_bytes().starts_with(b"..");
    let version = directory.join(version);
    let is_directory = fs::symlink_metadata(&version).is_ok_and(|metadata| metadata.is_dir());
    (is_version && is_directory).then(|| version.join(FILE_NAME))
}

/// Whether another user may have created the file, and may therefore know the secret.
fn is_planted(path: &Path, file: &fs::Metadata) -> bool {
    let is_open = fs::metadata(directory_of(path)).is_ok_and(|directory| directory.mode() & 0o002 != 0);
    is_open && file.uid() != 0 && file.uid() != rustix::process::geteuid().as_raw()
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

/// Whether the error means that the file does not exist or that this user can't read it. A server
/// starts without the file, because key ids are only labels.
fn is_out_of_reach(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | PermissionDenied | NotADirectory)
}

/// Makes a new secret, as the file beside the store has it.
pub(crate) fn hex() -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0u8; 32]);
    getrandom::fill(bytes.as_mut()).map_err(io::Error::other)?;
    Ok(Zeroizing::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}

/// Writes a new secret to a temporary file, and renames it to `path` if no file exists there.
fn create(path: &Path) -> io::Result<()> {
    let directory = directory_of(path);
    let hex = hex()?;
    // The name has the pattern of bearward's other temporary files, so that the next command
    // removes the file if it is left over. The mode is 0600 at first.
    let mut temporary =
        tempfile::Builder::new().prefix(".bearward-").suffix(".tmp").tempfile_in(directory)?;
    writeln!(temporary, "{}", *hex)?;
    ownership::give(temporary.as_file(), directory)?;
    temporary.as_file().sync_all()?;
    temporary.persist_noclobber(path).map_err(|error| error.error)?;
    // If the file system can't make the rename durable, a crash may lose the file. The next start
    // then creates another secret.
    let _not_everywhere = File::open(directory).and_then(|directory| directory.sync_all());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::keys::Credential;

    fn at(store: &Path) -> Result<Arc<IdSecret>, Fault> {
        for_command(None, &StorePlace::Path(store.to_owned()))
    }

    fn id_at(store: &Path) -> String {
        at(store).unwrap().key_id(&Credential::new(b"sk-weak"))
    }

    #[test]
    fn one_installation_has_one_id_for_a_credential_and_another_one_has_another() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let id = id_at(&here.path().join("keys.yaml"));
        assert_eq!(id, id_at(&here.path().join("keys.txt")), "the secret belongs to the directory");
        assert_eq!(id, id_at(here.path()), "the directory may be the store itself");
        assert_ne!(id, id_at(&there.path().join("keys.yaml")));
        assert!(crate::keys::token::is_key_id(&id) && id.len() == 14, "{id}");
        let mode = fs::metadata(here.path().join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let names: Vec<_> =
            fs::read_dir(here.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [FILE_NAME], "nothing temporary is left");
    }

    #[test]
    fn processes_that_start_at_once_agree() {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("keys.yaml");
        let ids: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| id_at(&store))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }

    #[test]
    fn a_file_that_bearward_did_not_write_is_a_fault_and_a_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (store, file) = (directory.path().join("keys.yaml"), directory.path().join(FILE_NAME));
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "0123456789abcdef0123456789abcdef").unwrap();
        symlink(&elsewhere, &file).unwrap();
        let message = at(&store).unwrap_err().to_string();
        assert!(message.contains("symbolic link"), "{message}");
        fs::remove_file(&file).unwrap();
        symlink(directory.path().join("nowhere"), &file).unwrap();
        assert!(at(&store).is_err(), "a link to nothing is not written through");
        assert!(!directory.path().join("nowhere").exists());
        fs::remove_file(&file).unwrap();
        for bad in ["", "\n", "short", "                                        \n"] {
            fs::write(&file, bad).unwrap();
            let message = at(&store).unwrap_err().to_string();
            assert!(message.contains("not the one"), "{bad:?}: {message}");
        }
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(at(&store).is_err());
    }

    #[test]
    fn the_file_of_a_mounted_secret_is_a_link_that_is_followed() {
        let mount = tempfile::tempdir().unwrap();
        fs::create_dir(mount.path().join("..2026_11_30")).unwrap();
        symlink("..2026_11_30", mount.path().join("..data")).unwrap();
        symlink(Path::new("..data").join(FILE_NAME), mount.path().join(FILE_NAME)).unwrap();
        fs::write(mount.path().join("..2026_11_30").join(FILE_NAME), "0123456789abcdef0123456789abcdef\n")
            .unwrap();
        assert!(at(mount.path()).unwrap().is_kept());
        assert_eq!(id_at(mount.path()), id_at(mount.path()));
        // Whoever can change the directory can't lead it to a file elsewhere.
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join(FILE_NAME), "0123456789abcdef0123456789abcdef\n").unwrap();
        let data = mount.path().join("..data");
        for planted in
            [elsewhere.path().to_owned(), Path::new("..").join(elsewhere.path().file_name().unwrap())]
        {
            fs::remove_file(&data).unwrap();
            symlink(planted, &data).unwrap();
            assert!(at(mount.path()).is_err());
        }
        fs::remove_file(&data).unwrap();
        symlink("..linked", &data).unwrap();
        symlink(elsewhere.path(), mount.path().join("..linked")).unwrap();
        assert!(at(mount.path()).is_err(), "a version that is a link");
        fs::remove_file(mount.path().join("..linked")).unwrap();
        fs::create_dir(mount.path().join("..linked")).unwrap();
        symlink(elsewhere.path().join(FILE_NAME), mount.path().join("..linked").join(FILE_NAME)).unwrap();
        assert!(at(mount.path()).is_err(), "a file of the version that is a link");
    }

    #[test]
    fn a_secret_that_another_user_has_planted_is_a_fault() {
        if !rustix::process::geteuid().is_root() {
            // Only root can change the owner of a file.
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (store, file) = (directory.path().join("keys.yaml"), directory.path().join(FILE_NAME));
        fs::write(&file, "0123456789abcdef0123456789abcdef").unwrap();
        std::os::unix::fs::chown(&file, Some(12_345), None).unwrap();
        assert!(at(&store).is_ok(), "in a directory of one user");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(at(&store).unwrap_err().to_string().contains("another user's"));
    }

    #[test]
    fn where_nothing_can_be_written_the_secret_is_random() {
        // No user can write to `/proc/self`, not even root.
        let store = Path::new("/proc/self/keys.yaml");
        let first = at(store).unwrap();
        assert!(!first.is_kept() && !format!("{first:?}").contains("key: ["));
        assert_ne!(id_at(store), id_at(store));
    }
}
