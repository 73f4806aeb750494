//! Reads the keys of an nginx configuration: the `map` blocks that map a key to a name.

use super::imported::{ImportedKey, ImportedKeys, Terms};

/// Splits an nginx configuration into words and marks (`;`, `{`, `}`). Returns the line number and
/// the text of each word or mark, and whether the text is a mark.
fn nginx_words(text: &str) -> Result<Vec<(usize, String, bool)>, String> {
    let mut words = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let (word, length, is_mark) = match first {
                '#' => break,
                ';' | '{' | '}' => (first.to_string(), 1, true),
                '"' | '\'' => {
                    let quoted =
                        rest.get(1..).and_then(|inner| inner.split_once(first)).map(|(inner, _)| inner);
                    let quoted =
                        quoted.ok_or_else(|| format!("line {}: a quote without its end", number + 1))?;
                    (quoted.to_owned(), quoted.len() + 2, false)
                }
                _ => {
                    let length = rest.find(|c: char| c.is_whitespace() || matches!(c, ';' | '{' | '}'));
                    let length = length.unwrap_or(rest.len());
                    (rest.get(..length).unwrap_or_default().to_owned(), length, false)
                }
            };
            words.push((number + 1, word, is_mark));
            rest = rest.get(length..).unwrap_or_default().trim_start();
        }
    }
    Ok(words)
}

/// The kind of an nginx block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    /// A `map` whose variable is a key.
    Keys,
    /// A `map` whose variable is a key together with something else, such as the path.
    MoreThanKeys,
    Other,
}

impl Block {
    /// Returns the kind of the block that `statement` opens. In a `map` of keys, the variable is a
    /// header or an argument with a name such as `authorization` or `key`.
    fn of(statement: &[(usize, String)]) -> Self {
        let [(_, map), (_, variable), ..] = statement else { return Block::Other };
        let variable = variable.to_ascii_lowercase();
        if map != "map" || !["authorization", "key", "token"].iter().any(|word| variable.contains(word)) {
            return Block::Other;
        }
        let name = variable.strip_prefix('$').unwrap_or(&variable);
        let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
        match name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            true => Block::Keys,
            false => Block::MoreThanKeys,
        }
    }
}

/// Whether the value of an nginx `map` entry is a word for "no access", such as `revoked`.
fn reads_as_refusal(value: &str) -> bool {
    const WORDS: [&str; 18] = [
        "revoked",
        "blocked",
        "disabled",
        "banned",
        "expired",
        "suspended",
        "inactive",
        "forbidden",
        "unauthorized",
        "reject",
        "rejected",
        "refused",
        "denied",
        "deny",
        "invalid",
        "deleted",
        "null",
        "unknown",
    ];
    let is_status =
        value.len() == 3 && value.starts_with(['4', '5']) && value.bytes().all(|byte| byte.is_ascii_digit());
    let mut words = value.split(|c: char| !c.is_ascii_alphanumeric());
    is_status
        || value.bytes().all(|byte| !byte.is_ascii_alphanumeric())
        || words.any(|word| WORDS.iter().any(|known| word.eq_ignore_ascii_case(known)))
}

pub(super) fn read(text: &str) -> Result<ImportedKeys, String> {
    let words = nginx_words(text)?;
    let has_blocks = words.iter().any(|(_, word, is_mark)| *is_mark && word == "{");
    let mut sources = ImportedKeys::default();
    let (mut statement, mut open): (Vec<(usize, String)>, Vec<Block>) = (Vec::new(), Vec::new());
    for (line, word, is_mark) in words {
        match word.as_str() {
            "{" if is_mark => {
                open.push(Block::of(&statement));
                statement.clear();
            }
            "}" if is_mark => {
                open.pop();
                statement.clear();
            }
            ";" if is_mark => {
                match open.last() {
                    Some(Block::Keys) => map_entry(&mut sources, &statement, false),
                    Some(Block::MoreThanKeys) => {
                        if let [(line, from), (_, _)] = statement.as_slice()
                            && !matches!(from.as_str(), "default" | "")
                        {
                            let reason = "its map is over more than the key, so the entry is no key";
                            sources.leave_out(format!("line {line}"), reason);
                        }
                    }
                    None if !has_blocks => map_entry(&mut sources, &statement, true),
                    _ => {}
                }
                statement.clear();
            }
            _ => statement.push((line, word)),
        }
    }
    Ok(sources)
}

/// Reads one entry of an nginx `map`: `"Bearer token" name`, or `token name`. `is_bare`: whether the
/// file contains only the entries, without a `map { … }` block around them.
fn map_entry(sources: &mut ImportedKeys, statement: &[(usize, String)], is_bare: bool) {
    let [(line, from), (_, to)] = statement else { return };
    let at = format!("line {line}");
    match from.as_str() {
        "default" | "" => return,
        "include" => {
            return sources.leave_out(at, "an included file is not read; import that one as well");
        }
        _ => {}
    }
    if from.starts_with('~') {
        return sources.leave_out(at, "a pattern, which is no key");
    }
    let denies = ["", "0", "off", "no", "false", "deny", "denied", "none"];
    if denies.contains(&to.to_ascii_lowercase().as_str()) {
        return sources.pass_over(at, "nginx refuses it");
    }
    if reads_as_refusal(to) {
        let reason =
            "its value looks like a refusal, not like a name; give it a name there if nginx accepts it";
        return sources.leave_out(at, reason);
    }
    if from.contains('\\') {
        return sources.leave_out(at, "a `\\` in it escapes another character");
    }
    if to.starts_with('$') {
        return sources.leave_out(at, "its value is a variable");
    }
    let scheme = from.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer "));
    if is_bare && scheme.is_none() && !from.contains(|c: char| c.is_ascii_digit() || c == '-') {
        return sources.pass_over(at, "a directive of nginx, most likely");
    }
    let token = scheme.map_or(from.as_str(), |(_, token)| token.trim());
    let name = Some(to.as_str()).filter(|name| *name != "1");
    sources.take(at, ImportedKey::of(token, name, Terms::default()));
}
