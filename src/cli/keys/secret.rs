//! Writes secrets to standard output, and reads them from standard input.

use std::io::{self, IsTerminal, Read, Write};

use zeroize::Zeroizing;

use crate::bom;
use crate::cli::failure::Failure;
use crate::cli::terminal::print;
use crate::cli::terminal::say;
use crate::key_store::edit::{EditError, Editor};
use crate::keys::token::Token;
use crate::keys::{KeyHash, KeyRecord};
use crate::placeholder;

/// Maximum length of the input in bytes: longer than any token, shorter than most files that are
/// given by mistake.
const MAX_TOKEN_BYTES: u64 = 64 * 1024;

/// Shows a new secret after the key is in the store. If this command can't write to the store, it
/// also shows the key's entry, which the user can insert by hand.
pub(super) fn show_secret(
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

/// Shows the change that the user must make by hand in a store that this command can't write to:
/// the entry `record`, or the removal of the key if `record` is `None`.
pub(super) fn or_by_hand(
    editor: &Editor,
    record: Option<&KeyRecord>,
    written: Result<(), EditError>,
) -> Result<(), Failure> {
    let Err(EditError::Unwritable { reason, hint }) = written else { return Ok(written?) };
    let text = record.map_or_else(|| "(without this key)".to_owned(), |record| editor.pasteable(record));
    say(&format!("bearward: {reason}; {hint}:\n\n{text}\n"));
    Err(Failure::Failed("the store stays as it was until this is done".to_owned()))
}

/// Reads a token that is typed on a terminal, or all of standard input if that is no terminal.
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

/// Reads a token. Fails if the input is empty or contains white space; the error shows how to use
/// `command`.
pub(super) fn read_token(command: &str) -> Result<Zeroizing<String>, Failure> {
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

pub(super) fn hash() -> Result<(), Failure> {
    let text = read_text()?;
    if let Some(placeholder) = placeholder::find(&text) {
        let column = text.get(..placeholder.offset).unwrap_or_default().chars().count() + 1;
        return Err(Failure::Usage(format!(
            "standard input, column {column}: {}; {}",
            placeholder.what, placeholder.hint
        )));
    }
    let token = one_token(text, "hash")?;
    print(&format!("{}\n", KeyHash::of(token.as_bytes()).to_stored()))
}
