//! The `map` blocks of nginx that turn a key into a name.

use super::{Source, Sources, Terms};

/// A word or a mark of an nginx configuration, and its line.
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

/// A `map` may be over anything; one of keys is over a header or an argument whose name says so.
fn is_map_of_keys(statement: &[(usize, String)]) -> bool {
    let [(_, map), (_, variable), ..] = statement else { return false };
    let variable = variable.to_ascii_lowercase();
    map == "map" && ["authorization", "key", "token"].iter().any(|word| variable.contains(word))
}

pub(super) fn read(text: &str) -> Result<Sources, String> {
    let words = nginx_words(text)?;
    let has_blocks = words.iter().any(|(_, word, is_mark)| *is_mark && word == "{");
    let mut sources = Sources::default();
    let (mut statement, mut open): (Vec<(usize, String)>, Vec<bool>) = (Vec::new(), Vec::new());
    for (line, word, is_mark) in words {
        match word.as_str() {
            "{" if is_mark => {
                open.push(is_map_of_keys(&statement));
                statement.clear();
            }
            "}" if is_mark => {
                open.pop();
                statement.clear();
            }
            ";" if is_mark => {
                match open.last() {
                    Some(true) => map_entry(&mut sources, &statement, false),
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

/// `"Bearer token" name`, or `token name`. `is_bare`: nothing around it says what it is.
fn map_entry(sources: &mut Sources, statement: &[(usize, String)], is_bare: bool) {
    let [(line, from), (_, to)] = statement else { return };
    let at = format!("line {line}");
    match from.as_str() {
        "default" | "" => return,
        "include" => {
            return sources.leave_out(at, "what another file holds is not read; import that one, too");
        }
        _ => {}
    }
    if from.starts_with('~') {
        return sources.leave_out(at, "a pattern, which no key can be made of");
    }
    let denies = ["", "0", "off", "no", "false", "deny", "denied", "none"];
    if denies.contains(&to.to_ascii_lowercase().as_str()) {
        return sources.pass_over(at, "nginx does not let it in");
    }
    if to.starts_with('$') {
        return sources.leave_out(at, "what it stands for is in a variable");
    }
    let scheme = from.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer "));
    if is_bare && scheme.is_none() && !from.contains(|c: char| c.is_ascii_digit() || c == '-') {
        return sources.pass_over(at, "a directive of nginx, most likely");
    }
    let token = scheme.map_or(from.as_str(), |(_, token)| token.trim());
    let name = Some(to.as_str()).filter(|name| *name != "1");
    sources.take(at, Source::of(token, name, Terms::default()));
}
