//! Finds some members of a JSON document that arrives in pieces, without parsing the rest.
//!
//! The document is trusted to be JSON, because it comes from the upstream. In a document that is
//! not, the finder finds nothing or the wrong thing, in bounded memory.

use memchr::{memchr, memchr2};
use serde_json::Value;

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
    pub(crate) value: Value,
}

/// A search through one document.
#[derive(Debug)]
pub(crate) struct Finder {
    sought: Sought,
    /// Number of objects and lists that are open.
    depth: u32,
    /// Whether the document is a list; `None` before it has begun.
    is_list: Option<bool>,
    place: Place,
    /// The beginning of the string that was read last.
    name: Vec<u8>,
    wrapper: Option<&'static str>,
    kept: Option<Kept>,
    found: Vec<Member>,
}

/// Where in the document the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Gap,
    /// Between strings, directly behind one.
    BehindString,
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
    bytes: Vec<u8>,
    /// Depth of the member.
    depth: u32,
}

impl Kept {
    fn push(&mut self, bytes: &[u8]) {
        if self.bytes.len() <= LONGEST_VALUE {
            self.bytes.extend_from_slice(bytes);
        }
    }
}

impl Finder {
    pub(crate) fn new(sought: Sought) -> Self {
        Finder {
            sought,
            depth: 0,
            is_list: None,
            place: Place::Gap,
            name: Vec::new(),
            wrapper: None,
            kept: None,
            found: Vec::new(),
        }
    }

    /// Searches the next piece of the document.
    pub(crate) fn push(&mut self, data: &[u8]) {
        let mut rest = data;
        while !rest.is_empty() {
            rest = match self.place {
                Place::String => self.string(rest),
                Place::Escape => {
                    let (escaped, behind) = rest.split_at(1);
                    self.string_bytes(escaped);
                    self.place = Place::String;
                    behind
                }
                Place::Gap | Place::BehindString | Place::BehindColon(_) => self.gap(rest),
            };
        }
    }

    /// Returns the members that were found up to now.
    pub(crate) fn found(&self) -> &[Member] {
        &self.found
    }

    /// Whether the document is a list.
    pub(crate) fn is_list(&self) -> bool {
        self.is_list == Some(true)
    }

    /// Reads a string up to its end or to a backslash. Returns the bytes behind it.
    fn string<'d>(&mut self, rest: &'d [u8]) -> &'d [u8] {
        let length = memchr2(b'"', b'\\', rest).map_or(rest.len(), |at| at + 1);
        let (string, behind) = rest.split_at(length);
        self.string_bytes(string);
        match string.last() {
            Some(b'"') => {
                self.name.pop();
                self.place = Place::BehindString;
            }
            Some(b'\\') => self.place = Place::Escape,
            _ => {}
        }
        behind
    }

    fn string_bytes(&mut self, bytes: &[u8]) {
        // One byte more than the longest name: its quote.
        let room = (LONGEST_NAME + 1).saturating_sub(self.name.len());
        self.name.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        if let Some(kept) = &mut self.kept {
            kept.push(bytes);
        }
    }

    /// Reads the bytes up to the next string. Returns the bytes behind its first quote.
    fn gap<'d>(&mut self, rest: &'d [u8]) -> &'d [u8] {
        let length = memchr(b'"', rest).unwrap_or(rest.len());
        let (gap, behind) = rest.split_at(length);
        if self.is_list.is_none() {
            let first = gap.iter().find(|byte| !byte.is_ascii_whitespace());
            self.is_list = first.map(|byte| *byte == b'[');
        }
        if self.place == Place::Gap && self.kept.is_none() {
            let count = |bracket: [u8; 2]| gap.iter().filter(|byte| bracket.contains(byte)).count() as u32;
            self.depth = (self.depth + count(*b"{[")).saturating_sub(count(*b"}]"));
        } else {
            gap.iter().for_each(|byte| self.byte(*byte));
        }
        let Some((quote, behind)) = behind.split_first() else { return behind };
        if let Place::BehindColon(wanted) = self.place {
            self.begin(wanted);
        }
        if let Some(kept) = &mut self.kept {
            kept.push(&[*quote]);
        }
        self.name.clear();
        self.place = Place::String;
        behind
    }

    /// Reads one byte of a gap.
    fn byte(&mut self, byte: u8) {
        let is_space = byte.is_ascii_whitespace();
        match self.place {
            Place::BehindString if is_space => {}
            Place::BehindString => {
                let wanted = if byte == b':' { self.wanted() } else { None };
                self.place = wanted.map_or(Place::Gap, Place::BehindColon);
                if wanted.is_some() {
                    return;
                }
            }
            Place::BehindColon(_) if is_space => return,
            Place::BehindColon(Wanted::Wrapper(name)) => {
                self.wrapper = (byte == b'{').then_some(name);
                self.place = Place::Gap;
            }
            Place::BehindColon(wanted) => {
                self.begin(wanted);
            }
            _ => {}
        }
        if matches!(byte, b',' | b'}' | b']')
            && self.kept.as_ref().is_some_and(|kept| kept.depth == self.depth)
        {
            self.end_kept();
        }
        if let Some(kept) = &mut self.kept {
            kept.push(&[byte]);
        }
        match byte {
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    /// Returns the member or wrapper that begins behind the string that was read last.
    fn wanted(&mut self) -> Option<Wanted> {
        if self.kept.is_some() {
            return None;
        }
        let base = if self.is_list() { 2 } else { 1 };
        if self.depth <= base {
            self.wrapper = None;
        }
        let find = |names: &[&'static str]| names.iter().find(|name| name.as_bytes() == self.name).copied();
        match self.depth.checked_sub(base) {
            Some(0) => find(self.sought.members)
                .map(Wanted::Member)
                .or_else(|| find(self.sought.wrappers).map(Wanted::Wrapper)),
            Some(1) if self.wrapper.is_some() => find(self.sought.members).map(Wanted::Member),
            _ => None,
        }
    }

    fn begin(&mut self, wanted: Wanted) {
        self.place = Place::Gap;
        if let Wanted::Member(name) = wanted {
            self.kept = Some(Kept { name, bytes: Vec::new(), depth: self.depth });
        }
    }

    fn end_kept(&mut self) {
        let Some(Kept { name, bytes, depth }) = self.kept.take() else { return };
        let base = if self.is_list() { 2 } else { 1 };
        let wrapper = self.wrapper.filter(|_| depth > base);
        if let (Ok(value), true) = (serde_json::from_slice(&bytes), self.found.len() < MOST_MEMBERS) {
            self.found.push(Member { wrapper, name, value });
        }
    }
}
