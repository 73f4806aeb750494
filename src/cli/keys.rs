//! `bearward keys`: make a key, or the hash of one.
//!
//! The secret goes to standard output once, alone, and nowhere else. No token is ever taken from the arguments.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::json;
use zeroize::Zeroizing;

use super::{Failure, config_path, print, say};
use crate::config::Config;
use crate::config::decode::parse_duration;
use crate::keys::token::Token;
use crate::keys::{KeyHash, KeyRecord, Permission, Store, yaml};

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
    Create(Create),
    /// Read a token from standard input and print the hash that a key file holds
    Hash,
}

#[derive(Debug, Args)]
struct Create {
    /// The key store [default: the configuration's keys.path]
    #[arg(long, value_name = "PATH")]
    keys: Option<PathBuf>,
    /// The configuration that names the store, where --keys does not
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What the key may do: read, write, admin, webhook
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true, value_parser = permission)]
    permissions: Vec<Permission>,
    /// A unique label for people
    #[arg(long)]
    name: Option<String>,
    /// A free label; the configuration can demand one
    #[arg(long)]
    environment: Option<String>,
    /// How long the key lives, as in 90d
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<String>,
    /// A rate limit, as in 600/1m or 600/1m/60 with a burst; may stand several times
    #[arg(long, value_name = "N/TIME")]
    rate: Vec<String>,
    /// Requests at once
    #[arg(long, value_name = "N")]
    max_concurrent: Option<u32>,
}

fn permission(text: &str) -> Result<Permission, String> {
    let known = Permission::ALL.iter().find(|(name, _)| *name == text);
    known.map(|(_, permission)| *permission).ok_or_else(|| "one of read, write, admin, webhook".to_owned())
}

impl Keys {
    pub(super) fn execute(self) -> Result<(), Failure> {
        match self.command {
            KeysCommand::Create(create) => create.execute(),
            KeysCommand::Hash => hash(),
        }
    }
}

fn hash() -> Result<(), Failure> {
    let mut token = Zeroizing::new(String::new());
    io::stdin().lock().take(MAX_TOKEN_BYTES).read_to_string(&mut token)?;
    let token = token.trim_end_matches(['\r', '\n']);
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(Failure::Usage(
            "a token is one word on standard input: printf %s \"$KEY\" | bearward keys hash".to_owned(),
        ));
    }
    print(&format!("{}\n", KeyHash::of(token.as_bytes()).to_stored()))
}

impl Create {
    fn execute(self) -> Result<(), Failure> {
        let path = match &self.keys {
            Some(path) => path.clone(),
            None => Config::load(&config_path(self.config.clone())?)?.keys.path,
        };
        let Store::Yaml(path) = Store::at(&path)?;
        let token = Token::generate().map_err(|error| Failure::Failed(format!("no randomness: {error}")))?;
        let entry = self.entry(&token)?;
        add(&path, &entry, &token.key_id())?;
        say(&format!(
            "bearward: {} added to {}; its secret is shown this once",
            token.key_id(),
            path.display()
        ));
        let shown = Zeroizing::new(format!("{}\n", token.reveal()));
        print(&shown)
    }

    /// The key as lines of a YAML list, without their indentation.
    fn entry(&self, token: &Token) -> Result<Vec<String>, Failure> {
        // A JSON string is a YAML string, whatever is in it.
        let quoted = |text: &str| json!(text).to_string();
        let names: Vec<&str> = self.permissions.iter().map(|permission| permission.name()).collect();
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let mut lines = vec![format!("- id: {}", token.key_id())];
        let mut field = |name: &str, value: String| lines.push(format!("  {name}: {value}"));
        if let Some(name) = &self.name {
            field("name", quoted(name));
        }
        field("hash", token.hash().to_stored());
        field("permissions", format!("[{}]", names.join(", ")));
        if let Some(environment) = &self.environment {
            field("environment", quoted(environment));
        }
        field("created_at", now.to_string());
        if let Some(lifetime) = &self.expires_in {
            let usage =
                || Failure::Usage(format!("--expires-in {lifetime}: a duration is needed, as in 90d"));
            let lifetime = parse_duration(lifetime).ok_or_else(usage)?;
            field("expires_at", now.checked_add(lifetime).map_err(|_| usage())?.to_string());
        }
        if !self.rate.is_empty() {
            let rates = self.rate.iter().map(|rate| rate_in_yaml(rate)).collect::<Result<Vec<_>, _>>()?;
            field("rate_limits", format!("[{}]", rates.join(", ")));
        }
        if let Some(limit) = self.max_concurrent {
            field("max_concurrent", limit.to_string());
        }
        Ok(lines)
    }
}

