//! Errors that occur when bearward connects to an endpoint, and whether the endpoint caused them.
//!
//! The pool returns these errors. Only an error that the endpoint caused is recorded in the
//! endpoint's health.

use std::fmt;
use std::io;

/// Reason why a request got no connection to an endpoint.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// Another request was already connecting to the endpoint, and no connection was made in time.
    Waiting,
    /// Connecting to the endpoint failed with this error.
    Connecting(io::Error),
}

impl ConnectError {
    /// Whether the endpoint caused the error. The endpoint is not at fault if the request only
    /// waited for another request to connect, or if this machine ran out of sockets or memory.
    pub(crate) fn is_caused_by_endpoint(&self) -> bool {
        match self {
            ConnectError::Waiting => false,
            ConnectError::Connecting(error) => !is_shortage(error),
        }
    }
}

/// Whether the error is a local shortage: this process or this machine ran out of descriptors,
/// buffers or memory.
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
