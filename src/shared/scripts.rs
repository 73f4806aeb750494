//! The scripts that run in the server, their arguments and their answers.

use std::net::IpAddr;
use std::time::Duration;

use super::link::{Outage, Replica};
use super::usage::UsageScripts;
use crate::address::host_part;
use crate::limit::{
    Answer, AnswerOfWindow, Ask, Attempts, AttemptsCounted, BudgetAnswer, BudgetAsk, BudgetSettlement,
    BudgetTold, Outcome, SlotAsk,
};
use crate::redis_link::{
    Connection, ErrorKind, RedisError, RedisResult, Script, Value, from_redis_value_ref,
};

/// The scripts. The server caches them by their hash.
pub(super) struct Scripts {
    lease: Script,
    heartbeat: Script,
    slots: Script,
    attempts: Script,
    budgets: Script,
    pub(super) usage: UsageScripts,
}

/// What a heartbeat tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// The server's time, in microseconds since 2026.
    pub(super) now: u64,
    pub(super) outage: Outage,
    /// The replicas, in the order of their ids.
    pub(super) replicas: Vec<Replica>,
    /// Addresses that have used up their failed attempts: the time in which they have them, and the end
    /// of the time that they have to wait, in microseconds since 2026.
    pub(super) exhausted: Vec<(IpAddr, u64, u64)>,
}

/// The commands that the user of the server needs: those that are sent, and those that the scripts call.
pub(crate) const COMMANDS: &[&str] = &[
    "evalsha",
    "hdel",
    "hget",
    "hgetall",
    "hlen",
    "hmget",
    "hrandfield",
    "hscan",
    "hset",
    "pexpire",
    "script|load",
    "time",
    "zadd",
    "zrange",
    "zrangebyscore",
    "zrem",
    "zremrangebyrank",
    "zremrangebyscore",
    "zrevrangebyscore",
    "zscan",
];

/// Number of hashes over which the addresses with failed attempts are spread.
const ATTEMPT_HASHES: u128 = 61;

/// Number of values that the lease script returns for a window, and for a request.
const OF_WINDOW: usize = 7;
const OF_REQUEST: usize = 4;

/// Number of values that the script of budgets returns for a budget.
const OF_BUDGET: usize = 5;

impl Default for Scripts {
    fn default() -> Self {
        Scripts {
            lease: Script::new(include_str!("lease.lua")),
            heartbeat: Script::new(include_str!("heartbeat.lua")),
            slots: Script::new(include_str!("slots.lua")),
            attempts: Script::new(include_str!("attempts.lua")),
            budgets: Script::new(include_str!("budgets.lua")),
            usage: UsageScripts::default(),
        }
    }
}

impl Scripts {
    /// Sends an ask, and returns the answer. `key`: the name of the key's buckets.
    ///
    /// # Errors
    ///
    /// The server did not answer in time, refused the script, or sent something else.
    pub(super) async fn lease(
        &self,
        connection: &mut Connection,
        key: &str,
        ask: &Ask,
        outage: Outage,
    ) -> RedisResult<Answer> {
        let mut call = self.lease.key(key);
        let refunds = || {
            let of_windows = ask.windows.iter().enumerate();
            of_windows.flat_map(|(index, asked)| asked.refunds.iter().map(move |refund| (index + 1, refund)))
        };
        call.arg(ask.windows.len()).arg(refunds().count()).arg(ask.requests.len());
        call.arg(outage.from).arg(outage.to).arg(u8::from(outage.is_wiped));
        for asked in &ask.windows {
            let (window, quota) = (&asked.window, asked.window.quota());
            call.arg(window.field()).arg(u8::from(quota.is_enforced));
            call.arg(window.period_in_micros()).arg(quota.burst).arg(asked.width).arg(asked.extra);
            call.arg(asked.slot).arg(asked.gone).arg(asked.left);
            call.arg(asked.back).arg(asked.debt).arg(asked.away).arg(asked.line).arg(asked.full_in);
        }
        for (window, refund) in refunds() {
            call.arg(window).arg(refund.units).arg(refund.line);
        }
        for cost in ask.requests.iter().flatten() {
            call.arg(cost.map_or(-1, i64::from));
        }
        let values: Vec<i64> = call.invoke_async(connection).await?;
        answer(&values, ask.windows.len(), ask.requests.len()).ok_or_else(unexpected)
    }

    /// Asks for slots of a key, and returns how many the replica holds now. `key`: the name of the key's
    /// slots; `id`: that of the replica; `life`: the life of slots in microseconds;
    /// `part`: the replica's part of the limit.
    ///
    /// # Errors
    ///
    /// As in [`Scripts::lease`].
    pub(super) async fn slots(
        &self,
        connection: &mut Connection,
        key: &str,
        id: &str,
        ask: &SlotAsk,
        (life, part, outage): (u64, u32, Outage),
    ) -> RedisResult<u32> {
        let mut call = self.slots.key(key);
        call.arg(id).arg(ask.want).arg(ask.limit).arg(life).arg(part).arg(outage.to).arg(ask.in_use);
        call.invoke_async(connection).await
    }

