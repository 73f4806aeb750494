//! `rate_limits` and `failed_attempts`: how many requests, tokens or credentials are accepted in a
//! window of time.

use std::time::Duration;

use serde_json::json;

use crate::config::decode::Decoder;
use crate::config::form::{Form, boolean, duration, duration_of_at_least, list_of, number};
use crate::config::section::{nested, section};
use crate::config::tree::Node;

/// The unit that a rate limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Unit {
    Requests,
    /// Tokens of a model, of its input and its output together.
    Tokens,
    InputTokens,
    OutputTokens,
}

impl Unit {
    /// All units, each with the name of its field in a rate limit.
    pub(crate) const ALL: [(&str, Unit); 4] = [
        ("requests", Unit::Requests),
        ("tokens", Unit::Tokens),
        ("input_tokens", Unit::InputTokens),
        ("output_tokens", Unit::OutputTokens),
    ];

    /// Returns the name of the unit's field in a rate limit.
    pub(crate) fn field(self) -> &'static str {
        let entry = Unit::ALL.iter().find(|(_, unit)| *unit == self);
        debug_assert!(entry.is_some(), "each unit has a name");
        entry.map(|(name, _)| *name).unwrap_or_default()
    }

    /// Returns the unit's name in the names of policies, such as `requests` in `requests-1m`.
    pub(crate) fn in_policies(self) -> &'static str {
        match self {
            Unit::Requests => "requests",
            Unit::Tokens => "tokens",
            Unit::InputTokens => "input-tokens",
            Unit::OutputTokens => "output-tokens",
        }
    }

    /// Returns the burst of a rate limit for which no burst is configured. Requests: a tenth of
    /// their number, at least 1. Tokens: their whole number, because one request may need many
    /// tokens.
    pub(crate) fn default_burst(self, amount: u32) -> u32 {
        match self {
            Unit::Requests => (amount / 10).max(1),
            Unit::Tokens | Unit::InputTokens | Unit::OutputTokens => amount,
        }
    }
}

/// A rate limit of `amount` units in each window of the length `per`. Of these units, `burst` may
/// be used at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Quota {
    pub(crate) unit: Unit,
    pub(crate) amount: u32,
    pub(crate) per: Duration,
    pub(crate) burst: u32,
    /// Whether the rate limit refuses requests. If not, it only counts them, and bearward reports
    /// the requests that it would have refused.
    pub(crate) is_enforced: bool,
}

impl Quota {
    /// Makes a rate limit that refuses requests. `burst`: `None` for the default burst of the unit.
    pub(crate) fn new(unit: Unit, amount: u32, per: Duration, burst: Option<u32>) -> Self {
        let burst = burst.unwrap_or(unit.default_burst(amount));
        Quota { unit, amount, per, burst, is_enforced: true }
    }

    /// Whether the limiter can count the rate limit in nanoseconds. A burst that was used up must
    /// be available again within a century. At most 100 million units may be regained in a second:
    /// the time of one unit is rounded up to a nanosecond, which would change a higher rate
    /// noticeably.
    pub(crate) fn is_countable(&self) -> bool {
        const CENTURY: u128 = 100 * 366 * 86_400 * 1_000_000_000;
        const LEAST_NANOS: u128 = 10;
        let each = self.per.as_nanos().div_ceil(u128::from(self.amount.max(1)));
        each >= LEAST_NANOS && each.saturating_mul(u128::from(self.burst)) <= CENTURY
    }
}

section! {
    /// A rate limit: a number of requests or tokens in a window. Each rate limit has exactly one of
    /// `requests`, `tokens`, `input_tokens` and `output_tokens`.
    #[derive(Clone, Debug)]
    struct Written in "a rate limit" {
        /// The number of requests in a window.
        requests: Option<u32> = count().optional();
        /// The number of tokens in a window, of input and output together, as in 100k.
        tokens: Option<u32> = count().optional();
        /// The number of input tokens in a window.
        input_tokens: Option<u32> = count().optional();
        /// The number of output tokens in a window.
        output_tokens: Option<u32> = count().optional();
        /// The length of the window, in whole seconds.
        per: Duration = duration().checked(whole_seconds).required();
        /// The number of requests or tokens that may be used at once. Left out: a tenth of
        /// `requests`, or all of the tokens.
        burst: Option<u32> = count().optional();
        /// Whether the limit refuses requests. With false, it only counts and reports.
        enforce: bool = boolean().or(true);
    }
}

