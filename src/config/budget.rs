//! `budgets` and `state`: how much may be used in a day, a week or a month, and where it is kept.

use std::path::PathBuf;

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde_json::json;

use crate::config::decode::Decoder;
use crate::config::form::{Form, list_of, one_of, own_directory, text};
use crate::config::quota::Unit;
use crate::config::section::{nested, section};
use crate::config::tree::Node;

section! {
    /// The directory in which budgets, limits of an hour and more, and usage survive a restart.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct StateDirectory in "state" {
        /// The directory. bearward creates it, and keeps a journal in it. No other process may use it.
        path: PathBuf = own_directory().required();
    }
}

/// The period of a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Every {
    Day,
    /// From Monday to Sunday.
    Week,
    Month,
}

impl Every {
    pub(crate) const ALL: [(&str, Every); 3] =
        [("day", Every::Day), ("week", Every::Week), ("month", Every::Month)];

    /// Returns the name of the period in files and in names of policies.
    pub(crate) fn name(self) -> &'static str {
        Every::ALL.iter().find(|(_, every)| *every == self).map_or("month", |(name, _)| *name)
    }
}

/// The time zone of a budget.
#[derive(Clone, Debug)]
pub(crate) struct Zone {
    name: String,
    zone: TimeZone,
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Zone {}

impl std::hash::Hash for Zone {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl Zone {
    pub(crate) fn utc() -> Self {
        Zone { name: "UTC".to_owned(), zone: TimeZone::UTC }
    }

    /// Returns the zone with an IANA name, such as `Europe/Berlin`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let zone = TimeZone::get(name).ok()?;
        // The database finds names in any case. Each zone has one name here.
        let name = zone.iana_name()?.to_owned();
        Some(Zone { name, zone })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

/// A budget: `amount` units may be used in each period of the calendar, at any time of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BudgetQuota {
    pub(crate) unit: Unit,
    pub(crate) amount: u64,
    pub(crate) every: Every,
    pub(crate) zone: Zone,
}

/// One period of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period {
    pub(crate) start: Timestamp,
    /// The first instant behind the period.
    pub(crate) end: Timestamp,
}

impl BudgetQuota {
    /// Returns the period in which an instant is. Periods begin at the first instant of their first day
    /// in the zone, which is not always midnight. A day may have 23 or 25 hours.
    pub(crate) fn period(&self, at: Timestamp) -> Period {
        let today = at.to_zoned(self.zone.zone.clone()).date();
        let (first, next) = match self.every {
            Every::Day => (Some(today), today.tomorrow().ok()),
            Every::Week => {
                let since = i64::from(today.weekday().since(Weekday::Monday));
                let monday = today.checked_sub(since.days()).ok();
                (monday, monday.and_then(|monday| monday.checked_add(7.days()).ok()))
            }
            Every::Month => {
                let first = today.first_of_month();
                (Some(first), first.checked_add(1.month()).ok())
            }
        };
        let instant = |date: jiff::civil::Date| {
            let zoned = date.to_zoned(self.zone.zone.clone()).and_then(|zoned| zoned.start_of_day());
            zoned.map(|zoned| zoned.timestamp()).ok()
        };
        Period {
            start: first.and_then(instant).unwrap_or(Timestamp::MIN),
            // The calendar ends in the year 9999.
            end: next.and_then(instant).unwrap_or(Timestamp::MAX),
        }
    }

    /// Returns the budget's name among those of its holder, as in `tokens-month`.
    pub(crate) fn policy(&self) -> String {
        format!("{}-{}", self.unit.in_policies(), self.every.name())
    }
}

section! {
    /// A budget: how much may be used in each day, week or month. Each budget has exactly one of
    /// `requests`, `tokens`, `input_tokens` and `output_tokens`.
    #[derive(Clone, Debug)]
    struct Written in "a budget" {
        /// The number of requests in a period.
        requests: Option<u64> = amount().optional();
        /// The number of tokens in a period, of input and output together, as in 5M.
        tokens: Option<u64> = amount().optional();
        /// The number of input tokens in a period.
        input_tokens: Option<u64> = amount().optional();
        /// The number of output tokens in a period.
        output_tokens: Option<u64> = amount().optional();
        /// The period. Weeks begin on Monday.
        every: Every = one_of(&Every::ALL).required();
        /// The IANA name of the time zone in which periods begin, as in Europe/Berlin.
        zone: Zone = zone().or(Zone::utc());
    }
}

fn budget() -> Form<BudgetQuota> {
    nested::<Written>().then(|d, node, written| {
        let Written { requests, tokens, input_tokens, output_tokens, every, zone } = written;
        let amounts = [requests, tokens, input_tokens, output_tokens];
        let mut given =
            Unit::ALL.iter().zip(amounts).filter_map(|((_, unit), amount)| Some((*unit, amount?)));
        let (Some((unit, amount)), None) = (given.next(), given.next()) else {
            let message = "a budget counts either requests or one kind of tokens";
            return d.hinted(node.at, message, "one of requests, tokens, input_tokens, output_tokens");
        };
        Some(BudgetQuota { unit, amount, every, zone })
    })
}

/// Returns the `Form` of the budgets of a key or a group. Two budgets of one unit and period are a
/// fault.
pub(super) fn budgets() -> Form<Vec<BudgetQuota>> {
    list_of(budget()).checked(|d, node, budgets| match has_repeated_budget(&budgets) {
        true => d.hinted(node.at, "two budgets of the same unit and period", "keep the tighter one"),
        false => Some(budgets),
    })
}

/// Decodes the budgets of a key.
pub(crate) fn budget_quotas(d: &mut Decoder<'_>, node: &Node) -> Option<Vec<BudgetQuota>> {
    budgets().decode(d, node)
}

/// Whether two budgets count the same unit over the same period.
pub(crate) fn has_repeated_budget(budgets: &[BudgetQuota]) -> bool {
    budgets.iter().enumerate().any(|(index, budget)| {
        budgets.iter().take(index).any(|other| (other.unit, other.every) == (budget.unit, budget.every))
    })
}

/// Returns the `Form` of the amount of a budget, as in `600`, `100k` or `5M`.
fn amount() -> Form<u64> {
    let schema = || {
        json!({"anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "string", "pattern": "^[0-9]+[kMG]?$|\\$\\{"},
        ]})
    };
    let decode = |d: &mut Decoder<'_>, node: &Node| {
        let text = d.text(node)?;
        parse_amount(&text).or_else(|| {
            d.hinted(node.at, "not the amount of a budget", "at least 1, as in 600, 100k, 5M or 2G")
        })
    };
    Form::new(decode, schema)
}

