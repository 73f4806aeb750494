//! Keys of a list, and the entries that are left out.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;
use jiff::Timestamp;

use crate::config::Quota;
use crate::keys::record::is_label;
use crate::keys::{Credential, KeyHash, is_presentable};
use crate::placeholder;

/// A key of a list, with its terms there.
#[derive(Debug)]
pub(crate) struct ImportedKey {
    pub(crate) name: Option<String>,
    pub(crate) secret: SecretForm,
    pub(crate) terms: Terms,
}

/// The terms of a key in its list, as far as they have a counterpart.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Terms {
    pub(crate) rate_limits: Vec<Quota>,
    pub(crate) max_concurrent: Option<u32>,
    pub(crate) expires_at: Option<Timestamp>,
    /// `None` where the key may be used from everywhere.
    pub(crate) allow_from: Option<Vec<IpNet>>,
    pub(crate) disabled: bool,
}

/// The secret of a key, as its list has it.
#[derive(Debug)]
pub(crate) enum SecretForm {
    Token(Credential),
    /// Its SHA-256 alone.
    Hash(KeyHash),
}

/// The content of a list.
#[derive(Debug, Default)]
pub(crate) struct ImportedKeys {
    pub(crate) keys: Vec<ImportedKey>,
    /// Keys that are left out, each with its position and the reason.
    pub(crate) left_out: Vec<String>,
    /// Entries that are no keys, or are refused there.
    pub(crate) passed_over: Vec<String>,
}

impl ImportedKey {
    /// A key by its token.
    ///
    /// # Errors
    ///
    /// The reason reason it is no token.
    pub(crate) fn of(token: &str, name: Option<&str>, terms: Terms) -> Result<Self, String> {
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
    pub(crate) fn of_digest(digest: &str, name: Option<&str>, terms: Terms) -> Result<Self, String> {
        let hash = KeyHash::parse(&format!("sha256:{digest}")).ok_or("this is not a SHA-256 in hex")?;
        Ok(ImportedKey { name: label(name), secret: SecretForm::Hash(hash), terms })
    }

    pub(crate) fn hash(&self) -> KeyHash {
        match &self.secret {
            SecretForm::Token(token) => token.hash(),
            SecretForm::Hash(hash) => *hash,
        }
    }

    /// Whether it is short enough to be guessed.
    pub(crate) fn is_short(&self) -> bool {
        matches!(&self.secret, SecretForm::Token(token) if token.len() < 16)
    }
}

fn label(name: Option<&str>) -> Option<String> {
    name.filter(|name| is_label(name)).map(str::to_owned)
}

impl ImportedKeys {
    /// Adds a key, or the reason reason it is left out.
    pub(crate) fn take(&mut self, at: impl std::fmt::Display, source: Result<ImportedKey, String>) {
        match source {
            Ok(source) => self.keys.push(source),
            Err(reason) => self.leave_out(at, reason),
        }
    }

    /// Leaves out keys that appear twice with different terms.
    pub(crate) fn leave_out_ambiguous(&mut self) {
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

    pub(crate) fn leave_out(&mut self, at: impl std::fmt::Display, reason: impl std::fmt::Display) {
        self.left_out.push(format!("{at}: {reason}"));
    }

    pub(crate) fn pass_over(&mut self, at: impl std::fmt::Display, reason: impl std::fmt::Display) {
        self.passed_over.push(format!("{at}: {reason}"));
    }
}
