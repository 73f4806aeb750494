//! The head of an answer (RFC 9112, sections 4 to 6).

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};

use crate::upstream::bounds::MAX_HEAD_BYTES;
use crate::upstream::failure::Failure;

/// Greatest number of header fields of an answer.
const MOST_FIELDS: usize = 100;

/// Number of header fields that bearward adds to an answer in most cases.
const OUR_FIELDS: usize = 6;

/// The beginning of each answer.
const VERSION: &[u8] = b"HTTP/1.";

/// Why an answer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

impl From<Malformed> for Failure {
    fn from(Malformed(reason): Malformed) -> Self {
        Failure::protocol(reason)
    }
}

/// The end of an answer's body (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnswerFraming {
    /// The length of the body, in bytes.
    Length(u64),
    Chunked,
    /// The body ends with the connection.
    UntilClose,
    /// The connection is no longer HTTP.
    Tunnel,
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: Parts,
    pub(super) framing: AnswerFraming,
    /// Whether the connection may serve another request.
    pub(super) persists: bool,
}

/// A search for the end of a head, which goes on where it ended before.
#[derive(Debug, Default)]
pub(super) struct HeadSearch {
    searched: usize,
}

impl HeadSearch {
    /// Returns the length of the head or of the trailers at the beginning of `bytes`, with the empty line
    /// behind it; `None` if that has not come yet.
    ///
    /// # Errors
    ///
    /// A line ends in a line feed alone, or there are more than `most` bytes.
    pub(super) fn end(&mut self, bytes: &[u8], most: usize) -> Result<Option<usize>, Malformed> {
        let new = bytes.get(self.searched..).unwrap_or_default();
        for at in memchr::memchr_iter(b'\n', new).map(|at| self.searched + at) {
            let before = bytes.get(..at).unwrap_or_default();
            let Some(line_end) = before.strip_suffix(b"\r") else {
                return Err(Malformed("a line does not end in CR and LF"));
            };
            if line_end.is_empty() || line_end.ends_with(b"\r\n") {
                self.searched = 0;
                let length = at + 1;
                return if length > most { Err(TOO_LONG) } else { Ok(Some(length)) };
            }
        }
        self.searched = bytes.len();
        if bytes.len() > most { Err(TOO_LONG) } else { Ok(None) }
    }
}

const TOO_LONG: Malformed = Malformed("the head is too long");

/// Takes the head of an answer from the beginning of what was read, without interim answers (RFC 9110,
/// section 15.2); `None` if it is not complete. `is_head`: whether the request was a HEAD.
///
/// # Errors
///
/// The head is not HTTP/1.x, or has an ambiguous framing.
pub(super) fn take(
    read: &mut BytesMut,
    search: &mut HeadSearch,
    is_head: bool,
) -> Result<Option<Head>, Malformed> {
    loop {
        let beginning = read.get(..read.len().min(VERSION.len())).unwrap_or_default();
        if !VERSION.starts_with(beginning) {
            return Err(Malformed("the answer does not begin with HTTP/1"));
        }
        let Some(length) = search.end(read, MAX_HEAD_BYTES)? else { return Ok(None) };
        let parts = parsed(read, length)?;
        if parts.status.is_informational() && parts.status != StatusCode::SWITCHING_PROTOCOLS {
            continue;
        }
        let framing = framing(&parts, is_head)?;
        let persists = parts.version == Version::HTTP_11
            && !matches!(framing, AnswerFraming::UntilClose | AnswerFraming::Tunnel)
            && !names_close(&parts.headers);
        return Ok(Some(Head { parts, framing, persists }));
    }
}

/// Takes and parses a complete head of `length` bytes.
fn parsed(read: &mut BytesMut, length: usize) -> Result<Parts, Malformed> {
    let bytes = read.split_to(length).freeze();
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut head = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut head, &bytes, &mut fields)
        .map_err(|error| Malformed(reason(error)))?;
    let (Some(minor), Some(code)) = (head.version, head.code) else { return Err(NO_HEAD) };
    if parsed != httparse::Status::Complete(length) {
        return Err(NO_HEAD);
    }
    let mut parts = Response::new(()).into_parts().0;
    parts.status = StatusCode::from_u16(code).map_err(|_| Malformed("the status is out of range"))?;
    parts.version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    // The answer to the client gets further headers.
    parts.headers.reserve(head.headers.len() + OUR_FIELDS);
    for field in &*head.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| Malformed("the name of a header is not valid"))?;
        // White space is no part of a value (RFC 9112, section 5), but llhttp reads another coding then.
        if name == TRANSFER_ENCODING && !is_followed_by_line_end(&bytes, field.value) {
            return Err(Malformed("white space behind a transfer coding"));
        }
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value))
            .map_err(|_| Malformed("the value of a header is not valid"))?;
        parts.headers.append(name, value);
    }
    Ok(parts)
}

/// Whether nothing is between a value, which is a part of `head`, and the end of its line.
fn is_followed_by_line_end(head: &[u8], value: &[u8]) -> bool {
    // A value without a byte may be elsewhere.
    let behind = value.as_ptr_range().end.addr().checked_sub(head.as_ptr().addr());
    behind.and_then(|behind| head.get(behind)) == Some(&b'\r')
}

const NO_HEAD: Malformed = Malformed("the head is not valid");

fn reason(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "the name of a header is not valid",
        httparse::Error::HeaderValue => "the value of a header is not valid",
        httparse::Error::NewLine => "a line does not end in CR and LF",
        httparse::Error::Status => "the status is not a number",
        httparse::Error::TooManyHeaders => "there are too many headers",
        httparse::Error::Version => "the version is not HTTP/1",
        _ => "the head is not valid",
    }
}

