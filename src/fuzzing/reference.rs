//! Second implementations of HTTP/1.1 (RFC 9112) and of paths (RFC 3986), independent of the
//! product's code. They parse the requests that arrive at upstream, and the bytes that a client
//! sends.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// The bytes that must be percent-encoded in a canonical path.
const OUTSIDE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@')
    .remove(b'/');

/// Returns the canonical form of a path; `None` if the path must be refused.
pub(super) fn canonical_path(path: &str) -> Option<String> {
    if path.contains('\\') || !path.starts_with('/') {
        return None;
    }
    let mut pieces = path.split('%');
    let mut text = percent_encode(pieces.next()?.as_bytes(), OUTSIDE).to_string();
    for piece in pieces {
        let (code, rest) = piece.split_at_checked(2)?;
        let code =
            code.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| format!("%{}", code.to_uppercase()))?;
        let decoded: Vec<u8> = percent_decode_str(&code).collect();
        match decoded[0] {
            0..0x20 | 0x7f => return None,
            byte if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte) => {
                text.push(char::from(byte))
            }
            _ => text.push_str(&code),
        }
        text.push_str(&percent_encode(rest.as_bytes(), OUTSIDE).to_string());
    }
    while text.contains("//") {
        text = text.replace("//", "/");
    }
    // The crate `url` treats `/A:/` as a Windows drive, which `..` does not remove. Colons are
    // therefore replaced by another character until the path is parsed.
    let text = text.replace(':', "\u{e000}");
    let path = url::Url::parse(&format!("http://host{text}")).ok()?.path().replace("%EE%80%80", ":");
    // Some servers decode `%2F` and `%5C` to slashes, and ignore path parameters (after `;`). A
    // path in which only such servers find a `.` or `..` segment must be refused.
    let split = path.replace("%2F", "/").replace("%5C", "/").replace("%3B", ";");
    let hides = split.split('/').any(|segment| matches!(segment.split(';').next(), Some("." | "..")));
    (!hides).then_some(path)
}

/// A parsed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Whether this must be the last request on its connection: no later byte may be parsed as a
    /// request.
    pub(super) is_last: bool,
}

impl Message {
    pub(super) fn values(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }
}

/// The outcome of parsing one request.
#[derive(Debug)]
pub(super) enum Read {
    /// A whole request, with its length in bytes.
    Whole(Message, usize),
    /// The beginning of a request.
    Part,
    /// Bytes that are no request, with the reason.
    Bad(String),
}

/// How strictly a request is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Only the forms that RFC 9112 allows senders are accepted, because an upstream may parse as
    /// strictly.
    Strict,
    /// Everything that hyper, bearward's HTTP library, accepts is accepted: lines may end with LF
    /// alone, empty lines may precede the head, and the target may have a fragment.
    Lenient,
}

/// Parses one request at the start of `bytes`.
pub(super) fn read(bytes: &[u8], manner: Manner) -> Read {
    let mut lines = Lines { bytes, at: 0, has_bare_lf: false, manner };
    match message(&mut lines) {
        Ok(Some(message)) => Read::Whole(message, lines.at),
        Ok(None) => Read::Part,
        Err(why) => Read::Bad(why),
    }
}

struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether any line ended with LF alone.
    has_bare_lf: bool,
    manner: Manner,
}

impl<'a> Lines<'a> {
    /// Returns the next line without its line end; `None` if the line is incomplete.
    fn next(&mut self) -> Result<Option<&'a [u8]>, String> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        self.at += length + 1;
        let line = &rest[..length];
        let line = match (line.strip_suffix(b"\r"), self.manner) {
            (Some(line), _) => line,
            (None, Manner::Lenient) => {
                self.has_bare_lf = true;
                line
            }
            (None, Manner::Strict) => return Err("a line that ends with LF alone".to_owned()),
        };
        // bearward's HTTP library accepts a NUL in a chunk extension. Chunk extensions are not
        // forwarded.
        let is_bad = |byte: &u8| *byte == b'\r' || (*byte == 0 && self.manner == Manner::Strict);
        match line.iter().any(is_bad) {
            true => Err("CR or NUL within a line".to_owned()),
            false => Ok(Some(line)),
        }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }
}