    /// Counts failed attempts of an address. `was_granted`: whether they were granted already.
    ///
    /// # Errors
    ///
    /// As in [`Scripts::lease`].
    pub(super) async fn attempts(
        &self,
        connection: &mut Connection,
        prefix: &str,
        attempts: &Attempts,
        was_granted: bool,
    ) -> RedisResult<AttemptsCounted> {
        let Attempts { address, quota, count } = attempts;
        let address = host_part(*address);
        let part = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits() >> 64,
        } % ATTEMPT_HASHES;
        let mut call = self.attempts.key(format!("{{{prefix}:fleet}}:attempts:{part}"));
        call.key(format!("{{{prefix}:fleet}}:exhausted"));
        let per = u64::try_from(quota.per.as_micros()).unwrap_or(u64::MAX);
        call.arg(address.to_string()).arg(*count).arg(quota.per_address).arg(per);
        call.arg(u8::from(was_granted));
        let (refused, wait): (u8, u64) = call.invoke_async(connection).await?;
        let wait = (wait > 0).then(|| Duration::from_micros(wait));
        Ok(AttemptsCounted { is_refused: refused != 0, wait })
    }

    /// Reserves units of budgets. `key`: the name of the holder's budgets.
    ///
    /// # Errors
    ///
    /// As in [`Scripts::lease`].
    pub(super) async fn reserve_budgets(
        &self,
        connection: &mut Connection,
        key: &str,
        ask: &BudgetAsk,
    ) -> RedisResult<BudgetAnswer> {
        let mut call = self.budgets.key(key);
        call.key(format!("{key}:settled")).arg("reserve").arg(ask.wants.len());
        for want in &ask.wants {
            let budget = &want.budget;
            call.arg(budget.field()).arg(want.from).arg(want.to).arg(budget.amount());
            call.arg(want.units).arg(want.known).arg(want.least).arg(u8::from(budget.counts_requests()));
        }
        let values: Vec<i64> = call.invoke_async(connection).await?;
        of_budgets(&values, ask.wants.len()).ok_or_else(unexpected)
    }

    /// Settles what a request has used of budgets. `key`: the name of the holder's budgets; `id`: that of the
    /// settlement, which is made once.
    ///
    /// # Errors
    ///
    /// As in [`Scripts::lease`].
    pub(super) async fn settle_budgets(
        &self,
        connection: &mut Connection,
        key: &str,
        id: &str,
        settlements: &[BudgetSettlement],
    ) -> RedisResult<BudgetAnswer> {
        let mut call = self.budgets.key(key);
        call.key(format!("{key}:settled")).arg(id).arg(settlements.len());
        for BudgetSettlement { budget, from, reserved, used } in settlements {
            call.arg(budget.field()).arg(*from).arg(*from).arg(budget.amount());
            call.arg(*reserved).arg(*used).arg(0).arg(u8::from(budget.counts_requests()));
        }
        let values: Vec<i64> = call.invoke_async(connection).await?;
        of_budgets(&values, settlements.len()).ok_or_else(unexpected)
    }

    /// Renews the registration of a replica. `seen`: the last time of the server that is known.
    ///
    /// # Errors
    ///
    /// As in [`Scripts::lease`].
    pub(super) async fn heartbeat(
        &self,
        connection: &mut Connection,
        prefix: &str,
        id: &str,
        (life, seen, longest_gap): (u64, u64, u64),
        about: &str,
    ) -> RedisResult<Heard> {
        let mut call = self.heartbeat.key(format!("{{{prefix}:fleet}}:state"));
        call.key(format!("{{{prefix}:fleet}}:replicas")).key(format!("{{{prefix}:fleet}}:exhausted"));
        call.key(format!("{{{prefix}:fleet}}:about"));
        call.arg(id).arg(life).arg(seen).arg(longest_gap).arg(about);
        let values: Vec<Value> = call.invoke_async(connection).await?;
        heard(&values).ok_or_else(unexpected)
    }
}

fn unexpected() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "the server answered a script with something else").into()
}

