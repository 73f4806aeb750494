//! The field `model` of a form in `multipart/form-data` (RFC 7578), as the form arrives in pieces.

use memchr::memmem;

use super::declared::Declared;
use super::named::{Named, is_plain};

/// Longest header block of a part, in bytes.
const LONGEST_HEAD: usize = 4 * 1024;

/// Largest number of parts. Forms for models have a dozen.
const MOST_PARTS: u32 = 1000;

/// Longest value of the field `model`, in bytes.
const LONGEST_NAME: usize = 256;

/// The state of a scan of a form.
#[derive(Debug)]
pub(super) struct Multipart {
    /// The line that begins each part but the first: CRLF, two dashes, the boundary.
    delimiter: Vec<u8>,
    state: State,
    parts: u32,
    /// Bytes that were not consumed yet: they may be the beginning of a delimiter or of a head.
    rest: Vec<u8>,
}

#[derive(Debug, PartialEq)]
enum State {
    /// Before the first delimiter.
    Start,
    /// Behind a delimiter.
    BehindDelimiter,
    /// In the headers of a part.
    Head,
    /// At the beginning of a part's body.
    Begin(Part),
    /// In the body of a part.
    Part(Part),
    /// Behind the last delimiter.
    End,
}

#[derive(Debug, PartialEq)]
enum Part {
    /// The field `model`, as far as it was read.
    Model(Vec<u8>),
    Text,
    File,
}

/// The form does not follow the grammar strictly, so that servers might disagree on its fields.
#[derive(Debug)]
pub(super) struct Unclear;

impl Multipart {
    /// Begins the scan of a form with this content type; `None` if it is no form.
    pub(super) fn new(content_type: &str) -> Option<Self> {
        let mut parts = content_type.split(';');
        if !parts.next()?.trim().eq_ignore_ascii_case("multipart/form-data") {
            return None;
        }
        let parameters = parts.map(|part| part.split_once('='));
        let mut boundaries = parameters.filter_map(|part| {
            let (name, value) = part?;
            // Some servers join `boundary*0` and `boundary*1`, or prefer `boundary*`.
            name.trim().to_ascii_lowercase().starts_with("boundary").then_some((name.trim_start(), value))
        });
        let (Some((name, boundary)), None) = (boundaries.next(), boundaries.next()) else { return None };
        // Some servers keep white space around the value, or the quotes behind it.
        if name.contains('*') || has_space_around(name) || has_space_around(boundary) {
            return None;
        }
        let boundary = match boundary.strip_prefix('"') {
            Some(quoted) => quoted.strip_suffix('"')?,
            None => boundary,
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
        if !(1..=70).contains(&boundary.len()) || !boundary.bytes().all(is_plain) {
            return None;
        }
        let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
        // The first delimiter has no line before it.
        Some(Multipart { delimiter, state: State::Start, parts: 0, rest: b"\r\n".to_vec() })
    }

    /// Scans the next piece of the form.
    ///
    /// # Errors
    ///
    /// Servers might disagree on the form.
    pub(super) fn push(&mut self, data: &[u8], declared: &mut Declared) -> Result<(), Unclear> {
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.extend_from_slice(data);
        let mut rest = bytes.as_slice();
        loop {
            let (consumed, has_more) = self.step(rest, declared)?;
            rest = rest.get(consumed..).unwrap_or_default();
            if !has_more {
                break;
            }
        }
        let consumed = bytes.len() - rest.len();
        bytes.drain(..consumed);
        self.rest = bytes;
        Ok(())
    }

    /// Whether the form has ended with its last delimiter.
    pub(super) fn is_complete(&self) -> bool {
        self.state == State::End && (self.rest.is_empty() || self.rest == b"\r\n")
    }

    /// Consumes the next element of `rest`. Returns how many bytes were consumed, and whether there
    /// may be another element.
    fn step(&mut self, rest: &[u8], declared: &mut Declared) -> Result<(usize, bool), Unclear> {
        let wait = Ok((0, false));
        let consumed = match &mut self.state {
            State::Start => {
                if !rest.starts_with(&self.delimiter) {
                    return if self.delimiter.starts_with(rest) { wait } else { Err(Unclear) };
                }
                self.state = State::BehindDelimiter;
                self.delimiter.len()
            }
            State::BehindDelimiter => {
                self.state = match rest.get(..2) {
                    None => return wait,
                    Some(b"\r\n") => State::Head,
                    Some(b"--") => State::End,
                    Some(_) => return Err(Unclear),
                };
                2
            }
            State::Head => {
                let head = rest.get(..LONGEST_HEAD).unwrap_or(rest);
                let Some(length) = memmem::find(head, b"\r\n\r\n") else {
                    return if rest.len() > LONGEST_HEAD { Err(Unclear) } else { wait };
                };
                self.parts += 1;
                if self.parts > MOST_PARTS {
                    return Err(Unclear);
                }
                self.state = State::Begin(part(rest.get(..length).unwrap_or_default())?);
                length + 4
            }
            State::Begin(part) => {
                let boundary = self.delimiter.get(2..).unwrap_or_default();
                match rest {
                    // Some servers find a delimiter directly behind the headers, too.
                    _ if rest.starts_with(boundary) => return Err(Unclear),
                    _ if boundary.starts_with(rest) => return wait,
                    _ => self.state = State::Part(std::mem::replace(part, Part::File)),
                }
                0
            }
            State::Part(part) => {
                let found = find_delimiter(rest, &self.delimiter)?;
                // The last bytes may be the beginning of a delimiter.
                let length = found.unwrap_or((rest.len() + 1).saturating_sub(self.delimiter.len()));
                part.read(rest.get(..length).unwrap_or_default(), declared)?;
                if found.is_none() {
                    return Ok((length, false));
                }
                part.end(declared);
                self.state = State::BehindDelimiter;
                length + self.delimiter.len()
            }
            State::End => {
                let is_line_end = b"\r\n".starts_with(rest.get(..2).unwrap_or(rest));
                return if rest.len() <= 2 && is_line_end { wait } else { Err(Unclear) };
            }
        };
        Ok((consumed, true))
    }
}

/// Returns the position of the delimiter in a part's body; `None` if there is none.
///
/// # Errors
///
/// A boundary stands behind another line end, which some servers take for a delimiter.
fn find_delimiter(body: &[u8], delimiter: &[u8]) -> Result<Option<usize>, Unclear> {
    let boundary = delimiter.get(2..).unwrap_or_default();
    for at in memmem::find_iter(body, boundary) {
        match body.get(..at).unwrap_or_default() {
            [.., b'\r', b'\n'] => return Ok(Some(at - 2)),
            [.., b'\r' | b'\n'] => return Err(Unclear),
            _ => {}
        }
    }
    Ok(None)
}

impl Part {
    fn read(&mut self, bytes: &[u8], declared: &mut Declared) -> Result<(), Unclear> {
        match self {
            Part::Model(name) if name.len() + bytes.len() > LONGEST_NAME => Err(Unclear),
            Part::Model(name) => {
                name.extend_from_slice(bytes);
                Ok(())
            }
            Part::Text => {
                declared.add_text(bytes.len() as u64);
                Ok(())
            }
            Part::File => Ok(()),
        }
    }

