//! The parts of one event's text: its line ends, its data, and its member `usage`.

use std::ops::Range;

use memchr::{memchr2, memmem};

/// How the events of a stream are parted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Server-sent events, which end with an empty line.
    Events,
    /// Lines of JSON.
    Lines,
}

/// The name of the member, as it is written.
const USAGE: &[u8] = b"\"usage\"";

/// Returns the position behind the line end at `at`. Returns `None` if the line end may go on in the
/// next piece.
pub(super) fn behind_line_end(data: &[u8], at: usize) -> Option<usize> {
    match (data.get(at)?, data.get(at + 1)) {
        (b'\r', Some(b'\n')) => Some(at + 2),
        (b'\r', None) => None,
        _ => Some(at + 1),
    }
}

/// Calls `take` with the data of an event, line by line.
pub(super) fn data_of(event: &[u8], framing: Framing, mut take: impl FnMut(&[u8])) {
    if framing == Framing::Lines {
        return take(event);
    }
    for line in event.split(|byte| matches!(byte, b'\n' | b'\r')) {
        if let Some(data) = line.strip_prefix(b"data:") {
            take(data);
            take(b"\n");
        }
    }
}

/// Whether an event is the last one of its stream.
///
/// | API | sign |
/// |---|---|
/// | OpenAI chat and completions, and servers with their APIs | the data `[DONE]` |
/// | OpenAI responses | the types `response.completed`, `response.incomplete`, `response.failed` |
/// | Anthropic messages | the type `message_stop` |
/// | Ollama | `"done": true` |
/// | llama.cpp | `"stop": true` |
pub(super) fn is_last(event: &[u8]) -> bool {
    const TYPES: [&[u8]; 4] =
        [b"response.completed\"", b"response.incomplete\"", b"response.failed\"", b"message_stop\""];
    let is_true = |name: &[u8]| {
        let value = memmem::find(event, name).and_then(|at| event.get(at + name.len()..));
        value.is_some_and(|value| value.trim_ascii_start().starts_with(b"true"))
    };
    event.trim_ascii_end().ends_with(b"[DONE]")
        || TYPES.iter().any(|kind| memmem::find(event, kind).is_some())
        || [b"\"done\":", b"\"stop\":"].iter().any(|name| is_true(*name))
}

/// Returns the data of a long event that has begun.
pub(super) fn without_field(event: &[u8]) -> &[u8] {
    let begin = event.iter().position(|byte| matches!(byte, b'{' | b'[')).unwrap_or(event.len());
    event.get(begin..).unwrap_or_default()
}

/// Returns the position of the member `usage` of an event's object itself, not of an object in it.
pub(super) fn top_usage(event: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0_u32, 0);
    while let Some(&byte) = event.get(at) {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let end = behind_string(event, at)?;
                let is_name = event.get(end..)?.trim_ascii_start().first() == Some(&b':');
                if depth == 1 && is_name && event.get(at..end) == Some(USAGE) {
                    return Some(at);
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Returns the position behind the string that begins at `at`.
fn behind_string(event: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr2(b'"', b'\\', event.get(at..)?)?;
        match event.get(at) {
            Some(b'"') => return Some(at + 1),
            _ => at += 2,
        }
    }
}

/// Returns the range of the member `"usage": null` at `at`, with a comma before or behind it.
pub(super) fn null_member(event: &[u8], at: usize) -> Option<Range<usize>> {
    let skip = |from: usize| {
        let rest = event.get(from..)?;
        Some(from + rest.len() - rest.trim_ascii_start().len())
    };
    let colon = skip(at + USAGE.len())?;
    let value = skip(colon + usize::from(event.get(colon) == Some(&b':')))?;
    let end = event.get(value..)?.starts_with(b"null").then_some(value + 4)?;
    let before = event.get(..at)?.trim_ascii_end();
    match (before.last(), event.get(skip(end)?)) {
        (Some(b','), _) => Some(before.len() - 1..end),
        (_, Some(b',')) => Some(at..skip(skip(end)? + 1)?),
        _ => None,
    }
}
