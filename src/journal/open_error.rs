//! The reasons why a journal can't be opened.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::shell_word::shell_word;

/// The reason why a journal could not be opened. Its message states the consequence and the
/// correction. No file was changed, except if `System` says so.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// Another process has opened the journal in this directory.
    InUse(PathBuf),
    /// The directory had a journal, which is missing now.
    Lost(PathBuf),
    /// The directory has no journal to read, and never had one.
    Absent(PathBuf),
    /// The file is no journal.
    Foreign(PathBuf),
    /// A newer version of bearward has written the file.
    Newer {
        /// The file.
        path: PathBuf,
        /// The version of the file's format.
        version: u16,
    },
    /// The file was a journal, and nothing in it can be read.
    Unreadable(PathBuf),
    /// A failed call to the operating system.
    System {
        /// The step that failed, such as "lock".
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
}

impl OpenError {
    pub(crate) fn system(doing: &'static str, path: &Path, error: io::Error) -> Self {
        OpenError::System { doing, path: path.to_owned(), error }
    }
}

/// The way out if the state is lost, and its cost.
struct StartAnew<'p>(&'p Path);

impl fmt::Display for StartAnew<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "restore {0}/journal from a backup, or remove {0}/journal and {0}/lock to start anew: then all budgets and \
             usage counts begin at zero, so that each key can spend its whole budget once more",
            self.0.display()
        )
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory_of = |path: &Path| path.parent().unwrap_or(path).to_owned();
        match self {
            OpenError::InUse(directory) => write!(
                f,
                "another process uses the state directory {0} (`fuser {1}` names it); give each bearward a \
                 `state.path` of its own, or stop the other process",
                directory.display(),
                shell_word(&directory.join("lock"))
            ),
            OpenError::Lost(directory) => write!(
                f,
                "{0}/journal is missing, although {0}/lock notes that it existed; {1}",
                directory.display(),
                StartAnew(directory)
            ),
            OpenError::Absent(directory) => write!(
                f,
                "there is no {}/journal; bearward creates it when it starts with this `state.path`",
                directory.display()
            ),
            OpenError::Foreign(path) => write!(
                f,
                "{} is not a journal of bearward, and was not changed; if `state.path` is wrong, correct it; otherwise \
                 {}",
                path.display(),
                StartAnew(&directory_of(path))
            ),
            OpenError::Newer { path, version } => write!(
                f,
                "{} has version {version} of the format, which only a newer bearward can read; run that one, or {}",
                path.display(),
                StartAnew(&directory_of(path))
            ),
            OpenError::Unreadable(path) => write!(
                f,
                "nothing in {} can be read; it was not changed; check the disk, and {}",
                path.display(),
                StartAnew(&directory_of(path))
            ),
            OpenError::System { doing, path, error } => {
                write!(f, "can't {doing} {}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::System { error, .. } => Some(error),
            _ => None,
        }
    }
}
