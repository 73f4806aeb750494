//! What is wrong with the pattern of a path or of a host.

/// Why a text is no pattern, and what is meant most likely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PatternFault {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}
