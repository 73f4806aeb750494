//! Values from a configuration's earlier sections, which later sections are checked against.

use std::path::{Path, PathBuf};

use crate::config::address::Address;
use crate::config::ambiguity::Ambiguity;
use crate::config::fault::Position;
use crate::config::files::NamedFile;

#[derive(Default)]
pub(crate) struct Context {
    /// The files that bearward reads.
    pub(crate) named_files: Vec<NamedFile>,
    /// The files that bearward writes to, with the position of each name in the configuration.
    pub(crate) written_files: Vec<(PathBuf, Position)>,
    /// The addresses that bearward listens on.
    pub(crate) listening: Vec<(Address, Position)>,
    /// The upstreams; `None` until all of them are decoded without a fault.
    pub(crate) upstreams: Option<Vec<KnownUpstream>>,
}

/// The part of an upstream that routes are checked against.
pub(crate) struct KnownUpstream {
    pub(crate) name: String,
    pub(crate) accept_in_path: Vec<Ambiguity>,
}

impl Context {
    /// Returns where the configuration names files that bearward would both write to and read. Log
    /// lines would destroy the content of such files.
    pub(super) fn overwritten(&self, file: &Path) -> Vec<Position> {
        let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut read: Vec<PathBuf> = self.named_files.iter().map(|named| resolved(&named.path)).collect();
        read.push(resolved(file));
        let is_read = |path: &PathBuf| {
            let path = resolved(path);
            // If bearward reads a directory, the directory is a key store, and bearward reads every
            // file in it.
            read.iter().any(|read| *read == path || (read.is_dir() && path.parent() == Some(read)))
        };
        self.written_files.iter().filter(|(path, _)| is_read(path)).map(|(_, at)| *at).collect()
    }
}
