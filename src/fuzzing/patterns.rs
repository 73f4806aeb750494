//! Fuzzes path patterns, compared with a second implementation, and routes: a request for a path of
//! the narrow route must never be decided by the wide route alone.

use std::path::Path;

use http::Method;
use http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;

use crate::config::{Ambiguity, Config};
use crate::guard;
use crate::path_pattern::PathPattern;
use crate::route::{Lookup, RouteTable};

/// Maximum length of a pattern in bytes. Longer patterns would only make the second implementation
/// slow.
const LONGEST_PATTERN: usize = 64;
const LONGEST_PATH: usize = 160;

/// Parses the first line as a pattern, the second line as another pattern, and the rest as the path
/// of a request. Checks which pattern matches, and which route decides.
pub fn patterns(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.splitn(3, '\n');
    let (Some(first), Some(second), Some(path)) = (lines.next(), lines.next(), lines.next()) else { return };
    if first.len() > LONGEST_PATTERN || second.len() > LONGEST_PATTERN || path.len() > LONGEST_PATH {
        return;
    }
    for pattern in [first, second] {
        if let Err(fault) = PathPattern::parse(pattern) {
            check_hint(pattern, fault.hint.as_deref());
        }
    }
    let Ok(raw) = PathAndQuery::try_from(path) else { return };
    let Some((canonical, ambiguities)) = guard::canonical(&raw).filter(|_| raw.path().starts_with('/'))
    else {
        return;
    };
    let path = canonical.path();
    let (Ok(ours), Ok(theirs)) = (PathPattern::parse(first), PathPattern::parse(second)) else { return };
    for (text, parsed) in [(first, &ours), (second, &theirs)] {
        let expected = expanded(text).iter().any(|text| should_match(text, path));
        assert_eq!(parsed.iter().any(|pattern| pattern.matches(path)), expected, "{text} {path}");
    }
    for (one, other) in ours.iter().flat_map(|one| theirs.iter().map(move |other| (one, other))) {
        let (matches, also) = (one.matches(path), other.matches(path));
        assert!(!(one.covers(other) && also) || matches, "{one} is said to cover {other}: {path}");
        assert!(
            !(matches && also) || (one.meets(other) && other.meets(one)),
            "{one} and {other} are said not to meet"
        );
        assert!(path.starts_with(one.beginning()) || !matches, "{one} begins with {}", one.beginning());
    }
    for text in expanded(first) {
        check_routes(&text, &raw, &canonical, &ambiguities);
    }
}

/// Checks that the pattern that a fault's hint suggests is valid.
fn check_hint(pattern: &str, hint: Option<&str>) {
    let meant = hint.and_then(|hint| hint.strip_suffix(" is meant?"));
    // A pattern that does not begin with a slash may have further faults.
    if let Some(meant) = meant.filter(|_| pattern.starts_with('/')) {
        assert!(PathPattern::parse(meant).is_ok(), "{pattern}: {meant} is no pattern");
    }
}

/// Expands the braces of a pattern into patterns without braces, from the innermost pair outwards.
fn expanded(pattern: &str) -> Vec<String> {
    let Some(close) = pattern.find('}') else { return vec![pattern.to_owned()] };
    let open = pattern[..close].rfind('{').expect("a pattern with braces that match");
    let mut all = Vec::new();
    let mut choice = String::new();
    let mut is_class = false;
    for c in pattern[open + 1..close].chars().chain([',']) {
        is_class = (is_class || c == '[') && c != ']';
        if c == ',' && !is_class {
            // These braces are the innermost pair. The recursive call expands the outer pairs.
            all.extend(expanded(&format!("{}{choice}{}", &pattern[..open], &pattern[close + 1..])));
            choice.clear();
        } else {
            choice.push(c);
        }
    }
    all
}

/// Whether a pattern without braces matches a path. Segments are compared from the last one to the
/// first one.
fn should_match(pattern: &str, path: &str) -> bool {
    let segments = |text: &str| text.split('/').skip(1).map(str::to_owned).collect::<Vec<_>>();
    let (wanted, found) = (segments(pattern), segments(path));
    should_match_segments(&wanted, &found, true)
}

