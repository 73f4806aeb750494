//! The check of a server for `bearward check`: whether it can be reached, and lets its user do all that
//! shared limits need.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use jiff::Timestamp;

use super::link::Outage;
use super::scripts::Scripts;
use super::settings::Settings;
use super::usage;
use crate::config::{AttemptQuota, Quota, Unit};
use crate::limit::{Attempts, LeasedSlots, Limiter};
use crate::observe::ledger::day_of;
use crate::observe::untold::{Telling, Untold};
use crate::redis_link::{Connection, ErrorKind, RedisError, RedisResult, text_of};

/// What is wrong with a server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It can't be reached, from here and now.
    Connection(String),
    /// It was reached, and refuses what is needed.
    Permissions(Vec<String>),
}

/// Connects to the server and runs each script once, under names that no replica uses.
///
/// # Errors
///
/// What is missing.
pub(crate) async fn check(settings: &Settings) -> Result<(), Missing> {
    let address = &settings.server.address;
    let told = |error: &RedisError| format!("{address}: {}", text_of(error));
    let mut connection = settings.server.connect().await.map_err(|error| match is_refusal(&error) {
        true => Missing::Permissions(vec![told(&error)]),
        false => Missing::Connection(told(&error)),
    })?;
    let (scripts, prefix) = (Scripts::default(), format!("{}:check", settings.prefix));
    let quota = AttemptQuota { per_address: 1, per: Duration::from_secs(1) };
    let attempts = Attempts { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), quota, count: 1 };
    let mut outcomes = vec![
        scripts.heartbeat(&mut connection, &prefix, "check", (1, 0, 1), "").await.map(drop),
        scripts.attempts(&mut connection, &prefix, &attempts, true).await.map(drop),
    ];
    let (ask, slots) = (Limiter::ask_for_check(Quota::new(Unit::Requests, 1, quota.per, None)), {
        let mut slots = LeasedSlots::default();
        let _waits = slots.enter(1, 0);
        slots.begin_ask(false, 0)
    });
    if let Some(ask) = ask {
        let key = format!("{prefix}:{{check}}");
        outcomes.push(scripts.lease(&mut connection, &key, &ask, Outage::default()).await.map(drop));
    }
    if let Some(ask) = slots {
        let key = format!("{prefix}:{{check}}:slots");
        outcomes.push(
            scripts.slots(&mut connection, &key, "check", &ask, (1, 1, Outage::default())).await.map(drop),
        );
    }
    outcomes.extend(check_usage(&scripts, &mut connection, &prefix).await);
    let mut refused: Vec<_> =
        outcomes.into_iter().filter_map(Result::err).map(|error| told(&error)).collect();
    refused.dedup();
    if refused.is_empty() { Ok(()) } else { Err(Missing::Permissions(refused)) }
}

/// Tells usage of nothing, and reads it.
async fn check_usage(scripts: &Scripts, connection: &mut Connection, prefix: &str) -> [RedisResult<()>; 3] {
    let (untold, today) = (Untold::new("check".to_owned(), false), day_of(Timestamp::now()));
    [
        scripts.usage.tell(connection, prefix, &untold, &Telling::Rows(today, Vec::new())).await,
        scripts.usage.tell(connection, prefix, &untold, &Telling::LastUses(Vec::new())).await,
        usage::can_read(connection, prefix, today).await,
    ]
}

/// Whether the server was reached, and refuses the user or the command.
fn is_refusal(error: &RedisError) -> bool {
    error.code().is_some() || error.kind() == ErrorKind::AuthenticationFailed
}
