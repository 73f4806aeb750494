//! How many connections the process's descriptors carry.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors kept back for reloads, logs and the admin listener.
const RESERVED_DESCRIPTORS: u64 = 128;

/// How many proxied connections the descriptors carry: each needs two, and some are kept back.
/// Raises the soft limit to the hard one.
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
