//! Lists of keys as other programs have them, read for an import.
//!
//! Invariant: no message quotes from a list, but for the names of variables.

use std::io::Cursor;

use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::Value;

use crate::keys::record::is_label;
use crate::keys::{Credential, KeyHash};

/// A form that a list of keys may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A token a line, `#` comments: llama.cpp's --api-key-file
    Lines,
    /// NAME=token, one or several with commas between them
    Env,
    /// The entries of nginx `map` blocks: "Bearer token" name;
    Nginx,
    /// A YAML or JSON list of objects with `key` or `token`, and `key_alias`, `rpm_limit`, `max_parallel_requests`, `expires`
    Litellm,
}

/// A key that was found in a list.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) name: Option<String>,
    pub(super) secret: Presented,
    /// Requests per minute.
    pub(super) per_minute: Option<u32>,
    pub(super) max_concurrent: Option<u32>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) disabled: bool,
}

/// What a list has of a key.
#[derive(Debug)]
pub(super) enum Presented {
    Token(Credential),
    /// Its SHA-256 alone.
    Hash(KeyHash),
}

/// What a list holds, and what of it is left out and why.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) keys: Vec<Source>,
    pub(super) left_out: Vec<String>,
}

impl Source {
    pub(super) fn hash(&self) -> KeyHash {
        match &self.secret {
            Presented::Token(token) => token.hash(),
            Presented::Hash(hash) => *hash,
        }
    }

    /// Whether it may be guessed.
    pub(super) fn is_short(&self) -> bool {
        matches!(&self.secret, Presented::Token(token) if token.len() < 16)
    }
}

impl Sources {
    fn token(&mut self, at: &str, token: &str, name: Option<&str>) -> Result<(), String> {
        if let Some(variable) = token.strip_prefix("os.environ/") {
            return Err(format!(
                "{at}: its token is in the environment variable {variable}; put it here in its place"
            ));
        }
        if !crate::keys::is_presentable(token) {
            return Err(format!("{at}: this is not a token: one printable ASCII word, without commas"));
        }
        let credential = Credential::new(token.as_bytes());
        if credential.is_mistyped() {
            return Err(format!("{at}: a bearward token with a wrong checksum"));
        }
        self.keys.push(Source {
            name: name.filter(|name| is_label(name)).map(str::to_owned),
            secret: Presented::Token(credential),
            per_minute: None,
            max_concurrent: None,
            expires_at: None,
            disabled: false,
        });
        Ok(())
    }
}

