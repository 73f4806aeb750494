//! Faults in patterns of paths and of hosts.

/// Why a text is no pattern, and what was most likely meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PatternFault {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}
