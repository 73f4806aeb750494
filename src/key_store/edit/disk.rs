//! The file system's part: one writer at a time, and a file that is the old one or the new one, never half of one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Access, Gid, Uid};
use tempfile::NamedTempFile;

use super::error::{EditError, in_words, refused};
use super::lock::WriteLock;

/// Temporary files are named so; whoever holds the lock knows that one that is there was left behind.
const PREFIX: &str = ".bearward-";
const SUFFIX: &str = ".tmp";
/// More symbolic links than this are a loop.
const MAX_LINKS: usize = 40;

/// A directory in which nobody else of us writes for as long as this lives.
#[derive(Debug)]
pub(super) struct Locked {
    directory: PathBuf,
    /// It is of a Secret or ConfigMap: looked at, and not written to.
    is_mounted: bool,
    /// `None` where nothing can be written: there is nothing to keep others from.
    lock: Option<WriteLock>,
}

impl Locked {
    /// Waits for the lock, and clears what a command that was killed has left.
    pub(super) fn new(directory: &Path, is_mounted: bool) -> Result<Self, EditError> {
        let failed = |doing: &str, error: &io::Error| in_words(doing, directory, error);
        let left = fs::read_dir(directory).map_err(|error| failed("read", &error))?.filter_map(Result::ok);
        let is_written_to = !is_mounted && why_unwritable(directory).is_none();
        let lock = is_written_to.then(|| WriteLock::take(directory)).transpose()?;
        if lock.is_none() {
            return Ok(Locked { directory: directory.to_owned(), is_mounted, lock });
        }
        for entry in left {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
                // If it can't be removed, nothing can be written here either, and that is told.
                let _read_only = fs::remove_file(entry.path());
            }
        }
        Ok(Locked { directory: directory.to_owned(), is_mounted, lock })
    }

    /// Puts a file of this directory in the place of `path`, durable before it is seen. Mode and owner stay; a new one is
    /// its owner's alone.
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

    /// A temporary file that will take the place of `path`.
    pub(super) fn begin(&self, path: &Path) -> Result<Writing, EditError> {
        self.refuse_unlocked(path)?;
        let failed = |error: io::Error| unwritable(path, &error);
        // A file of a directory may be a link to one elsewhere.
        let path = resolved(path)?;
        let directory = directory_of(&path);
        let mut builder = tempfile::Builder::new();
        let temporary = builder.prefix(PREFIX).suffix(SUFFIX).tempfile_in(&directory).map_err(failed)?;
        Ok(Writing { directory, path, temporary })
    }

    /// Removes a file.
    pub(super) fn remove(&self, path: &Path) -> Result<(), EditError> {
        self.refuse_unlocked(path)?;
        fs::remove_file(path).map_err(|error| unwritable(path, &error))?;
        sync(&self.directory);
        Ok(())
    }

    /// Nothing is written without the lock, wherever a link of the directory may lead.
    fn refuse_unlocked(&self, path: &Path) -> Result<(), EditError> {
        self.refuse_mounted(path)?;
        match self.lock {
            Some(_) => Ok(()),
            None => Err(unwritable(path, &io::ErrorKind::PermissionDenied.into())),
        }
    }

    /// A change of what the kubelet writes would be lost, or refused.
    fn refuse_mounted(&self, path: &Path) -> Result<(), EditError> {
        if !self.is_mounted {
            return Ok(());
        }
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Err(EditError::Unwritable {
            why: format!(
                "{} is in a mounted Secret or ConfigMap, which can't be changed from inside",
                path.display()
            ),
            advice: format!(
                "change it where it comes from: edit its file `{file}` there as below, then, with the names of your own, \
                 `kubectl create secret generic NAME --from-file={file} --dry-run=client -o yaml | kubectl apply -f -`"
            ),
        })
    }
}

/// Makes a rename durable. Where the file system can't, the rename has been made all the same, and that is what counts.
fn sync(directory: &Path) {
    let _not_everywhere = File::open(directory).and_then(|directory| directory.sync_all());
}

/// A file that is being written, and is nothing until it is finished.
pub(super) struct Writing {
    directory: PathBuf,
    path: PathBuf,
    temporary: NamedTempFile,
}

impl Writing {
    pub(super) fn write(&mut self, content: &[u8]) -> Result<(), EditError> {
        self.temporary.write_all(content).map_err(|error| in_words("write", &self.path, &error))
    }

    /// Where it is until then.
    pub(super) fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Puts it in its place, if that `is_as_read` still: not everybody takes the lock.
    pub(super) fn finish(self, is_as_read: impl FnOnce() -> bool) -> Result<(), EditError> {
        let Writing { directory, path, temporary } = self;
        let put = || {
            let (file, old) = (temporary.as_file(), fs::metadata(&path).ok());
            // A new file that root makes in somebody's directory is for that somebody.
            let owner = match &old {
                Some(old) => Some(old.clone()),
                None if rustix::process::geteuid().is_root() => fs::metadata(&directory).ok(),
                None => None,
            };
            let made = file.metadata()?;
            if let Some(owner) = owner.filter(|owner| (made.uid(), made.gid()) != (owner.uid(), owner.gid()))
            {
                let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
                rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(|error| {
                    let error = io::Error::from(error);
                    io::Error::new(
                        error.kind(),
                        format!("its owner can't be kept ({error}); run this as its owner"),
                    )
                })?;
            }
            if let Some(old) = &old {
                // After the owner, whose change takes special bits away.
                file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
            }
            temporary.as_file().sync_all()?;
            if !is_as_read() {
                return Err(io::Error::other("somebody else has changed it meanwhile"));
            }
            temporary.persist(&path).map_err(|error| error.error)?;
            sync(&directory);
            Ok(())
        };
        put().map_err(|error: io::Error| in_words("write", &path, &error))
    }
}

/// The directory that a file is in.
pub(super) fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Where `path` leads to, link by link, itself first.
fn hops(path: &Path) -> impl Iterator<Item = PathBuf> {
    let next = |hop: &PathBuf| fs::read_link(hop).ok().map(|target| directory_of(hop).join(target));
    // The kernel, too, takes what goes on for longer for a loop.
    std::iter::successors(Some(path.to_owned()), next).take(MAX_LINKS + 1)
}

/// The file itself, where `path` is a symbolic link to it: what is renamed into a link's place would end the link.
pub(super) fn resolved(path: &Path) -> Result<PathBuf, EditError> {
    match hops(path).last() {
        Some(file) if fs::read_link(&file).is_err() => Ok(file),
        _ => refused(format!("{} is a link to itself", path.display())),
    }
}

/// Whether `path` is in a mounted Secret or ConfigMap, or leads there: those are mounted through a link `..data` to a
/// directory whose name begins with two dots, too, and the kubelet swaps that link.
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

/// Why no file of a directory can be replaced, as the system sees it.
pub(super) fn why_unwritable(directory: &Path) -> Option<String> {
    let refused = rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK).err()?;
    Some(format!("{} can't be written: {}", directory.display(), io::Error::from(refused)))
}

/// What the system refused, in words; a store that may not be written gets its own advice.
pub(super) fn unwritable(path: &Path, error: &io::Error) -> EditError {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => EditError::Unwritable {
            why: format!("{} can't be written: {error}", path.display()),
            advice: "run this where the store is writable, or edit it by hand as below".to_owned(),
        },
        _ => in_words("write", path, error),
    }
}
