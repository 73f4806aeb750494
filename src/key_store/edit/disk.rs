//! Writes files so that only one process writes at a time, and so that a reader finds either the
//! whole old file or the whole new file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Access, Gid, Uid};
use tempfile::NamedTempFile;

use super::error::{EditError, in_words, refused};
use super::kubectl;
use super::lock::WriteLock;
use crate::key_store::ownership;

/// The beginning of the names of temporary files. A file with such a name that exists when a
/// command acquires the lock was left by a killed command.
const PREFIX: &str = ".bearward-";
const SUFFIX: &str = ".tmp";
/// The number of symbolic links that are followed. A longer chain is a loop.
const MAX_LINKS: usize = 40;

/// A directory in which no other bearward process writes for as long as this `Locked` lives.
#[derive(Debug)]
pub(super) struct Locked {
    directory: PathBuf,
    /// Whether the directory belongs to a mounted Secret or ConfigMap, which is read but not
    /// written to.
    is_mounted: bool,
    /// The lock; `None` if nothing can be written to the directory.
    lock: Option<WriteLock>,
}

impl Locked {
    /// Waits for the lock, and removes temporary files that a killed command has left.
    pub(super) fn new(directory: &Path, is_mounted: bool) -> Result<Self, EditError> {
        let failed = |doing: &str, error: &io::Error| in_words(doing, directory, error);
        let left = fs::read_dir(directory).map_err(|error| failed("read", &error))?.filter_map(Result::ok);
        let is_written_to = !is_mounted && unwritable_reason(directory).is_none();
        let lock = is_written_to.then(|| WriteLock::take(directory)).transpose()?;
        if lock.is_none() {
            return Ok(Locked { directory: directory.to_owned(), is_mounted, lock });
        }
        for entry in left {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
                // An error is ignored here. If the temporary file can't be removed, the next write
                // fails, too, and reports its error.
                let _read_only = fs::remove_file(entry.path());
            }
        }
        Ok(Locked { directory: directory.to_owned(), is_mounted, lock })
    }

    /// Replaces `path` by a file with this content, which is durable before it is visible. The mode
    /// and the owner of an existing file stay the same. A new file can be read only by its owner, and by the
    /// group of a service (`ownership`).
    pub(super) fn replace(
        &self,
        path: &Path,
        content: &[u8],
        is_as_read: impl FnOnce() -> bool,
    ) -> Result<(), EditError> {
        let mut writing = self.begin(path)?;
        writing.write(content)?;
        writing.finish(is_as_read)
    }

    /// Begins a temporary file that will replace `path`.
    pub(super) fn begin(&self, path: &Path) -> Result<Writing, EditError> {
        self.refuse_unlocked(path, kubectl::replacing)?;
        let failed = |error: io::Error| unwritable(path, &error);
        // A key file of a directory store may be a symbolic link to a file in another directory.
        let path = resolved(path)?;
        let directory = directory_of(&path);
        let mut builder = tempfile::Builder::new();
        let temporary = builder.prefix(PREFIX).suffix(SUFFIX).tempfile_in(&directory).map_err(failed)?;
        Ok(Writing { directory, path, temporary })
    }

    /// Removes a key file.
    pub(super) fn remove(&self, path: &Path) -> Result<(), EditError> {
        self.refuse_unlocked(path, kubectl::removing)?;
        fs::remove_file(path).map_err(|error| unwritable(path, &error))?;
        sync(&self.directory);
        Ok(())
    }

    /// Refuses a write if the lock is not held, even if `path` is a link to a file in another
    /// directory.
    fn refuse_unlocked(&self, path: &Path, command: fn(&str) -> String) -> Result<(), EditError> {
        self.refuse_mounted(path, command)?;
        match self.lock {
            Some(_) => Ok(()),
            None => Err(unwritable(path, &io::ErrorKind::PermissionDenied.into())),
        }
    }

    /// Refuses a write to a mounted Secret or ConfigMap, because the kubelet would refuse or
    /// overwrite the change. The hint names the command that makes it, which `command` makes of the file's name.
    fn refuse_mounted(&self, path: &Path, command: fn(&str) -> String) -> Result<(), EditError> {
        if !self.is_mounted {
            return Ok(());
        }
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let command = command(&file);
        Err(EditError::Unwritable {
            reason: format!(
                "{} is in a mounted Secret or ConfigMap, which can't be changed from inside",
                path.display()
            ),
            hint: format!(
                "change its file `{file}` where it comes from, as below, and with the name of your Secret: `{command}` \
                 (`kubectl edit configmap NAME` for a ConfigMap); and in the directory that the Secret is made from, or \
                 the next time it is made undoes this"
            ),
        })
    }
}

