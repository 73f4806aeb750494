//! Finds some members of a JSON document that arrives in pieces, without parsing the rest.
//!
//! The document is trusted to be JSON, because it comes from the upstream. In a document that is
//! not, the finder finds nothing or the wrong thing, in bounded memory.

use memchr::memchr2;
use smallvec::SmallVec;

/// Longest value that is kept, in bytes. A longer one is left out.
const LONGEST_VALUE: usize = 16 * 1024;

/// Longest name that is compared, in bytes.
const LONGEST_NAME: usize = 32;

/// Largest number of members that are kept.
const MOST_MEMBERS: usize = 8192;

/// The names of the members to look for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sought {
    /// Members of the document's object, or of each object if the document is a list.
    pub(crate) members: &'static [&'static str],
    /// Objects in the document's object that may have such a member, too.
    pub(crate) wrappers: &'static [&'static str],
}

/// A member that was found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    /// The name of the object that has the member, if it is a wrapper.
    pub(crate) wrapper: Option<&'static str>,
    pub(crate) name: &'static str,
    /// Number of objects before this one, if the document is a list of objects.
    pub(crate) item: u32,
    /// The value as it is written, without white space around it.
    pub(crate) written: Box<[u8]>,
}

impl Member {
    /// Returns the value if it is a whole number that is not negative.
    pub(crate) fn number(&self) -> Option<u64> {
        std::str::from_utf8(&self.written).ok()?.parse().ok()
    }

    /// Returns the value if it is an object.
    pub(crate) fn object(&self) -> Option<&[u8]> {
        (self.written.first() == Some(&b'{')).then_some(&self.written)
    }

    /// Returns what a list has between its brackets, if the value is one.
    pub(crate) fn list(&self) -> Option<&[u8]> {
        let items = self.written.strip_prefix(b"[")?.strip_suffix(b"]")?;
        Some(items.trim_ascii())
    }
}

/// A search through one document.
#[derive(Debug)]
pub(crate) struct Finder {
    sought: Sought,
    /// Number of objects and lists that are open.
    depth: u32,
    /// Whether the document is a list; `None` before it has begun.
    is_list: Option<bool>,
    /// Number of objects that have begun, if the document is a list.
    items: u32,
    state: State,
    /// Where the string that is being read began in this piece.
    name_from: usize,
    /// The beginning of that string, if it began in an earlier piece.
    name: SmallVec<[u8; LONGEST_NAME + 1]>,
    wrapper: Option<&'static str>,
    kept: Option<Kept>,
    found: SmallVec<[Member; 2]>,
}

