//! `bearward keys`: the whole life of a key.
//!
//! A secret goes to standard output once, alone, and nowhere else. No token is ever taken from the arguments, which
//! everybody on the machine can read.

mod change;
mod create;
mod import;
mod list;
mod sources;
mod used;
mod verify;

use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{Failure, config_path, print, say};
use crate::bom;
use crate::config::Config;
use crate::config::decode::parse_duration;
use crate::key_store::Store;
use crate::key_store::edit::{EditError, Editor};
use crate::key_store::id_secret;
use crate::keys::id_secret::IdSecret;
use crate::keys::token::Token;
use crate::keys::{KeyHash, KeyRecord, Permission};
use crate::placeholder;

/// More than any token, less than a file given by mistake.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

#[derive(Debug, Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key, add it to the store, and print its secret once
    Create(create::Create),
    /// Show all keys: age, expiry, what is due for rotation
    List(list::List),
    /// Show one key
    Show(list::Show),
    /// Read a token, and say which key it is and whether it would be let in
    Verify(verify::Verify),
    /// Give a key a new secret; the old one lives until the grace ends
    Rotate(change::Rotate),
    /// Turn a key off at once; it stays in the store
    Revoke(change::Revoke),
    /// Take a key out of the store
    Delete(change::Delete),
    /// Read a token and print the hash that a key file holds
    Hash,
    /// Bring in keys from elsewhere: lists of tokens, .env files, nginx maps, LiteLLM, Kong, APISIX, agentgateway
    Import(import::Import),
}

impl Keys {
    pub(super) fn execute(self) -> Result<(), Failure> {
        match self.command {
            KeysCommand::Create(create) => create.execute(),
            KeysCommand::List(list) => list.execute(),
            KeysCommand::Show(show) => show.execute(),
            KeysCommand::Verify(verify) => verify.execute(),
            KeysCommand::Rotate(rotate) => rotate.execute(),
            KeysCommand::Revoke(revoke) => revoke.execute(),
            KeysCommand::Delete(delete) => delete.execute(),
            KeysCommand::Hash => hash(),
            KeysCommand::Import(import) => import.execute(),
        }
    }
}

/// Which store is meant.
#[derive(Debug, Args)]
struct StoreArgument {
    /// The key store: a .yaml, .jsonl or .txt file, or a directory [default: the configuration's keys.path]
    #[arg(long, value_name = "PATH")]
    keys: Option<PathBuf>,
    /// The configuration that names the store, where --keys does not
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl StoreArgument {
    fn path(&self) -> Result<PathBuf, Failure> {
        match &self.keys {
            Some(path) => Ok(path.clone()),
            None => Ok(Config::load(&config_path(self.config.clone())?)?.keys.path),
        }
    }

    /// What names credentials that carry no id: the secret that a server of this store has.
    fn ids(&self) -> Result<Arc<IdSecret>, Failure> {
        let config = self.configuration()?;
        Ok(id_secret::for_command(config.as_ref().map(|config| &config.keys), &self.path()?)?)
    }

    /// The same, where the store is one whose keys are named by it.
    fn ids_of_store(&self) -> Result<Arc<IdSecret>, Failure> {
        match Store::at(&self.path()?)? {
            Store::Text(_) => self.ids(),
            _ => Ok(Arc::new(IdSecret::random())),
        }
    }

    /// The store, open for a change.
    fn editor(&self) -> Result<Editor, Failure> {
        Ok(Editor::open(&self.path()?, self.ids_of_store()?)?)
    }

    /// The configuration, where one is named, or has to name the store.
    fn configuration(&self) -> Result<Option<Config>, Failure> {
        match (&self.keys, &self.config) {
            (Some(_), None) => Ok(None),
            (_, config) => Ok(Some(Config::load(&config_path(config.clone())?)?)),
        }
    }
}

impl From<EditError> for Failure {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Faults(faults) => Failure::Faults(faults),
            EditError::Unwritable { why, advice } => Failure::Failed(format!("{why}; {advice}")),
            EditError::Refused(message) => Failure::Failed(message),
        }
    }
}

