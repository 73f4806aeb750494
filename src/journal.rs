//! The journal: entries that survive a restart, in a file of the state directory (docs/budgets.md).
//!
//! A thread appends the entries that have changed, once a second. A record holds the whole value of
//! an entry, and the newest record of a key wins, so a lost record costs only what it added since
//! the record before. A value of length 0 removes the entry.
//!
//! Invariant: whatever fails, the file has all records of appends that have succeeded, or their
//! replacement by a compaction; and behind them only bytes that are truncated before the next append.

mod disk;
mod format;
mod open_error;
mod reader;
mod replacement;

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub(crate) use open_error::OpenError;
pub(crate) use reader::Recovered;
use replacement::{NAME, Replacement, TEMPORARY};

/// The name of the lock file. It stays in the directory, and notes that there was a journal.
const LOCK: &str = "lock";
/// The note in the lock file.
const NOTE: &[u8] = b"This directory has a journal of bearward.\n";
/// The length up to which a journal is not compacted, in bytes.
const SMALL: u64 = 1024 * 1024;
/// The capacity of the buffer that is kept for the next append, in bytes.
const KEPT_BUFFER: usize = 1024 * 1024;

/// A journal that is open for appends. No other process can open it for appends as long as this
/// `Journal` lives.
#[derive(Debug)]
pub(crate) struct Journal {
    directory: PathBuf,
    file: File,
    salt: u32,
    /// The last sequence number that was used, by failed appends too.
    last_sequence: u64,
    /// The length of the file without the bytes of failed appends, in bytes.
    length: u64,
    /// Whether the file may be longer than `length`, after a failed append.
    is_torn: bool,
    /// Whether the last rename may not be durable, so that a crash would bring back the old journal.
    is_rename_pending: bool,
    /// Whether the file has damaged parts, or the disk has failed to make it durable.
    is_suspect: bool,
    buffer: Vec<u8>,
    lock: File,
}

/// Returns the length of an entry's record, in bytes.
pub(crate) const fn record_bytes(key_length: usize, value_length: usize) -> u64 {
    (format::HEAD + key_length + value_length) as u64
}

