//! Lists of keys of other programs, read for an import.
//!
//! Keys that fit are imported, and all others are reported. A key is left out if its list narrows it in a way that has no
//! counterpart: it could do more here than there.
//! Invariant: no message quotes from a list, except for the names of variables and fields.

mod agentgateway;
mod apisix;
mod kong;
pub(super) mod limits;
mod litellm;
mod nginx;
mod plain;
mod tree;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use clap::ValueEnum;
use ipnet::IpNet;
use jiff::Timestamp;

use crate::config::Quota;
use crate::config::tree::{Node, Quoting};

use crate::keys::record::is_label;
use crate::keys::{Credential, KeyHash, is_presentable};
use crate::placeholder;

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
    /// Kong's declarative configuration: consumers with `keyauth_credentials`
    Kong,
    /// APISIX's standalone configuration or Admin API: consumers with the plugin `key-auth`
    Apisix,
    /// agentgateway's configuration: `apiKey` policies
    Agentgateway,
}

/// Options for a whole list.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options<'a> {
    /// The variables of a `.env` to import; if there are none, those with names such as `…_API_KEY`.
    pub(super) variables: &'a [String],
    /// Whether the imported keys are narrowed to named routes. Then a key may come from a list for one route of several.
    pub(super) names_routes: bool,
}

/// A key of a list, with its terms there.
#[derive(Debug)]
pub(super) struct ImportedKey {
    pub(super) name: Option<String>,
    pub(super) secret: SecretForm,
    pub(super) terms: Terms,
}

/// The terms of a key in its list, as far as they have a counterpart.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Terms {
    pub(super) rate_limits: Vec<Quota>,
    pub(super) max_concurrent: Option<u32>,
    pub(super) expires_at: Option<Timestamp>,
    /// `None` where the key may be used from everywhere.
    pub(super) allow_from: Option<Vec<IpNet>>,
    pub(super) disabled: bool,
}

/// The secret of a key, as its list has it.
#[derive(Debug)]
pub(super) enum SecretForm {
    Token(Credential),
    /// Its SHA-256 alone.
    Hash(KeyHash),
}

/// The content of a list.
#[derive(Debug, Default)]
pub(super) struct ImportedKeys {
    pub(super) keys: Vec<ImportedKey>,
    /// Keys that are left out, each with its position and the reason.
    pub(super) left_out: Vec<String>,
    /// Entries that are no keys, or are refused there.
    pub(super) passed_over: Vec<String>,
}

impl ImportedKey {
    /// A key by its token.
    ///
    /// # Errors
    ///
    /// The reason reason it is no token.
    fn of(token: &str, name: Option<&str>, terms: Terms) -> Result<Self, String> {
        if let Some(placeholder) = placeholder::find(token) {
            return Err(format!("{}; {}", placeholder.what, placeholder.hint));
        }
        if !is_presentable(token) {
            return Err("this is not a token: one printable ASCII word, without commas".to_owned());
        }
        let credential = Credential::new(token.as_bytes());
        if credential.is_mistyped() {
            return Err("a bearward token with a wrong checksum".to_owned());
        }
        Ok(ImportedKey { name: label(name), secret: SecretForm::Token(credential), terms })
    }

    /// A key by its SHA-256 in hex.
    fn of_digest(digest: &str, name: Option<&str>, terms: Terms) -> Result<Self, String> {
        let hash = KeyHash::parse(&format!("sha256:{digest}")).ok_or("this is not a SHA-256 in hex")?;
        Ok(ImportedKey { name: label(name), secret: SecretForm::Hash(hash), terms })
    }

    pub(super) fn hash(&self) -> KeyHash {
        match &self.secret {
            SecretForm::Token(token) => token.hash(),
            SecretForm::Hash(hash) => *hash,
        }
    }

    /// Whether it is short enough to be guessed.
    pub(super) fn is_short(&self) -> bool {
        matches!(&self.secret, SecretForm::Token(token) if token.len() < 16)
    }
}

fn label(name: Option<&str>) -> Option<String> {
    name.filter(|name| is_label(name)).map(str::to_owned)
}

impl ImportedKeys {
    /// Adds a key, or the reason reason it is left out.
    fn take(&mut self, at: impl std::fmt::Display, source: Result<ImportedKey, String>) {
        match source {
            Ok(source) => self.keys.push(source),
            Err(reason) => self.leave_out(at, reason),
        }
    }

    /// Leaves out keys that appear twice with different terms.
    pub(super) fn leave_out_ambiguous(&mut self) {
        let mut terms: HashMap<KeyHash, Terms> = HashMap::new();
        let mut ambiguous = HashSet::new();
        for source in &self.keys {
            let first = terms.entry(source.hash()).or_insert_with(|| source.terms.clone());
            if *first != source.terms {
                ambiguous.insert(source.hash());
            }
        }
        self.keys.retain(|source| !ambiguous.contains(&source.hash()));
        for _ in ambiguous {
            self.leave_out("a key", "it appears twice, with different terms");
        }
    }

    fn leave_out(&mut self, at: impl std::fmt::Display, reason: impl std::fmt::Display) {
        self.left_out.push(format!("{at}: {reason}"));
    }

    fn pass_over(&mut self, at: impl std::fmt::Display, reason: impl std::fmt::Display) {
        self.passed_over.push(format!("{at}: {reason}"));
    }
}

/// The most likely form of a list.
pub(super) fn guess(file_name: &str, text: &str) -> Format {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let is_assignment = |line: &str| {
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').unwrap_or_default();
        // Padding of base32 or base64 is not a value.
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
        () if lines().next().is_some_and(is_structure) => parse(text).map_or(Format::Litellm, structured),
        () => Format::Lines,
    }
}

/// The program to which a YAML or JSON file belongs.
fn structured(root: Node) -> Format {
    match () {
        () if kong::is_one(&root) => Format::Kong,
        () if apisix::is_one(&root) => Format::Apisix,
        () if agentgateway::is_one(&root) => Format::Agentgateway,
        () => Format::Litellm,
    }
}

/// YAML or JSON. The message quotes nothing.
fn parse(text: &str) -> Result<Node, String> {
    match crate::config::tree::parse(Path::new("list"), text, Quoting::Never) {
        Ok(Some(root)) => Ok(root),
        Ok(None) => Err("it is empty".to_owned()),
        Err(fault) => Err(format!("line {}: {}", fault.at.line, fault.message)),
    }
}

/// As [`parse`], for files in which terms may be anywhere: it refuses duplicate fields.
fn parse_once(text: &str) -> Result<Node, String> {
    let root = parse(text)?;
    match tree::twice(&root) {
        Some(line) => Err(duplicate(line)),
        None => Ok(root),
    }
}

fn duplicate(line: usize) -> String {
    format!("line {line}: a field appears twice, and programs differ in which one counts")
}

/// Reads a list.
///
/// # Errors
///
/// It is not of this form at all.
pub(super) fn read(format: Format, text: &str, options: Options<'_>) -> Result<ImportedKeys, String> {
    match format {
        Format::Lines => Ok(plain::lines(text)),
        Format::Env => Ok(plain::env(text, options.variables)),
        Format::Nginx => nginx::read(text),
        Format::Litellm => litellm::read(&parse(text)?),
        Format::Kong => Ok(kong::read(&parse_once(text)?)),
        Format::Apisix => Ok(apisix::read(&parse_once(text)?)),
        Format::Agentgateway => Ok(agentgateway::read(&parse_once(text)?, options.names_routes)),
    }
}

#[cfg(test)]
mod tests;
