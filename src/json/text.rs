//! A name, string or number of a JSON document, as far as it is kept.

use smallvec::SmallVec;

/// Longest text that is kept, in bytes. Names of models and members are shorter.
pub(crate) const LONGEST_TEXT: usize = 256;

/// The decoded beginning of a name, string or number.
#[derive(Debug, Default)]
pub(crate) struct Text {
    kept: SmallVec<[u8; LONGEST_TEXT]>,
    /// Number of all bytes, kept or not.
    bytes: u64,
    /// Whether bytes were left out, because the text is longer than [`LONGEST_TEXT`].
    is_cut: bool,
    /// Whether the text has half of a surrogate pair. Parsers disagree on its meaning.
    has_lone_surrogate: bool,
    /// The first half of a surrogate pair, if it was read last.
    high: Option<u16>,
}

impl Text {
    /// Returns the text; `None` if it is cut or if parsers disagree on its meaning.
    pub(crate) fn whole(&self) -> Option<&str> {
        if self.is_cut || self.has_lone_surrogate {
            return None;
        }
        std::str::from_utf8(&self.kept).ok()
    }

    /// Whether the text has half of a surrogate pair. Parsers disagree on its meaning.
    pub(crate) fn is_odd(&self) -> bool {
        self.has_lone_surrogate
    }

    /// Returns the length of the whole text, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the first bytes of the text.
    pub(crate) fn beginning(&self) -> &[u8] {
        &self.kept
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
        (self.is_cut, self.has_lone_surrogate, self.high) = (false, false, None);
    }

    /// Adds bytes. A character of an escape is added in the same way.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.end();
        self.bytes += bytes.len() as u64;
        let room = LONGEST_TEXT - self.kept.len();
        self.is_cut |= bytes.len() > room;
        self.kept.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    /// Adds a `\u` escape. Returns the character that is complete with it.
    pub(super) fn escaped(&mut self, unit: u16) -> Option<char> {
        let high = self.high.take();
        if let Some(high) = high
            && let Some(Ok(character)) = char::decode_utf16([high, unit]).next()
        {
            return Some(character);
        }
        self.has_lone_surrogate |= high.is_some();
        match char::from_u32(u32::from(unit)) {
            Some(character) => Some(character),
            // The next escape may complete the pair.
            None if (0xd800..0xdc00).contains(&unit) => {
                self.high = Some(unit);
                None
            }
            None => {
                self.has_lone_surrogate = true;
                None
            }
        }
    }

    /// Ends the text, or the row of escapes that was read last.
    pub(super) fn end(&mut self) {
        self.has_lone_surrogate |= self.high.take().is_some();
    }
}
