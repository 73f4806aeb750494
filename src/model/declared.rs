//! What the JSON body of a request declares: its model, the output that it asks for, and the size
//! of its input.

use smallvec::SmallVec;

use super::member::{Member, member_of};
use super::named::{Named, is_plain};
use crate::json::{Kind, Literal, Text, Visitor};

/// A number of output tokens, as a member of the body declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeclaredOutput {
    /// The member's name, as it is known.
    pub(crate) field: &'static str,
    /// Number of tokens; `None` for a value that is no limit (null, 0, −1) or no number.
    pub(crate) tokens: Option<u64>,
    /// Whether the value is null, which is as good as no member.
    pub(crate) is_null: bool,
    /// Whether the member is in an object with options, such as `options` or `sampling_params`.
    pub(crate) is_nested: bool,
    /// Position of the value in the body, from its first byte to behind its last one.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl DeclaredOutput {
    /// Whether servers read this spelling at this path.
    pub(crate) fn is_read_at(&self, path: &str) -> bool {
        let ends = |ends: &[&str]| ends.iter().any(|end| path.ends_with(end));
        let (fields, is_nested): (&[&str], bool) = match () {
            () if ends(&["/chat/completions", "/chat/completions/batch", "/chat"])
                && !ends(&["/api/chat"]) =>
            {
                (&["max_tokens", "max_completion_tokens"], false)
            }
            () if ends(&["/api/chat", "/api/generate"]) => (&["num_predict"], true),
            () if ends(&["/v1/generate"]) => (&["max_tokens", "max_new_tokens"], true),
            () if ends(&["/generate", "/generate_stream", "/vertex_generate"]) || path == "/" => {
                (&["max_new_tokens"], true)
            }
            () if ends(&["/responses", "/responses/compact"]) => (&["max_output_tokens"], false),
            () if ends(&["/completion", "/infill"]) => {
                (&["n_predict", "max_tokens", "max_completion_tokens"], false)
            }
            () if ends(&["/complete"]) => (&["max_tokens_to_sample"], false),
            () if ends(&["completions", "/messages"]) => (&["max_tokens"], false),
            // Other paths: any spelling of a member of the body's object itself.
            () => return !self.is_nested,
        };
        fields.contains(&self.field) && self.is_nested == is_nested
    }
}

/// A value that may be left out, or be given more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Given<T> {
    #[default]
    Never,
    Once(T),
    /// More than once, or in a form that is not known.
    Unclear,
}

impl<T> Given<T> {
    fn give(&mut self, value: Option<T>) {
        *self = match (&self, value) {
            (Given::Never, Some(value)) => Given::Once(value),
            _ => Given::Unclear,
        };
    }
}

/// The declarations of a body, as far as it was read.
#[derive(Debug, Default)]
pub(crate) struct Declared {
    pub(crate) model: Named,
    /// The declared numbers of output tokens, in any spelling; at most [`MOST_OUTPUTS`].
    pub(crate) outputs: SmallVec<[DeclaredOutput; 2]>,
    /// Whether the body declares more numbers of output tokens.
    pub(crate) has_more_outputs: bool,
    /// `n` and `best_of`, the greater of them.
    repeats: u64,
    /// Number of items of `prompt`, if it is a list.
    prompts: u64,
    /// Whether a member picks another model, or an adapter, than `model` does.
    pub(crate) has_other_model: bool,
    /// Whether the body has an object with options of the generation, such as `options`.
    pub(crate) has_options: bool,
    pub(crate) stream: Given<bool>,
    pub(crate) stream_options: Given<()>,
    /// Bytes of the input's text, decoded.
    text_bytes: u64,
    /// Number of tokens that the input has as numbers.
    token_ids: u64,
    /// Number of images, recordings and other files.
    pub(crate) media: u64,
    /// Position behind the opening bracket of the body's object.
    pub(crate) inside: Option<u64>,
    /// Whether the body's object has a member.
    pub(crate) has_members: bool,
    /// The member of each open object and array, from the outermost to the innermost.
    open: SmallVec<[Frame; 8]>,
    /// The member whose value comes next.
    member: Member,
    string: StringSoFar,
}

/// An open object or array.
#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: Kind,
    /// The member that it is the value of.
    member: Member,
}

/// What is known of the string that is being read.
#[derive(Clone, Copy, Debug, Default)]
struct StringSoFar {
    bytes: u64,
    /// Whether the string has a byte that is not of base64.
    has_other_bytes: bool,
}

/// Depth from which names of members count as text: the names of properties in the schemas of tools
/// are part of the input.
const DEPTH_OF_SCHEMAS: usize = 6;

/// Longest beginning of a `data:` URL, up to its data, in bytes.
const LONGEST_MEDIA_TYPE: usize = 128;

/// Largest number of declared numbers of output tokens that are kept. Clients declare one or two.
const MOST_OUTPUTS: usize = 16;

/// Shortest base64 that counts as a file and not as text, in bytes.
const SHORTEST_MEDIA: u64 = 64;

