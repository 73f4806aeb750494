//! The events of a stream: server-sent events (WHATWG HTML, section 9.2.6), or lines of JSON.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder as Needle;
use memchr::{memchr, memchr2};
use serde_json::Value;

use super::counts::{Counts, IN_EVENT};
use crate::json::Finder;

/// Largest number of answers in one stream that are counted one by one.
const MOST_ANSWERS: u64 = 8192;

/// Longest event that is kept while it arrives, in bytes. A longer one is searched as it passes.
const LONGEST_EVENT: usize = 64 * 1024;

/// How the events of a stream are parted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// Server-sent events, which end with an empty line.
    Events,
    /// Lines of JSON.
    Lines,
}

/// What is removed from a stream because it came by asking for the usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    Nothing,
    /// The extra chunk with the usage, and `"usage": null` in other chunks.
    ChunkAndNulls,
    /// The extra chunk alone.
    Chunk,
}

/// The scan of a stream's events.
#[derive(Debug)]
pub(super) struct EventScan {
    framing: Framing,
    removal: Removal,
    /// The beginning of an event that has not ended yet.
    pending: Vec<u8>,
    /// The search through an event that is too long to keep.
    long: Option<Finder>,
    /// Whether the line ends of a long event may follow.
    is_behind_long: bool,
    counts: Counts,
    /// Counts by the index of an answer, from servers that answer several prompts in one stream.
    by_index: BTreeMap<u64, Counts>,
    /// Whether content came after the last counts.
    pub(super) has_content_behind: bool,
    /// Number of events that had content of the answer.
    pub(super) content_events: u64,
    /// The sign of content that the last event with content had.
    last_sign: usize,
}

/// What happens to an event.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    Drop,
    Cut(Range<usize>),
}

impl EventScan {
    pub(super) fn new(framing: Framing, removal: Removal) -> Self {
        EventScan {
            framing,
            removal,
            pending: Vec::new(),
            long: None,
            counts: Counts::default(),
            by_index: BTreeMap::new(),
            has_content_behind: false,
            is_behind_long: false,
            content_events: 0,
            last_sign: 0,
        }
    }

    /// Scans the next piece of a stream that is forwarded unchanged.
    pub(super) fn observe(&mut self, data: &[u8]) {
        debug_assert_eq!(self.removal, Removal::Nothing, "the stream is changed");
        self.scan(data, |_, _| {});
    }

    /// Scans the next piece of a stream, and returns what is forwarded of it. The beginning of an
    /// event is held back until the event has ended: no client acts on a part of an event.
    pub(super) fn filter(&mut self, data: Bytes) -> Bytes {
        if self.removal == Removal::Nothing {
            self.observe(&data);
            return data;
        }
        let mut is_changed = !self.pending.is_empty();
        let mut kept = BytesMut::new();
        self.scan(&data, |event, verdict| {
            is_changed |= verdict != Verdict::Keep;
            match verdict {
                Verdict::Keep => kept.extend_from_slice(event),
                Verdict::Drop => {}
                Verdict::Cut(range) => {
                    kept.extend_from_slice(event.get(..range.start).unwrap_or_default());
                    kept.extend_from_slice(event.get(range.end..).unwrap_or_default());
                }
            }
        });
        match is_changed || !self.pending.is_empty() {
            true => kept.freeze(),
            false => data,
        }
    }

    /// Ends the stream. Returns the bytes that were held back.
    pub(super) fn finish(&mut self) -> Bytes {
        let rest = std::mem::take(&mut self.pending);
        if !rest.is_empty() {
            self.event(&rest);
        }
        if let Some(long) = self.long.take() {
            self.note_counts(&long);
        }
        match self.removal {
            Removal::Nothing => Bytes::new(),
            Removal::Chunk | Removal::ChunkAndNulls => rest.into(),
        }
    }

    /// Whether events may be removed from the stream, or parts of them.
    pub(super) fn changes_stream(&self) -> bool {
        self.removal != Removal::Nothing
    }

    /// Whether the beginning of an event is held back.
    pub(super) fn holds_bytes(&self) -> bool {
        self.removal != Removal::Nothing && !self.pending.is_empty()
    }

