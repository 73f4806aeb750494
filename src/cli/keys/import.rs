//! `bearward keys import`: adds keys of other programs to the store.

use std::collections::HashSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use zeroize::Zeroizing;

use super::sources::imported::{ImportedKey, SecretForm, Terms};
use super::sources::{self, Format, Options, limits};
use super::store_argument::StoreArgument;
use super::terms_arguments::TermsArguments;
use super::values::permission;
use crate::cli::failure::Failure;
use crate::cli::terminal::say;
use crate::keys::token::Token;
use crate::keys::{KeyHash, KeyRecord, Permission, Permissions};

/// Maximum length of an imported list in bytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Debug, Args)]
pub(super) struct Import {
    /// The file with the list of keys; `-` reads standard input
    #[arg(value_name = "FILE")]
    source: PathBuf,
    /// The form of the list [default: guessed from its file name and text]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What the keys may do
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "read,write", value_parser = permission)]
    permissions: Vec<Permission>,
    /// The variables of a .env file that contain keys [default: variables with names that end in
    /// API_KEY, API_KEYS or MASTER_KEY]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    variable: Vec<String>,
    /// Exit with success even if keys of the list are left out
    #[arg(long)]
    partial: bool,
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
        let options = Options { variables: &self.variable, names_routes: self.terms.names_routes() };
        let mut found = sources::read(format, &text, options).map_err(of_list)?;
        found.leave_out_ambiguous();
        let editor = self.store.editor()?;
        let mut taken = Taken::of(&editor.records()?);
        let (mut records, mut known): (Vec<KeyRecord>, usize) = (Vec::new(), 0);
        for source in std::mem::take(&mut found.keys) {
            match taken.hashes.insert(source.hash()) {
                false => known += 1,
                true => match self.record(&source, &mut taken)? {
                    Ok(record) => records.push(record),
                    Err(reason) => found.left_out.push(reason),
                },
            }
        }
        found.passed_over.iter().for_each(|note| say(&format!("bearward: passed over: {note}")));
        found.left_out.iter().for_each(|note| say(&format!("bearward: left out: {note}")));
        if known > 0 {
            say(&format!("bearward: {known} are in the store already"));
        }
        let short = taken.short;
        if short > 0 {
            say(&format!(
                "bearward: {short} with less than 16 characters, which may be guessed: rotate soon"
            ));
        }
        let (count, left_out) = (records.len(), found.left_out.len());
        if count + left_out + known == 0 {
            return Err(of_list("no keys in it".to_owned()));
        }
        if count > 0 {
            self.store.check_needs(&records)?;
            editor.add(&records)?;
            let rest = if left_out == 0 { "; the list can go" } else { "" };
            say(&format!("bearward: {count} imported into {}, as hashes{rest}", path.display()));
        }
        match left_out {
            0 => Ok(()),
            _ if self.partial => Ok(()),
            _ if count + known == 0 => Err(of_list(format!("all {left_out} left out, as reported above"))),
            _ => Err(Failure::Failed(format!(
                "{left_out} left out, as reported above; the others are imported (--partial makes this a success)"
            ))),
        }
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

    /// Makes the record of a key for the store; or returns the reason why the key is left out.
    fn record(&self, source: &ImportedKey, taken: &mut Taken) -> Result<Result<KeyRecord, String>, Failure> {
        let permissions = Permissions::from_iter(self.permissions.iter().copied());
        // A bearward token contains its key's id. Any other key gets a random id, because an id
        // derived from the secret would help to guess the secret.
        let of_token = match &source.secret {
            SecretForm::Token(token) => token.token_id(),
            SecretForm::Hash(_) => None,
        };
        let id = match of_token {
            Some(id) => id,
            None => {
                let made = Token::generate();
                made.map_err(|error| Failure::Failed(format!("no randomness: {error}")))?.key_id()
            }
        };
        if !taken.ids.insert(id.clone()) {
            return Ok(Err(format!("{id}: the store has this id with another secret")));
        }
        let mut record = KeyRecord::new(id, source.hash(), permissions);
        // The record gets no `created_at`, because the age of its secret is not known. The key is
        // therefore due for rotation.
        self.terms.put_on(&mut record)?;
        if let Err(reason) = narrow(&mut record, &source.terms) {
            return Ok(Err(format!("{}: {reason}", record.id)));
        }
        taken.short += usize::from(source.is_short());
        record.name = source.name.as_ref().map(|name| free(name, &mut taken.names));
        Ok(Ok(record))
    }
}

/// Narrows a key by the limits in its list. If the list and a command-line argument both set the
/// same limit, the tighter one of the two limits applies.
fn narrow(record: &mut KeyRecord, terms: &Terms) -> Result<(), &'static str> {
    for quota in &terms.rate_limits {
        limits::add(record.terms.rate_limits.get_or_insert_default(), *quota);
    }
    record.terms.max_concurrent = record.terms.max_concurrent.into_iter().chain(terms.max_concurrent).min();
    record.expires_at = record.expires_at.into_iter().chain(terms.expires_at).min();
    if let Some(allowed) = &terms.allow_from {
        record.terms.allow_from = match record.terms.allow_from.is_empty() {
            true => allowed.clone(),
            false => limits::in_both(&record.terms.allow_from, allowed),
        };
        if record.terms.allow_from.is_empty() {
            return Err("no address is allowed both by its list and by --allow-from");
        }
    }
    record.disabled = terms.disabled;
    Ok(())
}

/// The ids, names and hashes that the keys in the store and the keys to import have.
struct Taken {
    ids: HashSet<String>,
    names: HashSet<String>,
    hashes: HashSet<KeyHash>,
    /// Number of keys to import that are short enough to be guessed.
    short: usize,
}

impl Taken {
    fn of(records: &[KeyRecord]) -> Self {
        Taken {
            ids: records.iter().map(|record| record.id.clone()).collect(),
            names: records.iter().filter_map(|record| record.name.clone()).collect(),
            hashes: records.iter().flat_map(KeyRecord::hashes).collect(),
            short: 0,
        }
    }
}

/// Returns `name` if no key has this name, else the first of `name-2`, `name-3`, … that no key has.
/// Adds the result to `names`.
fn free(name: &str, names: &mut HashSet<String>) -> String {
    let mut free = name.to_owned();
    let mut number = 1;
    while !names.insert(free.clone()) {
        number += 1;
        free = format!("{name}-{number}");
    }
    free
}
