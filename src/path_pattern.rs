//! A route's path pattern: `*` stays within a segment, `**` crosses them.
//!
//! Most patterns are a plain path or all that lies under one. Those are compared as text; globset judges the rest.

use globset::{GlobBuilder, GlobMatcher};

/// A pattern, compiled.
#[derive(Clone, Debug)]
pub(crate) enum PathPattern {
    /// `/v1/models`
    Exact(String),
    /// `/v1/files/**`, kept as `/v1/files/`
    Under(String),
    /// Anything else.
    Glob(Box<GlobMatcher>),
}

impl PathPattern {
    pub(crate) fn new(pattern: &str) -> Result<Self, globset::Error> {
        let is_plain = |text: &str| !text.contains(['*', '?', '[', ']', '{', '}', '!', '\\']);
        if is_plain(pattern) {
            return Ok(PathPattern::Exact(pattern.to_owned()));
        }
        match pattern.strip_suffix("**") {
            Some(under) if is_plain(under) && under.ends_with('/') => {
                Ok(PathPattern::Under(under.to_owned()))
            }
            _ => glob(pattern).map(|glob| PathPattern::Glob(Box::new(glob))),
        }
    }

    /// Whether a canonical path matches.
    pub(crate) fn matches(&self, path: &str) -> bool {
        match self {
            PathPattern::Exact(exact) => path == exact,
            PathPattern::Under(under) => path.starts_with(under.as_str()),
            PathPattern::Glob(glob) => glob.is_match(path),
        }
    }
}

/// Whether every path that `narrow` matches is matched by `wide`, too. Says so only where it is sure.
pub(crate) fn covers(wide: &str, narrow: &str) -> bool {
    let is_plain = |pattern: &str| !pattern.contains(['?', '[', ']', '{', '}', '!', '\\']);
    wide == narrow
        || (is_plain(wide) && is_plain(narrow) && covers_segments(&segments(wide), &segments(narrow)))
}

/// Whether some path may be matched by both. Where it can't tell, it says so.
pub(crate) fn meet(one: &str, other: &str) -> bool {
    meet_segments(&segments(one), &segments(other))
}

fn segments(pattern: &str) -> Vec<&str> {
    pattern.split('/').collect()
}

fn covers_segments(wide: &[&str], narrow: &[&str]) -> bool {
    match (wide, narrow) {
        (["**"], [_, ..]) => true,
        (["**", rest @ ..], [_, behind @ ..]) => {
            covers_segments(rest, narrow) || covers_segments(wide, behind)
        }
        // What may be many segments is covered by the same alone.
        (_, ["**", ..]) => false,
        ([first, rest @ ..], [other, behind @ ..]) => {
            covers_text(first.as_bytes(), other.as_bytes()) && covers_segments(rest, behind)
        }
        (wide, narrow) => wide.is_empty() && narrow.is_empty(),
    }
}

/// As a pattern, `wide`, would match the text of `narrow`, of which a `*` is matched by a `*` alone.
fn covers_text(wide: &[u8], narrow: &[u8]) -> bool {
    match (wide, narrow) {
        ([b'*', rest @ ..], _) => {
            covers_text(rest, narrow)
                || narrow.split_first().is_some_and(|(_, behind)| covers_text(wide, behind))
        }
        ([first, rest @ ..], [other, behind @ ..]) => first == other && covers_text(rest, behind),
        (wide, narrow) => wide.is_empty() && narrow.is_empty(),
    }
}

fn meet_segments(one: &[&str], other: &[&str]) -> bool {
    match (one, other) {
        // At the end, it stands for one at least.
        (["**"], _) => !other.is_empty(),
        (["**", rest @ ..], _) => {
            meet_segments(rest, other)
                || other.split_first().is_some_and(|(_, behind)| meet_segments(one, behind))
        }
        (_, ["**", ..]) => meet_segments(other, one),
        ([first, rest @ ..], [second, behind @ ..]) => {
            meet_text(first.as_bytes(), second.as_bytes()) && meet_segments(rest, behind)
        }
        (one, other) => one.is_empty() && other.is_empty(),
    }
}

fn meet_text(one: &[u8], other: &[u8]) -> bool {
    let is_special = |text: &[u8]| text.iter().any(|byte| b"?[]{}!\\".contains(byte));
    if is_special(one) || is_special(other) {
        return true;
    }
    match (one, other) {
        ([b'*', rest @ ..], _) => {
            meet_text(rest, other) || other.split_first().is_some_and(|(_, behind)| meet_text(one, behind))
        }
        (_, [b'*', ..]) => meet_text(other, one),
        ([first, rest @ ..], [second, behind @ ..]) => first == second && meet_text(rest, behind),
        (one, other) => one.is_empty() && other.is_empty(),
    }
}

fn glob(pattern: &str) -> Result<GlobMatcher, globset::Error> {
    let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(false).build()?;
    Ok(glob.compile_matcher())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_are_compared() {
        for (wide, narrow) in
            [("/v1/*", "/v1/x*"), ("/v1/**", "/v1/a/*"), ("/**", "/v1/**"), ("/a*c", "/ab*c"), ("/x", "/x")]
        {
            assert!(covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [("/v1/x*", "/v1/*"), ("/v1/*", "/v1/**"), ("/v1/*", "/v1/a/b"), ("/a", "/*")] {
            assert!(!covers(wide, narrow), "{wide} {narrow}");
        }
        for (one, other) in
            [("/v1/*/info", "/v1/chat/*"), ("/v1/**", "/*/x"), ("/a*", "/*b"), ("/[ab]", "/a")]
        {
            assert!(meet(one, other) && meet(other, one), "{one} {other}");
        }
        for (one, other) in [("/v1/a/*", "/v1/b/*"), ("/v1/*", "/v1/a/b"), ("/a*", "/b*")] {
            assert!(!meet(one, other) && !meet(other, one), "{one} {other}");
        }
    }

    proptest! {
        /// What is said of two patterns holds for every path.
        #[test]
        fn a_comparison_holds_for_every_path(
            one in "/(([ab]|\\*){1,2}/){0,2}(([ab]|\\*){1,2}|\\*\\*)",
            other in "/(([ab]|\\*){1,2}/){0,2}(([ab]|\\*){1,2}|\\*\\*)",
            path in "/([ab]{1,2}/){0,3}[ab]{1,2}",
        ) {
            let matches = |pattern: &str| PathPattern::new(pattern).unwrap().matches(&path);
            prop_assert!(!(covers(&one, &other) && matches(&other)) || matches(&one));
            prop_assert!(!(matches(&one) && matches(&other)) || meet(&one, &other));
        }

        /// The shortcuts say what globset says.
        #[test]
        fn the_shortcuts_are_right(
            pattern in "/([ab]{0,2}/){0,2}([ab]{0,2}|\\*\\*)",
            path in "/([ab]{0,2}/){0,3}[ab]{0,2}",
        ) {
            let compiled = PathPattern::new(&pattern).unwrap();
            prop_assert!(!matches!(compiled, PathPattern::Glob(_)));
            prop_assert_eq!(compiled.matches(&path), glob(&pattern).unwrap().is_match(&path), "{} {}", pattern, path);
        }
    }
}