fn message(lines: &mut Lines<'_>) -> Result<Option<Message>, String> {
    let first = loop {
        match lines.next()? {
            None => return Ok(None),
            Some(b"") if lines.manner == Manner::Lenient => {}
            Some(line) => break text(line),
        }
    };
    let words: Vec<&str> = first.split(' ').collect();
    let [method, target, version] = words[..] else { return Err(format!("{first:?} is no request line")) };
    let is_known = version == "HTTP/1.1" || (version == "HTTP/1.0" && lines.manner == Manner::Lenient);
    if !is_token(method) || target.is_empty() || !is_known {
        return Err(format!("{first:?} is no request line"));
    }
    if lines.manner == Manner::Strict && (!target.starts_with('/') || target.contains('#')) {
        return Err(format!("{target:?} is no origin form"));
    }
    let Some(fields) = fields(lines)? else { return Ok(None) };
    let mut message = Message {
        method: method.to_owned(),
        target: target.to_owned(),
        fields,
        body: Vec::new(),
        is_last: false,
    };
    Ok(body(lines, &mut message)?.map(|()| message))
}

/// Parses header or trailer fields up to the empty line.
fn fields(lines: &mut Lines<'_>) -> Result<Option<Vec<(String, String)>>, String> {
    let mut fields = Vec::new();
    loop {
        let Some(line) = lines.next()? else { return Ok(None) };
        if line.is_empty() {
            return Ok(Some(fields));
        }
        let line = text(line);
        let Some((name, value)) = line.split_once(':') else { return Err(format!("{line:?} is no field")) };
        if !is_token(name) || value.chars().any(|c| c.is_ascii_control() && c != '\t') {
            return Err(format!("{line:?} is no field"));
        }
        fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
    }
}

fn body(lines: &mut Lines<'_>, message: &mut Message) -> Result<Option<()>, String> {
    let values = |name: &str| message.values(name).into_iter().map(str::to_owned).collect::<Vec<_>>();
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    let body = match (&lengths[..], &codings[..]) {
        ([], []) => Some(Vec::new()),
        ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => chunks(lines)?,
        ([length], []) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length = length.parse().map_err(|_| format!("{length} is too long"))?;
            lines.take(length).map(<[u8]>::to_vec)
        }
        // With both `Content-Length` and chunked coding, bearward's HTTP library reads the chunks
        // and ignores the length (RFC 9112, section 6.1).
        ([_, ..], [coding]) if lines.manner == Manner::Lenient && coding.eq_ignore_ascii_case("chunked") => {
            message.is_last = true;
            chunks(lines)?
        }
        _ => return Err(format!("framing: {lengths:?} {codings:?}")),
    };
    // If a line ended with LF alone, the end of a chunked body is uncertain.
    message.is_last |= lines.has_bare_lf && !codings.is_empty();
    Ok(body.map(|body| message.body = body))
}

fn chunks(lines: &mut Lines<'_>) -> Result<Option<Vec<u8>>, String> {
    let mut body = Vec::new();
    loop {
        let Some(line) = lines.next()? else { return Ok(None) };
        let line = text(line);
        let size = line.split(';').next().unwrap_or_default();
        let size = if lines.manner == Manner::Lenient { size.trim_matches([' ', '\t']) } else { size };
        let is_hex = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = usize::from_str_radix(size, 16).ok().filter(|_| is_hex);
        let Some(size) = size else { return Err(format!("{line:?} is no chunk size")) };
        if size == 0 {
            return Ok(fields(lines)?.map(|_trailers| body));
        }
        let Some(data) = lines.take(size) else { return Ok(None) };
        body.extend_from_slice(data);
        match lines.take(2) {
            None => return Ok(None),
            Some(b"\r\n") => {}
            Some(_) => return Err("a chunk that is longer than it says".to_owned()),
        }
    }
}

/// Decodes bytes as text, one character per byte.
fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