/// `600/1m` or `600/1m/60` as a flow map.
fn rate_in_yaml(rate: &str) -> Result<String, Failure> {
    let parts: Vec<&str> = rate.split('/').collect();
    let is_number = |text: &str| text.parse::<u32>().is_ok_and(|number| number > 0);
    match parts.as_slice() {
        [requests, per] if is_number(requests) && parse_duration(per).is_some() => {
            Ok(format!("{{requests: {requests}, per: {per}}}"))
        }
        [requests, per, burst]
            if is_number(requests) && parse_duration(per).is_some() && is_number(burst) =>
        {
            Ok(format!("{{requests: {requests}, per: {per}, burst: {burst}}}"))
        }
        _ => Err(Failure::Usage(format!("--rate {rate}: as in 600/1m, or 600/1m/60 with a burst of 60"))),
    }
}

/// Adds an entry to a key file, which is made if it is not there. The new content is proved to be the old keys
/// and the new one before it takes the file's place, in one rename.
fn add(path: &Path, entry: &[String], id: &str) -> Result<(), Failure> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let in_words =
        |doing: &str, error: io::Error| Failure::Failed(format!("{doing} {}: {error}", path.display()));
    // Two at once must not lose a key. The directory is what both surely have in common.
    let lock = File::open(directory).map_err(|error| in_words("can't open the directory of", error))?;
    lock.lock().map_err(|error| in_words("can't lock the directory of", error))?;
    let old = match fs::read_to_string(path) {
        Ok(source) => Some(source),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(in_words("can't read", error)),
    };
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
        return Err(pasteable("is a symbolic link, which is not written through", path, entry));
    }
    let before = match &old {
        Some(source) if !source.trim().is_empty() => yaml::parse(path, source)?,
        _ => Vec::new(),
    };
    let source = appended(old.as_deref().unwrap_or_default(), entry);
    let is_proved = yaml::parse(path, &source).is_ok_and(|after| is_old_and_one_more(&before, &after, id));
    if !is_proved {
        // Why: a name that is taken, say. The entry's own faults are told; the file was well before.
        if let Err(faults) = yaml::parse(path, &source) {
            say(&format!("bearward: {faults}"));
        }
        return Err(pasteable("can't be added to as it is written", path, entry));
    }
    replace(path, directory, &source).map_err(|error| in_words("can't write", error))
}

fn pasteable(why: &str, path: &Path, entry: &[String]) -> Failure {
    let text = entry.join("\n");
    Failure::Failed(format!(
        "{} {why}; this is the key, to be put under `keys:` by hand (its secret was not shown: make a new one then)\n{text}",
        path.display()
    ))
}

fn is_old_and_one_more(before: &[KeyRecord], after: &[KeyRecord], id: &str) -> bool {
    let ids =
        |records: &[KeyRecord]| records.iter().map(|record| record.key.id.clone()).collect::<BTreeSet<_>>();
    let mut expected = ids(before);
    expected.insert(id.to_owned()) && expected == ids(after) && after.len() == before.len() + 1
}

/// The file's text with the entry at the end of its list, indented as the list is.
fn appended(source: &str, entry: &[String]) -> String {
    let mut text = source.to_owned();
    if source.trim().is_empty() {
        text.push_str("keys:\n");
    } else if !text.ends_with('\n') {
        text.push('\n');
    }
    let first_item = source.lines().find(|line| line.trim_start().starts_with("- "));
    let indentation = first_item.map_or("  ", |line| line.split_at(line.len() - line.trim_start().len()).0);
    for line in entry {
        text.push_str(indentation);
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Writes beside the file, makes it durable, and renames: readers see the old file or the new one.
fn replace(path: &Path, directory: &Path, source: &str) -> io::Result<()> {
    let mode = fs::metadata(path).map_or(0o600, |metadata| metadata.permissions().mode() & 0o7777);
    let mut temporary = tempfile::Builder::new().prefix(".bearward-").tempfile_in(directory)?;
    temporary.write_all(source.as_bytes())?;
    temporary.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    temporary.as_file().sync_all()?;
    temporary.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}