/// Makes a rename durable, if the file system supports this. If it does not, the rename has
/// happened nevertheless.
fn sync(directory: &Path) {
    let _not_everywhere = File::open(directory).and_then(|directory| directory.sync_all());
}

/// A temporary file that is being written. It has no effect until `finish` renames it to its final
/// path.
pub(super) struct Writing {
    directory: PathBuf,
    path: PathBuf,
    temporary: NamedTempFile,
}

impl Writing {
    pub(super) fn write(&mut self, content: &[u8]) -> Result<(), EditError> {
        self.temporary.write_all(content).map_err(|error| in_words("write", &self.path, &error))
    }

    /// Returns the path of the temporary file.
    pub(super) fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Renames the temporary file to its final path, if `is_as_read` confirms that the old file has
    /// not changed. Programs other than bearward can change the old file at any time, because they
    /// do not use the lock.
    pub(super) fn finish(self, is_as_read: impl FnOnce() -> bool) -> Result<(), EditError> {
        let Writing { directory, path, temporary } = self;
        let rename = || {
            let (file, old) = (temporary.as_file(), fs::metadata(&path).ok());
            match &old {
                Some(old) => keep_owner(file, old)?,
                None => ownership::give(file, &directory)?,
            }
            temporary.as_file().sync_all()?;
            if !is_as_read() {
                return Err(io::Error::other("another program has changed it meanwhile"));
            }
            temporary.persist(&path).map_err(|error| error.error)?;
            sync(&directory);
            Ok(())
        };
        rename().map_err(|error: io::Error| in_words("write", &path, &error))
    }
}

/// Gives a file the owner, the group and the mode of the file that it replaces.
fn keep_owner(file: &File, old: &fs::Metadata) -> io::Result<()> {
    let made = file.metadata()?;
    if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
        let (uid, gid) = (Uid::from_raw(old.uid()), Gid::from_raw(old.gid()));
        rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(|error| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("its owner can't be kept ({error}); run this as its owner"))
        })?;
    }
    // The mode is set after the owner, because a change of the owner clears the special bits.
    file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))
}

/// Returns the directory that contains a file.
pub(super) fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Returns the chain of symbolic links from `path`, beginning with `path` itself.
fn hops(path: &Path) -> impl Iterator<Item = PathBuf> {
    let next = |hop: &PathBuf| fs::read_link(hop).ok().map(|target| directory_of(hop).join(target));
    // The kernel has the same limit for a chain of symbolic links.
    std::iter::successors(Some(path.to_owned()), next).take(MAX_LINKS + 1)
}

/// Returns the file that `path` leads to. A rename onto a symbolic link would replace the link.
pub(super) fn resolved(path: &Path) -> Result<PathBuf, EditError> {
    match hops(path).last() {
        Some(file) if fs::read_link(&file).is_err() => Ok(file),
        _ => refused(format!("{} is a link to itself", path.display())),
    }
}

/// Whether `path` is in a mounted Secret or ConfigMap, or leads there. A mounted volume has a link
/// `..data` to a directory whose name begins with two dots, and the kubelet replaces that link when
/// it updates the volume.
pub(super) fn is_mounted(path: &Path) -> bool {
    let is_dotted = |part: Component<'_>| match part {
        Component::Normal(name) => name.as_encoded_bytes().starts_with(b".."),
        _ => false,
    };
    hops(path).any(|hop| {
        let directory = if hop.is_dir() { hop.clone() } else { directory_of(&hop) };
        hop.components().any(is_dotted) || fs::symlink_metadata(directory.join("..data")).is_ok()
    })
}

/// Returns the reason why no file of a directory can be replaced, as the system reports it.
pub(super) fn unwritable_reason(directory: &Path) -> Option<String> {
    let refused = rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).err()?;
    Some(format!("{} can't be written: {}", directory.display(), io::Error::from(refused)))
}

/// Makes the error of a failed system call. If the store is not writable, the error has a special
/// hint.
pub(super) fn unwritable(path: &Path, error: &io::Error) -> EditError {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => EditError::Unwritable {
            reason: format!("{} can't be written: {error}", path.display()),
            hint: "run this where the store is writable, or edit it by hand as below".to_owned(),
        },
        _ => in_words("write", path, error),
    }
}
