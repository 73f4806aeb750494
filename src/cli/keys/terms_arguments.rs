//! The arguments that narrow a new key.

use std::time::Duration;

use clap::Args;

use super::field_arguments::FieldArguments;
use super::values::ahead;
use crate::cli::failure::Failure;
use crate::config::Quota;
use crate::config::decode::parse_duration;
use crate::keys::KeyRecord;
use crate::keys::record::NO_LIMITS;

/// The arguments that narrow a new key.
#[derive(Debug, Args)]
pub(super) struct TermsArguments {
    /// How long the key lives, as in 90d
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<String>,
    /// A rate limit, as in 600/1m or 600/1m/60 with a burst; may be given several
    /// times; `none`: the configuration's defaults do not apply
    #[arg(long, value_name = "N/TIME")]
    rate: Vec<String>,
    /// The burst of the --rate: how many requests may come at once
    #[arg(long, value_name = "N", requires = "rate")]
    burst: Option<u32>,
    #[command(flatten)]
    fields: FieldArguments,
}

impl TermsArguments {
    /// Whether `--routes` narrows the keys to named routes.
    pub(super) fn names_routes(&self) -> bool {
        self.fields.has("routes")
    }

    /// Narrows a key by the given arguments.
    pub(super) fn put_on(&self, record: &mut KeyRecord) -> Result<(), Failure> {
        self.fields.put_on(record);
        if let Some(lifetime) = &self.expires_in {
            record.expires_at = Some(ahead("--expires-in", lifetime)?);
        }
        if !self.rate.is_empty() {
            record.terms.rate_limits = Some(self.quotas()?);
        }
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

/// Parses a rate limit such as `600/1m` or `600/1m/60`.
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
