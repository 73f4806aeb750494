//! The plain list: one raw token a line, as llama.cpp's `--api-key-file` has it. For moving over: its keys have an id that
//! is made of them, no name, and may read and write.

use std::path::Path;

use super::record::KeyRecord;
use super::{Credential, Permission, Permissions, placeholder};
use crate::config::fault::{Fault, Faults, Position};

/// What every key of a plain list may do: what it could do where it comes from, short of administration.
pub(crate) const PERMISSIONS: [Permission; 2] = [Permission::Read, Permission::Write];

/// Reads a list of tokens. Lines that are empty, or begin with `#`, are none.
pub(crate) fn parse(path: &Path, source: &str) -> Result<Vec<KeyRecord>, Faults> {
    let mut records: Vec<KeyRecord> = Vec::new();
    let mut faults = Vec::new();
    let mut seen = std::collections::HashMap::new();
    for (number, line) in source.lines().enumerate() {
        let token = line.trim();
        if token.is_empty() || token.starts_with('#') {
            continue;
        }
        let start = line.len() - line.trim_start().len();
        let mut fault_at = |offset: usize, message: &str, hint: String| {
            let column = line.get(..start + offset).unwrap_or_default().chars().count() + 1;
            let at = Position { line: number + 1, column };
            faults.push(Fault::at(path, at, message).hint(hint));
        };
        if let Some(placeholder) = placeholder::find(token) {
            fault_at(placeholder.offset, placeholder.what, placeholder.hint.to_owned());
            continue;
        }
        let mut fault = |message: &str, hint: String| fault_at(0, message, hint);
        match is_presentable(token).then(|| Credential::new(token.as_bytes())) {
            None => {
                fault("this is not a token", "one printable ASCII word a line, without commas".to_owned())
            }
            Some(token) if token.is_mistyped() => {
                fault(
                    "a bearward token with a wrong checksum",
                    "a character of it was lost or changed".to_owned(),
                );
            }
            Some(token) => {
                if let Some(first) = seen.insert(token.hash(), number + 1) {
                    fault("this token stands twice", format!("it stands first in line {first}"));
                }
                records.push(KeyRecord::new(
                    token.key_id(),
                    token.hash(),
                    Permissions::from_iter(PERMISSIONS),
                ));
            }
        }
    }
    if !faults.is_empty() {
        return Err(Faults(faults));
    }
    match records.is_empty() {
        false => Ok(records),
        true => Err(Fault::of_file(path, "the key file has no keys").into()),
    }
}

/// Whether a caller could present `token` at all.
pub(crate) fn is_presentable(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_and_comments_are_not() {
        let records = parse(Path::new("k.txt"), "# for the laptop\nsk-one\r\n\n  sk-two  \n").unwrap();
        let hashes: Vec<_> = records.iter().map(|record| record.hash).collect();
        assert_eq!(hashes, [Credential::new(b"sk-one").hash(), Credential::new(b"sk-two").hash()]);
        assert_eq!(records[0].permissions.names(), ["read", "write"]);
        assert_ne!(records[0].id, records[1].id);
    }

    #[test]
    fn what_nobody_could_present_is_refused_with_its_line_and_not_quoted() {
        let faults = parse(Path::new("k.txt"), "sk-one\na secret\nsk,secret\nsk-one\nséc\n").unwrap_err();
        let lines: Vec<_> = faults.0.iter().map(|fault| fault.at.line).collect();
        assert_eq!(lines, [2, 3, 4, 5]);
        assert!(!faults.to_string().contains("secret"), "{faults}");
        assert!(parse(Path::new("k.txt"), "# none\n").is_err());
    }
}
