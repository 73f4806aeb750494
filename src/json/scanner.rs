//! A strict scanner of JSON (RFC 8259) for documents that arrive in pieces.
//!
//! The scanner keeps no part of the document but the name or value that it reads, up to
//! [`LONGEST_TEXT`] bytes of it, so that a document may have any length. It accepts exactly the
//! documents of the RFC in UTF-8: whatever it accepts, every other parser reads in the same way,
//! except for members that have the same name, which the [`Visitor`] has to compare.

use super::text::Text;
use super::utf8::Utf8Check;

/// Deepest nesting of arrays and objects. Recursive parsers end at 128 levels (serde_json) or some
/// 1,000 (Python).
const DEEPEST: usize = 128;

/// Receives the parts of a document, in order. Positions are offsets in the document, in bytes.
pub(crate) trait Visitor {
    /// An object or an array begins. `at`: the position of its bracket.
    fn open(&mut self, kind: Kind, at: u64);

    /// The object or array that began last ends. `at`: the position of its bracket.
    fn close(&mut self, at: u64);

    /// The name of a member.
    fn name(&mut self, name: &Text);

    /// Some decoded bytes of a string, which is a value. A string may have several pieces.
    fn piece(&mut self, decoded: &[u8]);

    /// A value that is a string, after its last piece. `from` and `to`: the positions of its first
    /// quote and behind its last one.
    fn string(&mut self, value: &Text, from: u64, to: u64);

    /// A value that is a number, as it is written. `from`: its position.
    fn number(&mut self, written: &Text, from: u64);

    /// A value that is `true`, `false` or `null`. `from`: its position.
    fn literal(&mut self, literal: Literal, from: u64);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Literal {
    True,
    False,
    Null,
}

impl Literal {
    /// Returns the literal as JSON writes it.
    pub(crate) fn written(self) -> &'static [u8] {
        match self {
            Literal::True => b"true",
            Literal::False => b"false",
            Literal::Null => b"null",
        }
    }
}

/// Reason why a document is not JSON, as servers agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The document does not follow the grammar, or it ends too early.
    Grammar,
    /// Bytes follow the document's value.
    Trailing,
    /// The document is not UTF-8, or begins with a byte order mark.
    Encoding,
    /// The document is nested more deeply than [`DEEPEST`].
    Depth,
}

/// The state of a scan. See the module.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    state: State,
    /// The arrays and objects that are open, from the outermost to the innermost.
    open: Vec<Kind>,
    utf8: Utf8Check,
    /// The name, string or number that is being read.
    text: Text,
    /// Position of that text or literal.
    from: u64,
    /// Bytes that earlier pieces had.
    consumed: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before a value.
    #[default]
    Value,
    /// After `[`: a value, or the end of the array.
    FirstItem,
    /// After `{`: a name, or the end of the object.
    FirstName,
    /// After a comma in an object.
    Name,
    /// After a name.
    Colon,
    /// After a value in an array or object.
    Next,
    /// After the value of the document.
    End,
    String(Role),
    Escape(Role),
    /// Within `\u`: the digits that have been read, and their number.
    Unicode(Role, u16, u8),
    Number(Digits),
    /// Within a literal, of which so many bytes have been read.
    Literal(Literal, u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Name,
    Value,
}

/// Part of a number that was read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digits {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    Power,
}

impl Digits {
    /// Whether a number may end after this part.
    fn may_end(self) -> bool {
        matches!(self, Digits::Zero | Digits::Whole | Digits::Fraction | Digits::Power)
    }

    /// Returns the part that `byte` belongs to, if the number goes on with it.
    fn next(self, byte: u8) -> Option<Digits> {
        use Digits::{Exponent, ExponentSign, Fraction, Minus, Point, Power, Whole, Zero};
        match (self, byte) {
            (Minus, b'0') => Some(Zero),
            (Minus | Whole, b'0'..=b'9') => Some(Whole),
            (Zero | Whole, b'.') => Some(Point),
            (Point | Fraction, b'0'..=b'9') => Some(Fraction),
            (Zero | Whole | Fraction, b'e' | b'E') => Some(Exponent),
            (Exponent, b'+' | b'-') => Some(ExponentSign),
            (Exponent | ExponentSign | Power, b'0'..=b'9') => Some(Power),
            _ => None,
        }
    }
}

