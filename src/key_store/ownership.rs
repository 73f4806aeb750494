//! The owner and the mode of a new file in the directory of a store.
//!
//! Called by everything that makes such a file: key files, and the secret of key ids.
//! Invariant: a file that root makes can be read by the service whose directory it is in.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Gid, Uid};

/// Returns the group of a service: that of a directory of root which this group may enter, and nobody else, as
/// `/etc/bearward` with 0750 root:bearward.
pub(crate) fn group_of_service(directory: &fs::Metadata) -> Option<u32> {
    let is_its_own = directory.uid() == 0 && directory.gid() != 0 && directory.mode() & 0o017 == 0o010;
    is_its_own.then(|| directory.gid())
}

/// Gives a new file with the mode 0600 that root has made to the owner and the group of its directory. The
/// group of a service may also read it.
///
/// # Errors
///
/// A system call failed.
pub(super) fn give(file: &File, directory: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (made, owner) = (file.metadata()?, fs::metadata(directory)?);
    if (made.uid(), made.gid()) != (owner.uid(), owner.gid()) {
        rustix::fs::fchown(file, Some(Uid::from_raw(owner.uid())), Some(Gid::from_raw(owner.gid())))?;
    }
    // The mode is set after the owner, because a change of the owner clears the special bits.
    if group_of_service(&owner).is_some() {
        file.set_permissions(fs::Permissions::from_mode(0o640))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::chown;

    use super::*;

    #[test]
    fn what_root_makes_can_be_read_by_the_group_of_a_service() {
        if !rustix::process::geteuid().is_root() {
            // Only root can change the owner of a file.
            return;
        }
        // The owner and the group of the directory, its mode, and those of the file.
        for (owner, mode, expected) in [
            ((0, 12_345), 0o750, (0, 12_345, 0o640)),
            ((0, 12_345), 0o700, (0, 12_345, 0o600)),
            // Such a group may be one of many people.
            ((0, 12_345), 0o755, (0, 12_345, 0o600)),
            ((0, 0), 0o755, (0, 0, 0o600)),
            ((12_345, 12_345), 0o750, (12_345, 12_345, 0o600)),
        ] {
            let directory = tempfile::tempdir().unwrap();
            chown(directory.path(), Some(owner.0), Some(owner.1)).unwrap();
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
            let file = tempfile::NamedTempFile::new_in(directory.path()).unwrap();
            give(file.as_file(), directory.path()).unwrap();
            let found = file.as_file().metadata().unwrap();
            assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), expected, "{owner:?} {mode:o}");
        }
    }
}
