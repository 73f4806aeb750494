//! Advice about files that can't be read: the missing part of a path, or the permission that this user lacks.
//!
//! Called wherever a file that a configuration names can't be read, so that each message says what to do.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::{getegid, geteuid, getgroups};

use crate::regular_file;
use crate::shell_word::{shell_word, shown};

/// Returns what to do about a file that can't be read, where the system's error shows it: the file does not exist,
/// or this user may not read it.
pub(crate) fn advice(path: &Path, error: &io::Error) -> Option<String> {
    match error.kind() {
        io::ErrorKind::NotFound => Some(of_missing(path)),
        io::ErrorKind::PermissionDenied => of_forbidden(path),
        _ => None,
    }
}

fn of_missing(path: &Path) -> String {
    if let Ok(target) = fs::read_link(path) {
        return format!("it is a link to {}, which does not exist", target.display());
    }
    let is_missing = |path: &&Path| *path != Path::new("") && fs::symlink_metadata(path).is_err();
    match path.ancestors().skip(1).filter(is_missing).last() {
        Some(directory) => {
            format!("there is no directory {}; make it, or name another path", directory.display())
        }
        None => "make it, or name another path".to_owned(),
    }
}

fn of_forbidden(path: &Path) -> Option<String> {
    let is_closed =
        |path: &&Path| fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    // The outermost path that can't be looked at is inside the directory that can't be entered.
    let inside = path.ancestors().filter(is_closed).last();
    let directory = inside
        .map(|inside| inside.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")));
    let closed = directory.unwrap_or(path);
    let found = fs::metadata(closed).ok()?;
    let (bit, mode, verb) = match found.is_dir() {
        // A key store: its directory can be entered, and not listed.
        true if closed == path => (0o050, "g+rx", "list"),
        true => (0o010, "g+x", "enter"),
        false => (0o040, "g+r", "read"),
    };
    let (shown, name, group) = (shown(closed), shell_word(closed), getegid().as_raw());
    let (owner, of_owner) = (name_of_user(found.uid()), name_of_group(found.gid()));
    let is_member = found.gid() == group
        || getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == found.gid()));
    let right = match (found.mode() & bit == bit, is_member) {
        _ if !is_for_this_file(path, closed) || found.mode() & 0o777 == 0 => {
            "move the file to a directory of bearward's own, or run a command about it as root".to_owned()
        }
        (true, false) => format!("run it as root or in the group {of_owner}"),
        (_, true) => format!("run it as root, or let the group {of_owner} {verb} it: `chmod {mode} {name}`"),
        // The group is that of a service, which would lose it.
        (false, false) if found.gid() != 0 => {
            format!("run it as root, or in the group {of_owner} after `chmod {mode} {name}`")
        }
        (false, false) => {
            let group = name_of_group(group);
            format!(
                "run it as root, or let the group {group} {verb} it: `chgrp {group} {name} && chmod {mode} {name}`"
            )
        }
    };
    Some(format!(
        "{shown} is {owner}:{of_owner} with the mode {:04o}, and this runs as {}; {right}",
        found.mode() & 0o7777,
        name_of_user(geteuid().as_raw()),
    ))
}

/// Whether the permissions of `closed` may be changed for the sake of a file: it is the file, or its directory, and no
/// directory of the system or of all users' homes. A unit with `ProtectHome` sees `/home` and `/root` with the mode 0.
fn is_for_this_file(path: &Path, closed: &Path) -> bool {
    let is_shared = closed.is_absolute() && closed.components().count() <= 2;
    let is_home = closed.parent() == Some(Path::new("/home"));
    let is_near = closed == path || Some(closed) == path.parent() || closed == Path::new(".");
    is_near && !is_shared && !is_home
}

/// Returns the name of a user, or the number if it has no name here.
fn name_of_user(id: u32) -> String {
    name_in("/etc/passwd", id)
}

/// Returns the name of a group, or its number if it has no name here.
pub(crate) fn name_of_group(id: u32) -> String {
    name_in("/etc/group", id)
}

/// Looks for a number in a file of passwd(5) or group(5). In both, it is the third field.
fn name_in(file: &str, id: u32) -> String {
    let id = id.to_string();
    let text = regular_file::read_text(Path::new(file));
    let name = text.ok().and_then(|text| {
        let mut lines = text.lines().map(|line| line.split(':'));
        lines.find_map(|mut fields| {
            let name = fields.next()?.to_owned();
            (fields.nth(1)? == id).then_some(name)
        })
    });
    name.unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_told_with_what_is_missing_of_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let missing = io::ErrorKind::NotFound.into();
        let of = |name: &str| advice(&directory.path().join(name), &missing).unwrap();
        assert_eq!(of("a"), "make it, or name another path");
        let deep =
            format!("there is no directory {}/a; make it, or name another path", directory.path().display());
        assert_eq!(of("a/b/c"), deep);
        std::os::unix::fs::symlink("nowhere", directory.path().join("link")).unwrap();
        assert_eq!(of("link"), "it is a link to nowhere, which does not exist");
        assert_eq!(advice(Path::new("a"), &missing).unwrap(), "make it, or name another path");
    }

    #[test]
    fn no_permission_is_advised_on_a_directory_that_others_need() {
        for (path, closed, expected) in [
            ("/etc/bearward/keys.yaml", "/etc/bearward/keys.yaml", true),
            ("/etc/bearward/keys.yaml", "/etc/bearward", true),
            ("keys.yaml", ".", true),
            ("/home/alice/keys.yaml", "/home", false),
            ("/home/alice/keys.yaml", "/home/alice", false),
            ("/root/keys.yaml", "/root", false),
            ("/srv/a/b/keys.yaml", "/srv/a", false),
        ] {
            assert_eq!(is_for_this_file(Path::new(path), Path::new(closed)), expected, "{closed} for {path}");
        }
    }

    #[test]
    fn a_forbidden_file_is_told_with_its_owner_and_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let told = advice(&path, &io::ErrorKind::PermissionDenied.into()).unwrap();
        assert!(told.contains(&format!("{} is ", path.display())), "{told}");
        assert!(told.contains("with the mode 0600") && told.contains("chmod g+r"), "{told}");
        let told = advice(directory.path(), &io::ErrorKind::PermissionDenied.into()).unwrap();
        assert!(told.contains("chmod g+rx"), "the directory of a key store is listed: {told}");
        assert_eq!(advice(&path, &io::ErrorKind::InvalidData.into()), None);
        assert_eq!((name_of_user(0), name_of_group(0)), ("root".to_owned(), "root".to_owned()));
        assert_eq!(name_of_group(u32::MAX), u32::MAX.to_string());
    }
}