impl Scanner {
    /// Scans the next piece of the document.
    ///
    /// # Errors
    ///
    /// The document is not JSON. The scan is over; the visitor has seen the parts before the fault.
    pub(crate) fn push(&mut self, data: &[u8], visitor: &mut impl Visitor) -> Result<(), Fault> {
        self.utf8.push(data).map_err(|_| Fault::Encoding)?;
        let mut rest = data;
        while let Some((&byte, behind)) = rest.split_first() {
            let at = self.consumed + (data.len() - rest.len()) as u64;
            rest = match self.state {
                State::String(role) => self.string(role, rest, at, visitor)?,
                State::Number(part) => match part.next(byte) {
                    Some(next) => {
                        self.text.push(&[byte]);
                        self.state = State::Number(next);
                        behind
                    }
                    None => {
                        self.end_number(part, visitor)?;
                        rest
                    }
                },
                _ => {
                    self.byte(byte, at, visitor)?;
                    behind
                }
            };
        }
        self.consumed += data.len() as u64;
        Ok(())
    }

    /// Ends the document.
    ///
    /// # Errors
    ///
    /// The document is not complete.
    pub(crate) fn finish(&mut self, visitor: &mut impl Visitor) -> Result<(), Fault> {
        self.utf8.finish().map_err(|_| Fault::Encoding)?;
        if let State::Number(part) = self.state {
            self.end_number(part, visitor)?;
        }
        if self.state == State::End { Ok(()) } else { Err(Fault::Grammar) }
    }

    /// Scans one byte outside of strings and numbers.
    fn byte(&mut self, byte: u8, at: u64, visitor: &mut impl Visitor) -> Result<(), Fault> {
        match self.state {
            State::Escape(role) => return self.escape(role, byte, visitor),
            State::Unicode(role, digits, count) => return self.unicode(role, digits, count, byte, visitor),
            State::Literal(literal, count) => return self.literal(literal, count, byte, visitor),
            _ if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') => return Ok(()),
            _ => {}
        }
        match (self.state, byte) {
            (State::Value | State::FirstItem, _) if byte != b']' || self.state == State::Value => {
                self.value(byte, at, visitor)
            }
            (State::FirstItem, _) => self.close(Kind::Array, at, visitor),
            (State::FirstName | State::Name, b'"') => {
                self.text.clear();
                self.state = State::String(Role::Name);
                Ok(())
            }
            (State::FirstName, b'}') => self.close(Kind::Object, at, visitor),
            (State::Colon, b':') => {
                self.state = State::Value;
                Ok(())
            }
            (State::Next, b'}') => self.close(Kind::Object, at, visitor),
            (State::Next, b']') => self.close(Kind::Array, at, visitor),
            (State::Next, b',') => {
                self.state = match self.open.last() {
                    Some(Kind::Object) => State::Name,
                    _ => State::Value,
                };
                Ok(())
            }
            (State::End, _) => Err(Fault::Trailing),
            _ => Err(Fault::Grammar),
        }
    }

    /// Begins a value with its first byte.
    fn value(&mut self, byte: u8, at: u64, visitor: &mut impl Visitor) -> Result<(), Fault> {
        self.from = at;
        let (state, kind) = match byte {
            b'{' => (State::FirstName, Some(Kind::Object)),
            b'[' => (State::FirstItem, Some(Kind::Array)),
            b'"' => (State::String(Role::Value), None),
            b't' => (State::Literal(Literal::True, 1), None),
            b'f' => (State::Literal(Literal::False, 1), None),
            b'n' => (State::Literal(Literal::Null, 1), None),
            b'-' => (State::Number(Digits::Minus), None),
            b'0' => (State::Number(Digits::Zero), None),
            b'1'..=b'9' => (State::Number(Digits::Whole), None),
            _ => return Err(Fault::Grammar),
        };
        self.state = state;
        match kind {
            Some(_) if self.open.len() >= DEEPEST => return Err(Fault::Depth),
            Some(kind) => {
                self.open.push(kind);
                visitor.open(kind, at);
            }
            None => {
                self.text.clear();
                if matches!(state, State::Number(_)) {
                    self.text.push(&[byte]);
                }
            }
        }
        Ok(())
    }

