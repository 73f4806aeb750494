//! Asking an upstream for the usage of a stream, unseen by the client.
//!
//! OpenAI's servers report the usage of a stream if the request has `stream_options:
//! {"include_usage": true}`. bearward inserts this member, and removes from the answer what comes
//! by asking: the extra chunk, and the members `"usage": null` of all other chunks.

use crate::model::{Declared, Given, StreamOptions, folded_path};
use crate::upstream::request_body::Edit;

/// Whether an upstream is asked for the usage of streams, and what comes by asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    /// The request is forwarded as it is.
    Leave,
    /// The upstream is asked. `strips_null`: whether `"usage": null` in other chunks comes by
    /// asking. Some servers send it in any case.
    Ask { strips_null: bool },
}

impl Asking {
    /// Whether the upstream is asked on such a path. Other APIs report the usage of streams by themselves, and
    /// might refuse the member.
    pub(crate) fn concerns(self, path: &str) -> bool {
        self != Asking::Leave && folded_path(path).ends_with("/completions")
    }

    /// Returns the change that asks for the usage of a stream. Returns `None` if the request is not
    /// streamed, asks by itself, or says in more than one way whether it does.
    pub(crate) fn edit(self, path: &str, declared: &Declared) -> Option<Edit> {
        if !self.concerns(path) || declared.stream.is_on != Given::Once(true) {
            return None;
        }
        let (at, length, bytes) = match declared.stream.options {
            Given::Never => (declared.inside?, 0, r#""stream_options":{"include_usage":true},"#),
            Given::Once(StreamOptions::Null(at)) => (at, "null".len() as u64, r#"{"include_usage":true}"#),
            Given::Once(StreamOptions::Silent(at, false)) => (at, 0, r#""include_usage":true"#),
            Given::Once(StreamOptions::Silent(at, true)) => (at, 0, r#""include_usage":true,"#),
            Given::Once(StreamOptions::Declined(at, length)) => (at, length, "true"),
            Given::Once(StreamOptions::Asked) | Given::Unclear => return None,
        };
        Some(Edit { at, length, bytes: bytes.to_owned() })
    }
}
