//! `bearward keys create`: makes a key and adds it to the store.

use clap::{ArgGroup, Args, ValueEnum};

use super::secret::show_secret;
use super::store_argument::StoreArgument;
use super::terms_arguments::TermsArguments;
use super::values::{ahead, label, named, now, permission};
use crate::cli::failure::Failure;
use crate::cli::terminal::say;
use crate::keys::token::Token;
use crate::keys::{KeyRecord, Permission, Permissions};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("kind").args(["preset", "permissions"]).required(true).multiple(true))]
pub(super) struct Create {
    #[command(flatten)]
    store: StoreArgument,
    /// A common kind of key, with permissions, environment and lifetime; other arguments override
    /// these
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// What the key may do: read, write, admin, webhook
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_parser = permission
    )]
    permissions: Vec<Permission>,
    #[command(flatten)]
    terms: TermsArguments,
    /// A unique label for people
    #[arg(long, value_parser = label)]
    name: Option<String>,
}

/// Common kinds of keys, each with its permissions, environment and lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// For testing: permissions read and write, environment development, valid for 30 days
    Development,
    /// For live applications: permissions read and write, environment production
    Production,
    /// For monitoring and analytics: permission read
    ReadOnly,
    /// For administrative tasks: permission admin, valid for 90 days
    Admin,
}

impl Preset {
    fn permissions(self) -> &'static [Permission] {
        match self {
            Preset::Development | Preset::Production => &[Permission::Read, Permission::Write],
            Preset::ReadOnly => &[Permission::Read],
            Preset::Admin => &[Permission::Admin],
        }
    }

    fn environment(self) -> Option<&'static str> {
        match self {
            Preset::Development => Some("development"),
            Preset::Production => Some("production"),
            Preset::ReadOnly | Preset::Admin => None,
        }
    }

    fn expires_in(self) -> Option<&'static str> {
        match self {
            Preset::Development => Some("30d"),
            Preset::Admin => Some("90d"),
            Preset::Production | Preset::ReadOnly => None,
        }
    }
}

impl Create {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let path = self.store.path()?;
        let token = Token::generate().map_err(|error| Failure::Failed(format!("no randomness: {error}")))?;
        let record = self.record(&token)?;
        self.store.check_needs(std::slice::from_ref(&record))?;
        let editor = self.store.editor()?;
        let written = editor.add(std::slice::from_ref(&record));
        if written.is_ok() {
            say(&format!(
                "bearward: {} added to {}; its secret is shown this once",
                named(&record),
                path.display()
            ));
        }
        show_secret(&token, &record, &editor, written)
    }

    fn record(&self, token: &Token) -> Result<KeyRecord, Failure> {
        let of_preset = self.preset.map(Preset::permissions).unwrap_or_default();
        let permissions: Permissions = match self.permissions.is_empty() {
            true => of_preset.iter().copied().collect(),
            false => self.permissions.iter().copied().collect(),
        };
        let mut record = KeyRecord::new(token.key_id(), token.hash(), permissions);
        record.created_at = Some(now());
        record.terms.environment = self.preset.and_then(Preset::environment).map(str::to_owned);
        if let Some(lifetime) = self.preset.and_then(Preset::expires_in) {
            record.expires_at = Some(ahead("--preset", lifetime)?);
        }
        record.name.clone_from(&self.name);
        self.terms.put_on(&mut record)?;
        Ok(record)
    }
}