/// Parses trailers (RFC 9112, section 7.1.2) that end in an empty line.
pub(super) fn trailers(bytes: &[u8]) -> Result<HeaderMap, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let parsed = httparse::parse_headers(bytes, &mut fields).map_err(|error| Malformed(reason(error)))?;
    let httparse::Status::Complete((length, fields)) = parsed else { return Err(NO_HEAD) };
    if length != bytes.len() {
        return Err(NO_HEAD);
    }
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else { return Err(Malformed("a trailer is not valid")) };
        map.append(name, value);
    }
    Ok(map)
}

fn framing(parts: &Parts, is_head: bool) -> Result<AnswerFraming, Malformed> {
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(AnswerFraming::Tunnel);
    }
    let of_name = |name| parts.headers.get_all(name).iter();
    let (mut lengths, mut codings) = (of_name(CONTENT_LENGTH), of_name(TRANSFER_ENCODING));
    let (length, coding) = (lengths.next(), codings.next());
    if lengths.next().is_some() || codings.next().is_some() || (length.is_some() && coding.is_some()) {
        return Err(Malformed("the length of the answer is ambiguous"));
    }
    let length =
        length.map(|length| decimal(length.as_bytes()).ok_or(Malformed("the length is not a number")));
    let length = length.transpose()?;
    let is_chunked = |coding: &HeaderValue| {
        parts.version == Version::HTTP_11 && coding.as_bytes().eq_ignore_ascii_case(b"chunked")
    };
    if coding.is_some_and(|coding| !is_chunked(coding)) {
        return Err(Malformed("a transfer coding other than chunked"));
    }
    if is_head || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(AnswerFraming::Length(0));
    }
    Ok(match (coding, length) {
        (Some(_), _) => AnswerFraming::Chunked,
        (None, Some(length)) => AnswerFraming::Length(length),
        (None, None) => AnswerFraming::UntilClose,
    })
}

/// Returns a decimal number without a sign.
fn decimal(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

fn names_close(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
    values.any(|value| {
        let mut options = value.split(|byte| *byte == b',');
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(bytes: &str, is_head: bool) -> Result<Option<Head>, Malformed> {
        take(&mut BytesMut::from(bytes), &mut HeadSearch::default(), is_head)
    }

    #[test]
    fn heads_say_where_their_bodies_end() {
        for (fields, is_head, framing, persists) in [
            ("content-length: 12\r\n", false, AnswerFraming::Length(12), true),
            ("content-length: 12\r\n", true, AnswerFraming::Length(0), true),
            ("content-length: 0\r\nconnection: a, CLOSE\r\n", false, AnswerFraming::Length(0), false),
            ("transfer-encoding: Chunked\r\n", false, AnswerFraming::Chunked, true),
            ("x: y\r\n", false, AnswerFraming::UntilClose, false),
        ] {
            let head = taken(&format!("HTTP/1.1 200 OK\r\n{fields}\r\nrest"), is_head).unwrap().unwrap();
            assert_eq!((head.framing, head.persists), (framing, persists), "{fields}");
        }
        let head = taken("HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n\r\n", false);
        assert!(!head.unwrap().unwrap().persists);
        for status in ["204 No Content", "304 Not Modified"] {
            let head =
                taken(&format!("HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\n"), false).unwrap().unwrap();
            assert_eq!(head.framing, AnswerFraming::Length(0));
        }
        let head = taken("HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\nbytes", false).unwrap().unwrap();
        assert_eq!(head.framing, AnswerFraming::Tunnel);
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        for head in [
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0x1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\t\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding:\r\n\r\n",
            "HTTP/1.1 204 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx : y\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: y\r\n z\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: y\nz: a\r\n\r\n",
            "HTTP/1.1 200 OK\n\n",
            "HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: y\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.2 200 OK\r\n\r\n",
            "http/1.1 200 OK\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "220 ready\r\n",
            "<",
        ] {
            assert!(taken(head, false).is_err(), "{head:?}");
        }
    }

    #[test]
    fn a_head_may_come_in_any_pieces_behind_interim_answers() {
        let all = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\na: b\r\ncontent-length: 4\r\n\r\nbody";
        for cut in 0..all.len() {
            let (mut read, mut search) = (BytesMut::from(&all[..cut]), HeadSearch::default());
            let first = take(&mut read, &mut search, false).unwrap();
            read.extend_from_slice(&all.as_bytes()[cut..]);
            let head = first.or_else(|| take(&mut read, &mut search, false).unwrap()).unwrap();
            assert_eq!(
                (head.parts.status, &head.parts.headers["a"]),
                (StatusCode::OK, &HeaderValue::from_static("b"))
            );
            assert_eq!(&read[..], b"body", "{cut}");
        }
    }

    #[test]
    fn a_head_has_a_bounded_length_and_number_of_fields() {
        let many = "a: b\r\n".repeat(MOST_FIELDS + 1);
        assert!(taken(&format!("HTTP/1.1 200 OK\r\n{many}\r\n"), false).is_err());
        let long = "b".repeat(MAX_HEAD_BYTES);
        assert_eq!(taken(&format!("HTTP/1.1 200 OK\r\na: {long}"), false).unwrap_err(), TOO_LONG);
        assert_eq!(taken(&format!("HTTP/1.1 200 OK\r\na: {long}\r\n\r\n"), false).unwrap_err(), TOO_LONG);
    }
}
