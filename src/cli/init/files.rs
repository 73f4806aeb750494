//! Writes new files, and overwrites none.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
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

    /// Adds a file. `mode`: its permissions, as in chmod(1).
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
        let names = self.paths();
        match names.split_last() {
            Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
            _ => names.concat(),
        }
    }

    /// Writes all files, and makes the directory if there is none.
    ///
    /// # Errors
    ///
    /// One of the files exists: then none is written. Or one can't be written: then those before it are removed.
    pub(super) fn write(&self) -> Result<(), Failure> {
        let is_there = |file: &&NewFile| fs::symlink_metadata(&file.path).is_ok();
        if let Some(file) = self.files.iter().find(is_there) {
            return Err(Failure::Failed(format!(
                "{} exists, and `init` overwrites nothing: remove it, or name another directory with --into",
                file.path.display()
            )));
        }
        let mut builder = fs::DirBuilder::new();
        let failed = |path: &Path, error: &std::io::Error| {
            Failure::Failed(format!("can't write {}: {error}", path.display()))
        };
        builder
            .recursive(true)
            .mode(0o750)
            .create(&self.directory)
            .map_err(|error| failed(&self.directory, &error))?;
        for (number, file) in self.files.iter().enumerate() {
            if let Err(error) = file.write() {
                for written in self.files.iter().take(number) {
                    let _stays_if_it_must = fs::remove_file(&written.path);
                }
                return Err(failed(&file.path, &error));
            }
        }
        Ok(())
    }
}

impl NewFile {
    fn write(&self) -> std::io::Result<()> {
        // `create_new` never follows a link that somebody put there in the meantime.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(self.mode).open(&self.path)?;
        let written = file.write_all(self.text.as_bytes()).and_then(|()| file.sync_all());
        written.inspect_err(|_| {
            let _stays_if_it_must = fs::remove_file(&self.path);
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
        // The second file can't be written, so the first does not stay.
        assert!(files(&["d", "missing/e"]).write().is_err());
        assert!(!into.join("d").exists());
        assert_eq!(files(&["x", "y", "z"]).names().matches(", ").count(), 1);
    }
}
