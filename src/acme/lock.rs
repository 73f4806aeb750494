//! The lock by which one of several processes with the same storage orders a certificate. It has an end, so a
//! process that is killed or stopped holds nobody up.
//!
//! The holder keeps the file locked in its kernel (flock), and renews a time in it. On one machine, the
//! kernel's lock ends with its process. On a file system that several machines share, where one may not see
//! the kernel's lock of another, only the time counts. Clocks of replicas may differ by [`SKEW`].

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::storage::{TEMPORARY, at};
use crate::random_id::random_id;
use crate::regular_file;

/// Time after which a lock that is not renewed has ended.
pub(super) const LIFE: SignedDuration = SignedDuration::from_secs(30);
/// Interval at which the holder renews its lock.
pub(super) const RENEWAL: std::time::Duration = std::time::Duration::from_secs(8);
/// Greatest difference of two replicas' clocks.
const SKEW: SignedDuration = SignedDuration::from_secs(5);

/// The lock, held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
    owner: String,
}

/// Who holds a lock.
#[derive(Debug, Deserialize, Serialize)]
struct Holder {
    owner: String,
    /// The id of the kernel's start: the same for all processes of one machine.
    machine: String,
    until: Timestamp,
}

impl Lock {
    /// Takes the lock; `None` if another process holds it.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub(super) fn take(path: &Path, now: Timestamp) -> io::Result<Option<Self>> {
        Lock::try_take(path, now).map_err(|error| at(path, &error))
    }

    fn try_take(path: &Path, now: Timestamp) -> io::Result<Option<Self>> {
        let file = open(path)?;
        let of_kernel = match file.try_lock() {
            Ok(()) => true,
            // A file system without such locks: the time counts alone.
            Err(TryLockError::Error(error)) if is_unsupported(&error) => false,
            Err(TryLockError::WouldBlock) => {
                // The holder lives. If it has not renewed its lock, it is stopped, or hangs. One that has
                // written nothing yet has just begun.
                return match holder(path) {
                    Some(holder) if !is_held(&holder, now) => Lock::replace(path, now),
                    _ => Ok(None),
                };
            }
            Err(TryLockError::Error(error)) => return Err(error),
        };
        Lock::take_free(file, path, now, of_kernel)
    }

    /// Takes a lock unless its time says that another process has it. `of_kernel`: whether the kernel has given the
    /// lock, so that no process of this machine has it.
    fn take_free(file: File, path: &Path, now: Timestamp, of_kernel: bool) -> io::Result<Option<Self>> {
        // Another process may have replaced the file meanwhile.
        if !is_at(&file, path) {
            return Ok(None);
        }
        if let Some(holder) = holder(path)
            && !(of_kernel && holder.machine == machine())
            && is_held(&holder, now)
        {
            return Ok(None);
        }
        Lock::hold(file, path, now).map(Some)
    }

    /// Takes the place of a holder that is stopped: with a file of its own, so that the other's lock in the
    /// kernel holds for nothing any more.
    fn replace(path: &Path, now: Timestamp) -> io::Result<Option<Self>> {
        let new = path.with_file_name(format!("{TEMPORARY}{}", random_id()));
        let file = open(&new)?;
        let held = file.try_lock().map_err(io::Error::from).and_then(|()| Lock::hold(file, path, now));
        // A process that took it at the same time has renewed it by now.
        let is_free = holder(path).is_some_and(|holder| !is_held(&holder, now));
        match held {
            Ok(lock) if is_free => {
                fs::rename(&new, path)?;
                Ok(Some(lock))
            }
            other => {
                let _gone_already = fs::remove_file(&new);
                other.map(|_not_needed| None)
            }
        }
    }

    fn hold(file: File, path: &Path, now: Timestamp) -> io::Result<Self> {
        let lock = Lock { file, path: path.to_owned(), owner: random_id() };
        lock.write(now)?;
        Ok(lock)
    }

    /// Renews the lock. Returns whether it was still held.
    ///
    /// # Errors
    ///
    /// The file can't be written.
    pub(super) fn renew(&self, now: Timestamp) -> io::Result<bool> {
        if !is_at(&self.file, &self.path) {
            return Ok(false);
        }
        let is_own = self.is_own();
        if is_own {
            self.write(now)?;
        }
        Ok(is_own)
    }

    fn is_own(&self) -> bool {
        holder(&self.path).is_some_and(|holder| holder.owner == self.owner)
    }

    fn write(&self, now: Timestamp) -> io::Result<()> {
        // Whole seconds, so that the text always has the same length: another machine may read it meanwhile.
        let until = Timestamp::from_second(now.as_second() + LIFE.as_secs()).unwrap_or(now);
        let holder = Holder { owner: self.owner.clone(), machine: machine().to_owned(), until };
        let mut text = serde_json::to_vec(&holder)?;
        text.write_all(b"\n")?;
        // What an earlier holder wrote is cut off afterwards.
        self.file.write_all_at(&text, 0)?;
        self.file.set_len(text.len() as u64)?;
        // So that other machines see it, on a file system that is shared.
        self.file.sync_data()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if is_at(&self.file, &self.path) && self.is_own() {
            // An empty file is held by nobody, on no machine.
            let _ends_by_itself = self.file.set_len(0);
        }
    }
}

