//! The head of a request as it is written to upstream, and the framing of the request's body.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http_body::Body;

use crate::upstream::request::UpstreamRequest;
use crate::upstream::upload::Upload;

/// How the end of a request's body is found (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestFraming {
    /// The request has no body.
    Empty,
    /// The length of the body, in bytes.
    Length(u64),
    Chunked,
}

impl RequestFraming {
    pub(super) fn of(upload: &Upload) -> Self {
        if upload.is_end_stream() {
            return RequestFraming::Empty;
        }
        upload.size_hint().exact().map_or(RequestFraming::Chunked, RequestFraming::Length)
    }
}

/// Writes the head of a request. The fields of the framing are those of `framing`, whatever the request's
/// headers say, except for a length of zero.
pub(super) fn write(request: &UpstreamRequest, framing: RequestFraming, out: &mut Vec<u8>) {
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.push(b' ');
    let target = request.uri.path_and_query().map_or("/", |path| path.as_str());
    // The path of a URI may be empty, and that of a request may not (RFC 9112, section 3.2.1).
    if !target.starts_with('/') {
        out.push(b'/');
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in request.headers.iter() {
        let is_framing = *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING;
        let says_empty = framing == RequestFraming::Empty && *name == CONTENT_LENGTH && value == "0";
        if is_framing && !says_empty {
            continue;
        }
        field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    match framing {
        RequestFraming::Empty => {}
        RequestFraming::Length(bytes) => {
            field(out, b"content-length", itoa::Buffer::new().format(bytes).as_bytes());
        }
        RequestFraming::Chunked => field(out, b"transfer-encoding", b"chunked"),
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a header or trailer. `HeaderName` and `HeaderValue` hold no line ends.
pub(super) fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use http::{Method, Uri};

    use super::*;

    fn written(framing: RequestFraming) -> String {
        let request = http::Request::post("/a?b=c").header("host", "a").header("content-length", "7");
        let request = request.header("transfer-encoding", "gzip").header("x-b", "1").header("x-b", "2");
        let headers = request.headers_ref().unwrap().clone().into();
        let (method, uri) = (Method::POST, Uri::from_static("/a?b=c"));
        let mut out = Vec::new();
        write(&UpstreamRequest { method, uri, headers, upload: Upload::empty() }, framing, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_framing_is_that_of_the_body() {
        let head = "POST /a?b=c HTTP/1.1\r\nhost: a\r\nx-b: 1\r\nx-b: 2\r\n";
        assert_eq!(written(RequestFraming::Empty), format!("{head}\r\n"));
        assert_eq!(written(RequestFraming::Length(0)), format!("{head}content-length: 0\r\n\r\n"));
        assert_eq!(written(RequestFraming::Length(12)), format!("{head}content-length: 12\r\n\r\n"));
        assert_eq!(written(RequestFraming::Chunked), format!("{head}transfer-encoding: chunked\r\n\r\n"));
    }
}
