//! Errors of connecting to an endpoint, and whether the endpoint caused them.
//!
//! The pool returns them. Only an error that the endpoint caused counts against its health.

use std::fmt;
use std::io;

/// Reason for which a request got no connection.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// Another request was connecting, and its connection was not there in time.
    Waiting,
    /// Connecting failed.
    Connecting(io::Error),
}

impl ConnectError {
    /// Whether the endpoint caused the error. A request that waited for another one, or that this
    /// process had no socket for, never reached the endpoint.
    pub(crate) fn is_caused_by_endpoint(&self) -> bool {
        match self {
            ConnectError::Waiting => false,
            ConnectError::Connecting(error) => !is_shortage(error),
        }
    }
}

/// Whether the error is a local shortage: this process or machine ran out of descriptors, buffers
/// or memory.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    code.is_some_and(|code| shortages.contains(&code))
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        ConnectError::Connecting(error)
    }
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Waiting => io::ErrorKind::TimedOut.into(),
            ConnectError::Connecting(error) => error,
        }
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Waiting => f.write_str("another request has been connecting for too long"),
            ConnectError::Connecting(error) => error.fmt(f),
        }
    }
}
