//! Finds the directory entries on the path of a file: the file's own entry, and those of all links
//! and directories on the path.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::key_store::directory;

/// The highest number of symbolic links that are followed on a path, as in the kernel. A path with
/// more links is treated as a loop.
const MAX_LINKS: usize = 40;

/// Returns `paths`, with each directory replaced by the files in it.
pub(super) fn expanded(paths: &[PathBuf]) -> impl Iterator<Item = PathBuf> + '_ {
    paths.iter().flat_map(|path| match path.is_dir().then(|| directory::files(path)) {
        Some(Ok(files)) => files,
        _ => vec![path.clone()],
    })
}

/// The directory entries on the paths of files. A change of any of these entries may be a change of
/// a file.
#[derive(Clone, Debug, Default)]
pub(super) struct WatchSet {
    /// The entries of the files, of all links to the files, and of the directories above them. Each
    /// of these entries may be replaced.
    pub(super) entries: BTreeSet<PathBuf>,
    /// Configured directories. Every file in these directories is watched, even a file that does
    /// not exist yet.
    pub(super) directories: BTreeSet<PathBuf>,
}

impl WatchSet {
    pub(super) fn to(files: &[PathBuf]) -> Self {
        let directories =
            files.iter().filter(|path| path.is_dir()).filter_map(|path| path.canonicalize().ok());
        // The directories' own entries are included, because a directory may be replaced.
        let all = expanded(files).chain(files.iter().cloned());
        WatchSet {
            directories: directories.collect(),
            entries: all.flat_map(|path| entries_to(&path)).collect(),
        }
    }

    /// Whether a change of this directory entry may concern one of the files.
    pub(super) fn covers(&self, path: &Path) -> bool {
        let is_hidden = || path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        self.entries.contains(path)
            || path.parent().is_some_and(|parent| self.directories.contains(parent)) && !is_hidden()
    }

    pub(super) fn join(&mut self, other: &WatchSet) {
        self.entries.extend(other.entries.iter().cloned());
        self.directories.extend(other.directories.iter().cloned());
    }
}

/// Returns every directory entry on the way to `path`: the file, each symbolic link, and each
/// directory. A change of any of these entries is a change of the file: for example, the kubelet
/// replaces only the link `..data`, and an administrator may replace a directory by a rename.
fn entries_to(path: &Path) -> BTreeSet<PathBuf> {
    let mut entries = BTreeSet::new();
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut walked = PathBuf::new();
    let mut rest: Vec<PathBuf> = components(&absolute);
    let mut links = 0;
    while let Some(next) = rest.pop() {
        if next == Path::new("..") {
            walked.pop();
            continue;
        }
        let here = walked.join(&next);
        match fs::read_link(&here) {
            Ok(target) if links < MAX_LINKS => {
                links += 1;
                entries.insert(here);
                rest.extend(components(&target));
                if target.is_absolute() {
                    walked = PathBuf::new();
                }
            }
            _ => {
                walked = here;
                if walked.parent().is_some() {
                    entries.insert(walked.clone());
                }
            }
        }
    }
    entries
}

/// Returns the components of a path in reverse order.
fn components(path: &Path) -> Vec<PathBuf> {
    let parts = path.components().filter(|part| !matches!(part, Component::CurDir));
    let mut parts: Vec<PathBuf> = parts.map(|part| PathBuf::from(part.as_os_str())).collect();
    parts.reverse();
    parts
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn all_links_to_a_file_are_known() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir(root.join("..1")).unwrap();
        fs::write(root.join("..1/keys.yaml"), "x").unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/keys.yaml", root.join("keys.yaml")).unwrap();
        let expected = ["..1/keys.yaml", "..1", "..data", "keys.yaml"].map(|name| root.join(name));
        let above = root.ancestors().filter(|above| above.parent().is_some()).map(Path::to_owned);
        assert_eq!(entries_to(&root.join("keys.yaml")), expected.into_iter().chain(above).collect());
        symlink(root.join("loop"), root.join("loop")).unwrap();
        assert!(!entries_to(&root.join("loop")).is_empty(), "a loop ends");
    }
}
