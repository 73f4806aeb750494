//! Decoder of the methods of a route.

use http::Method;

use crate::config::decode::Decoder;
use crate::config::limits::LONGEST_METHOD;
use crate::config::tree::Node;

/// Methods that clients use (RFC 9110 and its registry). Any other method is accepted, except for a
/// likely typing error: a name that differs from one of these by one letter.
const METHODS: [&str; 20] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "CONNECT",
    "TRACE",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "MERGE",
    "QUERY",
];

/// Words that stand for all methods in other programs. In a route, such a word would be a method
/// that no request has.
const EVERY_METHOD: [&str; 4] = ["ALL", "ANY", "EVERY", "*"];

/// Returns a hint if `text` is a word or pattern that means several or all methods in other
/// programs.
fn meant_methods(text: &str) -> Option<&'static str> {
    let text = text.trim();
    if EVERY_METHOD.iter().any(|every| text.eq_ignore_ascii_case(every)) {
        return Some("leave `methods` out for all of them");
    }
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_several = text.contains(is_of_name) && !text.chars().all(is_of_name);
    is_several.then_some("a list of names, as in [GET, POST]")
}

pub(super) fn method(d: &mut Decoder<'_>, node: &Node) -> Option<Method> {
    let text = d.text(node)?;
    if let Some(hint) = meant_methods(&text) {
        let message = format!("`{text}` never matches: no request has this method");
        return d.hinted(node.at, message, hint);
    }
    let method: Method = d.parsed(node, "a method", "as in GET or POST")?;
    let (name, capitals) = (method.as_str(), method.as_str().to_ascii_uppercase());
    if name != capitals {
        let hint = format!("{capitals} is meant?");
        return d.hinted(node.at, "methods are case-sensitive", hint);
    }
    if matches!(method, Method::CONNECT | Method::TRACE) || name.len() > LONGEST_METHOD {
        let message =
            format!("`{name}` never matches: a request with it is refused before routes are compared");
        d.fault(node.at, message);
        return None;
    }
    // A typing error is one letter too many, one missing letter, one wrong letter, or two
    // neighbouring letters swapped.
    let is_typo_of = |known: &&&str| strsim::damerau_levenshtein(name, known) == 1;
    if let Some(known) = METHODS.iter().find(is_typo_of).filter(|_| !METHODS.contains(&name)) {
        let message = format!("`{name}` is no method that clients use");
        return d.hinted(node.at, message, format!("did you mean `{known}`?"));
    }
    Some(method)
}
