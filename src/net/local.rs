//! The address of a listener.

use std::net::SocketAddr;
use std::path::PathBuf;

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// A TCP address. If the configured port is 0, this address contains the port that the system
    /// chose.
    Tcp(SocketAddr),
    /// A unix socket's path.
    Unix(PathBuf),
}

impl std::fmt::Display for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Local::Tcp(address) => address.fmt(f),
            Local::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
