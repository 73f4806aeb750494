//! Patterns for the names of models, as in `models: ["llama-3*", "!*-70b"]`.

use std::fmt;

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
}

impl fmt::Display for PatternFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PatternFault::Empty => "a pattern for models is empty, and matches nothing",
            PatternFault::NotPlain => "a pattern for models has white space around it, or control characters",
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

/// Whether `glob` matches the whole `name`. `*` matches any characters, `/` too.
fn matches(glob: &str, name: &str, ignores_case: bool) -> bool {
    let same = |a: u8, b: u8| if ignores_case { a.eq_ignore_ascii_case(&b) } else { a == b };
    let (glob, name) = (glob.as_bytes(), name.as_bytes());
    // Position in both, and where to resume after the last `*` with one more byte under it.
    let (mut at, mut of, mut star) = (0, 0, None);
    while let Some(byte) = name.get(of) {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at + 1, of));
                at += 1;
            }
            Some(known) if same(*known, *byte) => (at, of) = (at + 1, of + 1),
            _ => match &mut star {
                Some((after, under)) => {
                    *under += 1;
                    (at, of) = (*after, *under);
                }
                None => return false,
            },
        }
    }
    glob.get(at..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}
