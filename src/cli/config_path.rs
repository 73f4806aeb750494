//! Finds the configuration that a command reads.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::failure::Failure;
use crate::config::fault::Fault;

const HERE: &str = "bearward.yaml";
const OF_SERVICE: &str = "/etc/bearward/config.yaml";

/// Returns the path of the configuration: `named` if given, else `$BEARWARD_CONFIG`, else the first
/// of `./bearward.yaml` and `/etc/bearward/config.yaml` that exists. If `/etc/bearward` can't be entered, the file may
/// exist: it is returned, too, so that its reader tells of the directory.
///
/// # Errors
///
/// None was given, and none exists. Or the one in the working directory is another user's.
pub(crate) fn config_path(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(path) = named.or_else(|| std::env::var_os("BEARWARD_CONFIG").map(PathBuf::from)) {
        return Ok(path);
    }
    if is_here()? {
        return Ok(HERE.into());
    }
    match Path::new(OF_SERVICE).try_exists() {
        Ok(false) => Err(Failure::NoConfiguration),
        Ok(true) | Err(_) => Ok(OF_SERVICE.into()),
    }
}

/// Whether the configuration is in the working directory. One of another user is refused: it could lead a command of
/// root to other keys, and tell the admin token to a stranger.
fn is_here() -> Result<bool, Failure> {
    let link = match fs::symlink_metadata(HERE) {
        Ok(link) => link,
        // What is in a directory that this user can't enter is not meant, as for a command by runuser(1) in `/root`.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => {
            return Ok(false);
        }
        Err(error) => return Err(error.into()),
    };
    let owners = [Some(link.uid()), fs::metadata(HERE).ok().map(|file| file.uid())];
    if owners.into_iter().flatten().all(|owner| is_trusted(owner, geteuid().as_raw(), sudo_user())) {
        return Ok(true);
    }
    let fault = Fault::of_file(Path::new(HERE), "the configuration in this directory is another user's");
    Err(fault.hint("name the one that is meant, with --config").into())
}

/// Whether a file of `owner` may lead a command of `user`: of root, of the same user, or of the one who called sudo(8).
fn is_trusted(owner: u32, user: u32, sudo_user: Option<u32>) -> bool {
    owner == 0 || owner == user || (user == 0 && sudo_user == Some(owner))
}

fn sudo_user() -> Option<u32> {
    std::env::var("SUDO_UID").ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_of_another_user_leads_no_command() {
        for (owner, user, sudo_user, expected) in [
            (0, 1000, None, true),
            (1000, 1000, None, true),
            (1001, 1000, None, false),
            (1000, 0, None, false),
            (1000, 0, Some(1000), true),
            (1001, 0, Some(1000), false),
            (1001, 1000, Some(1001), false),
        ] {
            assert_eq!(is_trusted(owner, user, sudo_user), expected, "{owner} for {user}");
        }
    }
}
