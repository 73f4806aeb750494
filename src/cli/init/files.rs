//! Writes new files, and overwrites none.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::cli::failure::Failure;

/// Files of one directory that are to be written.
#[derive(Debug)]
pub(super) struct NewFiles {
    directory: PathBuf,
    files: Vec<NewFile>,
}

#[derive(Debug)]
struct NewFile {
    path: PathBuf,
    text: Zeroizing<String>,
    mode: u32,
}

impl NewFiles {
    pub(super) fn within(directory: &Path) -> Self {
        NewFiles { directory: directory.to_owned(), files: Vec::new() }
    }

    /// Adds a file. `name`: its path in the directory. `mode`: its permissions, as in chmod(1).
    pub(super) fn add(&mut self, name: &str, text: String, mode: u32) {
        let path = self.directory.join(name);
        self.files.push(NewFile { path, text: Zeroizing::new(text), mode });
    }

    /// Returns the paths of the files.
    pub(super) fn paths(&self) -> Vec<String> {
        self.files.iter().map(|file| file.path.display().to_string()).collect()
    }

    /// Returns the paths of the files, for a message.
    pub(super) fn names(&self) -> String {
        listed(&self.paths())
    }

    /// Writes all files, and makes their directories if there are none.
    ///
    /// # Errors
    ///
    /// Some of the files exist: then none is written. Or one can't be written: then what was made before it is
    /// removed.
    pub(super) fn write(&self) -> Result<(), Failure> {
        let is_there = |file: &&NewFile| fs::symlink_metadata(&file.path).is_ok();
        let there: Vec<String> =
            self.files.iter().filter(is_there).map(|file| file.path.display().to_string()).collect();
        if !there.is_empty() {
            let exist = if there.len() == 1 { "exists" } else { "exist" };
            return Err(Failure::Failed(format!(
                "{} {exist}, and `init` overwrites nothing. `bearward keys create --keys FILE` makes another key; to begin anew, move \
                 what is there away, or name another directory with --into",
                listed(&there)
            )));
        }
        let mut made = Made::default();
        for file in &self.files {
            let directory = file.path.parent().filter(|parent| *parent != Path::new(""));
            let mode = if directory == Some(&self.directory) { 0o750 } else { 0o700 };
            let written = directory.map_or(Ok(()), |directory| made.directory(directory, mode));
            if let Err(error) = written.and_then(|()| made.file(file)) {
                made.undo();
                return Err(failed(&file.path, &error));
            }
        }
        Ok(())
    }
}

/// What was made, in this order.
#[derive(Default)]
struct Made {
    directories: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl Made {
    /// Makes a directory if there is none. The one above it has to exist: else its path has a typing error.
    fn directory(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        match fs::DirBuilder::new().mode(mode).create(path) {
            Ok(()) => {
                self.directories.push(path.to_owned());
                // Whatever the umask is: the group of a service has to enter.
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn file(&mut self, file: &NewFile) -> io::Result<()> {
        file.write().inspect(|()| self.files.push(file.path.clone()))
    }

    fn undo(self) {
        for file in &self.files {
            let _stays_if_it_must = fs::remove_file(file);
        }
        for directory in self.directories.iter().rev() {
            let _stays_if_it_must = fs::remove_dir(directory);
        }
    }
}

/// Returns paths for a message.
fn listed(paths: &[String]) -> String {
    match paths.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => paths.concat(),
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied if !rustix::process::geteuid().is_root() => {
            "; run it as root, or name another directory with --into"
        }
        ErrorKind::NotFound => "; make the directory above it first, if its name is right",
        _ => "",
    };
    Failure::Failed(format!("can't write {}: {error}{hint}", path.display()))
}

impl NewFile {
    fn write(&self) -> io::Result<()> {
        // `create_new` never follows a link that somebody put there in the meantime.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(self.mode).open(&self.path)?;
        let mode = fs::Permissions::from_mode(self.mode);
        let written = file.set_permissions(mode).and_then(|()| file.write_all(self.text.as_bytes()));
        let written = written.and_then(|()| file.sync_all());
        written.inspect_err(|_| {
            let _stays_if_it_must = fs::remove_file(&self.path);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overwritten_and_nothing_is_written_by_half() {
        let directory = tempfile::tempdir().unwrap();
        let into = directory.path().join("new");
        let files = |names: &[&str]| {
            let mut files = NewFiles::within(&into);
            names.iter().for_each(|name| files.add(name, "new".to_owned(), 0o600));
            files
        };
        files(&["a"]).write().unwrap();
        assert_eq!(fs::metadata(into.join("a")).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(files(&["b", "a"]).write().is_err());
        assert!(!into.join("b").exists());
        std::os::unix::fs::symlink("/nowhere/at/all", into.join("link")).unwrap();
        assert!(files(&["c", "link"]).write().is_err());
        // The last file can't be written, so those before it do not stay.
        assert!(files(&["d", "e/f", "missing/above/g"]).write().is_err());
        assert!(!into.join("d").exists() && !into.join("e").exists());
        files(&["h/i"]).write().unwrap();
        assert_eq!(fs::metadata(into.join("h")).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(files(&["x", "y", "z"]).names().matches(", ").count(), 1);
    }
}