/// Reads the values that the lease script returns.
fn answer(values: &[i64], windows: usize, requests: usize) -> Option<Answer> {
    let (of_windows, of_requests) = values.split_at_checked(OF_WINDOW * windows)?;
    if of_requests.len() != OF_REQUEST * requests {
        return None;
    }
    let window = |values: &[i64]| match values {
        [leased, is_kept, slot, lasts, room, full_in, line] => Some(AnswerOfWindow {
            leased: u32::try_from(*leased).ok()?,
            is_kept: *is_kept == 1,
            slot: u64::try_from(*slot).ok()?,
            lasts: u64::try_from(*lasts).ok()?,
            room: u32::try_from(*room).ok()?,
            full_in: u64::try_from(*full_in).ok()?,
            line: u64::try_from(*line).ok()?,
        }),
        _ => None,
    };
    let refusal = |index: i64, wait: i64| {
        let index = usize::try_from(index).ok()?;
        (index <= windows).then_some(())?;
        let wait = u64::try_from(wait).ok()?;
        Some(index.checked_sub(1).map(|index| (index, wait)))
    };
    let request = |values: &[i64]| match values {
        [refused, wait, would_refuse, would_wait] => Some(Outcome {
            refused: refusal(*refused, *wait)?,
            would_refuse: refusal(*would_refuse, *would_wait)?,
        }),
        _ => None,
    };
    Some(Answer {
        windows: of_windows.chunks(OF_WINDOW).map(window).collect::<Option<_>>()?,
        requests: of_requests.chunks(OF_REQUEST).map(request).collect::<Option<_>>()?,
    })
}

/// Reads the values that the script of budgets returns.
fn of_budgets(values: &[i64], budgets: usize) -> Option<BudgetAnswer> {
    let (refused, of_budgets) = values.split_first()?;
    let refused = usize::try_from(*refused).ok().filter(|index| *index <= budgets)?.checked_sub(1);
    if of_budgets.len() != OF_BUDGET * budgets {
        return None;
    }
    let told = |values: &[i64]| match values {
        [from, to, used, passed, taken] => Some(BudgetTold {
            from: *from,
            to: *to,
            used: u64::try_from(*used).ok()?,
            passed: u8::try_from(*passed).ok()?,
            taken: u64::try_from(*taken).ok()?,
        }),
        _ => None,
    };
    Some(BudgetAnswer { refused, budgets: of_budgets.chunks(OF_BUDGET).map(told).collect::<Option<_>>()? })
}

/// Reads the values that the heartbeat script returns.
fn heard(values: &[Value]) -> Option<Heard> {
    let text = |value: &Value| from_redis_value_ref::<String>(value).ok();
    let number = |value: &Value| text(value)?.parse::<u64>().ok();
    let [now, from, to, wiped, count, lists @ ..] = values else { return None };
    let (exhausted, replicas) = lists.split_at_checked(usize::try_from(number(count)?).ok()?)?;
    let address = |value: &Value| {
        let text = text(value)?;
        let mut parts = text.split(' ');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    let exhausted = exhausted.iter().filter_map(address).collect();
    let outage = Outage { from: number(from)?, to: number(to)?, is_wiped: text(wiped)? == "1" };
    let replica = |pair: &[Value]| match pair {
        [id, about] => Some(Replica::read(text(id)?, &text(about)?)),
        _ => None,
    };
    let replicas = replicas.chunks(2).map(replica).collect::<Option<_>>()?;
    Some(Heard { now: number(now)?, outage, replicas, exhausted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_commands_of_the_scripts_are_listed() {
        let sources = [
            include_str!("lease.lua"),
            include_str!("slots.lua"),
            include_str!("attempts.lua"),
            include_str!("heartbeat.lua"),
            include_str!("budgets.lua"),
            include_str!("usage.lua"),
            include_str!("last_uses.lua"),
        ];
        let called = sources.iter().flat_map(|source| source.split("redis.call('").skip(1));
        let mut called: Vec<_> =
            called.filter_map(|call| Some(call.split_once('\'')?.0.to_lowercase())).collect();
        called.extend(["evalsha", "script|load", "hscan", "zscan"].map(str::to_owned));
        called.sort_unstable();
        called.dedup();
        assert_eq!(called, COMMANDS);
    }

    #[test]
    fn an_answer_has_exactly_its_values() {
        let values = [5, 1, 7, 1000, 40, 2000, 9000, 0, 0, 0, 0, 1, 300, 0, 0];
        let answer = answer(&values, 1, 2).unwrap();
        assert_eq!(answer.windows[0].leased, 5);
        assert_eq!(answer.requests[0], Outcome::default());
        assert_eq!(answer.requests[1].refused, Some((0, 300)));
        for (values, windows, requests) in [
            (&values[..14], 1, 2),
            (&values[..], 1, 1),
            (&values[..], 2, 2),
            (&[-1, 1, 7, 1, 1, 1, 1][..], 1, 0),
            (&[5, 1, 7, 1, 1, 1, 1, 2, 1, 0, 0][..], 1, 1),
            (&[5, 1, 7, 1, 1, 1, 1, -1, 1, 0, 0][..], 1, 1),
            (&[][..], 1, 0),
        ] {
            assert_eq!(super::answer(values, windows, requests), None);
        }
    }
}
