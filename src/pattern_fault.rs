//! Faults in patterns of paths and of hosts.

/// The reason why a text is no pattern, and a hint at the pattern that was most likely meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PatternFault {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}
