//! The lock of a store. Only one writer at a time can hold the lock, and only users who can write
//! to the store can open the lock file (docs/decisions/024).
//!
//! A lock on the directory itself could be held for ever by any user who can read the directory.
//! The lock is therefore on a separate file, which only users who can write to the directory can
//! open.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Gid, OFlags, Uid};

use super::error::{EditError, in_words, refused};

use crate::shell_word::shell_word;

/// The name of the lock file. While the lock is held, the lock file is in the directory of the
/// keys.
const NAME: &str = ".bearward.lock";
/// How long a writer waits for the lock. A command that holds the lock for longer is stuck, because
/// even a change of a million keys takes only seconds.
const PATIENCE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(5);

/// The lock, which is held for as long as this `WriteLock` lives.
#[derive(Debug)]
pub(super) struct WriteLock {
    path: PathBuf,
    /// The locked file. It is first removed from the directory and then closed, so that a writer
    /// that waited for the lock notices the removal.
    _file: File,
}

impl Drop for WriteLock {
    fn drop(&mut self) {
        // If the lock file can't be removed, it stays, and the next command locks it again.
        let _may_stay = fs::remove_file(&self.path);
    }
}

impl WriteLock {
    /// Waits for other writers, for at most [`PATIENCE`].
    pub(super) fn take(directory: &Path) -> Result<Self, EditError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let path = directory.join(NAME);
            let file = open(directory, &path)?;
            await_lock(&file, &path, until)?;
            // If the last holder of the lock has removed this file, other writers may lock a new
            // file of the same name. The lock on the removed file then protects nothing, and the
            // loop opens the new file.
            if is_at(&file, &path) {
                return Ok(WriteLock { path, _file: file });
            }
        }
    }
}

/// Opens the lock's file, and creates it if it does not exist.
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
    // A file whose link count is zero was removed after it was opened. Such a file is accepted
    // here, because `take` notices the removal and opens a new file.
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

/// Returns the mode of the lock's file: users who may write to the directory may open it, and no
/// other users.
fn mode_for(directory: u32) -> u32 {
    0o600 | if directory & 0o020 != 0 { 0o060 } else { 0 }
}

/// Gives a lock file that root created to the owner of its directory, and corrects the mode of the
/// file.
fn own(file: &File, found: &fs::Metadata, directory: &fs::Metadata, mode: u32) -> io::Result<()> {
    let own_id = rustix::process::geteuid();
    if own_id.is_root() && (found.uid(), found.gid()) != (directory.uid(), directory.gid()) {
        let (uid, gid) = (Uid::from_raw(directory.uid()), Gid::from_raw(directory.gid()));
        rustix::fs::fchown(file, Some(uid), Some(gid))?;
    } else if found.uid() == own_id.as_raw() && mode & 0o060 != 0 && found.gid() != directory.gid() {
        // The lock file gets the directory's group, because the members of this group may write to
        // the directory. The change fails if this user is not a member of the group, and the error
        // is ignored.
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
                    "another command has held {} locked for {} seconds (`fuser {}` names it); nothing was changed",
                    path.display(),
                    PATIENCE.as_secs(),
                    shell_word(path)
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
        // A file with a wider mode, left by an earlier command, gets the right mode.
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
        // The lock on the removed file does not block a lock on a new file of the same name.
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
