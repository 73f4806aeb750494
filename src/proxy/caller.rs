//! Facts about a request and its protocol that determine the form of the answer.

use http::Method;
use http::header::{CONTENT_TYPE, EXPECT, TRANSFER_ENCODING};
use http::request::Parts;

use crate::activity::ConnectionActivity;
use crate::denial::AnswerForm;
use crate::forward::unread::UnreadBody;
use crate::protocol::Protocol;
use crate::upstream::request_body::RequestBody;

/// The caller of one request: facts about the request that determine the form of the answer.
pub(super) struct Caller {
    pub(super) protocol: Protocol,
    pub(super) form: AnswerForm,
    pub(super) is_head: bool,
    /// Whether the request's body has chunked framing (HTTP/1.1).
    pub(super) is_chunked: bool,
    /// Whether the unread remainder of the request's body may be read and dropped.
    is_short: bool,
}

impl Caller {
    pub(super) fn of(parts: &Parts, body: &RequestBody) -> Self {
        let protocol = Protocol::from(parts.version);
        Caller {
            protocol,
            form: form(parts, protocol),
            is_head: parts.method == Method::HEAD,
            is_chunked: !protocol.has_streams() && parts.headers.contains_key(TRANSFER_ENCODING),
            is_short: is_short(parts, protocol, body),
        }
    }

    /// Decides whether the rest of the request's body is discarded or left unread, if the answer is
    /// ready before the whole body was read.
    pub(super) fn unread_body(&self, activity: &ConnectionActivity) -> UnreadBody {
        let is_left = !self.protocol.has_streams() && (self.is_head || !activity.may_be_sending());
        if self.is_short && !is_left { UnreadBody::Discard } else { UnreadBody::Leave }
    }
}

/// Whether the unread body of a request may be read to its end, so that its connection can serve
/// another request.
///
/// On HTTP/1, the body's length must be known and small, because reading a longer body may cost
/// more than a new connection. A client that waits for a 100 answer (RFC 9110, section 10.1.1) may
/// send no body after a refusal, so its next bytes could be either the body or a new request.
fn is_short(parts: &Parts, protocol: Protocol, body: &RequestBody) -> bool {
    const BYTES: u64 = 64 * 1024;
    protocol.has_streams()
        || (!body.is_empty()
            && body.exact_length().is_some_and(|length| length <= BYTES)
            && !parts.headers.contains_key(EXPECT))
}

/// Returns the form of the answer: gRPC for a POST on HTTP/2 with gRPC's own content type (gRPC
/// over HTTP2, "Requests"), and JSON for all other requests.
fn form(parts: &Parts, protocol: Protocol) -> AnswerForm {
    if !protocol.has_streams() || parts.method != Method::POST {
        return AnswerForm::Json;
    }
    let mut types = parts.headers.get_all(CONTENT_TYPE).iter();
    let (Some(named), None) = (types.next(), types.next()) else { return AnswerForm::Json };
    match named.as_bytes().strip_prefix(b"application/grpc") {
        Some([] | [b'+', ..]) => AnswerForm::Grpc,
        _ => AnswerForm::Json,
    }
}