fn should_match_segments(wanted: &[String], found: &[String], is_end: bool) -> bool {
    let Some((last, before)) = wanted.split_last() else { return found.is_empty() };
    if last == "**" {
        let least = usize::from(is_end);
        return (least..=found.len())
            .any(|taken| should_match_segments(before, &found[..found.len() - taken], false));
    }
    let Some((text, rest)) = found.split_last() else { return false };
    should_match_segments(before, rest, false) && should_match_text(&pieces(last), &characters(text))
}

/// A piece of a pattern: `None` is a star; `Some` checks which characters the piece matches.
type Piece = Option<Box<dyn Fn(&str) -> bool>>;

fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '[' => rest.find(']').expect("a class has an end") + 1,
            '%' => 3,
            _ => first.len_utf8(),
        };
        let (token, behind) = rest.split_at(length);
        rest = behind;
        let token = token.to_owned();
        pieces.push(match first {
            '*' => None,
            '?' => Some(Box::new(|_| true)),
            '[' => Some(Box::new(move |found| is_in_class(&token[1..token.len() - 1], found))),
            _ => Some(Box::new(move |found| found == token)),
        });
    }
    pieces
}

fn is_in_class(class: &str, found: &str) -> bool {
    let (is_negated, members) = match class.strip_prefix(['!', '^']) {
        Some(members) => (true, members.as_bytes()),
        None => (false, class.as_bytes()),
    };
    let mut at = 0;
    let mut is_member = false;
    while at < members.len() {
        let is_range = members.get(at + 1) == Some(&b'-') && at + 2 < members.len();
        let (low, high) = if is_range { (members[at], members[at + 2]) } else { (members[at], members[at]) };
        is_member |= found.len() == 1 && (low..=high).contains(&found.as_bytes()[0]);
        at += if is_range { 3 } else { 1 };
    }
    is_member != is_negated
}

/// Splits a segment into characters. A percent-encoded byte is one character.
fn characters(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (character, behind) = rest.split_at(if first == '%' { 3 } else { first.len_utf8() });
        found.push(character.to_owned());
        rest = behind;
    }
    found
}

/// Whether the pieces match the characters. All states of the comparison are followed at once, so
/// that a pattern with many stars costs no more than a pattern with few stars.
fn should_match_text(pieces: &[Piece], text: &[String]) -> bool {
    let close = |states: &mut Vec<bool>| {
        for position in 0..pieces.len() {
            states[position + 1] |= states[position] && pieces[position].is_none();
        }
    };
    let mut states = vec![false; pieces.len() + 1];
    states[0] = true;
    close(&mut states);
    for character in text {
        let mut next = vec![false; pieces.len() + 1];
        for (position, piece) in pieces.iter().enumerate().filter(|(position, _)| states[*position]) {
            match piece {
                None => next[position] = true,
                Some(takes) => next[position + 1] |= takes(character),
            }
        }
        close(&mut next);
        states = next;
    }
    states[pieces.len()]
}

/// Checks that the narrow route takes part in the decision about each path that upstream would read
/// as a path of the narrow route, in whatever spelling.
fn check_routes(pattern: &str, raw: &PathAndQuery, canonical: &PathAndQuery, ambiguities: &[Ambiguity]) {
    let guarded = pattern.strip_suffix("**").filter(|guarded| guarded.ends_with('/'));
    if guarded.unwrap_or(pattern).contains(['*', '?', '[', '{', '}']) || pattern.contains("${") {
        return;
    }
    // Patterns with an encoded slash or backslash are skipped. Such a pattern asserts that upstream
    // treats the encoded character as part of a name (`accept_in_path`).
    if pattern.contains("%2F") || pattern.contains("%5C") {
        return;
    }
    for ignores_case in [false, true] {
        let Some(table) = table(pattern, ignores_case) else { return };
        let reads = |text: &str| {
            let merged = merged(&percent_decode_str(text).collect::<Vec<u8>>());
            if ignores_case { merged.to_ascii_lowercase() } else { merged }
        };
        let read = reads(canonical.path());
        let is_guarded = match guarded {
            Some(guarded) => read.starts_with(
                &percent_decode_str(guarded)
                    .map(|byte| if ignores_case { byte.to_ascii_lowercase() } else { byte })
                    .collect::<Vec<u8>>(),
            ),
            None => read == reads(pattern),
        };
        if !is_guarded {
            continue;
        }
        let found = table.find("a.example", &Method::GET, canonical.path());
        let others = table.other_readings("a.example", &Method::GET, canonical.path(), ambiguities);
        let is_narrow = |lookup: &Lookup| matches!(lookup, Lookup::Found(route) if &*route.name == "narrow");
        assert!(
            is_narrow(&found) || others.iter().any(|route| &*route.name == "narrow"),
            "{raw} slips by {pattern} ({ignores_case})"
        );
    }
}

