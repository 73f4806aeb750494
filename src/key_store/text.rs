//! The plain list: one raw token on each line, as in llama.cpp's `--api-key-file`. It is meant for
//! migrations: its keys have a derived id, no name, and the permissions `read` and `write`.

use std::collections::HashMap;
use std::path::Path;

use crate::config::fault::{Fault, Faults, Position};
use crate::key_store::claim::Claim;
use crate::key_store::settle::{Entry, Unread};
use crate::keys::KeyRecord;
use crate::keys::id_secret::IdSecret;
use crate::keys::token::mistyped_id;
use crate::keys::{Credential, Permission, Permissions, is_presentable};
use crate::placeholder;

/// The permissions of every key of a plain list.
pub(crate) const PERMISSIONS: [Permission; 2] = [Permission::Read, Permission::Write];

/// Parses a list of tokens, or returns all its faults. A list may be empty. `ids` is the secret
/// that makes the ids of the keys.
pub(crate) fn parse(path: &Path, source: &str, ids: &IdSecret) -> Result<Vec<KeyRecord>, Faults> {
    let mut records: Vec<KeyRecord> = Vec::new();
    let mut faults = Vec::new();
    let mut seen = HashMap::new();
    for entry in entries(path, source, ids) {
        match entry.read {
            Err(unread) => faults.extend(unread.faults),
            Ok(record) => {
                if let Some(first) = seen.insert(record.hash, entry.at.line) {
                    let fault = Fault::at(path, entry.at, "this token appears twice");
                    faults.push(fault.hint(format!("it appears first in line {first}")));
                }
                records.push(record);
            }
        }
    }
    if faults.is_empty() { Ok(records) } else { Err(Faults(faults)) }
}

/// Parses each line separately. Empty lines and lines that begin with `#` are skipped.
pub(crate) fn entries(path: &Path, source: &str, ids: &IdSecret) -> Vec<Entry> {
    let lines = source.lines().enumerate();
    lines.filter_map(|(number, line)| entry(path, number + 1, line, ids)).collect()
}

fn entry(path: &Path, number: usize, line: &str, ids: &IdSecret) -> Option<Entry> {
    let text = line.trim();
    if text.is_empty() || text.starts_with('#') {
        return None;
    }
    let start = line.len() - line.trim_start().len();
    let position = |offset: usize| {
        let column = line.get(..start + offset).unwrap_or_default().chars().count() + 1;
        Position { line: number, column }
    };
    let read = token(text).map_err(|(offset, message, hint, claim)| Unread {
        claim,
        // A line that contains white space or begins like HTML is not a token. A file that has only
        // such lines is not a list of tokens.
        is_entry: !text.contains(char::is_whitespace) && !text.starts_with('<'),
        faults: vec![Fault::at(path, position(offset), message).hint(hint)],
    });
    let record = |token: Credential| {
        KeyRecord::new(ids.key_id(&token), token.hash(), Permissions::from_iter(PERMISSIONS))
    };
    Some(Entry { at: position(0), read: read.map(record) })
}

/// Parses a token. The error has the fault's offset in the line, the fault's message and hint, and
/// the claim of the line to a key.
fn token(text: &str) -> Result<Credential, (usize, &'static str, &'static str, Claim)> {
    if let Some(placeholder) = placeholder::find(text) {
        return Err((placeholder.offset, placeholder.what, placeholder.hint, Claim::default()));
    }
    if !is_presentable(text) {
        let hint = "one printable ASCII word a line, without commas";
        return Err((0, "this is not a token", hint, Claim::default()));
    }
    let token = Credential::new(text.as_bytes());
    match mistyped_id(text).filter(|_| token.is_mistyped()) {
        None => Ok(token),
        Some(id) => {
            let hint = "a character of it was lost or changed";
            Err((0, "a bearward token with a wrong checksum", hint, Claim::of_id(&id)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_and_comments_are_not() {
        let records =
            parse(Path::new("k.txt"), "# for the laptop\nsk-one\r\n\n  sk-two  \n", &IdSecret::random())
                .unwrap();
        let hashes: Vec<_> = records.iter().map(|record| record.hash).collect();
        assert_eq!(hashes, [Credential::new(b"sk-one").hash(), Credential::new(b"sk-two").hash()]);
        assert_eq!(records[0].permissions.names(), ["read", "write"]);
        assert_ne!(records[0].id, records[1].id);
    }

    #[test]
    fn a_token_that_no_client_can_send_is_refused_with_its_line_and_not_quoted() {
        let faults =
            parse(Path::new("k.txt"), "sk-one\na secret\nsk,secret\nsk-one\nséc\n", &IdSecret::random())
                .unwrap_err();
        let lines: Vec<_> = faults.0.iter().map(|fault| fault.at.line).collect();
        assert_eq!(lines, [2, 3, 4, 5]);
        assert!(!faults.to_string().contains("secret"), "{faults}");
        assert_eq!(parse(Path::new("k.txt"), "# none\n", &IdSecret::random()), Ok(Vec::new()));
    }
}
