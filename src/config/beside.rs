//! The files that relative paths in a configuration mean.
//!
//! Called by the decoder alone, so that no field can forget it. Paths on the command line are relative to the
//! working directory, and never come here.

use std::path::{Path, PathBuf};

/// Returns the path of the file that `text`, a path in the file `file`, means.
///
/// A relative path begins at the directory of `file`. This is the directory of `file` as it was given: a symbolic
/// link is not followed, because the kubelet replaces the link's target at each change. A file that has no
/// directory of its own (a pipe, `/dev/stdin`) leaves relative paths to the working directory.
pub(super) fn beside(file: &Path, text: &str) -> PathBuf {
    match directory(file) {
        Some(directory) => directory.join(Path::new(text).strip_prefix(".").unwrap_or(Path::new(text))),
        None => PathBuf::from(text),
    }
}

/// Returns the directory of a file; `None` if it is the working directory, or if the file has none of its own.
fn directory(file: &Path) -> Option<&Path> {
    let directory = file.parent().filter(|directory| ![Path::new(""), Path::new(".")].contains(directory))?;
    // `/dev/stdin` and `/dev/fd/3` may stand for regular files, and their directories hold no files of operators.
    let is_of_system =
        directory == Path::new("/dev") || directory.starts_with("/dev/fd") || directory.starts_with("/proc");
    let is_stream = std::fs::metadata(file).is_ok_and(|metadata| !metadata.is_file());
    (!is_of_system && !is_stream).then_some(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_begins_at_the_directory_of_its_file() {
        for (file, text, expected) in [
            ("bearward.yaml", "keys.yaml", "keys.yaml"),
            ("./bearward.yaml", "keys.yaml", "keys.yaml"),
            ("bearward.yaml", "./keys.yaml", "./keys.yaml"),
            ("command line", "keys.yaml", "keys.yaml"),
            ("../other/bearward.yaml", "keys.yaml", "../other/keys.yaml"),
            ("/etc/bearward/config.yaml", "keys.yaml", "/etc/bearward/keys.yaml"),
            ("/etc/bearward/config.yaml", "./keys.yaml", "/etc/bearward/keys.yaml"),
            ("/etc/bearward/config.yaml", "../keys/keys.yaml", "/etc/bearward/../keys/keys.yaml"),
            ("/etc/bearward/config.yaml", "/run/keys.yaml", "/run/keys.yaml"),
            ("/dev/stdin", "keys.yaml", "keys.yaml"),
            ("/dev/fd/63", "keys.yaml", "keys.yaml"),
            ("/proc/self/fd/0", "keys.yaml", "keys.yaml"),
            ("/dev/shm/bearward/bearward.yaml", "keys.yaml", "/dev/shm/bearward/keys.yaml"),
        ] {
            assert_eq!(beside(Path::new(file), text), Path::new(expected), "{text} in {file}");
        }
    }

    #[test]
    fn the_directory_is_that_of_a_link_and_not_of_its_target() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("..data");
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("bearward.yaml"), "").unwrap();
        let link = directory.path().join("bearward.yaml");
        std::os::unix::fs::symlink("..data/bearward.yaml", &link).unwrap();
        assert_eq!(beside(&link, "keys.yaml"), directory.path().join("keys.yaml"));
    }

    #[test]
    fn a_pipe_leaves_paths_to_the_working_directory() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(beside(&pipe, "keys.yaml"), Path::new("keys.yaml"));
    }
}