impl Declared {
    /// Returns how often the output is generated: for each prompt, `n` or `best_of` times.
    pub(crate) fn multiplier(&self) -> u64 {
        self.repeats.max(1).saturating_mul(self.prompts.max(1))
    }

    /// Whether a number of output tokens is given twice in the same spelling. Servers disagree on
    /// which one counts.
    pub(crate) fn has_repeated_output(&self) -> bool {
        let same = |one: &DeclaredOutput, other: &DeclaredOutput| {
            (one.field, one.is_nested) == (other.field, other.is_nested)
        };
        let is_repeated = |(index, output): (usize, &DeclaredOutput)| {
            self.outputs.iter().take(index).any(|earlier| same(earlier, output))
        };
        self.outputs.iter().enumerate().any(is_repeated)
    }

    /// Returns the greatest number of output tokens that is declared in any spelling; `None` if none
    /// is.
    pub(crate) fn greatest_output(&self) -> Option<u64> {
        match self.has_more_outputs {
            true => Some(u64::MAX),
            false => self.outputs.iter().filter_map(|output| output.tokens).max(),
        }
    }

    /// Whether the body declares a number of output tokens in a spelling that servers read at this
    /// path. Servers ignore the spellings of other APIs.
    pub(crate) fn declares_output(&self, path: &str) -> bool {
        self.outputs.iter().any(|output| output.tokens.is_some() && output.is_read_at(path))
    }

    /// Returns the number of bytes of the input's text.
    pub(crate) fn text_bytes(&self) -> u64 {
        self.text_bytes + if self.is_in_media() { 0 } else { self.string.bytes }
    }

    /// Adds a text of the input, in bytes.
    pub(super) fn add_text(&mut self, bytes: u64) {
        self.text_bytes += bytes;
    }

    /// Returns the number of tokens that the input has as numbers.
    pub(crate) fn token_ids(&self) -> u64 {
        self.token_ids
    }

    /// Whether the part that was read ends within a file, such as an image in base64.
    pub(crate) fn is_in_media(&self) -> bool {
        self.string.bytes >= SHORTEST_MEDIA && !self.string.has_other_bytes && self.holds_media()
    }

    /// Whether the member that is being read may hold a file.
    fn holds_media(&self) -> bool {
        let around = self.open.last().map_or(Member::Other, |frame| frame.member);
        let in_list = self.open.last().is_some_and(|frame| frame.kind == Kind::Array);
        matches!((in_list, self.member, around), (true, _, Member::Files) | (false, Member::Files, _))
            || matches!((self.member, around), (Member::Locator, _) | (Member::Url, Member::Locator))
    }

    /// Depth of the members that are being read; 1 for the members of the body's object.
    fn depth(&self) -> usize {
        self.open.len()
    }

    /// Whether the member that is being read is one of the body's object itself, or one of an
    /// object with options of the generation.
    fn is_option(&self) -> bool {
        match self.open.as_slice() {
            [outer] => outer.kind == Kind::Object,
            [_, inner] => inner.kind == Kind::Object && inner.member == Member::Options,
            _ => false,
        }
    }

    /// Whether the member that is being read is one of an object that is a request of its own, such
    /// as a tool with a model.
    fn is_in_sub_request(&self) -> bool {
        match self.open.as_slice() {
            [_, inner] => inner.kind == Kind::Object && inner.member == Member::SubRequests,
            [_, list, item] => list.member == Member::SubRequests && item.kind == Kind::Object,
            _ => false,
        }
    }

    fn note_output(&mut self, tokens: Option<u64>, is_null: bool, from: u64, to: u64) {
        if let (Member::Output(field), true) = (self.member, self.is_option()) {
            match self.outputs.len() < MOST_OUTPUTS {
                true => self.outputs.push(DeclaredOutput {
                    field,
                    tokens,
                    is_null,
                    is_nested: self.depth() > 1,
                    from,
                    to,
                }),
                false => self.has_more_outputs = true,
            }
        }
    }

    fn note_repeats(&mut self, count: Option<u64>) {
        if self.member == Member::Repeats && self.is_option() {
            // A count that is not known is as many as can be.
            self.repeats = self.repeats.max(count.unwrap_or(u64::MAX));
        }
    }

    /// Notes a value of the body's object that is neither a string nor of use.
    fn note_other(&mut self) {
        if self.depth() != 1 {
            return;
        }
        match self.member {
            Member::Model => self.model = Named::Ambiguous,
            Member::Stream => self.stream.give(None),
            Member::StreamOptions => self.stream_options.give(Some(())),
            _ => {}
        }
    }

    /// Notes an item of a list: each prompt is answered by itself.
    fn note_item(&mut self, is_number: bool) {
        if let [_, list] = self.open.as_slice()
            && list.kind == Kind::Array
            && list.member == Member::Prompt
            && !is_number
        {
            self.prompts += 1;
        }
    }
}

