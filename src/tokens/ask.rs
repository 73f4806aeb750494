//! Asking an upstream for the usage of a stream, unseen by the client.
//!
//! OpenAI's servers report the usage of a stream if the request has `stream_options:
//! {"include_usage": true}`. bearward inserts this member, and removes from the answer what comes
//! by asking: the extra chunk, and the members `"usage": null` of all other chunks.

use crate::model::{Declared, Given};

/// Whether an upstream is asked for the usage of streams, and what comes by asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    /// The request is forwarded as it is.
    Leave,
    /// The upstream is asked. `strips_null`: whether `"usage": null` in other chunks comes by
    /// asking. Some servers send it in any case.
    Ask { strips_null: bool },
}

/// Bytes that are inserted into a request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Insertion {
    pub(crate) at: u64,
    pub(crate) bytes: &'static str,
}

impl Asking {
    /// Returns the insertion that asks for the usage of a stream. Returns `None` if the request is
    /// not streamed, or asks by itself. `declared`: the declarations of the whole body.
    pub(crate) fn insertion(self, path: &str, declared: &Declared) -> Option<Insertion> {
        const MEMBER: &str = r#""stream_options":{"include_usage":true},"#;
        // Other APIs report the usage of streams by themselves, and might refuse the member.
        let has_option = path.ends_with("/chat/completions") || path.ends_with("/completions");
        let is_unasked = declared.stream == Given::Once(true) && declared.stream_options == Given::Never;
        match (self, has_option && is_unasked) {
            (Asking::Ask { .. }, true) => Some(Insertion { at: declared.inside?, bytes: MEMBER }),
            _ => None,
        }
    }
}
