//! An answer that bearward itself makes.
//!
//! A [`Denial`] has one public sentence, machine-readable details, and a private cause that is only
//! logged. A front end chooses the form of the answer: HTTP with a JSON body, or a gRPC status.
//! Invariant: bearward's own answers are made only here, so that all of them have the same shape.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use super::code::Code;

/// The form of an answer, which the front end chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerForm {
    /// An HTTP status and a JSON body.
    Json,
    /// A gRPC status in trailers, without a body (gRPC over HTTP/2, "Responses").
    Grpc,
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// The JSON body of every denial. Its members are in the order of the documentation.
#[derive(Serialize)]
struct Answer<'a> {
    success: bool,
    error: ErrorMember<'a>,
}

#[derive(Serialize)]
struct ErrorMember<'a> {
    code: &'static str,
    message: &'a str,
    details: &'a Map<String, Value>,
}

/// A refusal or a failure, as the caller receives it.
pub(crate) struct Denial(Box<Inner>);

struct Inner {
    code: Code,
    message: Cow<'static, str>,
    details: Map<String, Value>,
    headers: HeaderMap,
    closes: bool,
    cause: Option<Cause>,
}

impl Denial {
    pub(super) fn new(code: Code, message: impl Into<Cow<'static, str>>, details: Value) -> Self {
        let details = match details {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        Denial(Box::new(Inner {
            code,
            message: message.into(),
            details,
            headers: HeaderMap::new(),
            closes: false,
            cause: None,
        }))
    }

    /// Adds the private cause of a denial, which is only logged.
    pub(crate) fn caused_by(mut self, cause: impl Into<Cause>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Answers with this denial in place of `other`, and adopts the private cause of `other`.
    pub(crate) fn instead_of(mut self, other: Denial) -> Self {
        self.0.cause = other.0.cause;
        self
    }

    /// Adds `x-should-retry: false`, so that the OpenAI SDKs do not repeat work that may already
    /// have been done.
    pub(crate) fn not_to_be_retried(self) -> Self {
        self.header(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"))
    }

    /// Makes bearward close the client's connection after this answer.
    pub(crate) fn closing(mut self) -> Self {
        self.0.closes = true;
        self
    }

    /// Adds `Retry-After`. The OpenAI SDKs ignore a wait of more than a minute and would ask again
    /// at once, so they are asked not to retry after a longer one.
    pub(super) fn retry_after(self, seconds: u64) -> Self {
        const LONGEST_OF_SDKS: u64 = 60;
        let denial = if seconds > LONGEST_OF_SDKS { self.not_to_be_retried() } else { self };
        denial.header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    /// Returns the public error code of the answer.
    pub(crate) fn code(&self) -> Code {
        self.0.code
    }

    /// Returns the public sentence of the answer.
    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the value of the answer's detail `name`, if the value is text.
    pub(crate) fn detail(&self, name: &str) -> Option<&str> {
        self.0.details.get(name)?.as_str()
    }

    /// Returns the private cause of a denial, for the log.
    pub(crate) fn cause(&self) -> Option<&(dyn std::error::Error + Send + Sync)> {
        self.0.cause.as_deref()
    }

    /// Returns the JSON body: `{"success": false, "error": {"code", "message", "details"}}`.
    pub(crate) fn body(&self) -> Bytes {
        let error =
            ErrorMember { code: self.0.code.name(), message: &self.0.message, details: &self.0.details };
        let body = serde_json::to_vec(&Answer { success: false, error });
        debug_assert!(body.is_ok(), "a map with text for keys can be serialized");
        Bytes::from(body.unwrap_or_default())
    }

    /// Leaves out the details, where there is no room for them.
    pub(crate) fn without_details(mut self) -> Self {
        self.0.details = Map::new();
        self
    }

    /// Makes the HTTP answer, in the form that the front end chose.
    pub(crate) fn into_response(self, form: AnswerForm) -> Response<Bytes> {
        match form {
            AnswerForm::Json => self.into_http(),
            AnswerForm::Grpc => self.into_grpc(),
        }
    }

    /// Makes the answer with a JSON body.
    pub(crate) fn into_http(self) -> Response<Bytes> {
        let body = self.body();
        let mut response = Response::new(body);
        *response.status_mut() = self.0.code.status();
        let closes = self.0.closes;
        *response.headers_mut() = self.0.headers;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if closes {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Makes the gRPC answer. It consists only of trailers, so the status is in its single header
    /// section (gRPC over HTTP/2, "Responses").
    fn into_grpc(self) -> Response<Bytes> {
        let code = self.0.code;
        let message = percent_encoded(&format!("{}: {}", code.name(), self.0.message));
        let closes = self.0.closes;
        let mut response = Response::new(Bytes::new());
        *response.headers_mut() = self.0.headers;
        let headers = response.headers_mut();
        if closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(u16::from(code.grpc())));
        if let Ok(message) = HeaderValue::try_from(message) {
            headers.insert(HeaderName::from_static("grpc-message"), message);
        }
        response
    }
}

impl fmt::Debug for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Denial").field("code", &self.0.code).field("cause", &self.0.cause).finish()
    }
}

/// Percent-encodes a text for `grpc-message`: `%`, and all bytes that are not printable ASCII.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => encoded.push_str(&format!("%{byte:02X}")),
            _ => encoded.push(char::from(byte)),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn the_body_has_the_one_shape_and_no_further_members() {
        let body = Denial::missing_key("Authorization").body();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let expected = json!({"success": false, "error": {
            "code": "MISSING_API_KEY", "message": "API key is required", "details": {"header": "Authorization"}}});
        assert_eq!(body, expected);
    }

    #[test]
    fn retry_after_is_rounded_up_since_it_is_a_promise() {
        for (millis, seconds, is_retried) in [(2001, "3", true), (60_000, "60", true), (60_001, "61", false)]
        {
            let wait = Duration::from_millis(millis);
            let denial = Denial::rate_limited("requests-1m", 60, Duration::from_secs(60), wait);
            let response = denial.into_http();
            assert_eq!(response.headers()[RETRY_AFTER], seconds);
            assert_eq!(response.headers().contains_key("x-should-retry"), !is_retried);
        }
    }

    #[test]
    fn a_grpc_answer_carries_its_status_in_the_head() {
        let response = Denial::concurrency(4).into_grpc();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "8");
        assert!(response.body().is_empty());
    }

    #[test]
    fn details_default_to_an_empty_object() {
        let body: Value = serde_json::from_slice(&Denial::internal().body()).unwrap();
        assert_eq!(body["error"]["details"], json!({}));
    }
}