/// Which form a list most likely has.
pub(super) fn guess(file_name: &str, text: &str) -> Format {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let is_assignment = |line: &str| {
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').unwrap_or_default();
        // Padding of base32 or base64 is no value.
        let has_value = !value.trim_start_matches('=').is_empty();
        has_value
            && !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let is_structure =
        |line: &str| line.starts_with(['{', '[', '-']) || line.ends_with(':') || line.contains(": ");
    match () {
        () if file_name == ".env" || file_name.ends_with(".env") || lines().all(is_assignment) => Format::Env,
        () if lines().any(|line| line.ends_with(';') || line.starts_with("map ")) => Format::Nginx,
        () if lines().next().is_some_and(is_structure) => Format::Litellm,
        () => Format::Lines,
    }
}

/// Reads a list. `variables`: those of a `.env` that are meant; none: those whose names say that they are keys.
pub(super) fn read(format: Format, text: &str, variables: &[String]) -> Result<Sources, String> {
    match format {
        Format::Lines => lines(text),
        Format::Env => env(text, variables),
        Format::Nginx => nginx(text),
        Format::Litellm => litellm(text),
    }
}

fn lines(text: &str) -> Result<Sources, String> {
    let mut sources = Sources::default();
    for (number, line) in text.lines().enumerate() {
        let token = line.trim();
        if !token.is_empty() && !token.starts_with('#') {
            sources.token(&format!("line {}", number + 1), token, None)?;
        }
    }
    Ok(sources)
}

fn env(text: &str, variables: &[String]) -> Result<Sources, String> {
    let is_meant = |name: &str| match variables.is_empty() {
        true => ["API_KEY", "API_KEYS", "MASTER_KEY"].iter().any(|end| name.ends_with(end)),
        false => variables.iter().any(|wanted| wanted == name),
    };
    let mut sources = Sources::default();
    for variable in dotenvy::from_read_iter(Cursor::new(text)) {
        // Its own message would quote the line.
        let (name, value) = variable.map_err(|_| "not a .env file: a line is not NAME=value".to_owned())?;
        if !is_meant(&name) {
            // What has no `_` in it may be a token that looks like a name.
            let shown = if name.contains('_') { name.as_str() } else { "a variable" };
            sources.left_out.push(format!("{shown} (--variable with its name brings it in)"));
            continue;
        }
        if is_expanded(text, &name) {
            return Err(format!(
                "{name}: a `$` in it stands for another variable; in single quotes it stands for itself"
            ));
        }
        let label = name.to_lowercase().replace('_', "-");
        let tokens = value.split(',').map(str::trim).filter(|token| !token.is_empty());
        for token in tokens {
            sources.token(&name, token, Some(&label))?;
        }
    }
    Ok(sources)
}

/// Whether a variable's value, as it is written, has a `$` that is replaced.
fn is_expanded(text: &str, name: &str) -> bool {
    let value = |line: &str| -> Option<String> {
        let line = line.trim_start();
        let (left, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        (left.trim() == name).then(|| value.trim().to_owned())
    };
    text.lines().filter_map(value).any(|value| value.contains('$') && !value.starts_with('\''))
}

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

fn nginx(text: &str) -> Result<Sources, String> {
    let words = nginx_words(text)?;
    let has_blocks = words.iter().any(|(_, word, is_mark)| *is_mark && word == "{");
    let mut sources = Sources::default();
    let (mut statement, mut open): (Vec<(usize, String)>, Vec<bool>) = (Vec::new(), Vec::new());
    // A map may be over anything; one of keys is over a header or an argument whose name says so.
    let is_of_keys = |statement: &[(usize, String)]| {
        let [(_, map), (_, variable), ..] = statement else { return false };
        let variable = variable.to_ascii_lowercase();
        map == "map" && ["authorization", "key", "token"].iter().any(|word| variable.contains(word))
    };
    for (line, word, is_mark) in words {
        match word.as_str() {
            "{" if is_mark => {
                open.push(is_of_keys(&statement));
                statement.clear();
            }
            "}" if is_mark => {
                open.pop();
                statement.clear();
            }
            ";" if is_mark => {
                match open.last() {
                    Some(true) => map_entry(&mut sources, &statement, false)?,
                    None if !has_blocks => map_entry(&mut sources, &statement, true)?,
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
fn map_entry(sources: &mut Sources, statement: &[(usize, String)], is_bare: bool) -> Result<(), String> {
    let [(line, from), (_, to)] = statement else { return Ok(()) };
    let at = format!("line {line}");
    if from == "default" || from == "include" || from.is_empty() {
        return Ok(());
    }
    if from.starts_with('~') {
        sources.left_out.push(format!("{at} (a pattern, which no key can be made of)"));
        return Ok(());
    }
    let denies = ["", "0", "off", "no", "false", "deny", "denied", "none"];
    if denies.contains(&to.to_ascii_lowercase().as_str()) || to.starts_with('$') {
        sources.left_out.push(format!("{at} (nginx lets it not in)"));
        return Ok(());
    }
    let scheme = from.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer "));
    if is_bare && scheme.is_none() && !from.contains(|c: char| c.is_ascii_digit() || c == '-') {
        sources.left_out.push(format!("{at} (a directive of nginx, most likely)"));
        return Ok(());
    }
    let token = scheme.map_or(from.as_str(), |(_, token)| token.trim());
    sources.token(&at, token, Some(to).filter(|to| to.as_str() != "1").map(String::as_str))
}

fn litellm(text: &str) -> Result<Sources, String> {
    // Its own message would quote the list.
    let root: Value = serde_yaml::from_str(text).map_err(|_| "neither YAML nor JSON".to_owned())?;
    let mut sources = Sources::default();
    if let Some(master) = root.pointer("/general_settings/master_key").and_then(Value::as_str) {
        sources.token("general_settings.master_key", master, Some("master-key"))?;
    }
    let list = ["keys", "data", "tokens"].iter().find_map(|name| root.get(name)).unwrap_or(&root);
    for (index, entry) in list.as_array().into_iter().flatten().enumerate() {
        let at = format!("entry {}", index + 1);
        match entry {
            Value::String(token) if is_digest(token) => {
                return Err(format!(
                    "{at}: 64 hex digits may be a key, or LiteLLM's hash of one; as `- key: …` it is the one, as `- token: …` \
                     the other"
                ));
            }
            Value::String(token) => sources.token(&at, token, None)?,
            entry => litellm_entry(&mut sources, &at, entry)?,
        }
    }
    Ok(sources)
}

fn litellm_entry(sources: &mut Sources, at: &str, entry: &Value) -> Result<(), String> {
    let text = |names: &[&str]| names.iter().find_map(|name| entry.get(name)?.as_str());
    let Some(token) = text(&["key", "api_key", "token"]) else {
        return Err(format!("{at}: neither `key` nor `token`"));
    };
    let number = |name: &str| match entry.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let number =
                value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
            number.map(Some).ok_or_else(|| format!("{at}: `{name}` is not a number of at least 1"))
        }
    };
    let given = |name: &str| entry.get(name).filter(|value| !is_nothing(value));
    let expires_at = match given("expires").or_else(|| given("expires_at")) {
        None => None,
        Some(end) => {
            let end = end.as_str().and_then(|end| end.parse().ok());
            Some(end.ok_or_else(|| format!("{at}: `expires` is not a time with a zone"))?)
        }
    };
    let disabled = match given("blocked") {
        None => false,
        Some(blocked) => {
            blocked.as_bool().ok_or_else(|| format!("{at}: `blocked` is neither true nor false"))?
        }
    };
    for narrowing in ["models", "allowed_routes", "tpm_limit", "max_budget", "permissions", "budget_id"] {
        if given(narrowing).is_some() {
            return Err(format!(
                "{at}: it is narrowed by `{narrowing}`, which can't be carried over; remove that if it need not be"
            ));
        }
    }
    // LiteLLM stores and lists the SHA-256 of a key.
    let is_hash = text(&["key", "api_key"]).is_none() && is_digest(token);
    sources.token(at, token, text(&["key_alias", "name"]))?;
    let Some(source) = sources.keys.last_mut() else { return Ok(()) };
    if is_hash && let Some(hash) = KeyHash::parse(&format!("sha256:{token}")) {
        source.secret = Presented::Hash(hash);
    }
    source.per_minute = number("rpm_limit")?;
    source.max_concurrent = number("max_parallel_requests")?;
    source.expires_at = expires_at;
    source.disabled = disabled;
    Ok(())
}

/// Whether it looks like a SHA-256 in hex.
fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What says nothing: null, and what is empty.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names and the hashes of what is found, and how much was left out.
    fn found(text: &str) -> (Vec<(Option<String>, String)>, usize) {
        let sources = read(guess("list", text), text, &[]).unwrap_or_else(|message| panic!("{message}"));
        let key = |source: &Source| (source.name.clone(), source.hash().to_stored());
        (sources.keys.iter().map(key).collect(), sources.left_out.len())
    }

    fn key(name: &str, token: &str) -> (Option<String>, String) {
        let name = Some(name).filter(|name| !name.is_empty()).map(str::to_owned);
        (name, KeyHash::of(token.as_bytes()).to_stored())
    }

    #[test]
    fn every_form_is_told_apart_and_read() {
        let one_two = vec![key("", "sk-one"), key("", "sk-two")];
        assert_eq!(found("# ours\nsk-one\n\nsk-two\n"), (one_two, 0));
        let env =
            "# ours\nexport VLLM_API_KEY=\"sk-one\"\nLLAMA_API_KEYS=sk-a,sk-b\nDATABASE_URL=postgres://x\n";
        let of_env =
            vec![key("vllm-api-key", "sk-one"), key("llama-api-keys", "sk-a"), key("llama-api-keys", "sk-b")];
        assert_eq!(found(env), (of_env, 1));
        let nginx = "map $http_authorization $who {\n  default \"\"; # nobody\n  \"Bearer sk-one\" team-a;\n  'bearer sk-two' 1;\n  ~^x 1;\n  \"Bearer sk-x\" 0;\n}\nserver { listen 80; }\n";
        assert_eq!(found(nginx), (vec![key("team-a", "sk-one"), key("", "sk-two")], 2));
        assert_eq!(
            found("sk-one team-a;\nsk-two team-b;\n"),
            (vec![key("team-a", "sk-one"), key("team-b", "sk-two")], 0)
        );
        let json = format!(
            "[{{\"key\": \"sk-one\", \"key_alias\": \"a\", \"rpm_limit\": 60}}, {{\"token\": \"{}\"}}]",
            &KeyHash::of(b"sk-two").to_stored()[7..]
        );
        assert_eq!(found(&json), (vec![key("a", "sk-one"), key("", "sk-two")], 0));
        assert_eq!(found("SECRETBASE32XX====\n"), (vec![key("", "SECRETBASE32XX====")], 0));
        assert_eq!(found("map $http_x_api_key $a {\n sk-one off;\n sk-two $x;\n}\n"), (vec![], 2));
        let others = "map $request_method $x { POST 1; }\nmap $http_x_api_key $who { sk-one 1; }\n";
        assert_eq!(found(others), (vec![key("", "sk-one")], 0));
        assert_eq!(found("proxy_pass http://x;\nsk-one a;\n"), (vec![key("a", "sk-one")], 1));
        let yaml = "general_settings:\n  master_key: sk-one\nkeys:\n  - sk-two\n";
        assert_eq!(found(yaml), (vec![key("master-key", "sk-one"), key("", "sk-two")], 0));
    }

    #[test]
    fn what_can_not_be_carried_over_is_refused_and_not_quoted() {
        for text in [
            "sk-one\na SECRET line\n",
            "A_API_KEY=\"SECRET\nB=1\n",
            "\"Bearer SECRET\" \"a;\n",
            "- {key: SECRET, expires: soon}\n",
            "- {key: SECRET, models: [gpt-4]}\n",
            "- {key: SECRET, rpm_limit: many}\n",
            "- {name: SECRET}\n",
            "A_API_KEY=SECRET$HOME\n",
            "SECRETBASE32XX====\nSECRET word\n",
            "{keys: [0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef], name: SECRET}\n",
            "- {key: SECRET, expires: 1790000000}\n",
            "- {key: SECRET, blocked: 'yes'}\n",
            "- {key: SECRET, models: gpt-4}\n",
            "- {key: SECRET, allowed_routes: [x]}\n",
            "general_settings:\n  master_key: os.environ/MASTER_KEY\n",
            "- [SECRET\n",
        ] {
            let message = read(guess("list", text), text, &[]).unwrap_err();
            assert!(!message.contains("SECRET"), "{message}");
        }
    }
}
