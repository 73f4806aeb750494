//! The number of connections that the limit of file descriptors allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of file descriptors that are reserved for reloads, logs and the admin listener.
const RESERVED_DESCRIPTORS: u64 = 128;

/// Returns how many client connections the file descriptors allow: each needs two, one for the
/// client and one for upstream, and some descriptors are reserved.
/// Raises the soft limit of descriptors to the hard limit.
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
