//! `bearward keys`: creates, shows, changes, deletes and imports keys.
//!
//! A new secret is written only to standard output, once, and with no other text. No command
//! accepts a token as an argument: all users of the machine can see the arguments.

mod change;
mod copy;
mod create;
mod field_arguments;
mod import;
mod list;
mod secret;
mod sources;
mod store_argument;
mod terms_arguments;
mod used;
mod values;
mod verify;

use clap::{Args, Subcommand};

use crate::cli::failure::Failure;

#[derive(Debug, Args)]
pub(super) struct Keys {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key, add it to the store, and print its secret once
    Create(create::Create),
    /// Show all keys with their age, expiry and rotation
    List(list::List),
    /// Show one key
    Show(list::Show),
    /// Read a token, and show its key and whether a server would accept it
    Verify(verify::Verify),
    /// Give a key a new secret; the old secret is valid until the grace period ends
    Rotate(change::Rotate),
    /// Revoke a key at once; the entry of the key stays in the store
    Revoke(change::Revoke),
    /// Remove a key from the store
    Delete(change::Delete),
    /// Copy all keys of a store to another, new store
    Copy(copy::Copy),
    /// Read a token, and print its hash in the form that a key file contains
    Hash,
    /// Import keys of other programs: lists of tokens, .env files, nginx maps, LiteLLM, Kong, APISIX, agentgateway
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
            KeysCommand::Copy(copy) => copy.execute(),
            KeysCommand::Hash => secret::hash(),
            KeysCommand::Import(import) => import.execute(),
        }
    }
}