    fn close(&mut self, kind: Kind, at: u64, visitor: &mut impl Visitor) -> Result<(), Fault> {
        if self.open.pop() != Some(kind) {
            return Err(Fault::Grammar);
        }
        visitor.close(at);
        self.end_value();
        Ok(())
    }

    fn end_value(&mut self) {
        self.state = if self.open.is_empty() { State::End } else { State::Next };
    }

    fn end_number(&mut self, part: Digits, visitor: &mut impl Visitor) -> Result<(), Fault> {
        if !part.may_end() {
            return Err(Fault::Grammar);
        }
        visitor.number(&self.text, self.from);
        self.end_value();
        Ok(())
    }

    fn literal(
        &mut self,
        literal: Literal,
        count: u8,
        byte: u8,
        visitor: &mut impl Visitor,
    ) -> Result<(), Fault> {
        let written = literal.written();
        if written.get(usize::from(count)) != Some(&byte) {
            return Err(Fault::Grammar);
        }
        match usize::from(count) + 1 == written.len() {
            true => {
                visitor.literal(literal, self.from);
                self.end_value();
            }
            false => self.state = State::Literal(literal, count + 1),
        }
        Ok(())
    }

    /// Scans a run of a string's bytes, up to its end or to an escape. Returns the bytes behind it.
    fn string<'d>(
        &mut self,
        role: Role,
        rest: &'d [u8],
        at: u64,
        visitor: &mut impl Visitor,
    ) -> Result<&'d [u8], Fault> {
        let length = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        let (run, behind) = rest.split_at(length);
        // JSON has no raw control characters in strings. The loop never stops early, so that the
        // compiler can vectorize it.
        if run.iter().fold(false, |any, byte| any | (*byte < 0x20)) {
            return Err(Fault::Grammar);
        }
        self.decoded(role, run, visitor);
        match behind.split_first() {
            None => Ok(behind),
            Some((b'"', behind)) => {
                self.text.end();
                match role {
                    Role::Name => {
                        visitor.name(&self.text);
                        self.state = State::Colon;
                    }
                    Role::Value => {
                        visitor.string(&self.text, self.from, at + length as u64 + 1);
                        self.end_value();
                    }
                }
                Ok(behind)
            }
            Some((_, behind)) => {
                self.state = State::Escape(role);
                Ok(behind)
            }
        }
    }

    fn decoded(&mut self, role: Role, bytes: &[u8], visitor: &mut impl Visitor) {
        self.text.push(bytes);
        if role == Role::Value && !bytes.is_empty() {
            visitor.piece(bytes);
        }
    }

    fn escape(&mut self, role: Role, byte: u8, visitor: &mut impl Visitor) -> Result<(), Fault> {
        let decoded = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                self.state = State::Unicode(role, 0, 0);
                return Ok(());
            }
            _ => return Err(Fault::Grammar),
        };
        self.state = State::String(role);
        self.decoded(role, &[decoded], visitor);
        Ok(())
    }

    fn unicode(
        &mut self,
        role: Role,
        digits: u16,
        count: u8,
        byte: u8,
        visitor: &mut impl Visitor,
    ) -> Result<(), Fault> {
        let digit = char::from(byte).to_digit(16).ok_or(Fault::Grammar)?;
        let digits = digits << 4 | digit as u16;
        if count < 3 {
            self.state = State::Unicode(role, digits, count + 1);
            return Ok(());
        }
        self.state = State::String(role);
        if let Some(character) = self.text.escaped(digits) {
            let mut buffer = [0; 4];
            let bytes = character.encode_utf8(&mut buffer).as_bytes();
            self.decoded(role, bytes, visitor);
        }
        Ok(())
    }
}
