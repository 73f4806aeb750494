//! Writes a new journal beside the old one, and gives it the old one's name.
//!
//! Invariant: until the rename, the old journal is not touched; and what is renamed is durable.

use std::fs::File;
use std::io;
use std::path::Path;

use super::disk;
use super::format::{self, HEADER, Header};

/// The name of the journal.
pub(super) const NAME: &str = "journal";
/// The name of a journal that is not yet complete.
pub(super) const TEMPORARY: &str = "journal.new";

/// How many bytes are collected for a write.
const CHUNK: usize = 256 * 1024;

/// A journal that was written.
#[derive(Debug)]
pub(super) struct Replacement {
    pub(super) file: File,
    pub(super) salt: u32,
    /// The sequence number of the last record; 0 if there is none.
    pub(super) last_sequence: u64,
    /// The length of the file, in bytes.
    pub(super) length: u64,
}

/// Replaces the journal of a directory by one with these entries. Entries without a value are left
/// out. The caller must sync the directory.
///
/// # Errors
///
/// Fails with the system's error, or with `InvalidInput` if an entry is too long. The old journal is
/// then as it was.
pub(super) fn replace(
    directory: &Path,
    entries: impl Iterator<Item = (Vec<u8>, Vec<u8>)>,
) -> io::Result<Replacement> {
    let temporary = directory.join(TEMPORARY);
    disk::remove(&temporary)?;
    let written = write(&temporary, entries).and_then(|replacement| {
        disk::rename(&temporary, &directory.join(NAME))?;
        Ok(replacement)
    });
    if written.is_err() {
        // If it can't be removed, the next compaction or the next start removes it.
        let _may_stay = disk::remove(&temporary);
    }
    written
}

fn write(path: &Path, entries: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> io::Result<Replacement> {
    let mut salt = [0; 4];
    getrandom::fill(&mut salt).map_err(io::Error::other)?;
    let salt = u32::from_le_bytes(salt);
    let mut replacement = Replacement { file: disk::create(path)?, salt, last_sequence: 0, length: HEADER };
    let mut bytes = Vec::new();
    for (key, value) in entries.filter(|(_, value)| !value.is_empty()) {
        replacement.last_sequence += 1;
        format::encode(&mut bytes, salt, replacement.last_sequence, &key, &value)?;
        if bytes.len() >= CHUNK {
            replacement.write(&bytes)?;
            bytes.clear();
        }
    }
    replacement.write(&bytes)?;
    // The header is written last, because it contains the length of the file.
    let header = Header { salt, sealed: replacement.length };
    disk::write_at(&replacement.file, &header.bytes(), 0)?;
    disk::sync(&replacement.file)?;
    Ok(replacement)
}

impl Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        disk::write_at(&self.file, bytes, self.length)?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}
