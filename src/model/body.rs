//! The scan of a request's body, as its pieces arrive.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::declared::Declared;
use super::multipart::Multipart;
use super::named::Named;
use super::query_search::QuerySearch;
use crate::json::Scanner;

/// Form of the body that a route expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyKind {
    Json,
    /// `multipart/form-data` (RFC 7578).
    Form,
}

/// The scan of one body. See [`super`].
#[derive(Debug)]
pub(crate) struct BodyScan {
    parser: Parser,
    declared: Declared,
    /// The search for `model` in the body as a query, which some servers take the body for if its
    /// type is that of a form.
    as_query: Option<QuerySearch>,
    /// Number of bytes that were scanned.
    bytes: u64,
}

#[derive(Debug)]
enum Parser {
    Json(Box<Scanner>),
    Form(Multipart),
    /// Servers might disagree on the body. The rest of the body is not scanned.
    Faulty,
}

impl BodyScan {
    /// Begins the scan of a body with these headers.
    pub(crate) fn new(kind: BodyKind, headers: &HeaderMap) -> Self {
        let parser = match (is_plain(headers), kind) {
            (false, _) => Parser::Faulty,
            (true, BodyKind::Json) => Parser::Json(Box::default()),
            (true, BodyKind::Form) => {
                only(headers, CONTENT_TYPE).and_then(Multipart::new).map_or(Parser::Faulty, Parser::Form)
            }
        };
        let content_type = only(headers, CONTENT_TYPE).unwrap_or_default();
        let is_form = kind == BodyKind::Json && content_type.to_ascii_lowercase().contains("form");
        let as_query = is_form.then(QuerySearch::default);
        BodyScan { parser, declared: Declared::default(), as_query, bytes: 0 }
    }

    /// Scans the next piece of the body.
    pub(crate) fn push(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        let is_good = match &mut self.parser {
            Parser::Json(scanner) => scanner.push(data, &mut self.declared).is_ok(),
            Parser::Form(form) => form.push(data, &mut self.declared).is_ok(),
            Parser::Faulty => return,
        };
        let names_model = self.as_query.as_mut().is_some_and(|query| query.names_model(data));
        if !is_good || names_model {
            self.parser = Parser::Faulty;
        }
    }

    /// Ends the scan: the body is complete.
    pub(crate) fn finish(&mut self) {
        let is_good = match &mut self.parser {
            Parser::Json(scanner) => scanner.finish(&mut self.declared).is_ok(),
            Parser::Form(form) => form.is_complete(),
            Parser::Faulty => return,
        };
        if !is_good {
            self.parser = Parser::Faulty;
        }
    }

    /// Returns the number of bytes that were scanned.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn declared(&self) -> &Declared {
        &self.declared
    }

    /// Whether servers might disagree on the body.
    pub(crate) fn is_faulty(&self) -> bool {
        matches!(self.parser, Parser::Faulty)
    }

    /// Returns the model that the body names, as far as it was scanned.
    pub(crate) fn named(&self) -> &Named {
        match self.parser {
            Parser::Faulty => &Named::Ambiguous,
            _ => &self.declared.model,
        }
    }
}

/// Whether the body is sent as it is: neither compressed, nor in another character set than UTF-8.
fn is_plain(headers: &HeaderMap) -> bool {
    let is_identity =
        |value: &http::HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(CONTENT_ENCODING).iter().all(is_identity) {
        return false;
    }
    if !headers.contains_key(CONTENT_TYPE) {
        return true;
    }
    let Some(content_type) = only(headers, CONTENT_TYPE) else { return false };
    let charset = |parameter: &str| {
        let (name, value) = parameter.split_once('=')?;
        let name = name.trim().to_ascii_lowercase();
        // A charset in parts is none that is known here.
        let value = if name.contains('*') { "in parts" } else { value.trim().trim_matches('"') };
        name.starts_with("charset").then(|| value.to_owned())
    };
    let is_utf8 = |set: String| set.eq_ignore_ascii_case("utf-8") || set.eq_ignore_ascii_case("us-ascii");
    content_type.split(';').skip(1).filter_map(charset).all(is_utf8)
}

/// Returns the value of a header that is given exactly once, and is text.
fn only(headers: &HeaderMap, name: http::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}