/// Whether a lock has not ended. An end that no holder can have written is none: a clock was wrong.
fn is_held(holder: &Holder, now: Timestamp) -> bool {
    let left = holder.until.duration_since(now);
    left >= -SKEW && left <= LIFE + SKEW
}

fn is_unsupported(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Unsupported
        || [Errno::NOLCK, Errno::NOTSUP]
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn holder(path: &Path) -> Option<Holder> {
    let text = regular_file::read_text(path).ok()?;
    serde_json::from_str(&text).ok()
}

fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(held), Ok(named)) => identity(held) == identity(named),
        _ => false,
    }
}

/// Returns the id of this machine's start (random(4), `boot_id`). Where it can't be read, this process counts as
/// a machine of its own.
fn machine() -> &'static str {
    static MACHINE: LazyLock<String> =
        LazyLock::new(|| procfs::sys::kernel::random::boot_id().unwrap_or_else(|_| random_id()));
    &MACHINE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn write(path: &Path, machine: &str, until: Timestamp) {
        let holder = Holder { owner: "another".to_owned(), machine: machine.to_owned(), until };
        fs::write(path, serde_json::to_vec(&holder).unwrap()).unwrap();
    }

    #[test]
    fn one_holds_it_and_the_next_takes_it_when_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = Lock::take(&path, at(0)).unwrap().unwrap();
        assert!(Lock::take(&path, at(1)).unwrap().is_none());
        assert!(first.renew(at(8)).unwrap());
        assert!(Lock::take(&path, at(37)).unwrap().is_none(), "it was renewed");
        drop(first);
        assert!(Lock::take(&path, at(1)).unwrap().is_some());
    }

    #[test]
    fn a_holder_that_is_stopped_is_replaced_at_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let stopped = Lock::take(&path, at(0)).unwrap().unwrap();
        assert!(Lock::take(&path, at(35)).unwrap().is_none(), "clocks may differ");
        let second = Lock::take(&path, at(36)).unwrap().unwrap();
        assert!(!stopped.renew(at(37)).unwrap(), "it goes on, and holds nothing");
        assert!(Lock::take(&path, at(38)).unwrap().is_none());
        drop(stopped);
        assert!(Lock::take(&path, at(39)).unwrap().is_none(), "its end frees nothing of the second");
        drop(second);
        assert!(Lock::take(&path, at(40)).unwrap().is_some());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_process_that_was_killed_holds_nobody_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        // Its kernel has ended the lock.
        write(&path, machine(), at(30));
        assert!(Lock::take(&path, at(1)).unwrap().is_some());
        // Of another machine, only the time is known.
        write(&path, "of another machine", at(30));
        assert!(Lock::take(&path, at(35)).unwrap().is_none());
        assert!(Lock::take(&path, at(36)).unwrap().is_some());
        // A clock that was wrong by days holds up nobody for days.
        write(&path, "of another machine", at(200_000));
        assert!(Lock::take(&path, at(0)).unwrap().is_some());
        // What is not understood holds nothing.
        for left in ["", "{", "nonsense"] {
            fs::write(&path, left).unwrap();
            assert!(Lock::take(&path, at(0)).unwrap().is_some(), "{left}");
        }
    }

    #[test]
    fn on_a_file_system_without_locks_the_time_counts_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let take = |seconds| Lock::take_free(open(&path).unwrap(), &path, at(seconds), false).unwrap();
        let first = take(0).unwrap();
        assert!(take(1).is_none(), "another process of the same machine has it");
        assert!(first.renew(at(8)).unwrap());
        assert!(take(43).is_none(), "it was renewed");
        let second = take(44).unwrap();
        assert!(!first.renew(at(45)).unwrap(), "it has ended");
        drop(first);
        assert!(take(46).is_none(), "its end frees nothing of the second");
        drop(second);
        assert!(take(47).is_some());
    }

    #[test]
    fn many_take_it_one_after_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let inside = std::sync::atomic::AtomicUsize::new(0);
        let taken = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while taken.load(std::sync::atomic::Ordering::SeqCst) < 200 {
                        if let Some(lock) = Lock::take(&path, at(0)).unwrap() {
                            assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                            taken.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                            std::thread::yield_now();
                            inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                            drop(lock);
                        }
                    }
                });
            }
        });
    }
}