    fn end(&mut self, declared: &mut Declared) {
        match self {
            Part::Model(name) => {
                let name = std::str::from_utf8(name).ok().filter(|name| is_plain(name));
                declared.model = match (&declared.model, name) {
                    (Named::Absent, Some(name)) => Named::Model(name.to_owned()),
                    _ => Named::Ambiguous,
                };
            }
            Part::Text => {}
            Part::File => declared.media += 1,
        }
    }
}

/// Reads the headers of a part.
///
/// # Errors
///
/// Servers might disagree on the name of the part.
fn part(head: &[u8]) -> Result<Part, Unclear> {
    let head = std::str::from_utf8(head).map_err(|_| Unclear)?;
    let mut disposition = None;
    let mut is_encoded = false;
    for line in head.split("\r\n") {
        let (name, value) = line.split_once(':').ok_or(Unclear)?;
        // A folded line, or a line that ends in another way, would be read differently.
        if line.bytes().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) || name.trim() != name {
            return Err(Unclear);
        }
        if name.eq_ignore_ascii_case("content-disposition") && disposition.replace(value).is_some() {
            return Err(Unclear);
        }
        is_encoded |= name.eq_ignore_ascii_case("content-transfer-encoding");
    }
    let parameters = parameters(disposition.ok_or(Unclear)?).ok_or(Unclear)?;
    let given = |wanted: &str| {
        let mut values = parameters.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        match (values.next(), values.next()) {
            (value, None) => Ok(value.map(|(_, value)| value.as_str())),
            _ => Err(Unclear),
        }
    };
    let name = given("name")?.ok_or(Unclear)?;
    let is_file = given("filename")?.is_some() || given("filename*")?.is_some();
    let is_model = name.split('\0').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("model"));
    let is_clear = name == "model" && !is_file && !is_encoded && given("name*")?.is_none();
    match (is_model, is_clear) {
        (true, true) => Ok(Part::Model(Vec::new())),
        (true, false) => Err(Unclear),
        (false, _) if given("name*")?.is_some() => Err(Unclear),
        (false, _) if is_file => Ok(Part::File),
        (false, _) => Ok(Part::Text),
    }
}

fn has_space_around(text: &str) -> bool {
    text.trim() != text
}

/// Parses the parameters of `form-data; name="model"; filename="a.wav"`. Returns `None` if the text
/// is no such header, or has an escape, which servers read in different ways.
fn parameters(disposition: &str) -> Option<Vec<(String, String)>> {
    let mut rest = disposition.trim().strip_prefix("form-data")?.trim_start();
    let mut found = Vec::new();
    while !rest.is_empty() {
        rest = rest.strip_prefix(';')?.trim_start();
        let (name, behind) = rest.split_once('=')?;
        let (value, behind) = match behind.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => {
                let (value, behind) = behind.split_at(behind.find(';').unwrap_or(behind.len()));
                // Servers disagree on white space around `=`, and on quotes that begin later.
                if has_space_around(value) || value.contains('"') {
                    return None;
                }
                (value, behind)
            }
        };
        if has_space_around(name) {
            return None;
        }
        let name_has_parts = name.contains('*') && !name.trim().eq_ignore_ascii_case("filename*");
        if name_has_parts || (value.contains(['\\', '<', '>']) && name.trim() != "filename") {
            return None;
        }
        found.push((name.trim().to_owned(), value.to_owned()));
        rest = behind.trim_start();
    }
    Some(found)
}
