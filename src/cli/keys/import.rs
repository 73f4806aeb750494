//! `bearward keys import`.

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use zeroize::Zeroizing;

use super::create::TermsArguments;
use super::sources::{self, Format, Presented, Source};
use super::{StoreArgument, permission};
use crate::cli::{Failure, say};
use crate::config::Quota;
use crate::keys::token::Token;
use crate::keys::{KeyHash, KeyRecord, Permission, Permissions};

/// No honest list is longer.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Debug, Args)]
pub(super) struct Import {
    /// The list; `-` reads standard input
    #[arg(value_name = "FILE")]
    source: PathBuf,
    /// The list's form [default: what it looks like]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What the keys may do
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "read,write", value_parser = permission)]
    permissions: Vec<Permission>,
    /// Of a .env: the variables that are keys [default: those that end in API_KEY, API_KEYS or MASTER_KEY]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    variable: Vec<String>,
    #[command(flatten)]
    terms: TermsArguments,
    #[command(flatten)]
    store: StoreArgument,
}

impl Import {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let path = self.store.path()?;
        let text = self.text()?;
        let name = self.source.file_name().unwrap_or_default().to_string_lossy();
        let format = self.format.unwrap_or_else(|| sources::guess(&name, &text));
        let form = format.to_possible_value().map(|form| form.get_name().to_owned()).unwrap_or_default();
        let of_list = |message: String| {
            let list = self.source.display();
            Failure::Failed(format!(
                "{list}: {message} (read as `{form}`, which --format changes); nothing was imported"
            ))
        };
        let found = sources::read(format, &text, &self.variable).map_err(of_list)?;
        for left_out in &found.left_out {
            say(&format!("bearward: left out: {left_out}"));
        }
        let editor = self.store.editor()?;
        let there = editor.records()?;
        let mut names: HashSet<String> = there.iter().filter_map(|record| record.name.clone()).collect();
        let mut hashes: HashSet<KeyHash> = there.iter().flat_map(KeyRecord::hashes).collect();
        let mut records: Vec<KeyRecord> = Vec::new();
        for source in found.keys.iter().filter(|source| hashes.insert(source.hash())) {
            records.push(self.record(source, &mut names)?);
        }
        let known = found.keys.len() - records.len();
        if known > 0 {
            say(&format!("bearward: {known} there already"));
        }
        let short = found.keys.iter().filter(|source| source.is_short()).count();
        if short > 0 {
            say(&format!(
                "bearward: {short} with less than 16 characters, which may be guessed: rotate soon"
            ));
        }
        if records.is_empty() {
            return match found.keys.is_empty() {
                true => Err(of_list("no keys in it".to_owned())),
                false => Ok(()),
            };
        }
        editor.add(&records)?;
        let count = records.len();
        say(&format!("bearward: {count} imported into {}, as hashes; the list can go", path.display()));
        Ok(())
    }

    fn text(&self) -> Result<Zeroizing<String>, Failure> {
        let failed = |error: io::Error| Failure::Failed(format!("{}: {error}", self.source.display()));
        let mut text = Zeroizing::new(String::new());
        let read = match self.source == Path::new("-") {
            true => io::stdin().lock().take(MAX_BYTES + 1).read_to_string(&mut text),
            false => std::fs::File::open(&self.source)
                .map_err(failed)?
                .take(MAX_BYTES + 1)
                .read_to_string(&mut text),
        };
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        if read.map_err(failed)? as u64 > MAX_BYTES {
            return Err(Failure::Failed(format!("{}: longer than 64 MiB", self.source.display())));
        }
        Ok(text)
    }

    fn record(&self, source: &Source, names: &mut HashSet<String>) -> Result<KeyRecord, Failure> {
        let permissions = Permissions::from_iter(self.permissions.iter().copied());
        // A bearward token has its id inside. Any other key gets a random one: one that were made of the key would help
        // whoever guesses it.
        let of_token = match &source.secret {
            Presented::Token(token) => token.token_id(),
            Presented::Hash(_) => None,
        };
        let id = match of_token {
            Some(id) => id,
            None => {
                let made = Token::generate();
                made.map_err(|error| Failure::Failed(format!("no randomness: {error}")))?.key_id()
            }
        };
        let mut record = KeyRecord::new(id, source.hash(), permissions);
        // When its secret was made nobody says: it is due for rotation.
        self.terms.put_on(&mut record)?;
        // The list's own word on a key is narrower than what is said for all of them.
        if let Some(requests) = source.per_minute {
            let per = Duration::from_secs(60);
            record.rate_limits = Some(vec![Quota { requests, per, burst: Quota::default_burst(requests) }]);
        }
        record.max_concurrent = source.max_concurrent.or(record.max_concurrent);
        record.expires_at = source.expires_at.or(record.expires_at);
        record.disabled = source.disabled;
        record.name = source.name.as_ref().map(|name| free(name, names));
        Ok(record)
    }
}

/// `name`, or the first of `name-2`, `name-3`, … that nobody has.
fn free(name: &str, names: &mut HashSet<String>) -> String {
    let mut free = name.to_owned();
    let mut number = 1;
    while !names.insert(free.clone()) {
        number += 1;
        free = format!("{name}-{number}");
    }
    free
}
