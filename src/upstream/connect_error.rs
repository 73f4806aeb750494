//! Why there is no connection to an endpoint, and whose fault that is.

use std::fmt;
use std::io;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// Another request has been making one for too long.
    Waiting,
    /// None could be made.
    Connecting(io::Error),
}

impl ConnectError {
    /// Whether the endpoint was not even asked.
    pub(crate) fn is_not_its_fault(&self) -> bool {
        match self {
            ConnectError::Waiting => true,
            ConnectError::Connecting(error) => is_shortage(error),
        }
    }
}

/// Whether this process or machine has run out of something: descriptors, buffers, memory.
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
