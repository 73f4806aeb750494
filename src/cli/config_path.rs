//! Finds the configuration that a command reads.

use std::path::{Path, PathBuf};

use super::failure::Failure;
use crate::config::fault::Fault;

/// Returns the path of the configuration: `named` if given, else `$BEARWARD_CONFIG`, else the first
/// of `./bearward.yaml` and `/etc/bearward/config.yaml` that exists.
pub(crate) fn config_path(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(path) = named.or_else(|| std::env::var_os("BEARWARD_CONFIG").map(PathBuf::from)) {
        return Ok(path);
    }
    let usual = ["bearward.yaml", "/etc/bearward/config.yaml"].map(Path::new);
    match usual.iter().find(|path| path.exists()) {
        Some(path) => Ok(path.to_path_buf()),
        None => Err(Fault::of_file(
            Path::new("bearward.yaml"),
            "no configuration: neither this nor /etc/bearward/config.yaml exists",
        )
        .hint("name one with --config or $BEARWARD_CONFIG, or run without one: --upstream URL --keys PATH")
        .into()),
    }
}
