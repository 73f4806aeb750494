//! What is wrong with a file, where, and what would be right.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::regular_file;

/// A place in a file. Lines and columns count from 1; line 0 stands for the file as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The column, in characters, from 1.
    pub column: usize,
}

/// One fault of a configuration or key file.
///
/// Invariant: neither `message` nor `hint` ever holds a value from a key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Where in it.
    pub at: Position,
    /// What is wrong.
    pub message: String,
    /// What would be right, where that can be said.
    pub hint: Option<String>,
}

impl Fault {
    /// A fault at a place in a file.
    pub(crate) fn at(file: &Path, at: Position, message: impl Into<String>) -> Self {
        Fault { file: file.to_owned(), at, message: message.into(), hint: None }
    }

    /// A fault of a file as a whole: unreadable, missing, empty.
    pub(crate) fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Fault::at(file, Position::default(), message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.at.line > 0 {
            write!(f, ":{}:{}", self.at.line, self.at.column)?;
        }
        write!(f, ": {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// All faults that one reading found, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    pub(crate) fn sorted(mut faults: Vec<Fault>) -> Self {
        faults.sort_by(|a, b| (&a.file, a.at).cmp(&(&b.file, b.at)));
        Faults(faults)
    }

    /// Each as `{"file", "line", "column", "message", "hint"}`.
    pub(crate) fn as_json(&self) -> impl Iterator<Item = serde_json::Value> {
        self.0.iter().map(|fault| {
            serde_json::json!({
                "file": fault.file,
                "line": fault.at.line,
                "column": fault.at.column,
                "message": fault.message,
                "hint": fault.hint,
            })
        })
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Faults(vec![fault])
    }
}

/// The files that a configuration names, and where it does so.
#[derive(Clone, Default)]
pub(crate) struct NamedFiles {
    pub(crate) config: PathBuf,
    /// The key store, whose faults have places of their own.
    pub(crate) store: PathBuf,
    pub(crate) places: Vec<(PathBuf, Position)>,
}

impl NamedFiles {
    /// A file that can't be opened, or holds something else, is a fault of the place that names it, which most likely names
    /// the wrong one.
    pub(crate) fn placed(&self, faults: Faults) -> Faults {
        let placed = faults.0.into_iter().map(|fault| {
            let named = self.places.iter().find(|(path, _)| *path == fault.file && fault.at.line == 0);
            let named = named.filter(|(path, _)| *path != self.store || regular_file::open(path).is_err());
            let Some((path, at)) = named else { return fault };
            let message = format!("{}: {}", path.display(), fault.message);
            Fault { file: self.config.clone(), at: *at, message, ..fault }
        });
        Faults::sorted(placed.collect())
    }
}

impl fmt::Debug for NamedFiles {
    // Two configurations that say the same are told the same way, wherever in their files they say it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NamedFiles")
    }
}
