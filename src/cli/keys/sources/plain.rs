//! Reads the keys of lists with one token per line, and of `.env` files.

use std::io::Cursor;

use super::imported::{ImportedKey, ImportedKeys, Terms};
use crate::placeholder;

pub(super) fn lines(text: &str) -> ImportedKeys {
    let mut sources = ImportedKeys::default();
    let tokens = || {
        let numbered = text.lines().map(str::trim).enumerate();
        numbered.filter(|(_, token)| !token.is_empty() && !token.starts_with('#'))
    };
    // A single password hash identifies an htpasswd file. In such a file, a line `name:secret` may
    // look like a token.
    let is_hash = |token: &str| placeholder::find(token).is_some_and(|sign| sign.what.contains("htpasswd"));
    let is_htpasswd = tokens().any(|(_, token)| is_hash(token));
    for (number, token) in tokens() {
        let at = format!("line {}", number + 1);
        match is_htpasswd && token.contains(':') && !is_hash(token) {
            true => sources.leave_out(at, "a line of an htpasswd file: the secret itself is needed"),
            false => sources.take(at, ImportedKey::of(token, None, Terms::default())),
        }
    }
    sources
}

pub(super) fn env(text: &str, variables: &[String]) -> ImportedKeys {
    let is_meant = |name: &str| match variables.is_empty() {
        true => ["API_KEY", "API_KEYS", "MASTER_KEY"].iter().any(|end| name.ends_with(end)),
        false => variables.iter().any(|wanted| wanted == name),
    };
    let mut sources = ImportedKeys::default();
    for variable in dotenvy::from_read_iter(Cursor::new(text)) {
        // dotenvy's error message is not used, because the message would quote the line.
        let Ok((name, value)) = variable else {
            sources.leave_out("a line", "it is not NAME=value");
            continue;
        };
        // If the name of a variable has no `_`, the name may be a token, so the name is not shown.
        let shown = if name.contains('_') { name.as_str() } else { "a variable" };
        let at = match line_of(text, &name) {
            Some(line) => format!("line {line}, {shown}"),
            None => shown.to_owned(),
        };
        if !is_meant(&name) {
            sources.pass_over(at, "--variable with its name imports it");
            continue;
        }
        if is_expanded(text, &name) {
            let reason = "a `$` in it is replaced by a variable; in single quotes it is kept";
            sources.leave_out(at, reason);
            continue;
        }
        let label = name.to_lowercase().replace('_', "-");
        for token in value.split(',').map(str::trim).filter(|token| !token.is_empty()) {
            sources.take(&at, ImportedKey::of(token, Some(&label), Terms::default()));
        }
    }
    sources
}

/// Returns the value of the variable `name` as it is written, if `line` assigns that variable.
fn written<'t>(line: &'t str, name: &str) -> Option<&'t str> {
    let line = line.trim_start();
    let (left, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
    (left.trim() == name).then(|| value.trim())
}

fn line_of(text: &str, name: &str) -> Option<usize> {
    text.lines().position(|line| written(line, name).is_some()).map(|index| index + 1)
}

/// Whether the value of the variable `name` contains a `$` and is not in single quotes. dotenvy
/// replaces such a `$` and the name after it by the value of another variable.
fn is_expanded(text: &str, name: &str) -> bool {
    let mut values = text.lines().filter_map(|line| written(line, name));
    values.any(|value| value.contains('$') && !value.starts_with('\''))
}
