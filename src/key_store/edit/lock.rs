//! The lock of a store: one writer at a time, and only users who can write may hold it
//! (docs/decisions/024).
//!
//! Any user who can read a directory could hold a lock on the directory itself for ever. So the
//! lock is on a file of its own, which only users can open who can write to the directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Gid, OFlags, Uid};

use super::error::{EditError, in_words, refused};

/// The lock's file. It is beside the keys while the lock is held.
const NAME: &str = ".bearward.lock";
/// A command that holds the lock for longer is stuck: one that changes a million keys takes
/// seconds.
const PATIENCE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(5);

/// The lock, held for as long as this lives.
#[derive(Debug)]
pub(super) struct WriteLock {
    path: PathBuf,
    /// Closed after the file is removed: others check for that once they have the lock.
    _file: File,
}

impl Drop for WriteLock {
    fn drop(&mut self) {
        // If the file stays, the next command locks it as it is.
        let _may_stay = fs::remove_file(&self.path);
    }
}

impl WriteLock {
    /// Waits for another writer, for at most [`PATIENCE`].
    pub(super) fn take(directory: &Path) -> Result<Self, EditError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let path = directory.join(NAME);
            let file = open(directory, &path)?;
            await_lock(&file, &path, until)?;
            // The last holder has removed the file: then others may lock a new file of this name.
            if is_at(&file, &path) {
                return Ok(WriteLock { path, _file: file });
            }
        }
    }
}

/// Opens the lock's file, and creates it if there is none.
fn open(directory: &Path, path: &Path) -> Result<File, EditError> {
    let failed = |error: io::Error| in_words("lock", path, &error);
    let of_directory = fs::metadata(directory).map_err(failed)?;
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let mode = mode_for(of_directory.mode());
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(mode)
        .custom_flags(flags)
        .open(path)
        .map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    // A file without a link was removed just now.
    if !found.is_file() || found.nlink() > 1 {
        return refused(format!("{} is not bearward's lock file; remove it", path.display()));
    }
    own(&file, &found, &of_directory, mode).map_err(failed)?;
    Ok(file)
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(held), Ok(named)) => identity(held) == identity(named),
        _ => false,
    }
}

/// The mode of the lock's file: users who may write to the directory may take the lock, and no
/// others may open it.
fn mode_for(directory: u32) -> u32 {
    0o600 | if directory & 0o020 != 0 { 0o060 } else { 0 }
}

/// Gives a lock file that root made the owner of its directory, and corrects its mode.
fn own(file: &File, found: &fs::Metadata, directory: &fs::Metadata, mode: u32) -> io::Result<()> {
    let own_id = rustix::process::geteuid();
    if own_id.is_root() && (found.uid(), found.gid()) != (directory.uid(), directory.gid()) {
        let (uid, gid) = (Uid::from_raw(directory.uid()), Gid::from_raw(directory.gid()));
        rustix::fs::fchown(file, Some(uid), Some(gid))?;
    } else if found.uid() == own_id.as_raw() && mode & 0o060 != 0 && found.gid() != directory.gid() {
        // Other users of the directory's group write there as well. It fails where this user is not
        // of that group.
        let _not_ours = rustix::fs::fchown(file, None, Some(Gid::from_raw(directory.gid())));
    }
    let may_change = own_id.is_root() || found.uid() == own_id.as_raw();
    if may_change && found.mode() & 0o777 != mode {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn await_lock(lock: &File, path: &Path, until: Instant) -> Result<(), EditError> {
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(INTERVAL),
            Err(TryLockError::WouldBlock) => {
                return refused(format!(
                    "another command has held {} locked for {} seconds (`fuser {0}` names it); nothing was changed",
                    path.display(),
                    PATIENCE.as_secs()
                ));
            }
            Err(TryLockError::Error(error)) => return Err(in_words("lock", path, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::Ordering;

    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn only_writers_of_the_directory_can_open_the_lock() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        for (of_directory, expected) in [(0o755, 0o600), (0o775, 0o660), (0o777, 0o660), (0o700, 0o600)] {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(of_directory)).unwrap();
            let _lock = WriteLock::take(directory.path()).unwrap();
            assert_eq!(mode_of(&path), expected, "{of_directory:o}");
        }
        assert!(!path.exists(), "the file is removed with the lock");
        // A file that was left with a wider mode gets the right one.
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let _lock = WriteLock::take(directory.path()).unwrap();
        assert_eq!(mode_of(&path), 0o600);
    }

    #[test]
    fn another_kind_of_file_under_the_name_of_the_lock_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let target = directory.path().join("target");
        fs::write(&target, "x").unwrap();
        symlink(&target, &path).unwrap();
        assert!(WriteLock::take(directory.path()).is_err(), "a link");
        fs::remove_file(&path).unwrap();
        fs::hard_link(&target, &path).unwrap();
        assert!(WriteLock::take(directory.path()).is_err(), "another name of a file");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(WriteLock::take(directory.path()).is_err(), "a directory");
        fs::remove_dir(&path).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(WriteLock::take(directory.path()).is_err(), "a pipe");
        assert_eq!(fs::read_to_string(&target).unwrap(), "x");
    }

    #[test]
    fn one_holds_it_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let first = WriteLock::take(directory.path()).unwrap();
        let file = File::options().write(true).open(directory.path().join(NAME)).unwrap();
        assert!(matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
        drop(first);
        file.try_lock().unwrap();
        // The removed file has no name any more, and hinders no other lock.
        WriteLock::take(directory.path()).unwrap();
    }

    #[test]
    fn many_writers_hold_it_one_after_another() {
        let directory = tempfile::tempdir().unwrap();
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let lock = WriteLock::take(directory.path()).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }
}
