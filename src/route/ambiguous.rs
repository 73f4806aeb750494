//! The different readings of a path that servers do not all read in the same way.

use crate::config::Ambiguity;

/// Encoded form of a `;`. In this form, it does not begin the parameters of a path segment.
pub(super) const ENCODED_SEMICOLON: &str = "%3B";

/// Returns all readings of a path with ambiguous parts: with each part decoded, with path
/// parameters cut off, and with all combinations of these changes. `reads_semicolons`: whether an
/// encoded `;` is an ambiguous part, too.
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
        // A raw `;` and an encoded `;` are the same after decoding, and a route's pattern may
        // contain either form.
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
    // Some servers merge repeated slashes, and others do not.
    let merged: Vec<String> =
        found.iter().filter(|path| path.contains("//")).map(|path| merged(path)).collect();
    found.extend(merged);
    found
}

/// Merges repeated slashes in a path, so that no segment except the last one is empty.
fn merged(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}
