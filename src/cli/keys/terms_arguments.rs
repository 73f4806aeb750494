//! The arguments that narrow a new key.

use clap::Args;

use super::field_arguments::FieldArguments;
use super::values::ahead;
use crate::cli::failure::Failure;
use crate::config::decode::parse_duration;
use crate::config::{Quota, Unit, has_repeated_window, parse_count};
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
    /// A limit of tokens, as in 100k/1m or 100k/1m/20k with a burst; may be given several times
    #[arg(long, value_name = "N/TIME")]
    tokens: Vec<String>,
    /// A limit of input tokens, as in 80k/1m; may be given several times
    #[arg(long, value_name = "N/TIME")]
    input_tokens: Vec<String>,
    /// A limit of output tokens, as in 20k/1m; may be given several times
    #[arg(long, value_name = "N/TIME")]
    output_tokens: Vec<String>,
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
        let quotas = self.quotas()?;
        if !quotas.is_empty() || self.is_unlimited() {
            record.terms.rate_limits = Some(quotas);
        }
        Ok(())
    }

    /// Whether `--rate none` exempts the keys from the configuration's default limits.
    fn is_unlimited(&self) -> bool {
        self.rate == [NO_LIMITS]
    }

    fn quotas(&self) -> Result<Vec<Quota>, Failure> {
        let mut quotas = self.requests()?;
        let of_tokens = [
            ("--tokens", Unit::Tokens, &self.tokens),
            ("--input-tokens", Unit::InputTokens, &self.input_tokens),
            ("--output-tokens", Unit::OutputTokens, &self.output_tokens),
        ];
        for (argument, unit, limits) in of_tokens {
            for limit in limits {
                let usage = |message: &str| Failure::Usage(format!("{argument} {limit}: {message}"));
                let quota = quota(unit, limit)
                    .ok_or_else(|| usage("as in 100k/1m, or 100k/1m/20k with a burst of 20k"))?;
                quotas.push(quota);
                if has_repeated_window(&quotas) {
                    return Err(usage("two limits over the same window"));
                }
            }
        }
        Ok(quotas)
    }

    /// Returns the rate limits of `--rate` and `--burst`.
    fn requests(&self) -> Result<Vec<Quota>, Failure> {
        if self.burst.is_none() && self.is_unlimited() {
            return Ok(Vec::new());
        }
        let quotas = self.rate.iter().map(|rate| quota(Unit::Requests, rate)).collect::<Option<Vec<_>>>();
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
        match has_repeated_window(&quotas) {
            true => Err(usage("two limits over the same window")),
            false => Ok(quotas),
        }
    }
}

/// Parses a rate limit such as `600/1m`, `600/1m/60` or `100k/1m`.
fn quota(unit: Unit, limit: &str) -> Option<Quota> {
    let mut parts = limit.split('/');
    let amount = parse_count(parts.next()?)?;
    let per = parse_duration(parts.next()?).filter(|per| per.subsec_nanos() == 0)?;
    let burst = match parts.next() {
        Some(burst) => Some(parse_count(burst)?),
        None => None,
    };
    let quota = Quota::new(unit, amount, per, burst);
    (parts.next().is_none() && quota.is_countable()).then_some(quota)
}
