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

fn glob(pattern: &str) -> Result<GlobMatcher, globset::Error> {
    let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(false).build()?;
    Ok(glob.compile_matcher())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
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
