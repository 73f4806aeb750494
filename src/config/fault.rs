//! Faults in files, each with a position and a hint.

use std::path::{Path, PathBuf};
use std::{fmt, io};

use crate::unreadable;

/// A position in a file. Lines and columns are numbered from 1; line 0 stands for the file as a
/// whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The number of the line, counted from 1.
    pub line: usize,
    /// The number of the column, in characters, counted from 1.
    pub column: usize,
}

/// One fault of a configuration or key file.
///
/// Invariant: neither `message` nor `hint` ever contains a value from a key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The path of the file, as it was given.
    pub file: PathBuf,
    /// The position in the file.
    pub at: Position,
    /// The message of the fault, without the hint.
    pub message: String,
    /// A hint at the right value; `None` if no hint is known.
    pub hint: Option<String>,
}

impl Fault {
    /// Creates a fault at a position in a file.
    pub(crate) fn at(file: &Path, at: Position, message: impl Into<String>) -> Self {
        Fault { file: file.to_owned(), at, message: message.into(), hint: None }
    }

    /// Creates a fault of a file as a whole: the file is unreadable, missing or empty.
    pub(crate) fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Fault::at(file, Position::default(), message)
    }

    /// Creates the fault of a file that can't be read, with what to do about it. `what`: the content of the file,
    /// such as "the private key".
    pub(crate) fn unreadable(file: &Path, what: &str, error: &io::Error) -> Self {
        let hint = unreadable::advice(file, error);
        Fault { hint, ..Fault::of_file(file, format!("{what} can't be read: {error}")) }
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

/// All faults of one attempt to load files, sorted by file and position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl Faults {
    pub(crate) fn sorted(mut faults: Vec<Fault>) -> Self {
        faults.sort_by(|a, b| (&a.file, a.at).cmp(&(&b.file, b.at)));
        Faults(faults)
    }

    /// Returns each fault as an object `{"file", "line", "column", "message", "hint"}`.
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
