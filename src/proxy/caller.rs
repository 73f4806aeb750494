//! What the form of an answer depends on: the caller's protocol and request.

use http::Method;
use http::header::{CONTENT_TYPE, EXPECT, TRANSFER_ENCODING};
use http::request::Parts;

use crate::activity::ConnectionActivity;
use crate::denial::AnswerForm;
use crate::forward::unread::UnreadBody;
use crate::protocol::Protocol;
use crate::upstream::request_body::RequestBody;

/// The caller of one request, as the form of its answer depends on it.
pub(super) struct Caller {
    pub(super) protocol: Protocol,
    pub(super) form: AnswerForm,
    pub(super) is_head: bool,
    /// Its body ends by HTTP/1.1's chunks.
    pub(super) is_chunked: bool,
    /// What is left unread of its body may be read and forgotten.
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

    /// What becomes of the request's body where the answer is there before all of it was read.
    pub(super) fn unread_body(&self, activity: &ConnectionActivity) -> UnreadBody {
        let is_left = !self.protocol.has_streams() && (self.is_head || !activity.may_be_sending());
        if self.is_short && !is_left { UnreadBody::Discard } else { UnreadBody::Leave }
    }
}

/// Whether the body of a request is read to its end for the sake of its connection, where nothing
/// else reads it.
///
/// On HTTP/1, only one whose length is known and small: a longer one may cost more than a
/// connection. A client that waits for 100 (RFC 9110, section 10.1.1) may send none after a
/// refusal, so that it is unknown what comes next.
fn is_short(parts: &Parts, protocol: Protocol, body: &RequestBody) -> bool {
    const BYTES: u64 = 64 * 1024;
    protocol.has_streams()
        || (!body.is_empty()
            && body.exact_length().is_some_and(|length| length <= BYTES)
            && !parts.headers.contains_key(EXPECT))
}

/// gRPC is a POST on HTTP/2 with its own content type (gRPC over HTTP2, "Requests"). Anything else
/// is answered as JSON.
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
