//! The calls to the file system that a journal makes.
//!
//! Invariant: no call waits for a pipe or follows a symbolic link in place of a file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a regular file of the state directory to read it.
pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().read(true))
}

/// Opens a regular file of the state directory to read it and write to it.
pub(super) fn open_to_write(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().read(true).write(true))
}

/// Opens the file of the lock, and creates it with mode 0600 if it does not exist.
pub(super) fn open_lock(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600))
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file = options.custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

/// Creates a file with mode 0600 that must not exist yet.
pub(super) fn create(path: &Path) -> io::Result<File> {
    reach(Step::Create)?;
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Creates a directory with mode 0700 if it does not exist. The parent directory must exist.
pub(super) fn make_directory(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => match directory.parent() {
            Some(parent) if parent != Path::new("") => sync_directory(parent),
            _ => sync_directory(Path::new(".")),
        },
        Err(_) if directory.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    reach(Step::Write { file, bytes, at })?;
    file.write_all_at(bytes, at)
}

/// Makes the content of a file durable.
pub(super) fn sync(file: &File) -> io::Result<()> {
    reach(Step::Sync)?;
    file.sync_data()
}

pub(super) fn truncate(file: &File, length: u64) -> io::Result<()> {
    reach(Step::Truncate)?;
    file.set_len(length)
}

pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    reach(Step::Rename)?;
    fs::rename(from, to)
}

/// Makes renames durable, if the file system supports this.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    reach(Step::SyncDirectory)?;
    match File::open(directory)?.sync_all() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        synced => synced,
    }
}

/// Removes a file, if it exists.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    reach(Step::Remove)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// A call that changes something on the disk. Tests make such calls fail.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), allow(dead_code, reason = "only tests look at the members"))]
pub(super) enum Step<'s> {
    Create,
    Write { file: &'s File, bytes: &'s [u8], at: u64 },
    Sync,
    Truncate,
    Rename,
    SyncDirectory,
    Remove,
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "the twin of this function for tests can fail")]
fn reach(_step: Step<'_>) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use super::tests::faults::reach;
