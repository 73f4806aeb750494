//! The readings of a path that servers read in different ways.

use crate::config::Ambiguity;

/// A `;` that does not begin parameters.
pub(super) const ENCODED_SEMICOLON: &str = "%3B";

/// All readings of a path with ambiguous parts: each part decoded, parameters cut off, and all
/// combinations. `reads_semicolons`: an encoded `;` is ambiguous, too.
pub(super) fn readings(path: &str, ambiguities: &[Ambiguity], reads_semicolons: bool) -> Vec<String> {
    let read = |path: &str, ambiguity: Ambiguity| match ambiguity {
        Ambiguity::EncodedSlash => path.replace("%2F", "/"),
        Ambiguity::EncodedBackslash => path.replace("%5C", "/"),
        Ambiguity::Semicolon => path
            .split('/')
            .map(|segment| segment.split(';').next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join("/"),
    };
    let mut found = vec![path.to_owned()];
    let has_semicolons = reads_semicolons || ambiguities.contains(&Ambiguity::Semicolon);
    if has_semicolons {
        // Decoded, both are the same. A pattern may contain either.
        found.push(path.replace(ENCODED_SEMICOLON, ";"));
        found.push(path.replace(';', ENCODED_SEMICOLON));
    }
    for (_, ambiguity) in Ambiguity::ALL {
        let is_there =
            ambiguities.contains(&ambiguity) || (has_semicolons && ambiguity == Ambiguity::Semicolon);
        if is_there {
            let read: Vec<String> = found.iter().map(|path| read(path, ambiguity)).collect();
            found.extend(read);
        }
    }
    // Some servers merge slashes, some do not.
    let merged: Vec<String> =
        found.iter().filter(|path| path.contains("//")).map(|path| merged(path)).collect();
    found.extend(merged);
    found
}

/// A path without empty segments, except the last.
fn merged(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}