/// Returns a path as many servers read it after decoding: a backslash is a slash, and repeated
/// slashes are merged.
fn merged(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    for byte in path {
        let byte = if *byte == b'\\' { b'/' } else { *byte };
        if !(byte == b'/' && out.last() == Some(&b'/')) {
            out.push(byte);
        }
    }
    out
}

fn table(pattern: &str, ignores_case: bool) -> Option<RouteTable> {
    let quoted = pattern.replace('\'', "''");
    let source = format!(
        "listeners: [{{address: 127.0.0.1:0}}]\nkeys: {{path: k.yaml}}\n\
         upstreams: [{{name: m, endpoints: [http://127.0.0.1:2], accept_in_path: [encoded-slash, encoded-backslash, semicolon], paths: {{ignore_case: {ignores_case}}}}}]\n\
         routes: [{{name: narrow, paths: ['{quoted}'], permission: admin}}, {{name: wide, paths: ['/**'], permission: read}}]\n"
    );
    let config = Config::parse(Path::new("fuzz.yaml"), &source, &|_| None).ok()?;
    Some(RouteTable::of(&config))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::patterns;

    proptest! {
        /// Checks the fuzzer's properties on generated inputs, which are valid patterns and paths
        /// more often than libFuzzer's inputs.
        #[test]
        fn patterns_and_paths(
            first in "/(([ab]|%20|%C3%BC|\\*|\\?|\\[[!]?[a-c]\\]|\\{a,b\\}|;|:|[A-B]){0,3}/){0,2}(([ab]|\\*){1,3}|\\*\\*|)",
            second in "/?([abü%/.{},* 27eF:\\[\\]!-]){0,12}(/\\*\\*)?",
            path in "/(([abAB]|%20|%61|%c3%bc|%C3%9C|%2F|%2e|%5C|%3a|:|;|\\.|/){0,4}/){0,3}([ab]|%62|%2f){0,3}",
        ) {
            patterns(format!("{first}\n{second}\n{path}").as_bytes());
        }

        /// The guarded route takes part in the decision about each path below its prefix, in
        /// whatever spelling.
        #[test]
        fn a_guarded_path_in_any_spelling(
            place in "(/[abA-B:,!ü~-]{1,3}){1,2}",
            rest in "(/|%2F|%5C|;x/|//|/\\./|/x/\\.\\./)[ab]{0,2}",
            encoded in prop::collection::vec(any::<bool>(), 16),
            upper in prop::collection::vec(any::<bool>(), 16),
        ) {
            let written: String = place.bytes().zip(encoded.iter().chain(std::iter::repeat(&true))).map(|(byte, is_encoded)| {
                match byte != b'/' && (*is_encoded || !byte.is_ascii()) {
                    true => format!("%{byte:02x}"),
                    false => char::from(byte).to_string(),
                }
            }).collect();
            let cased: String = written.chars().zip(upper.iter().chain(std::iter::repeat(&false))).map(|(c, is_upper)| {
                if *is_upper && !written.contains('%') { c.to_ascii_uppercase() } else { c }
            }).collect();
            let pattern: String = place.bytes().map(|byte| match byte.is_ascii() {
                true => char::from(byte).to_string(),
                false => format!("%{byte:02X}"),
            }).collect();
            patterns(format!("{pattern}/**\n/**\n{cased}{rest}").as_bytes());
            patterns(format!("{pattern}\n/**\n{cased}").as_bytes());
        }
    }
}