impl Journal {
    /// Opens the journal of a directory, and creates directory and journal if they do not exist. The
    /// directory's parent must exist. `take`: key and value of each record, the oldest first; a key
    /// may come several times, and an empty value removes the entry.
    ///
    /// # Errors
    ///
    /// Fails if another process uses the directory, if the journal is lost or unreadable as a whole,
    /// or with the system's error. The journal is then not changed.
    pub(crate) fn open(
        directory: &Path,
        mut take: impl FnMut(&[u8], &[u8]),
    ) -> Result<(Journal, Recovered), OpenError> {
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |error| OpenError::System { doing, path, error }
        };
        disk::make_directory(directory).map_err(failed("create", directory))?;
        let lock = lock(directory)?;
        let path = directory.join(NAME);
        let mut is_new = false;
        let file = match disk::open_to_write(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if is_noted(&lock) {
                    return Err(OpenError::Lost(directory.to_owned()));
                }
                is_new = true;
                replacement::replace(directory, std::iter::empty()).map_err(failed("create", &path))?;
                disk::sync_directory(directory).map_err(failed("sync", directory))?;
                disk::open_to_write(&path)
            }
            opened => opened,
        };
        let file = file.map_err(failed("open", &path))?;
        let scan = reader::scan(&path, &file, &mut take)?;
        let recovered = Recovered { is_new, ..scan.recovered };
        let mut journal = Journal {
            directory: directory.to_owned(),
            file,
            salt: scan.salt,
            last_sequence: scan.last_sequence,
            length: recovered.bytes,
            is_torn: recovered.bytes < scan.length,
            // The process that has renamed the journal may have ended before it synced the directory.
            is_rename_pending: true,
            is_suspect: recovered.damaged.parts > 0,
            buffer: Vec::new(),
            lock,
        };
        journal.settle().map_err(failed("repair or sync", &path))?;
        let temporary = directory.join(TEMPORARY);
        disk::remove(&temporary).map_err(failed("remove", &temporary))?;
        // Without the note, the journal works as well. The next start tries again.
        let _may_fail = note(&journal.lock);
        Ok((journal, recovered))
    }

    /// Appends records, and makes them durable. An empty value removes the entry.
    ///
    /// # Errors
    ///
    /// Fails with the system's error, such as `StorageFull`, with `NotFound` if the journal was removed,
    /// or with `InvalidInput` if a record is longer than 64 KiB. The caller can append the same
    /// records later. After a crash, some records of a failed append may be there nevertheless.
    pub(crate) fn append<'r>(
        &mut self,
        records: impl IntoIterator<Item = (&'r [u8], &'r [u8])>,
    ) -> io::Result<()> {
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BUFFER);
        for (key, value) in records {
            self.last_sequence += 1;
            format::encode(&mut self.buffer, self.salt, self.last_sequence, key, value)?;
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.settle()?;
        self.is_torn = true;
        let written = disk::write_at(&self.file, &self.buffer, self.length).and_then(|()| self.sync());
        match written {
            Ok(()) => {
                self.length += self.buffer.len() as u64;
                self.is_torn = false;
                Ok(())
            }
            Err(error) => {
                // A full disk gets its room back at once. If this fails, the next append tries again.
                let _tried_again = self.settle();
                Err(error)
            }
        }
    }

    /// Whether the journal should be compacted now. `live_bytes`: the sum of [`record_bytes`] of all
    /// entries.
    pub(crate) fn wants_compaction(&self, live_bytes: u64) -> bool {
        self.is_suspect || self.length > live_bytes.saturating_mul(2).max(SMALL)
    }

    /// Replaces all records by one record for each entry. `all`: key and value of every entry.
    ///
    /// # Errors
    ///
    /// Fails with the system's error, or with `InvalidInput` if a record is longer than 64 KiB. The
    /// old journal then stays as it was. If only the directory could not be synced, the new journal
    /// is in use, and the next append syncs the directory first.
    pub(crate) fn compact(&mut self, all: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> io::Result<()> {
        let Replacement { file, salt, last_sequence, length } = replacement::replace(&self.directory, all)?;
        self.file = file;
        (self.salt, self.last_sequence, self.length) = (salt, last_sequence, length);
        (self.is_torn, self.is_suspect) = (false, false);
        self.is_rename_pending = true;
        self.settle()
    }

    /// Returns the length of the journal, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.length
    }

    /// Repeats the steps that have failed before: truncates the file to its whole records, and makes the last
    /// rename durable.
    fn settle(&mut self) -> io::Result<()> {
        if self.file.metadata()?.nlink() == 0 {
            // Only a compaction can bring all entries back.
            self.is_suspect = true;
            let message = "the journal was removed while it was in use";
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        if self.is_rename_pending {
            disk::sync_directory(&self.directory)?;
            self.is_rename_pending = false;
        }
        if self.is_torn {
            disk::truncate(&self.file, self.length)?;
            self.sync()?;
            self.is_torn = false;
        }
        Ok(())
    }

    /// After a failed sync, the kernel may believe that lost bytes are on the disk. A compaction
    /// writes all of them to another place.
    fn sync(&mut self) -> io::Result<()> {
        let synced = disk::sync(&self.file);
        self.is_suspect |= synced.is_err();
        synced
    }
}

/// Reads the journal of a directory, without a lock and without a change. Another process may use
/// the journal at the same time. `take`: as for [`Journal::open`].
///
/// # Errors
///
/// Fails if there is no journal, if it is unreadable as a whole, or with the system's error.
pub(crate) fn read(directory: &Path, mut take: impl FnMut(&[u8], &[u8])) -> Result<Recovered, OpenError> {
    let path = directory.join(NAME);
    match disk::open_to_read(&path) {
        Ok(file) => Ok(reader::scan(&path, &file, &mut take)?.recovered),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match disk::open_to_read(&directory.join(LOCK)).is_ok_and(|lock| is_noted(&lock)) {
                true => Err(OpenError::Lost(directory.to_owned())),
                false => Err(OpenError::Absent(directory.to_owned())),
            }
        }
        Err(error) => Err(OpenError::system("read", &path, error)),
    }
}

fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join(LOCK);
    let file = disk::open_lock(&path).map_err(|error| OpenError::system("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(directory.to_owned())),
        Err(TryLockError::Error(error)) => Err(OpenError::system("lock", &path, error)),
    }
}

/// Whether the lock file notes that the directory had a journal.
fn is_noted(lock: &File) -> bool {
    lock.metadata().is_ok_and(|metadata| metadata.len() > 0)
}

/// Notes that the directory has a journal. A journal is never removed by bearward, so a directory
/// with the note and without a journal has lost it.
fn note(lock: &File) -> io::Result<()> {
    if is_noted(lock) {
        return Ok(());
    }
    disk::write_at(lock, NOTE, 0)?;
    disk::sync(lock)
}

#[cfg(test)]
mod tests;
