//! Tokens that are refused although they are valid: by their ids, or by their holders.

use std::collections::HashSet;
use std::path::Path;

use crate::config::denied;
use crate::config::fault::{Fault, Faults};
use crate::glob;
use crate::regular_file;

/// The tokens and holders that are refused.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Denied {
    tokens: HashSet<String>,
    subjects: HashSet<String>,
    /// Subjects with `*`, which stands for any characters, as in the conditions of identities.
    patterns: Vec<String>,
}

impl Denied {
    /// Reads the file.
    ///
    /// # Errors
    ///
    /// The file can't be read, or all faults in it. An empty file is a fault: it may be half written.
    pub(crate) fn read(path: &Path) -> Result<Self, Faults> {
        let text = regular_file::read_text(path)
            .map_err(|error| Fault::unreadable(path, "the denied tokens", &error))?;
        let written = denied::parse(path, &text)?;
        let (patterns, subjects): (Vec<_>, Vec<_>) =
            written.sub.into_iter().partition(|sub| sub.contains('*'));
        let (tokens, subjects) = (written.jti.into_iter().collect(), subjects.into_iter().collect());
        Ok(Denied { tokens, subjects, patterns })
    }

    /// Whether a token is refused. `id`: its `jti`, if it has one.
    pub(super) fn refuse(&self, id: Option<&str>, subject: &str) -> bool {
        self.subjects.contains(subject)
            || id.is_some_and(|id| self.tokens.contains(id))
            || self.patterns.iter().any(|pattern| glob::matches(pattern, subject, false))
    }

    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        self.tokens.len() + self.subjects.len() + self.patterns.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Denied, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Denied::read(file.path()).map_err(|faults| faults.to_string())
    }

    #[test]
    fn tokens_are_refused_by_their_ids_and_their_holders() {
        let denied = read("jti: [one, \"2\"]\nsub:\n  - mallory\n  - \"evals:*\"\n").unwrap();
        assert_eq!(denied.len(), 4);
        for (id, subject, is_refused) in [
            (Some("one"), "a", true),
            (Some("2"), "a", true),
            (Some("3"), "mallory", true),
            (None, "mallory", true),
            (Some("mallory"), "one", false),
            (None, "a", false),
            (None, "evals:x", true),
            (None, "xevals:x", false),
        ] {
            assert_eq!(denied.refuse(id, subject), is_refused, "{id:?} {subject}");
        }
    }

    #[test]
    fn a_file_that_says_nothing_is_a_fault() {
        for text in [
            "jti: [\"a*\"]\n",
            "jti: [\"a \"]\n",
            "sub: [\" a\"]\n",
            "sub: [\"!a\"]\n",
            "",
            "# nothing\n",
            "jti:\n",
            "jti: x\n",
            "{}\n",
            "jit: [x]\n",
            "jti: [[x]]\n",
            "jti: [\"\"]\n",
            "sub: ~\n",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
        assert_eq!(
            read("jti: []\n").unwrap(),
            Denied::default(),
            "a list without items says that there are none"
        );
        assert!(Denied::read(Path::new("/nonexistent")).is_err());
    }
}
