//! The result of reading a list: its keys, and the entries that are left out.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;
use jiff::Timestamp;

use crate::config::Quota;
use crate::keys::record::is_label;
use crate::keys::{Credential, KeyHash, is_presentable};
use crate::placeholder;

/// A key of a list, with the terms that the list gives it.
#[derive(Debug)]
pub(crate) struct ImportedKey {
    pub(crate) name: Option<String>,
    pub(crate) secret: SecretForm,
    pub(crate) terms: Terms,
}

/// The limits and the validity of a key in its list, as far as bearward has counterparts for them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Terms {
    pub(crate) rate_limits: Vec<Quota>,
    pub(crate) max_concurrent: Option<u32>,
    pub(crate) expires_at: Option<Timestamp>,
    /// The networks from which the key may be used; `None` for all.
    pub(crate) allow_from: Option<Vec<IpNet>>,
    pub(crate) disabled: bool,
}

/// The form in which a list contains the secret of a key.
#[derive(Debug)]
pub(crate) enum SecretForm {
    Token(Credential),
    /// The SHA-256 of the secret. The list does not contain the secret.
    Hash(KeyHash),
}

/// The outcome of reading a list of keys.
#[derive(Debug, Default)]
pub(crate) struct ImportedKeys {
    pub(crate) keys: Vec<ImportedKey>,
    /// Keys that are not imported, each as a line with its position and the reason.
    pub(crate) left_out: Vec<String>,
    /// Entries that are no keys, or that the other program refuses, each as a line with its
    /// position and the reason.
    pub(crate) passed_over: Vec<String>,
}

impl ImportedKey {
    /// Makes a key from its token.
    ///
    /// # Errors
    ///
    /// The reason why `token` can't be imported.
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

    /// Makes a key from the SHA-256 of its secret, in hex.
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

    /// Whether the key's secret is known and short enough to be guessed.
    pub(crate) fn is_short(&self) -> bool {
        matches!(&self.secret, SecretForm::Token(token) if token.len() < 16)
    }
}

fn label(name: Option<&str>) -> Option<String> {
    name.filter(|name| is_label(name)).map(str::to_owned)
}

impl ImportedKeys {
    /// Adds the key at the position `at`, or reports the reason why it is left out.
    pub(crate) fn take(&mut self, at: impl std::fmt::Display, source: Result<ImportedKey, String>) {
        match source {
            Ok(source) => self.keys.push(source),
            Err(reason) => self.leave_out(at, reason),
        }
    }

    /// Leaves out keys that appear several times in the list with different terms.
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
