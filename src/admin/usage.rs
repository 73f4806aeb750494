//! `GET /api/v1/usage`: what keys have used, by key, group, model and day.

use std::time::Duration;

use http::Response;
use jiff::Timestamp;
use serde_json::json;

use super::answer::{AdminBody, data};
use super::query::parameters;
use super::state::Admin;
use crate::config::decode::parse_duration;
use crate::denial::Denial;
use crate::observe::ledger::day_of;
use crate::shared::{self, Settings};
use crate::state::{By, Report, first_day, parts};

/// What a request asks for.
#[derive(Debug)]
pub(super) struct Asked {
    by: Vec<By>,
    since: Duration,
}

/// The time span that is reported if none is asked for.
const SINCE: Duration = Duration::from_secs(30 * 86_400);

impl Asked {
    /// # Errors
    ///
    /// 400 for a parameter that has a wrong value, or is given twice.
    pub(super) fn of(query: Option<&str>) -> Result<Self, Denial> {
        let mut asked = Asked { by: vec![By::Key, By::Model], since: SINCE };
        for (name, value) in parameters(query)? {
            // The commas of a list may be encoded.
            let value = value.replace("%2C", ",").replace("%2c", ",");
            match name {
                "by" => {
                    let wrong = || Denial::bad_content("`by` is a list of key, group, model and day");
                    asked.by = parts(&value).ok_or_else(wrong)?;
                }
                "since" => {
                    let wrong = || Denial::bad_content("`since` is a time, as in 30d");
                    asked.since = parse_duration(&value).ok_or_else(wrong)?;
                }
                _ => {}
            }
        }
        Ok(asked)
    }

    /// Returns the usage of all replicas, by the server of shared limits.
    ///
    /// # Errors
    ///
    /// 503 if it can't be read.
    pub(super) async fn report_of_replicas(self, settings: &Settings) -> Result<Response<AdminBody>, Denial> {
        let now = Timestamp::now();
        let mut report = Report::new(self.by);
        let days = (first_day(now, self.since), day_of(now));
        let read = shared::each_row(settings, days, |key, counts| report.add(key, counts)).await;
        read.map_err(|error| {
            tracing::error!(%error, "usage can't be read");
            Denial::usage_unavailable()
        })?;
        Ok(data(&json!({"usage": report.json()})))
    }

    /// Returns the usage of this process. It reads files.
    ///
    /// # Errors
    ///
    /// 409 if nothing is kept, and 500 if it can't be read.
    pub(super) fn report(self, admin: &Admin) -> Result<Response<AdminBody>, Denial> {
        let no_state = || {
            Denial::key_conflict("The configuration has neither `state` nor `shared`, so no usage is kept")
        };
        let keeping = admin.gateway.keeping.as_ref().ok_or_else(no_state)?;
        let report = Report::read(&keeping.path, first_day(Timestamp::now(), self.since), self.by);
        let report = report.map_err(|error| {
            tracing::error!(%error, "usage can't be read");
            Denial::internal()
        })?;
        report.missing.iter().for_each(|missing| tracing::error!("{missing}"));
        Ok(data(&json!({"usage": report.json()})))
    }
}
