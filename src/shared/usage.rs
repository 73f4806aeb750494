//! Usage of all replicas in the server: telling it, and reading it.
//!
//! A day has three hashes in one slot of a cluster, `{PREFIX:usage:DAY}:rows`, `:told:ORIGIN` and
//! `:of-keys`; when keys were last used is in `{PREFIX:usage}:last_used`.

use std::collections::HashMap;
use std::time::Duration;

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};

use super::settings::Settings;
use crate::observe::ledger::{Counts, LastUses, MOST_MODELS, OTHER_MODELS, RowKey};
use crate::observe::untold::{Telling, Untold};
use crate::redis_link::{
    Connection, FromRedisValue, RedisError, RedisResult, Script, Server, Value, cmd, text_of,
};

/// The life of sums and of last uses: in days, and in milliseconds.
const KEPT_DAYS: i64 = 400;
const KEPT: u64 = KEPT_DAYS.unsigned_abs() * DAY;
/// The life of what a replica has told of a day that it may tell again, by whether it has the same name
/// when it has started anew; and of a day that is never told again.
const TOLD: u64 = KEPT;
const TOLD_IN_ONE_LIFE: u64 = 3 * DAY;
const TOLD_FOR_EVER: u64 = DAY;
const DAY: u64 = 86_400_000;

/// The time for an answer of a server whose usage is read.
const READING: Duration = Duration::from_secs(5);
/// Number of entries that are read at once, about.
const ENTRIES: usize = 500;

/// The scripts by which usage is told.
pub(super) struct UsageScripts {
    rows: Script,
    last_uses: Script,
}

impl Default for UsageScripts {
    fn default() -> Self {
        UsageScripts {
            rows: Script::new(include_str!("usage.lua")),
            last_uses: Script::new(include_str!("last_uses.lua")),
        }
    }
}

impl UsageScripts {
    /// Tells the server what this replica has counted.
    ///
    /// # Errors
    ///
    /// As in [`super::scripts::Scripts::lease`].
    pub(super) async fn tell(
        &self,
        connection: &mut Connection,
        prefix: &str,
        untold: &Untold,
        telling: &Telling,
    ) -> RedisResult<()> {
        let told = if untold.survives { TOLD } else { TOLD_IN_ONE_LIFE };
        let (day, told, rows) = match telling {
            Telling::Rows(day, rows) => (day, told, rows.as_slice()),
            Telling::Close(day) => (day, TOLD_FOR_EVER, &[][..]),
            Telling::LastUses(uses) => return self.tell_last_uses(connection, prefix, uses).await,
        };
        let of_day = |name: &str| format!("{{{prefix}:usage:{day}}}:{name}");
        let mut call = self.rows.key(rows_of(prefix, *day));
        call.key(of_day(&format!("told:{}", untold.origin))).key(of_day("of-keys"));
        call.arg(MOST_MODELS).arg(KEPT).arg(told);
        for (row, sum) in rows {
            let Counts { requests, input, cached, output, estimated } = *sum;
            let name = |model: Option<&str>| name(&row.key, row.group.as_deref(), model);
            call.arg(name(row.model.as_deref())).arg(name(Some(OTHER_MODELS))).arg(&row.key);
            for number in [requests, input, cached, output, estimated] {
                call.arg(number);
            }
        }
        call.invoke_async::<u64>(connection).await.map(drop)
    }

    async fn tell_last_uses(
        &self,
        connection: &mut Connection,
        prefix: &str,
        uses: &[(String, Timestamp)],
    ) -> RedisResult<()> {
        let mut call = self.last_uses.key(last_uses_of(prefix));
        call.key(known_of(prefix)).arg(KEPT);
        for (key, at) in uses {
            call.arg(at.as_microsecond()).arg(key);
        }
        call.invoke_async::<u64>(connection).await.map(drop)
    }
}

fn rows_of(prefix: &str, day: Date) -> String {
    format!("{{{prefix}:usage:{day}}}:rows")
}

fn last_uses_of(prefix: &str) -> String {
    format!("{{{prefix}:usage}}:last_used")
}

fn known_of(prefix: &str) -> String {
    format!("{{{prefix}:usage}}:known")
}

/// Returns the name of a row in its day, as JSON.
fn name(key: &str, group: Option<&str>, model: Option<&str>) -> String {
    serde_json::to_string(&(key, group, model)).unwrap_or_default()
}

/// Reads a row.
fn row(day: Date, name: &str, sums: &str) -> Option<(RowKey, Counts)> {
    let (key, group, model) = serde_json::from_str(name).ok()?;
    let numbers: Vec<u64> = sums.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [requests, input, cached, output, estimated] = numbers[..] else { return None };
    Some((RowKey { day, key, group, model }, Counts { requests, input, cached, output, estimated }))
}

