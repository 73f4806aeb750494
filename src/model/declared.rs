//! What the JSON body of a request declares: its model, the output that it asks for, and the size
//! of its input.

use smallvec::SmallVec;

use super::member::{Member, member_of};
use super::named::{Named, is_plain};
use super::spellings::Spellings;
use super::values::{DeclaredOutput, DeclaredStream, StreamOptions, number};
use crate::json::{Kind, Literal, Text, Visitor};

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
    /// The objects with options of the generation that the body's object has, such as `options`.
    options: SmallVec<[&'static str; 2]>,
    /// Those that are null, and where.
    null_options: SmallVec<[(&'static str, u64); 1]>,
    /// Whether such an object is given twice, as a list or text, or under a name that only some servers
    /// read. Servers disagree on which one counts.
    has_unclear_options: bool,
    pub(crate) stream: DeclaredStream,
    /// Whether the answer may be made in the background, and fetched later.
    pub(crate) is_in_background: bool,
    /// Whether the body picks the members of the answer, which may then lack the counts of its tokens.
    pub(crate) picks_answer: bool,
    /// Whether the input has more than the body, such as an earlier conversation.
    pub(crate) has_more_input: bool,
    /// Places of the values of `priority`, from the first byte of each to behind its last one; at most
    /// [`MOST_OUTPUTS`].
    pub(crate) priorities: SmallVec<[(u64, u64); 1]>,
    /// Whether the body has more of them, or a list or an object in place of one, whose end is not known.
    pub(crate) has_more_priorities: bool,
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

    /// Whether a number of output tokens is given twice in the same spelling, or may be, or is given
    /// under a name that only some servers read. Servers disagree on which one counts.
    pub(crate) fn has_repeated_output(&self) -> bool {
        if self.has_unclear_options || self.outputs.iter().any(|output| !output.is_exact) {
            return true;
        }
        let same = |one: &DeclaredOutput, other: &DeclaredOutput| {
            (one.field, one.wrapper) == (other.field, other.wrapper)
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

    /// Whether the body declares a number of output tokens in a spelling that the server reads.
    /// Servers ignore the spellings of other APIs.
    pub(crate) fn declares_output(&self, spellings: Spellings) -> bool {
        self.outputs.iter().any(|output| output.tokens.is_some() && output.is_read_by(spellings))
    }

    /// Whether the body has an object with options of the generation.
    pub(crate) fn has_options(&self) -> bool {
        !self.options.is_empty()
    }

    /// Returns the position of the null in place of the object that these spellings have.
    pub(crate) fn null_options(&self, wanted: Spellings) -> Option<u64> {
        let wanted = wanted.wrapper?;
        self.null_options.iter().find(|(name, _)| *name == wanted).map(|(_, at)| *at)
    }

    /// Whether the part that was read ends within the options of the stream.
    pub(crate) fn is_in_stream_options(&self) -> bool {
        self.open.get(1).is_some_and(|frame| frame.member == Member::StreamOptions)
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
            [_, inner] => {
                inner.kind == Kind::Object
                    && matches!(inner.member, Member::Options(_) | Member::LikeOptions(_))
            }
            _ => false,
        }
    }

    /// Whether the member that is being read is one of an object that is a request of its own, such
    /// as a tool with a model.
    fn is_in_sub_request(&self) -> bool {
        let has_requests = |frame: &Frame| matches!(frame.member, Member::SubRequests | Member::Instances);
        match self.open.as_slice() {
            [_, inner] => inner.kind == Kind::Object && has_requests(inner),
            [_, list, item] => item.kind == Kind::Object && has_requests(list),
            _ => false,
        }
    }

    /// Returns the object with options that has the member that is being read.
    fn wrapper(&self) -> Option<&'static str> {
        match self.open.as_slice() {
            [_, Frame { member: Member::Options(name) | Member::LikeOptions(name), .. }] => Some(*name),
            _ => None,
        }
    }

    fn note_output(&mut self, tokens: Option<u64>, is_null: bool, from: u64, to: u64) {
        let (field, is_exact) = match self.member {
            Member::Output(field) => (field, true),
            Member::LikeOutput(field) => (field, false),
            _ => return,
        };
        if self.is_option() {
            match self.outputs.len() < MOST_OUTPUTS {
                true => self.outputs.push(DeclaredOutput {
                    field,
                    is_exact,
                    tokens,
                    is_null,
                    wrapper: self.wrapper(),
                    from,
                    to,
                }),
                false => self.has_more_outputs = true,
            }
        }
    }

    /// Notes a value of `priority`.
    fn note_priority(&mut self, from: u64, to: u64) {
        if self.member == Member::Priority && self.depth() == 1 {
            match self.priorities.len() < MOST_OUTPUTS {
                true => self.priorities.push((from, to)),
                false => self.has_more_priorities = true,
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
            Member::Stream => self.stream.is_on.give(None),
            Member::StreamOptions => self.stream.options.give(None),
            Member::LikeStream => self.stream = DeclaredStream::UNCLEAR,
            // Servers read such values as true.
            Member::Background => self.is_in_background = true,
            _ => {}
        }
    }

    /// Notes an item of a list: each prompt is answered by itself.
    fn note_item(&mut self, item: Item) {
        let [_, list] = self.open.as_slice() else { return };
        let is_prompt = match list.member {
            Member::Prompt => item != Item::Number,
            Member::Instances => true,
            // The items of a conversation are objects.
            Member::Messages => matches!(item, Item::String | Item::List),
            _ => false,
        };
        let is_item = list.kind == Kind::Array && is_prompt;
        self.prompts = self.prompts.saturating_add(u64::from(is_item));
    }

    /// Notes an object with options, or another value in its place.
    fn note_options(&mut self, is_object: bool) {
        let (Member::Options(name) | Member::LikeOptions(name), 1) = (self.member, self.depth()) else {
            return;
        };
        let is_exact = matches!(self.member, Member::Options(_));
        let is_repeated = self.options.contains(&name);
        let was_null = self.null_options.iter().any(|(null, _)| *null == name);
        self.has_unclear_options |= !is_object || is_repeated || was_null || !is_exact;
        if !is_repeated {
            self.options.push(name);
        }
    }

    /// Notes null in place of an object with options. Servers that take the last one of several have no
    /// options then.
    fn note_null_options(&mut self, at: u64) {
        let (Member::Options(name) | Member::LikeOptions(name), 1) = (self.member, self.depth()) else {
            return;
        };
        let is_exact = matches!(self.member, Member::Options(_));
        let was_null = self.null_options.iter().any(|(null, _)| *null == name);
        self.has_unclear_options |= self.options.contains(&name) || was_null || !is_exact;
        if !was_null {
            self.null_options.push((name, at));
        }
    }

    /// Notes a value in the options of a stream. `literal`: the value with its position and length, if
    /// it is a literal.
    fn note_usage_option(&mut self, literal: Option<(Literal, u64, u64)>) {
        if let [_, Frame { member: Member::StreamOptions, kind: Kind::Object }] = self.open.as_slice() {
            self.stream.note_option(self.member, literal);
        }
    }
}

impl Visitor for Declared {
    fn open(&mut self, kind: Kind, at: u64) {
        if self.depth() == 0 && kind == Kind::Object {
            self.inside = Some(at + 1);
        }
        self.note_item(if kind == Kind::Array { Item::List } else { Item::Object });
        self.note_options(kind == Kind::Object);
        if let (Kind::Array, [_, list, inner]) = (kind, self.open.as_slice())
            && list.member == Member::Vectors
            && inner.kind == Kind::Array
        {
            // A list of lists of vectors has the vectors of several prompts.
            self.prompts = u64::MAX;
        }
        match (kind, self.depth(), self.member) {
            (Kind::Object, 1, Member::StreamOptions) => {
                self.stream.options.give(Some(StreamOptions::Silent(at + 1, false)));
            }
            _ => self.note_other(),
        }
        self.note_usage_option(None);
        let member = match (self.open.last(), self.member) {
            // A list in a list is part of the same member.
            (Some(frame), _) if frame.kind == Kind::Array => frame.member,
            (_, member) => member,
        };
        self.note_output(None, false, at, at);
        self.has_more_priorities |= self.member == Member::Priority && self.depth() == 1;
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
        let is_of_text = self.is_option() && self.member == Member::TextOptions;
        self.has_unclear_options |= is_of_text;
        self.picks_answer |= is_at_top && self.member == Member::AnswerFields;
        let is_other = is_of_text || (self.is_option() && self.member == Member::OtherModel);
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
        self.note_item(Item::String);
        self.note_options(false);
        self.note_usage_option(None);
        self.has_more_input |= self.depth() == 1 && self.member == Member::EarlierInput;
        // A text beside a list of texts, or beside vectors, is a prompt of its own.
        let is_prompt = self.depth() == 1 && self.member == Member::Prompt && string.bytes > 0;
        self.prompts = self.prompts.saturating_add(u64::from(is_prompt));
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
        self.note_priority(from, to);
        self.note_repeats(number);
        if self.member != Member::Model {
            self.note_other();
        }
    }

    fn number(&mut self, written: &Text, from: u64) {
        let number = written.whole().and_then(number);
        let to = from + written.bytes();
        self.note_output(number, false, from, to);
        self.note_priority(from, to);
        self.note_repeats(number);
        self.note_item(Item::Number);
        self.note_options(false);
        self.note_usage_option(None);
        self.note_other();
        if self.open.last().is_some_and(|frame| {
            frame.kind == Kind::Array && matches!(frame.member, Member::Prompt | Member::Messages)
        }) {
            self.token_ids += 1;
        }
    }

    fn literal(&mut self, literal: Literal, from: u64) {
        let to = from + literal.written().len() as u64;
        self.note_output(None, literal == Literal::Null, from, to);
        self.note_priority(from, to);
        if literal != Literal::Null {
            self.note_repeats(None);
        }
        match literal {
            Literal::Null => self.note_null_options(from),
            Literal::True | Literal::False => self.note_options(false),
        }
        self.note_usage_option(Some((literal, from, to - from)));
        match (self.depth(), self.member, literal) {
            (1, Member::Background, Literal::False | Literal::Null) => {}
            (1, Member::StreamOptions, Literal::Null) => {
                self.stream.options.give(Some(StreamOptions::Null(from)));
            }
            (1, Member::Stream, Literal::True) => self.stream.is_on.give(Some(true)),
            (1, Member::Stream, Literal::False | Literal::Null) => self.stream.is_on.give(Some(false)),
            _ => self.note_other(),
        }
    }
}

/// The kind of an item of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    String,
    Number,
    List,
    Object,
}