/// The greatest amount: JSON numbers are exact up to here.
const MOST: u64 = 1 << 53;

/// Parses an amount of at least 1: digits, then `k`, `M` or `G` for thousands, millions or billions.
fn parse_amount(text: &str) -> Option<u64> {
    let factors = [('k', 1000), ('M', 1_000_000), ('G', 1_000_000_000)];
    let (digits, factor) = factors
        .iter()
        .find_map(|(letter, factor)| Some((text.strip_suffix(*letter)?, *factor)))
        .unwrap_or((text, 1));
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || digits.starts_with('0') {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(factor).filter(|amount| *amount <= MOST)
}

fn zone() -> Form<Zone> {
    text(|d, node| {
        let name = d.word(node)?;
        Zone::named(&name)
            .or_else(|| d.hinted(node.at, "this is not the name of a time zone", "as in Europe/Berlin"))
    })
    .written_as(|zone| json!(zone.name()))
}

/// Parses a budget on the command line: `tokens=5M/month`, with `@ZONE` behind it for a zone other than
/// UTC.
pub(crate) fn parse_budget(text: &str) -> Option<BudgetQuota> {
    let (text, zone) = match text.split_once('@') {
        Some((text, zone)) => (text, Zone::named(zone)?),
        None => (text, Zone::utc()),
    };
    let (unit, rest) = text.split_once('=')?;
    let (amount, every) = rest.split_once('/')?;
    let unit = Unit::ALL.iter().find(|(name, _)| *name == unit)?.1;
    let every = Every::ALL.iter().find(|(name, _)| *name == every)?.1;
    Some(BudgetQuota { unit, amount: parse_amount(amount)?, every, zone })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_begin_in_their_zone() {
        let berlin = "Europe/Berlin";
        for (every, zone, at, start, end) in [
            (Every::Month, "UTC", "2026-11-30T23:59:59Z", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"),
            (Every::Month, berlin, "2026-11-30T22:59:59Z", "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z"),
            (Every::Month, berlin, "2026-11-30T23:00:00Z", "2026-11-30T23:00:00Z", "2026-12-31T23:00:00Z"),
            // The clocks go forward and back: days of 23 and of 25 hours.
            (Every::Day, berlin, "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
            (Every::Day, berlin, "2026-10-25T22:59:59Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
            // Midnight does not exist here: the day begins at one o'clock.
            (
                Every::Day,
                "America/Santiago",
                "2026-09-06T12:00:00Z",
                "2026-09-06T04:00:00Z",
                "2026-09-07T03:00:00Z",
            ),
            (Every::Week, "UTC", "2026-11-29T23:59:59Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"),
            (Every::Week, "UTC", "2026-11-30T00:00:00Z", "2026-11-30T00:00:00Z", "2026-12-07T00:00:00Z"),
            (Every::Week, berlin, "2026-03-28T12:00:00Z", "2026-03-22T23:00:00Z", "2026-03-29T22:00:00Z"),
        ] {
            let quota =
                BudgetQuota { unit: Unit::Tokens, amount: 1, every, zone: Zone::named(zone).unwrap() };
            let period = quota.period(at.parse().unwrap());
            assert_eq!(
                (period.start.to_string(), period.end.to_string()),
                (start.to_owned(), end.to_owned()),
                "{at}"
            );
        }
    }

    #[test]
    fn a_budget_on_the_command_line() {
        let budget = parse_budget("tokens=5M/month@europe/berlin").unwrap();
        assert_eq!(
            (budget.amount, budget.policy(), budget.zone.name()),
            (5_000_000, "tokens-month".to_owned(), "Europe/Berlin")
        );
        assert_eq!(parse_budget("requests=10/day").unwrap().zone, Zone::utc());
        for wrong in [
            "tokens=0/day",
            "tokens=5M",
            "words=1/day",
            "tokens=1/year",
            "tokens=1/day@Nowhere",
            "tokens=9999999999G/day",
        ] {
            assert_eq!(parse_budget(wrong), None, "{wrong}");
        }
    }
}