/// Shows a new secret, once it is in the store. Where the store can't be written from here, the key is shown for somebody
/// to put it there, with its secret, since it is of no use without.
fn show_secret(
    token: &Token,
    record: &KeyRecord,
    editor: &Editor,
    written: Result<(), EditError>,
) -> Result<(), Failure> {
    let shown = Zeroizing::new(format!("{}\n", token.reveal()));
    let is_for_people = matches!(&written, Err(EditError::Unwritable { .. }));
    let written = or_by_hand(editor, Some(record), written);
    if written.is_ok() || is_for_people {
        let mut out = io::stdout().lock();
        out.write_all(shown.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
            let id = &record.id;
            Failure::Failed(format!(
                "the secret of {id} could not be shown ({error}); `bearward keys rotate {id}` makes another"
            ))
        })?;
    }
    written
}

/// Shows what somebody has to put into a store that can't be written from here; without a record, what to take out.
fn or_by_hand(
    editor: &Editor,
    record: Option<&KeyRecord>,
    written: Result<(), EditError>,
) -> Result<(), Failure> {
    let Err(EditError::Unwritable { why, advice }) = written else { return Ok(written?) };
    let text = record.map_or_else(|| "(without this key)".to_owned(), |record| editor.pasteable(record));
    say(&format!("bearward: {why}; {advice}:\n\n{text}\n"));
    Err(Failure::Failed("the store is as it was, until this is done".to_owned()))
}

/// What is typed where somebody sits there, else all of standard input.
fn read_text() -> Result<Zeroizing<String>, Failure> {
    let mut token = Zeroizing::new(String::new());
    if io::stdin().is_terminal() {
        *token = rpassword::prompt_password("token (not shown): ")?;
    } else {
        let read = io::stdin().lock().take(MAX_TOKEN_BYTES + 1).read_to_string(&mut token)?;
        if read as u64 > MAX_TOKEN_BYTES {
            return Err(Failure::Usage("more than 64 KiB is no token".to_owned()));
        }
    }
    Ok(Zeroizing::new(bom::without(&token).trim_end_matches(['\r', '\n']).to_owned()))
}

/// One token, and nothing beside it.
fn read_token(command: &str) -> Result<Zeroizing<String>, Failure> {
    one_token(read_text()?, command)
}

fn one_token(word: Zeroizing<String>, command: &str) -> Result<Zeroizing<String>, Failure> {
    if word.is_empty() || word.contains(char::is_whitespace) {
        return Err(Failure::Usage(format!(
            "a token is one word on standard input: printf %s \"$KEY\" | bearward keys {command}"
        )));
    }
    Ok(word)
}

fn hash() -> Result<(), Failure> {
    let text = read_text()?;
    if let Some(placeholder) = placeholder::find(&text) {
        let place = text.get(..placeholder.offset).unwrap_or_default().chars().count() + 1;
        return Err(Failure::Usage(format!(
            "standard input, column {place}: {}; {}",
            placeholder.what, placeholder.hint
        )));
    }
    let token = one_token(text, "hash")?;
    print(&format!("{}\n", KeyHash::of(token.as_bytes()).to_stored()))
}

/// The time, to the second: what a file holds is for people, too.
fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()
}

/// The instant that lies `text` ahead.
fn ahead(flag: &str, text: &str) -> Result<Timestamp, Failure> {
    let usage = || Failure::Usage(format!("{flag} {text}: a duration is needed, as in 90d"));
    let duration = parse_duration(text).ok_or_else(usage)?;
    now().checked_add(duration).map_err(|_| usage())
}

fn permission(text: &str) -> Result<Permission, String> {
    Permission::named(text).ok_or_else(|| "one of read, write, admin, webhook".to_owned())
}

/// `key_… (name)`.
fn named(record: &KeyRecord) -> String {
    match &record.name {
        Some(name) => format!("{} ({name})", record.id),
        None => record.id.clone(),
    }
}
