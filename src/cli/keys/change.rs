//! `bearward keys rotate`, `revoke` and `delete`: change one key of the store.

use std::time::Duration;

use clap::Args;

use super::secret::{or_by_hand, show_secret};
use super::store_argument::StoreArgument;
use super::values::{ahead, named, now};
use crate::cli::failure::Failure;
use crate::cli::terminal::say;
use crate::config::AgeAction;
use crate::config::decode::parse_duration;
use crate::key_store::edit::{Editor, Found};
use crate::key_store::redis::Waited;
use crate::keys::KeyRecord;
use crate::keys::rotation::{NotRotated, Rotation, is_no_grace};
use crate::keys::token::Token;
use crate::plural::plural;

/// The key to change.
#[derive(Debug, Args)]
struct KeyArgument {
    /// The key's id, or its name
    key: String,
    #[command(flatten)]
    store: StoreArgument,
}

impl KeyArgument {
    /// Opens the store for a change, and finds the key in it.
    fn open(&self) -> Result<(Editor, Found), Failure> {
        let editor = self.store.editor()?;
        let found = editor.find(&self.key)?;
        Ok((editor, found))
    }
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    #[command(flatten)]
    target: KeyArgument,
    /// How long the old secret remains valid; 0 ends the old secret and all older secrets at once
    #[arg(long, value_name = "DURATION", default_value = "7d")]
    grace: String,
    /// Time until the key itself expires, as in 90d [default: the key's expiry does not change]
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<String>,
}

impl Rotate {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let (editor, found) = self.target.open()?;
        let token = Token::generate_for(&found.record.id)
            .map_err(|error| Failure::Failed(format!("no randomness: {error}")))?;
        let config = self.target.store.configuration()?;
        let max_age = config.and_then(|config| config.keys.max_age);
        let refused_age =
            max_age.filter(|max_age| max_age.action == AgeAction::Refuse).map(|max_age| max_age.age);
        let after = self.rotated(&found.record, &token, refused_age)?;
        let written = editor.replace(&found, &after);
        if written.is_ok() {
            let old = after.terms.previous.iter().find(|secret| secret.hash == found.record.hash);
            let old_end = match old {
                Some(secret) => format!("the old one is valid until {}", secret.expires_at),
                None => "the old one is no longer valid".to_owned(),
            };
            let changed = format!("{} in {}", named(&after), editor.path().display());
            say(&format!("bearward: {changed} has a new secret, shown this once; {old_end}"));
            let older = after.terms.previous.iter().filter(|secret| secret.hash != found.record.hash);
            for secret in older.filter(|secret| secret.expires_at > now()) {
                say(&format!("bearward: an older one is still valid until {}", secret.expires_at));
            }
            if let Some(end) = after.expires_at {
                say(&format!("bearward: the key itself ends at {end}"));
            }
        }
        show_secret(&token, &after, &editor, written)
    }

    fn rotated(
        &self,
        before: &KeyRecord,
        token: &Token,
        max_age: Option<Duration>,
    ) -> Result<KeyRecord, Failure> {
        let grace_end = match is_no_grace(&self.grace) {
            true => None,
            false => Some(ahead("--grace", &self.grace)?),
        };
        let expires_in = self.expires_in.as_ref();
        let expires_at = expires_in.map(|lifetime| ahead("--expires-in", lifetime)).transpose()?;
        let rotation = Rotation { now: now(), grace_end, expires_at, refused_age: max_age };
        rotation.of(before, token).map_err(|reason| {
            Failure::Failed(match reason {
                NotRotated::Disabled => format!(
                    "{} is turned off, which a new secret would not change; `bearward keys create` makes another key",
                    named(before)
                ),
                NotRotated::Expired => {
                    format!("{} has expired; --expires-in 90d gives it a new end", named(before))
                }
            })
        })
    }
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    #[command(flatten)]
    target: KeyArgument,
    #[command(flatten)]
    waiting: Waiting,
}

/// Whether a command returns only when every replica has applied its change.
#[derive(Debug, Args)]
struct Waiting {
    /// Return when every replica has applied the change (for a store in a Redis server)
    #[arg(long)]
    wait: bool,
    /// The longest time to wait
    #[arg(long, value_name = "DURATION", default_value = "10s", requires = "wait")]
    wait_timeout: String,
}

impl Waiting {
    /// Waits for the replicas if this was asked for. Fails if some replica has not confirmed that it
    /// has applied the change.
    fn for_replicas(&self, editor: &Editor) -> Result<(), Failure> {
        if !self.wait {
            return Ok(());
        }
        let usage = || {
            Failure::Usage(format!("--wait-timeout {}: a duration is needed, as in 10s", self.wait_timeout))
        };
        let patience = parse_duration(&self.wait_timeout).ok_or_else(usage)?;
        let Waited { applied, behind, lost } = editor.wait_for_replicas(patience)?;
        if !behind.is_empty() {
            let behind = behind.join(", ");
            return Err(Failure::Failed(format!("not applied within {}, by {behind}", self.wait_timeout)));
        }
        if !lost.is_empty() {
            let lost = lost.join(", ");
            return Err(Failure::Failed(format!(
                "not confirmed by {lost}: these replicas have ended, or can't reach the server; applied by {}",
                plural(applied, "other", "others")
            )));
        }
        say(&format!("bearward: applied by {}", plural(applied, "replica", "replicas")));
        Ok(())
    }
}

impl Revoke {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let (editor, found) = self.target.open()?;
        if found.record.disabled {
            say(&format!("bearward: {} was turned off before", named(&found.record)));
            return self.waiting.for_replicas(&editor);
        }
        let after = KeyRecord { disabled: true, ..found.record.clone() };
        or_by_hand(&editor, Some(&after), editor.replace(&found, &after))?;
        let place = editor.path().display();
        say(&format!("bearward: {} in {place} is turned off, with all its secrets", named(&after)));
        self.waiting.for_replicas(&editor)
    }
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    #[command(flatten)]
    target: KeyArgument,
}

impl Delete {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let (editor, found) = self.target.open()?;
        or_by_hand(&editor, None, editor.delete(&found))?;
        say(&format!("bearward: {} is deleted from {}", named(&found.record), editor.path().display()));
        Ok(())
    }
}
