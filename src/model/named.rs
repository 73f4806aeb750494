//! The model that a request names, as far as it is certain.

/// The model that a request names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Named {
    /// The request names no model, so far.
    #[default]
    Absent,
    /// The request names this model, and every server reads the name in the same way.
    Model(String),
    /// Servers might disagree on the model: two members, another spelling of `model`, a value that
    /// is no string, or a name that is no plain text.
    Ambiguous,
}

/// Whether a model's name is plain text: no control characters, and no white space around it, which
/// a server might cut off.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.trim() == name && !name.chars().any(char::is_control)
}
