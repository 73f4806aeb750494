//! The events of a stream: server-sent events (WHATWG HTML, section 9.2.6), or lines of JSON.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder as Needle;
use memchr::{memchr, memchr2, memchr3};

use super::counts::{Counts, IN_EVENT, META_INFO};
use super::event_text::{Framing, behind_line_end, data_of, is_last, null_member, top_usage, without_field};
use crate::json::{Finder, Member};

/// Largest number of answers in one stream that are counted one by one.
const MOST_ANSWERS: u64 = 8192;

/// Longest event that is kept while it arrives, in bytes. A longer one is searched as it passes.
const LONGEST_EVENT: usize = 64 * 1024;

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
    /// Whether the last event has come that the API defines. Clients may leave behind it.
    pub(super) has_last_event: bool,
    /// The sign of content that the last event with content had.
    last_sign: usize,
    /// The last event with content and without counts.
    template: Option<Box<Template>>,
}

/// An event with content and without counts. Most events of a stream differ from the one before in
/// nothing but the text of their content.
#[derive(Debug, Default)]
struct Template {
    /// The bytes before the text and behind it.
    before: Vec<u8>,
    after: Vec<u8>,
    /// What is removed behind the text, as offsets in `after`; empty for nothing.
    cut: Range<usize>,
}

impl Template {
    /// Whether an event differs from this one in nothing but the text of its content.
    fn matches(&self, event: &[u8]) -> bool {
        let text = event.strip_prefix(&*self.before).and_then(|rest| rest.strip_suffix(&*self.after));
        // Such a byte would end the text, and an odd number of backslashes would let it go on.
        let is_text = |text: &[u8]| {
            !text.is_empty() && memchr3(b'"', b'\n', b'\r', text).is_none() && text.last() != Some(&b'\\')
        };
        text.is_some_and(is_text)
    }
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
            has_last_event: false,
            last_sign: 0,
            template: None,
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
        // What is forwarded, if it differs from the beginning of `data`.
        let mut kept = (!self.pending.is_empty()).then(BytesMut::new);
        let mut unchanged = 0;
        self.scan(&data, |event, verdict| {
            if kept.is_none() && verdict != Verdict::Keep {
                kept = Some(BytesMut::from(data.get(..unchanged).unwrap_or_default()));
            }
            let Some(kept) = &mut kept else {
                unchanged += event.len();
                return;
            };
            match verdict {
                Verdict::Keep => kept.extend_from_slice(event),
                Verdict::Drop => {}
                Verdict::Cut(range) => {
                    kept.extend_from_slice(event.get(..range.start).unwrap_or_default());
                    kept.extend_from_slice(event.get(range.end..).unwrap_or_default());
                }
            }
        });
        match kept {
            Some(kept) => kept.freeze(),
            None if unchanged == data.len() => data,
            None => data.slice(..unchanged),
        }
    }

    /// Ends the stream. Returns the bytes that were held back.
    pub(super) fn finish(&mut self) -> Bytes {
        if let Some(long) = self.long.take() {
            self.note_counts(&long);
        }
        let mut rest = std::mem::take(&mut self.pending);
        if rest.is_empty() {
            return Bytes::new();
        }
        match self.event(&rest) {
            _ if self.removal == Removal::Nothing => rest.clear(),
            Verdict::Keep => {}
            Verdict::Drop => rest.clear(),
            Verdict::Cut(range) => drop(rest.drain(range)),
        }
        rest.into()
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
        let is_of_sglang = finder.found().iter().any(|member| member.wrapper == Some(META_INFO));
        let index = top("index").filter(|_| is_of_sglang).and_then(Member::number);
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
                // A line end after a lone CR is a lone CR, too.
                b'\r' if data.get(at..behind) == Some(b"\r") => return Some(behind + 1),
                b'\n' | b'\r' => return behind_line_end(data, behind),
                _ => at = behind,
            }
        }
    }

    /// Scans one event.
    fn event(&mut self, event: &[u8]) -> Verdict {
        if let Some(template) = &self.template
            && template.matches(event)
        {
            self.content_events += 1;
            self.has_content_behind = true;
            let end = event.len() - template.after.len();
            return match template.cut.is_empty() {
                true => Verdict::Keep,
                false => Verdict::Cut(end + template.cut.start..end + template.cut.end),
            };
        }
        let usage = USAGE.find(event);
        let may_have_counts =
            usage.is_some() || OTHER_COUNTS.iter().any(|needle| needle.find(event).is_some());
        let (mut verdict, mut has_counts) = (Verdict::Keep, false);
        if may_have_counts {
            let mut finder = Finder::new(IN_EVENT);
            data_of(event, self.framing, |data| finder.push(data));
            has_counts = !self.note_counts(&finder).is_empty();
            if usage.is_some() && self.removal != Removal::Nothing {
                verdict = self.judge(event, &finder);
            }
        }
        let text = if verdict == Verdict::Drop { None } else { self.content(event) };
        if may_have_counts || text.is_none() {
            self.has_last_event |= is_last(event);
        }
        if let Some(text) = text {
            self.content_events += 1;
            if !has_counts {
                self.has_content_behind = true;
                self.note_template(event, text, &verdict);
            }
        }
        verdict
    }

    /// Notes an event whose content begins at `text`, for the events that differ in their text alone.
    fn note_template(&mut self, event: &[u8], text: usize, verdict: &Verdict) {
        let mut template = self.template.take().unwrap_or_default();
        let behind = event.get(text..).unwrap_or_default();
        let Some(end) = memchr2(b'"', b'\\', behind).filter(|end| behind.get(*end) == Some(&b'"')) else {
            return;
        };
        let end = text + end;
        template.cut = match verdict {
            Verdict::Cut(range) if range.start < end => return,
            Verdict::Cut(range) => range.start - end..range.end - end,
            Verdict::Keep | Verdict::Drop => 0..0,
        };
        template.before.clear();
        template.before.extend_from_slice(event.get(..text).unwrap_or_default());
        template.after.clear();
        template.after.extend_from_slice(event.get(end..).unwrap_or_default());
        self.template = Some(template);
    }

    /// Decides what is removed of an event with the member `usage`.
    fn judge(&self, event: &[u8], finder: &Finder) -> Verdict {
        let top =
            |name: &str| finder.found().iter().find(|member| member.wrapper.is_none() && member.name == name);
        let is_extra = top("choices").and_then(Member::list).is_some_and(<[u8]>::is_empty);
        match top("usage") {
            Some(usage) if usage.object().is_some() && is_extra => Verdict::Drop,
            Some(usage) if &*usage.written == b"null" && self.removal == Removal::ChunkAndNulls => {
                let cut = top_usage(event).and_then(|at| null_member(event, at));
                cut.map_or(Verdict::Keep, Verdict::Cut)
            }
            _ => Verdict::Keep,
        }
    }

    /// Returns the position of an event's content, which is a text that is not empty: the position
    /// behind its first quote.
    fn content(&mut self, event: &[u8]) -> Option<usize> {
        let signs = SIGNS_OF_CONTENT.iter().enumerate();
        let in_order = signs.clone().skip(self.last_sign).chain(signs.take(self.last_sign));
        for (index, sign) in in_order {
            let text = |at: usize| {
                let behind = event.get(at + sign.needle().len()..).unwrap_or_default();
                let value = behind.trim_ascii_start();
                let is_text = matches!(value, [b'"', first, ..] if *first != b'"');
                is_text.then(|| event.len() - value.len() + 1)
            };
            if let Some(text) = sign.find_iter(event).find_map(text) {
                self.last_sign = index;
                return Some(text);
            }
        }
        None
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
