//! Files that a configuration was read from, and files that it names.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::fault::{Fault, Faults, Position};
use crate::digest::sha256;
use crate::regular_file;

/// The path of a file that was read, with the digest of its content.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ReadFile {
    pub(crate) path: PathBuf,
    digest: [u8; 32],
}

impl ReadFile {
    pub(crate) fn new(path: &Path, content: &str) -> Self {
        ReadFile { path: path.to_owned(), digest: sha256(content) }
    }

    /// Returns the beginning of the digest of the content, in hexadecimal digits.
    pub(crate) fn short_digest(&self) -> String {
        self.digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether the file still has the content that was read. Also true if the path is not a regular
    /// file: a pipe, for example, can't be read again.
    pub(crate) fn is_current(&self) -> bool {
        if !std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.is_file()) {
            return true;
        }
        let content = regular_file::read(&self.path);
        content.is_ok_and(|content| sha256(&*content) == self.digest)
    }
}

impl fmt::Debug for ReadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadFile({})", self.path.display())
    }
}

/// What is in a file that a configuration names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A key, a password or a token.
    Secret,
    /// What anybody may read, such as a certificate or the keys of an issuer.
    Public,
    /// It is a directory whose files bearward makes, for itself alone.
    Own,
}

/// A file or directory that a configuration names, and bearward reads.
#[derive(Clone)]
pub(crate) struct NamedFile {
    pub(crate) path: PathBuf,
    /// The position of the name in the configuration.
    pub(crate) at: Position,
    pub(crate) content: Content,
}

/// The files that a configuration names.
#[derive(Clone, Default)]
pub(crate) struct NamedFiles {
    pub(crate) config: PathBuf,
    /// The path of the key store. Faults inside the store have positions in its own files.
    pub(crate) store: PathBuf,
    pub(crate) files: Vec<NamedFile>,
}

impl NamedFiles {
    /// Moves each fault of a whole file to the position in the configuration that names the file,
    /// because most likely the name is wrong.
    pub(crate) fn placed(&self, faults: Faults) -> Faults {
        let placed = faults.0.into_iter().map(|fault| {
            let named = self.files.iter().find(|named| named.path == fault.file && fault.at.line == 0);
            let named =
                named.filter(|named| named.path != self.store || regular_file::open(&named.path).is_err());
            let Some(NamedFile { path, at, .. }) = named else { return fault };
            let message = format!("{}: {}", path.display(), fault.message);
            Fault { file: self.config.clone(), at: *at, message, ..fault }
        });
        Faults::sorted(placed.collect())
    }
}

impl fmt::Debug for NamedFiles {
    // Positions are left out, because configurations with the same values must have the same
    // `Debug` text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NamedFiles")
    }
}