fn quota() -> Form<Quota> {
    nested::<Written>().then(|d, node, written| {
        let Written { requests, tokens, input_tokens, output_tokens, per, burst, enforce } = written;
        let amounts = [requests, tokens, input_tokens, output_tokens];
        let mut given =
            Unit::ALL.iter().zip(amounts).filter_map(|((_, unit), amount)| Some((*unit, amount?)));
        let (Some((unit, amount)), None) = (given.next(), given.next()) else {
            let message = "a rate limit counts either requests or one kind of tokens";
            return d.hinted(node.at, message, "one of requests, tokens, input_tokens, output_tokens");
        };
        Some(Quota { is_enforced: enforce, ..Quota::new(unit, amount, per, burst) })
    })
}

/// Returns the `Form` of a number of requests or tokens, as in `600`, `100k` or `5M`.
pub(super) fn count() -> Form<u32> {
    let schema = || {
        json!({"anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "string", "pattern": "^[0-9]+[kM]?$|\\$\\{"},
        ]})
    };
    let decode = |d: &mut Decoder<'_>, node: &Node| {
        let text = d.text(node)?;
        match parse_count(&text) {
            Some(count) => Some(count),
            None if text == "0" => d.hinted(node.at, "too small", "at least 1"),
            None => {
                d.hinted(node.at, "not a number of requests or tokens", "at least 1, as in 600, 100k or 5M")
            }
        }
    };
    Form::new(decode, schema).written_as(|count| json!(count))
}

/// Parses a number of requests or tokens of at least 1: digits, then `k` for thousands or `M` for
/// millions. A leading zero is refused, because some YAML parsers read such a number as octal.
pub(crate) fn parse_count(text: &str) -> Option<u32> {
    let (digits, factor) = match (text.strip_suffix('k'), text.strip_suffix('M')) {
        (Some(digits), _) => (digits, 1000),
        (_, Some(digits)) => (digits, 1_000_000),
        _ => (text, 1),
    };
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    if !is_number {
        return None;
    }
    digits.parse::<u32>().ok()?.checked_mul(factor)
}

fn whole_seconds(d: &mut Decoder<'_>, node: &Node, per: Duration) -> Option<Duration> {
    match per.subsec_nanos() {
        0 => Some(per),
        _ => d.hinted(node.at, "a window is measured in whole seconds", "at least 1s"),
    }
}

/// Returns the `Form` of the rate limits of a key, of a route, or of all keys. Two rate limits over
/// the same window are a fault.
pub(super) fn rate_limits() -> Form<Vec<Quota>> {
    list_of(quota()).checked(check)
}

/// Decodes the rate limits of a key. Two rate limits over the same window are a fault.
pub(crate) fn quotas(d: &mut Decoder<'_>, node: &Node) -> Option<Vec<Quota>> {
    rate_limits().decode(d, node)
}

fn check(d: &mut Decoder<'_>, node: &Node, quotas: Vec<Quota>) -> Option<Vec<Quota>> {
    if has_repeated_window(&quotas) {
        // Two rate limits over the same window would contradict each other in the headers of an
        // answer.
        return d.hinted(node.at, "two rate limits over the same window", "keep the tighter one");
    }
    if !quotas.iter().all(Quota::is_countable) {
        return d.hinted(
            node.at,
            "a burst that takes more than a century to be full again, or more than 100M in a second",
            "a smaller burst, or another number or time",
        );
    }
    Some(quotas)
}

/// Whether two rate limits count the same unit over the same window.
pub(crate) fn has_repeated_window(quotas: &[Quota]) -> bool {
    quotas.iter().enumerate().any(|(index, quota)| {
        quotas.iter().take(index).any(|earlier| (earlier.unit, earlier.per) == (quota.unit, quota.per))
    })
}

/// The shortest window of `failed_attempts`. A shorter window would not delay a client noticeably.
const SHORTEST_ATTEMPTS: Duration = Duration::from_secs(1);

section! {
    /// The number of credentials without a matching key that one address may present in a window.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct AttemptQuota: Default in "failed_attempts" {
        /// The number of credentials without a matching key that one address may present in a
        /// window. With more of them, the address is answered with 429.
        per_address: u32 = number(1).or(20);
        /// The length of the window.
        per: Duration = duration_of_at_least(SHORTEST_ATTEMPTS, "too short to hold up a client")
            .or(Duration::from_secs(60));
    }
}
