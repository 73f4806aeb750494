//! The number of connections that the limit of file descriptors allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of file descriptors that are reserved for reloads, logs and the admin listener.
const RESERVED_DESCRIPTORS: u64 = 128;

/// Raises the soft limit of file descriptors to the hard limit, and returns how many client
/// connections it allows. Each connection needs two descriptors, one for the client and one for
/// upstream; some descriptors are reserved.
pub(super) fn carried_by_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let Some(descriptors) = current else { return usize::MAX };
    usize::try_from(descriptors.saturating_sub(RESERVED_DESCRIPTORS) / 2).unwrap_or(usize::MAX).max(1)
}
