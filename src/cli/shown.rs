//! Shows the faults of a configuration to people. Each fault is shown with the line of the
//! configuration file that contains it.
//!
//! Invariant: a line of a key file is never shown, nor a line with a word that looks like a secret.

use std::path::Path;

use crate::config::fault::{Fault, Faults};
use crate::mask::masked;

/// Maximum length in bytes of a line that is shown.
const MAX_LINE: usize = 160;
/// Length in bytes from which a word with both letters and digits is treated as a secret. The
/// length for words of letters only is `LONG_WORD`.
const SECRET_LENGTH: usize = 16;
const LONG_WORD: usize = 24;
/// Ends of the names of secrets. A line with such a name and a value is not shown.
const SECRET_NAMES: [&str; 9] =
    ["password", "passwd", "secret", "token", "api_key", "apikey", "credential", "bearer", "authorization"];

/// Returns all faults as text. A fault in the file `config` is shown with its line.
pub(super) fn faults(faults: &Faults, config: &Path) -> String {
    let source = std::fs::read_to_string(config).unwrap_or_default();
    let shown = faults.0.iter().map(|fault| match fault.file == config && fault.at.line > 0 {
        true => with_line(fault, &source),
        false => fault.to_string(),
    });
    shown.collect::<Vec<_>>().join("\n")
}

fn with_line(fault: &Fault, source: &str) -> String {
    let line = source.lines().nth(fault.at.line - 1).unwrap_or_default().trim_end();
    // The value of an unknown field may be anything, even a secret.
    let line = match fault.message.starts_with("unknown field") {
        true => without_value(line, fault.at.column),
        false => line,
    };
    let Some(shown) = presentable(line) else { return fault.to_string() };
    let number = fault.at.line.to_string();
    let margin = " ".repeat(number.len());
    let mut text = format!("{}:{}:{}: {}\n", fault.file.display(), number, fault.at.column, fault.message);
    text.push_str(&format!("{margin} |\n{number} | {shown}\n"));
    // Tabs before the fault stay tabs, so that the caret is in the right column in any terminal.
    let before: String =
        line.chars().take(fault.at.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    text.push_str(&format!("{margin} | {before}^\n"));
    if let Some(hint) = &fault.hint {
        text.push_str(&format!("{margin} = {hint}\n"));
    }
    text.trim_end().to_owned()
}

/// Cuts the line after the name of the field that begins at this column.
fn without_value(line: &str, column: usize) -> &str {
    let start = line.char_indices().nth(column - 1).map_or(line.len(), |(at, _)| at);
    let name = line.get(start..).and_then(|rest| rest.find(':')).map_or(line.len(), |end| start + end + 1);
    line.get(..name).unwrap_or(line)
}

/// Returns the line; `None` if something in it looks like a secret.
fn presentable(line: &str) -> Option<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+' | '=');
    let looks_secret = |word: &str| {
        let is_mixed = word.bytes().any(|byte| byte.is_ascii_digit())
            && word.bytes().any(|byte| byte.is_ascii_alphabetic());
        let is_plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (word.len() >= SECRET_LENGTH && is_mixed) || (word.len() >= LONG_WORD && is_plain)
    };
    let has_user_info = line.split_once("://").is_some_and(|(_, behind)| behind.contains('@'));
    let is_shown = !line.is_empty()
        && line.len() <= MAX_LINE
        && !line.chars().any(|c| c.is_control() && c != '\t')
        && masked(line) == line
        && !has_user_info
        && !line.split(|c| !is_word(c)).any(|word| looks_secret(word) || word.starts_with("sk-"))
        && !names_secret(line);
    is_shown.then_some(line)
}

/// Whether a field in the line is named like a secret and has a value.
fn names_secret(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    SECRET_NAMES.iter().any(|name| {
        lower.match_indices(name).any(|(at, _)| {
            let behind = lower.get(at + name.len()..).unwrap_or_default();
            let value = behind.trim_start_matches(['"', '\'']).trim_start();
            // Matches `bearer: …` and `Bearer …`.
            let value = value.strip_prefix(':').or_else(|| behind.strip_prefix(' '));
            value.is_some_and(|value| !value.trim().is_empty())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_shown_with_a_caret_under_the_fault() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.yaml");
        std::fs::write(&path, "keys:\n  pth: k.yaml\n").unwrap();
        let found = crate::config::Config::load(&path).unwrap_err();
        let shown = faults(&found, &path);
        let of_field = shown.split("\n").skip_while(|line| !line.contains("unknown field")).skip(1);
        let expected = ["  |", "2 |   pth:", "  |   ^", "  = did you mean `path`?"];
        assert_eq!(of_field.take(4).collect::<Vec<_>>(), expected, "{shown}");
    }

    #[test]
    fn what_stands_behind_a_field_that_nothing_has_is_not_shown() {
        assert_eq!(without_value("routs: hunter2", 1), "routs:");
        assert_eq!(without_value("log: {levle: hunter2}", 7), "log: {levle:");
    }

    #[test]
    fn what_looks_like_a_secret_is_not_shown() {
        for line in [
            "password: hunter2",
            "  key: \"bwk_4f9Zk2Qx7B_abcdefghij\"",
            "- sk-proj-abc",
            "x: 0123456789abcdef0123",
            "api_key: x",
            "  endpoints: [\"http://bob:hunter2@10.0.0.1:80\"]",
            "credential: {header: x-key, value: s3cr3t}",
            "x: Bearer correct",
            "x: correcthorsebatterystaple",
            "\u{1b}[2J",
        ] {
            assert_eq!(presentable(line), None, "{line}");
        }
        for line in ["token_file: /etc/bearward/admin.token", "  path: keys.yaml", "routes: opnai"] {
            assert_eq!(presentable(line), Some(line));
        }
    }
}