/// Calls `take` with the rows of all replicas of the days from `since` to `today`.
///
/// # Errors
///
/// Why the server can't be read, for people.
pub(crate) async fn each_row(
    settings: &Settings,
    (since, today): (Date, Date),
    mut take: impl FnMut(RowKey, Counts),
) -> Result<(), String> {
    let told = |error: RedisError| format!("{}: {}", settings.server.address, text_of(&error));
    let mut connection = reading(settings).await.map_err(told)?;
    // Each day is a question to the server, so nothing is asked of days that it has forgotten.
    let mut day = first_kept(since, today);
    while day <= today {
        // An entry may come twice.
        let entries = scan(&mut connection, "HSCAN", &rows_of(&settings.prefix, day)).await.map_err(told)?;
        for (name, sums) in &entries {
            if let Some((key, counts)) = row(day, name, sums) {
                take(key, counts);
            }
        }
        let Ok(next) = day.tomorrow() else { break };
        day = next;
    }
    Ok(())
}

/// Returns the first day from `since` on of which the server may know something.
fn first_kept(since: Date, today: Date) -> Date {
    since.max(today.saturating_sub(KEPT_DAYS.days()))
}

/// Returns when keys were last used, at any replica.
///
/// # Errors
///
/// Why the server can't be read, for people.
pub(crate) async fn last_uses(settings: &Settings) -> Result<LastUses, String> {
    let told = |error: RedisError| format!("{}: {}", settings.server.address, text_of(&error));
    let mut connection = reading(settings).await.map_err(told)?;
    let mut since = cmd("HGET");
    since.arg(known_of(&settings.prefix)).arg("since");
    let since: Option<i64> = since.query_async(&mut connection).await.map_err(told)?;
    let uses = scan(&mut connection, "ZSCAN", &last_uses_of(&settings.prefix)).await.map_err(told)?;
    let instant = |micros: i64| Timestamp::from_microsecond(micros).ok();
    let by_key = uses.into_iter().filter_map(|(key, at)| Some((key, instant(at.parse().ok()?)?))).collect();
    Ok(LastUses { by_key, since: since.and_then(instant) })
}

/// Tries to read usage and last uses.
///
/// # Errors
///
/// The server refuses it.
pub(super) async fn can_read(connection: &mut Connection, prefix: &str, day: Date) -> RedisResult<()> {
    scan(connection, "HSCAN", &rows_of(prefix, day)).await?;
    scan(connection, "ZSCAN", &last_uses_of(prefix)).await.map(drop)
}

/// Connects to the server to read much of it.
async fn reading(settings: &Settings) -> RedisResult<Connection> {
    let server = Server { timeout: READING, has_long_answers: true, ..settings.server.clone() };
    server.connect().await
}

/// Returns all entries of a hash or a sorted set. `command`: the command that reads some of them.
async fn scan(connection: &mut Connection, command: &str, key: &str) -> RedisResult<HashMap<String, String>> {
    let (mut entries, mut cursor) = (HashMap::new(), "0".to_owned());
    loop {
        let mut scan = cmd(command);
        scan.arg(key).arg(&cursor).arg("COUNT").arg(ENTRIES);
        let (next, page): (String, Value) = scan.query_async(connection).await?;
        let page = Vec::<(String, String)>::from_redis_value(page)?;
        entries.extend(page);
        if next == "0" {
            return Ok(entries);
        }
        cursor = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_day_is_asked_for_that_is_forgotten() {
        let date = |text: &str| text.parse::<Date>().unwrap();
        let today = date("2026-11-29");
        assert_eq!(first_kept(date("2026-11-01"), today), date("2026-11-01"));
        assert_eq!(first_kept(Date::MIN, today), date("2025-10-25"));
    }

    #[test]
    fn a_row_is_read_as_it_was_told() {
        let day: Date = "2026-11-29".parse().unwrap();
        for (group, model) in [(None, None), (Some("g"), Some("a \"b\"\n"))] {
            let name = name("key_a", group, model);
            let (key, counts) = row(day, &name, "1 2 3 4 5").unwrap();
            assert_eq!(
                (key.key.as_str(), key.group.as_deref(), key.model.as_deref()),
                ("key_a", group, model)
            );
            assert_eq!(counts, Counts { requests: 1, input: 2, cached: 3, output: 4, estimated: 5 });
        }
        for (name, sums) in [("[\"a\"]", "1 2 3 4 5"), ("[\"a\",null,null]", "1 2 3 4"), ("", "1 2 3 4 -5")] {
            assert!(row(day, name, sums).is_none(), "{name} {sums}");
        }
    }
}
