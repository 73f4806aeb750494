//! Finds the configuration that a command reads.

use std::path::{Path, PathBuf};

use super::failure::Failure;

/// Returns the path of the configuration: `named` if given, else `$BEARWARD_CONFIG`, else the first
/// of `./bearward.yaml` and `/etc/bearward/config.yaml` that exists. One in a directory that can't be entered may
/// exist: it is returned, too, so that its reader tells of the directory.
///
/// # Errors
///
/// None was given, and none exists.
pub(crate) fn config_path(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(path) = named.or_else(|| std::env::var_os("BEARWARD_CONFIG").map(PathBuf::from)) {
        return Ok(path);
    }
    let usual = ["bearward.yaml", "/etc/bearward/config.yaml"].map(Path::new);
    let found = usual.iter().find(|path| path.try_exists().unwrap_or(true));
    found.map(|path| path.to_path_buf()).ok_or(Failure::NoConfiguration)
}