    /// Scans data, and calls `pass` with each part of it that can be forwarded.
    fn scan(&mut self, data: &[u8], mut pass: impl FnMut(&[u8], Verdict)) {
        let data = if self.is_behind_long { self.pass_line_ends(data, &mut pass) } else { data };
        if self.pending.is_empty() && self.long.is_none() {
            let rest = self.whole_events(data, 0, &mut pass);
            self.pending.extend_from_slice(rest);
        } else if self.long.is_some() {
            self.go_on(data, &mut pass);
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            // An end of an event may begin in the bytes that were there before.
            let from = pending.len().saturating_sub(3);
            pending.extend_from_slice(data);
            let rest = self.whole_events(&pending, from, &mut pass);
            self.pending = match rest.len() == pending.len() {
                true => pending,
                false => rest.to_vec(),
            };
        }
        if self.pending.len() > LONGEST_EVENT {
            let begun = std::mem::take(&mut self.pending);
            let mut long = Finder::new(IN_EVENT);
            long.push(without_field(&begun));
            self.content_events += 1;
            self.long = Some(long);
            pass(&begun, Verdict::Keep);
        }
    }

    /// Goes on with an event that is too long to keep.
    fn go_on(&mut self, data: &[u8], pass: &mut impl FnMut(&[u8], Verdict)) {
        // JSON has no raw line ends in strings, so a line end ends the event's data.
        let length = memchr2(b'\n', b'\r', data).unwrap_or(data.len());
        let (of_event, rest) = data.split_at(length);
        if let Some(long) = &mut self.long {
            long.push(of_event);
        }
        pass(of_event, Verdict::Keep);
        if rest.is_empty() {
            return;
        }
        if let Some(long) = self.long.take() {
            self.note_counts(&long);
        }
        self.is_behind_long = true;
        let rest = self.pass_line_ends(rest, pass);
        let rest = self.whole_events(rest, 0, pass);
        self.pending.extend_from_slice(rest);
    }

    /// Passes the line ends that end a long event. Returns the bytes behind them.
    fn pass_line_ends<'d>(&mut self, data: &'d [u8], pass: &mut impl FnMut(&[u8], Verdict)) -> &'d [u8] {
        let length = data.iter().take_while(|byte| matches!(byte, b'\n' | b'\r')).count();
        let (line_ends, rest) = data.split_at(length);
        pass(line_ends, Verdict::Keep);
        self.is_behind_long = rest.is_empty();
        rest
    }

    /// Returns the counts of the whole stream.
    pub(super) fn counts(&self) -> Counts {
        let of_indexes = self.by_index.values().copied().reduce(Counts::plus);
        of_indexes.unwrap_or(self.counts)
    }

    /// Notes the counts that were found in an event. Returns them.
    fn note_counts(&mut self, finder: &Finder) -> Counts {
        let counts = Counts::of(finder);
        if counts.is_empty() {
            return counts;
        }
        self.has_content_behind = false;
        self.counts.update(counts);
        // SGLang's own API numbers the answers to a list of prompts.
        let top =
            |name: &str| finder.found().iter().find(|member| member.wrapper.is_none() && member.name == name);
        let index = top("meta_info").and(top("index")).and_then(|index| index.value.as_u64());
        if let Some(index) = index.filter(|index| *index < MOST_ANSWERS) {
            self.by_index.insert(index, counts);
        }
        counts
    }

    /// Scans the events that `data` has completely. Returns the rest.
    fn whole_events<'d>(
        &mut self,
        data: &'d [u8],
        mut from: usize,
        pass: &mut impl FnMut(&[u8], Verdict),
    ) -> &'d [u8] {
        let mut rest = data;
        while let Some(end) = self.end_of_event(rest, from) {
            let (event, behind) = rest.split_at(end);
            let verdict = self.event(event);
            pass(event, verdict);
            (rest, from) = (behind, 0);
        }
        rest
    }

    /// Returns the position behind the first event. `from`: a position before its end.
    fn end_of_event(&self, data: &[u8], from: usize) -> Option<usize> {
        if self.framing == Framing::Lines {
            return Some(from + memchr(b'\n', data.get(from..)?)? + 1);
        }
        let mut at = from;
        loop {
            at += memchr2(b'\n', b'\r', data.get(at..)?)?;
            let behind = behind_line_end(data, at)?;
            match data.get(behind)? {
                b'\n' | b'\r' => return behind_line_end(data, behind),
                _ => at = behind,
            }
        }
    }

    /// Scans one event.
    fn event(&mut self, event: &[u8]) -> Verdict {
        let usage = USAGE.find(event);
        let may_have_counts =
            usage.is_some() || OTHER_COUNTS.iter().any(|needle| needle.find(event).is_some());
        let mut verdict = Verdict::Keep;
        if may_have_counts {
            let mut finder = Finder::new(IN_EVENT);
            data_of(event, self.framing, |data| finder.push(data));
            self.note_counts(&finder);
            if usage.is_some() && self.removal != Removal::Nothing {
                verdict = self.judge(event, &finder);
            }
        }
        if verdict != Verdict::Drop && self.has_content(event) {
            self.content_events += 1;
            self.has_content_behind = !may_have_counts || self.counts.is_empty();
        }
        verdict
    }

    /// Decides what is removed of an event with the member `usage`.
    fn judge(&self, event: &[u8], finder: &Finder) -> Verdict {
        let top = |name: &str| {
            let of_name = |member: &&crate::json::Member| member.wrapper.is_none() && member.name == name;
            finder.found().iter().find(of_name).map(|member| &member.value)
        };
        let is_extra = top("choices").and_then(Value::as_array).is_some_and(Vec::is_empty);
        match top("usage") {
            Some(Value::Object(_)) if is_extra => Verdict::Drop,
            Some(Value::Null) if self.removal == Removal::ChunkAndNulls => {
                let cut = top_usage(event).and_then(|at| null_member(event, at));
                cut.map_or(Verdict::Keep, Verdict::Cut)
            }
            _ => Verdict::Keep,
        }
    }

    /// Whether an event has content of the answer: a text that is not empty.
    fn has_content(&mut self, event: &[u8]) -> bool {
        let signs = SIGNS_OF_CONTENT.iter().enumerate();
        let in_order = signs.clone().skip(self.last_sign).chain(signs.take(self.last_sign));
        for (index, sign) in in_order {
            let is_text = |at: usize| {
                let behind = event.get(at + sign.needle().len()..).unwrap_or_default().trim_ascii_start();
                matches!(behind, [b'"', first, ..] if *first != b'"')
            };
            if sign.find_iter(event).any(is_text) {
                self.last_sign = index;
                return true;
            }
        }
        false
    }
}

