//! `bearward keys create`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::{StoreArgument, ahead, named, now, permission, show_secret};
use crate::cli::{Failure, say};
use crate::config::Quota;
use crate::config::decode::parse_duration;
use crate::config::network::{NetworkFault, network_of};
use crate::keys::record::{NO_LIMITS, is_label};
use crate::keys::token::Token;
use crate::keys::{KeyRecord, Permission, Permissions};

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    store: StoreArgument,
    /// A usual kind of key; each of its parts can be said otherwise
    #[arg(long, value_enum)]
    preset: Option<Preset>,
    /// What the key may do: read, write, admin, webhook
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        required_unless_present = "preset",
        value_parser = permission
    )]
    permissions: Vec<Permission>,
    #[command(flatten)]
    terms: TermsArguments,
    /// A unique label for people
    #[arg(long)]
    name: Option<String>,
}

/// What narrows a key.
#[derive(Debug, Args)]
pub(super) struct TermsArguments {
    /// A free label; the configuration can demand one
    #[arg(long)]
    environment: Option<String>,
    /// How long the key lives, as in 90d
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<String>,
    /// A rate limit, as in 600/1m or 600/1m/60 with a burst; may stand several times; `none`: the defaults do not hold
    #[arg(long, value_name = "N/TIME")]
    rate: Vec<String>,
    /// How many requests of the --rate may come at once
    #[arg(long, value_name = "N", requires = "rate")]
    burst: Option<u32>,
    /// Requests in flight at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_concurrent: Option<u32>,
    /// Networks or addresses that the key may be used from
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = network)]
    allow_from: Vec<IpNet>,
    /// Named routes that the key may use; left out: all
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    routes: Vec<String>,
    /// Anything to remember about the key, as in team=payments; may stand several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
}

/// The kinds of key that an API's users know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// For testing: read and write, environment development, for 30 days
    Development,
    /// For live applications: read and write, environment production
    Production,
    /// For monitoring and analytics: read
    ReadOnly,
    /// For administrative tasks: admin, for 90 days
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
        record.environment = self.preset.and_then(Preset::environment).map(str::to_owned);
        if let Some(lifetime) = self.preset.and_then(Preset::expires_in) {
            record.expires_at = Some(ahead("--preset", lifetime)?);
        }
        record.name = label("--name", self.name.as_ref())?;
        self.terms.put_on(&mut record)?;
        Ok(record)
    }
}

impl TermsArguments {
    /// Whether keys are narrowed to named routes.
    pub(super) fn names_routes(&self) -> bool {
        !self.routes.is_empty()
    }

    /// Narrows a key as the arguments say.
    pub(super) fn put_on(&self, record: &mut KeyRecord) -> Result<(), Failure> {
        if let Some(environment) = label("--environment", self.environment.as_ref())? {
            record.environment = Some(environment);
        }
        if let Some(lifetime) = &self.expires_in {
            record.expires_at = Some(ahead("--expires-in", lifetime)?);
        }
        if !self.rate.is_empty() {
            record.rate_limits = Some(self.quotas()?);
        }
        record.max_concurrent = self.max_concurrent;
        record.allow_from.clone_from(&self.allow_from);
        if !self.routes.is_empty() {
            if self.routes.iter().any(String::is_empty) {
                return Err(Failure::Usage("--routes: a name is empty".to_owned()));
            }
            record.routes = Some(self.routes.clone());
        }
        record.metadata = BTreeMap::from_iter(self.metadata.clone());
        Ok(())
    }

    fn quotas(&self) -> Result<Vec<Quota>, Failure> {
        if self.burst.is_none() && self.rate == [NO_LIMITS] {
            return Ok(Vec::new());
        }
        let quotas = self.rate.iter().map(|rate| quota(rate)).collect::<Option<Vec<_>>>();
        let usage =
            |message: &str| Failure::Usage(format!("--rate {}: {message}", self.rate.join(" --rate ")));
        let mut quotas = quotas.ok_or_else(|| usage("as in 600/1m, or 600/1m/60 with a burst of 60"))?;
        match (self.burst, quotas.as_mut_slice()) {
            (None, _) => {}
            (Some(burst), [only]) if burst > 0 && Quota { burst, ..*only }.is_countable() => {
                only.burst = burst
            }
            (Some(_), _) => {
                return Err(usage("a --burst of at least 1 needs a single --rate; else 600/1m/60"));
            }
        }
        let mut windows: Vec<Duration> = quotas.iter().map(|quota| quota.per).collect();
        windows.sort_unstable();
        windows.dedup();
        if windows.len() < quotas.len() {
            return Err(usage("two limits over the same window"));
        }
        Ok(quotas)
    }
}

/// Text that may be a name or an environment.
fn label(flag: &str, text: Option<&String>) -> Result<Option<String>, Failure> {
    match text {
        Some(text) if !is_label(text) => Err(Failure::Usage(format!(
            "{flag}: must not be empty, hold control characters, nor begin or end with white space"
        ))),
        text => Ok(text.cloned()),
    }
}

/// `600/1m` or `600/1m/60`.
fn quota(rate: &str) -> Option<Quota> {
    let mut parts = rate.split('/');
    let requests: u32 = parts.next()?.parse().ok().filter(|requests| *requests > 0)?;
    let per = parse_duration(parts.next()?).filter(|per| per.subsec_nanos() == 0)?;
    let burst = match parts.next() {
        Some(burst) => burst.parse().ok().filter(|burst| *burst > 0)?,
        None => Quota::default_burst(requests),
    };
    let quota = Quota { requests, per, burst };
    (parts.next().is_none() && quota.is_countable()).then_some(quota)
}

fn network(text: &str) -> Result<IpNet, String> {
    network_of(text).map_err(|fault| match fault {
        NetworkFault::HostBits(right) => format!("host bits are set; {right} is meant?"),
        NetworkFault::Mapped(right) => format!("IPv4 in the form of IPv6 never matches; {right} is meant?"),
        NetworkFault::NoNetwork => "as in 10.0.0.0/8 or 192.0.2.7".to_owned(),
    })
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("as in team=payments".to_owned()),
    }
}
