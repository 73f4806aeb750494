//! Patterns for the names of models, as in `models: ["llama-3*", "!*-70b"]`.

use std::fmt;

use crate::glob::matches;

/// Characters that stand for others in other programs' patterns, and that names of models have next to never.
const FOREIGN: [char; 9] = ['[', ']', '{', '}', '|', '?', '!', '^', '$'];

/// A list of patterns. A name passes if a pattern allows it and no pattern with `!` takes it out
/// again; a list of `!` patterns alone allows all other names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ModelPatterns {
    written: Vec<String>,
}

/// Reason why a pattern is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatternFault {
    Empty,
    /// White space around a pattern, or a control character: no name has these.
    NotPlain,
    /// A pattern that takes nothing out, because it is written as other programs write patterns.
    OtherLanguage,
}

impl fmt::Display for PatternFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PatternFault::Empty => "a pattern for models is empty, and matches nothing",
            PatternFault::NotPlain => "a pattern for models has white space around it, or control characters",
            PatternFault::OtherLanguage => {
                "a pattern with `!` takes out what is behind it, in which only `*` stands for other characters"
            }
        })
    }
}

impl ModelPatterns {
    /// Makes the list of these patterns.
    ///
    /// # Errors
    ///
    /// The first pattern that can match no name.
    pub(crate) fn new(written: Vec<String>) -> Result<Self, (usize, PatternFault)> {
        for (index, pattern) in written.iter().enumerate() {
            let glob = pattern.strip_prefix('!').unwrap_or(pattern);
            if glob.is_empty() {
                return Err((index, PatternFault::Empty));
            }
            if glob.trim() != glob || glob.chars().any(char::is_control) {
                return Err((index, PatternFault::NotPlain));
            }
            // Taken as they are, such characters would take no model out.
            if glob.len() < pattern.len() && glob.contains(FOREIGN) {
                return Err((index, PatternFault::OtherLanguage));
            }
        }
        Ok(ModelPatterns { written })
    }

    /// Returns the list of the patterns of both lists.
    pub(crate) fn and(mut self, more: ModelPatterns) -> Self {
        self.written.extend(more.written);
        self
    }

    /// Returns the patterns as they are configured.
    pub(crate) fn written(&self) -> &[String] {
        &self.written
    }

    /// Whether the list allows a model. A pattern allows it by one of the names `allowed`, in exactly
    /// this case. A pattern with `!` takes it out by any of its `names`, in any case: some servers
    /// ignore case.
    pub(crate) fn allow_as<'n>(
        &self,
        allowed: impl Iterator<Item = &'n str> + Clone,
        names: impl Iterator<Item = &'n str> + Clone,
    ) -> bool {
        let (mut has_allowing, mut is_allowed) = (false, false);
        for pattern in &self.written {
            match pattern.strip_prefix('!') {
                Some(glob) => {
                    if names.clone().any(|name| matches(glob, name, true)) {
                        return false;
                    }
                }
                None => {
                    has_allowing = true;
                    is_allowed |= allowed.clone().any(|name| matches(pattern, name, false));
                }
            }
        }
        is_allowed || !has_allowing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_would_take_nothing_out_is_refused() {
        let made = |pattern: &str| ModelPatterns::new(vec!["a".to_owned(), pattern.to_owned()]);
        for pattern in ["!bad-[0-9]*", "!gpt-?", "!(a|b)", "!!foo", "!bad,!worse", "!{a,b}", "!^a", "!a$"] {
            assert_eq!(made(pattern), Err((1, PatternFault::OtherLanguage)), "{pattern}");
        }
        assert_eq!(made("! a"), Err((1, PatternFault::NotPlain)));
        assert_eq!(made("!"), Err((1, PatternFault::Empty)));
        for pattern in ["!*-70b", "!org/Name_1.5:latest-q4@x+y", "!*Foo (v2).gguf", "gpt-?"] {
            assert!(made(pattern).is_ok(), "{pattern}");
        }
    }
}