static USAGE: LazyLock<Needle<'static>> = LazyLock::new(|| Needle::new("\"usage\""));

static OTHER_COUNTS: LazyLock<[Needle<'static>; 4]> =
    LazyLock::new(|| ["\"timings\"", "eval_count\"", "\"meta_info\"", "\"details\""].map(Needle::new));

/// The ends of members' names with which servers send pieces of an answer.
static SIGNS_OF_CONTENT: LazyLock<[Needle<'static>; 10]> = LazyLock::new(|| {
    [
        "content\":",
        "text\":",
        "\"delta\":",
        "\"thinking\":",
        "\"partial_json\":",
        "\"arguments\":",
        "\"response\":",
        "reasoning\":",
        "refusal\":",
        "text_output\":",
    ]
    .map(Needle::new)
});

/// Returns the position behind the line end at `at`. Returns `None` if the line end may go on in the
/// next piece.
fn behind_line_end(data: &[u8], at: usize) -> Option<usize> {
    match (data.get(at)?, data.get(at + 1)) {
        (b'\r', Some(b'\n')) => Some(at + 2),
        (b'\r', None) => None,
        _ => Some(at + 1),
    }
}

/// Calls `take` with the data of an event, line by line.
fn data_of(event: &[u8], framing: Framing, mut take: impl FnMut(&[u8])) {
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

/// Returns the data of a long event that has begun.
fn without_field(event: &[u8]) -> &[u8] {
    let begin = event.iter().position(|byte| matches!(byte, b'{' | b'[')).unwrap_or(event.len());
    event.get(begin..).unwrap_or_default()
}

/// Returns the position of the member `usage` of an event's object itself, not of an object in it.
fn top_usage(event: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0_u32, 0);
    while let Some(&byte) = event.get(at) {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let end = behind_string(event, at)?;
                let is_name = event.get(end..)?.trim_ascii_start().first() == Some(&b':');
                if depth == 1 && is_name && event.get(at..end) == Some(USAGE.needle()) {
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
fn null_member(event: &[u8], at: usize) -> Option<Range<usize>> {
    let skip = |from: usize| {
        let rest = event.get(from..)?;
        Some(from + rest.len() - rest.trim_ascii_start().len())
    };
    let colon = skip(at + USAGE.needle().len())?;
    let value = skip(colon + usize::from(event.get(colon) == Some(&b':')))?;
    let end = event.get(value..)?.starts_with(b"null").then_some(value + 4)?;
    let before = event.get(..at)?.trim_ascii_end();
    match (before.last(), event.get(skip(end)?)) {
        (Some(b','), _) => Some(before.len() - 1..end),
        (_, Some(b',')) => Some(at..skip(skip(end)? + 1)?),
        _ => None,
    }
}