/// What the next byte of the document is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Gap,
    /// Between strings, directly behind one that is perhaps the name of a member that is sought.
    BehindString(Option<Wanted>),
    /// Behind the colon of a member that is sought.
    BehindColon(Wanted),
    String,
    /// In a string, behind a backslash.
    Escape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Member(&'static str),
    Wrapper(&'static str),
}

/// A value that is being kept.
#[derive(Debug)]
struct Kept {
    name: &'static str,
    /// The part of the value in earlier pieces.
    bytes: Vec<u8>,
    /// Where the rest of the value begins in this piece.
    from: usize,
    /// Depth of the member.
    depth: u32,
}

impl Finder {
    pub(crate) fn new(sought: Sought) -> Self {
        Finder {
            sought,
            depth: 0,
            is_list: None,
            items: 0,
            state: State::Gap,
            name_from: 0,
            name: SmallVec::new(),
            wrapper: None,
            kept: None,
            found: SmallVec::new(),
        }
    }

    /// Searches the next piece of the document.
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.name_from = 0;
        let mut at = 0;
        while at < data.len() {
            at = match self.state {
                State::String => self.string(data, at),
                State::Escape => {
                    self.state = State::String;
                    at + 1
                }
                State::Gap | State::BehindString(_) | State::BehindColon(_) => self.gap(data, at),
            };
        }
        if matches!(self.state, State::String | State::Escape) {
            self.keep_name(data.get(self.name_from..).unwrap_or_default());
        }
        if let Some(kept) = &mut self.kept {
            kept.push(data.get(kept.from..).unwrap_or_default());
        }
    }

    /// Returns the members that were found up to now.
    pub(crate) fn found(&self) -> &[Member] {
        &self.found
    }

    /// Takes out the members of those objects of a list that have ended.
    pub(crate) fn take_ended(&mut self) -> SmallVec<[Member; 2]> {
        let is_between = self.depth <= 1;
        let first_open = self.found.iter().position(|member| member.item == self.items);
        let ended = if is_between { self.found.len() } else { first_open.unwrap_or(self.found.len()) };
        self.found.drain(..ended).collect()
    }

    /// Whether the document is a list.
    pub(crate) fn is_list(&self) -> bool {
        self.is_list == Some(true)
    }

    /// Reads a string up to its end or to a backslash. Returns the position behind it.
    fn string(&mut self, data: &[u8], at: usize) -> usize {
        let rest = data.get(at..).unwrap_or_default();
        let Some(length) = memchr2(b'"', b'\\', rest) else { return data.len() };
        let end = at + length;
        if rest.get(length) == Some(&b'\\') {
            self.state = State::Escape;
            return end + 1;
        }
        let name = data.get(self.name_from..end).unwrap_or_default();
        let wanted = match self.name.is_empty() {
            true => self.wanted(name),
            false => {
                self.keep_name(name);
                let name = std::mem::take(&mut self.name);
                self.wanted(&name)
            }
        };
        self.state = State::BehindString(wanted);
        end + 1
    }

    /// Keeps the beginning of a string that goes on in the next piece.
    fn keep_name(&mut self, bytes: &[u8]) {
        let room = (LONGEST_NAME + 1).saturating_sub(self.name.len());
        self.name.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// Reads the bytes up to the next string. Returns the position behind its first quote.
    fn gap(&mut self, data: &[u8], mut at: usize) -> usize {
        while let Some(&byte) = data.get(at) {
            if self.is_list.is_none() && !byte.is_ascii_whitespace() {
                self.is_list = Some(byte == b'[');
            }
            match byte {
                b'"' => {
                    self.begin_value(at);
                    self.name.clear();
                    (self.state, self.name_from) = (State::String, at + 1);
                    return at + 1;
                }
                b'{' | b'[' => {
                    if let State::BehindColon(Wanted::Wrapper(name)) = self.state {
                        self.wrapper = (byte == b'{').then_some(name);
                    }
                    self.begin_value(at);
                    self.items += u32::from(self.depth == 1 && self.is_list());
                    self.depth += 1;
                    self.state = State::Gap;
                }
                b'}' | b']' => {
                    self.end_value(data, at);
                    self.depth = self.depth.saturating_sub(1);
                    self.state = State::Gap;
                }
                b',' => {
                    self.end_value(data, at);
                    self.state = State::Gap;
                }
                b':' => {
                    self.state = match self.state {
                        State::BehindString(Some(wanted)) => State::BehindColon(wanted),
                        _ => State::Gap,
                    };
                }
                b' ' | b'\t' | b'\n' | b'\r' => {}
                _ => {
                    self.begin_value(at);
                    self.state = State::Gap;
                    if self.kept.is_none() {
                        at = self.skip_numbers(data, at);
                        continue;
                    }
                }
            }
            at += 1;
        }
        at
    }

    /// Skips numbers and brackets up to the next string or object, as in the lists of embeddings.
    /// Returns the position of its first byte.
    fn skip_numbers(&mut self, data: &[u8], at: usize) -> usize {
        let rest = data.get(at..).unwrap_or_default();
        let gap = rest.get(..memchr2(b'"', b'{', rest).unwrap_or(rest.len())).unwrap_or_default();
        let opened = gap.iter().filter(|byte| **byte == b'[').count() as u32;
        let closed = gap.iter().filter(|byte| matches!(byte, b'}' | b']')).count() as u32;
        self.depth = (self.depth + opened).saturating_sub(closed);
        at + gap.len()
    }

    /// Returns the member or wrapper that may begin behind a string.
    fn wanted(&mut self, name: &[u8]) -> Option<Wanted> {
        if self.kept.is_some() {
            return None;
        }
        let base = self.base();
        if self.depth <= base {
            self.wrapper = None;
        }
        let find = |names: &[&'static str]| names.iter().find(|known| known.as_bytes() == name).copied();
        match self.depth.checked_sub(base) {
            Some(0) => find(self.sought.members)
                .map(Wanted::Member)
                .or_else(|| find(self.sought.wrappers).map(Wanted::Wrapper)),
            Some(1) if self.wrapper.is_some() => find(self.sought.members).map(Wanted::Member),
            _ => None,
        }
    }

    /// Depth of the members that are sought, outside of wrappers.
    fn base(&self) -> u32 {
        if self.is_list() { 2 } else { 1 }
    }

    /// Begins to keep a value if it is one of a member that is sought. `at`: its position.
    fn begin_value(&mut self, at: usize) {
        if let State::BehindColon(Wanted::Member(name)) = self.state {
            self.kept = Some(Kept { name, bytes: Vec::new(), from: at, depth: self.depth });
        }
    }

    /// Ends the value that is kept if it ends at this position.
    fn end_value(&mut self, data: &[u8], at: usize) {
        let Some(kept) = self.kept.take_if(|kept| kept.depth == self.depth) else { return };
        let Kept { name, mut bytes, from, depth } = kept;
        let wrapper = self.wrapper.filter(|_| depth > self.base());
        let rest = data.get(from..at).unwrap_or_default();
        let written = match bytes.is_empty() {
            true => rest,
            false => {
                bytes.extend_from_slice(rest);
                &bytes
            }
        };
        if written.len() <= LONGEST_VALUE && self.found.len() < MOST_MEMBERS {
            self.found.push(Member { wrapper, name, item: self.items, written: written.trim_ascii().into() });
        }
    }
}

impl Kept {
    /// Keeps the rest of a piece.
    fn push(&mut self, bytes: &[u8]) {
        if self.bytes.len() <= LONGEST_VALUE {
            self.bytes.extend_from_slice(bytes);
        }
        self.from = 0;
    }
}