impl Visitor for Declared {
    fn open(&mut self, kind: Kind, at: u64) {
        if self.depth() == 0 && kind == Kind::Object {
            self.inside = Some(at + 1);
        }
        if kind == Kind::Array {
            self.note_item(false);
        }
        self.note_other();
        let member = match (self.open.last(), self.member) {
            // A list in a list is part of the same member.
            (Some(frame), _) if frame.kind == Kind::Array => frame.member,
            (_, member) => member,
        };
        self.note_output(None, false, at, at);
        self.note_repeats(None);
        self.open.push(Frame { kind, member });
        self.member = Member::Other;
    }

    fn close(&mut self, _at: u64) {
        self.open.pop();
        self.member = Member::Other;
    }

    fn name(&mut self, name: &Text) {
        self.has_members |= self.depth() == 1;
        if self.depth() >= DEPTH_OF_SCHEMAS {
            self.text_bytes += name.bytes();
        }
        self.member = member_of(name);
        let is_at_top = self.depth() == 1;
        self.has_options |= is_at_top && self.member == Member::Options;
        let is_other = self.is_option() && self.member == Member::OtherModel;
        let picks_model = matches!(self.member, Member::Model | Member::LikeModel | Member::OtherModel);
        self.has_other_model |= is_other || (picks_model && self.is_in_sub_request());
        if (is_at_top && (self.member == Member::LikeModel || name.is_odd())) || self.has_other_model {
            self.model = Named::Ambiguous;
        }
        // Servers disagree on a name with half of a surrogate pair.
        self.has_more_outputs |= name.is_odd();
    }

    fn piece(&mut self, decoded: &[u8]) {
        let before = self.string.bytes as usize;
        self.string.bytes += decoded.len() as u64;
        let is_base64 =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_');
        // A `data:` URL begins with its media type.
        let is_media_type = |at: usize, byte: u8| {
            before + at < LONGEST_MEDIA_TYPE && matches!(byte, b':' | b';' | b',' | b'.')
        };
        if !self.string.has_other_bytes && self.holds_media() {
            let mut bytes = decoded.iter().enumerate();
            self.string.has_other_bytes =
                !bytes.all(|(at, byte)| is_base64(*byte) || is_media_type(at, *byte));
        }
    }

    fn string(&mut self, value: &Text, from: u64, to: u64) {
        let string = std::mem::take(&mut self.string);
        let is_file = match (self.holds_media(), value.beginning()) {
            (true, [b'd', b'a', b't', b'a', b':', url @ ..]) => {
                memchr::memmem::find(url, b";base64,").is_some() && !string.has_other_bytes
            }
            (true, [b'h', b't', b't', b'p', ..]) => !value.beginning().contains(&b' '),
            (holds, _) => holds && string.bytes >= SHORTEST_MEDIA && !string.has_other_bytes,
        };
        self.note_item(false);
        match (self.depth(), self.member) {
            (1, Member::Model) => {
                self.model = match (&self.model, value.whole().filter(|name| is_plain(name))) {
                    (Named::Absent, Some(name)) => Named::Model(name.to_owned()),
                    _ => Named::Ambiguous,
                };
            }
            _ if is_file => self.media += 1,
            _ => self.text_bytes += string.bytes,
        }
        // Some servers read numbers from strings.
        let number = value.whole().and_then(number);
        self.note_output(number, false, from, to);
        self.note_repeats(number);
        if self.member != Member::Model {
            self.note_other();
        }
    }

    fn number(&mut self, written: &Text, from: u64) {
        let number = written.whole().and_then(number);
        let to = from + written.bytes();
        self.note_output(number, false, from, to);
        self.note_repeats(number);
        self.note_item(true);
        self.note_other();
        if self.open.last().is_some_and(|frame| frame.kind == Kind::Array && frame.member == Member::Prompt) {
            self.token_ids += 1;
        }
    }

    fn literal(&mut self, literal: Literal, from: u64) {
        let to = from + literal.written().len() as u64;
        self.note_output(None, literal == Literal::Null, from, to);
        if literal != Literal::Null {
            self.note_repeats(None);
        }
        match (self.depth(), self.member, literal) {
            (1, Member::Stream, Literal::True) => self.stream.give(Some(true)),
            (1, Member::Stream, Literal::False | Literal::Null) => self.stream.give(Some(false)),
            // A `stream_options` that is null is as good as none, but it is there.
            _ => self.note_other(),
        }
    }
}

/// Reads a number of tokens or repetitions; `None` for a value that is no limit. A fraction is
/// rounded up.
fn number(written: &str) -> Option<u64> {
    let written = written.trim();
    if let Ok(whole) = written.parse::<u64>() {
        return (whole > 0).then_some(whole);
    }
    // Servers that round down read a number below one as none.
    let number = written.parse::<f64>().ok().filter(|number| *number >= 1.0)?.ceil();
    match number {
        number if number >= 1e18 => Some(u64::MAX),
        number if number >= 1.0 => Some(number as u64),
        _ => None,
    }
}
