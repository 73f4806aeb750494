//! The keys in service as JSON: the fields of each key, its usage, and the state of its limits.
//!
//! Invariant: the JSON contains no secret and no digest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::answer::{AdminBody, data};
use super::query::parameters;
use super::state::Admin;
use super::status;
use crate::denial::Denial;
use crate::key_cache::LiveKey;
use crate::keys::field::Shown;
use crate::keys::fields::FIELDS;
use crate::keys::rotation::ROTATION_AGE;
use crate::limit::{Holder, KeyState, LimitStatus};
use crate::observe::key_history::{KEY_STEP, KeyStep};
use crate::proxy::Gateway;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// One page of the list of all keys. The list is sorted by key id.
#[derive(Debug)]
pub(super) struct Page {
    limit: usize,
    /// The key id after which the page begins; empty for the first page.
    after: String,
}

impl Page {
    /// Parses the query `limit=N&after=ID`.
    pub(super) fn asked(query: Option<&str>) -> Result<Self, Denial> {
        let mut page = Page { limit: DEFAULT_LIMIT, after: String::new() };
        for (name, value) in parameters(query)? {
            match name {
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                    page.limit =
                        limit.ok_or_else(|| Denial::bad_content("`limit` is a number from 1 to 1000"))?;
                }
                "after" => {
                    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
                    if !value.bytes().all(is_plain) {
                        return Err(Denial::bad_content("`after` is the id of a key"));
                    }
                    page.after = value.to_owned();
                }
                _ => {}
            }
        }
        Ok(page)
    }

    /// Returns the same page, limited to `limit` keys.
    pub(super) fn at_most(self, limit: usize) -> Self {
        Page { limit: self.limit.min(limit), ..self }
    }

    /// Returns the key id after which the page begins.
    pub(super) fn after(&self) -> &str {
        &self.after
    }

    /// Whether this page is not the first page of the list.
    pub(super) fn is_continued(&self) -> bool {
        !self.after.is_empty()
    }

    pub(super) fn of(&self, admin: &Admin) -> Value {
        let mut next: BTreeMap<String, Arc<LiveKey>> = BTreeMap::new();
        let mut has_more = false;
        admin.gateway.keys.for_each(|live| {
            let id = live.key.id();
            let is_full = next.len() == self.limit;
            let is_beyond = is_full && next.last_key_value().is_some_and(|(last, _)| id > last.as_str());
            if id <= self.after.as_str() {
                return;
            }
            has_more |= is_full;
            if !is_beyond {
                next.insert(id.to_owned(), live.clone());
                if is_full {
                    next.pop_last();
                }
            }
        });
        let now = Timestamp::now();
        let last = next.last_key_value().map(|(id, _)| id.clone()).filter(|_| has_more);
        let keys: Vec<Value> = next.values().map(|live| key(&admin.gateway, live, now)).collect();
        json!({"keys": keys, "next_after": last})
    }
}

/// Returns the answer that shows the key with this id.
pub(super) fn show(admin: &Admin, id: &str) -> Result<Response<AdminBody>, Denial> {
    Ok(data(&find(admin, id).ok_or_else(Denial::key_not_found)?))
}

/// Returns the key with this id as JSON, if it is in service.
pub(super) fn find(admin: &Admin, id: &str) -> Option<Value> {
    let mut found = None;
    admin.gateway.keys.for_each(|live| {
        if live.key.id() == id {
            found = Some(live.clone());
        }
    });
    Some(key(&admin.gateway, &*found?, Timestamp::now()))
}

/// Returns the answer that shows the last five minutes of the key with this id.
pub(super) fn show_trend(admin: &Admin, id: &str) -> Result<Response<AdminBody>, Denial> {
    find(admin, id).ok_or_else(Denial::key_not_found)?;
    Ok(data(&trend(admin, id)))
}

/// Returns what the key with this id used in the last five minutes, oldest first.
pub(super) fn trend(admin: &Admin, id: &str) -> Value {
    let Gateway { usage, observers, .. } = &*admin.gateway;
    let histories = &observers.key_histories;
    let steps = usage.find(id).and_then(|usage| histories.steps(&usage, Instant::now()));
    // A key without a history was not used lately, or came into use while there was no room for it.
    let is_kept = steps.is_some() || !histories.is_full();
    let step = |step: KeyStep| {
        let KeyStep { took, requests, refusals, tokens } = step;
        let seconds = (took.as_secs_f64() * 10.0).round() / 10.0;
        json!({"seconds": seconds, "requests": requests, "refusals": refusals, "tokens": tokens})
    };
    let steps: Vec<Value> = steps.unwrap_or_default().into_iter().map(step).collect();
    json!({"step_seconds": KEY_STEP.as_secs(), "is_kept": is_kept, "steps": steps})
}

fn key(gateway: &Gateway, live: &LiveKey, now: Timestamp) -> Value {
    let key = &live.key;
    let age = gateway.snapshot.load().max_age.map_or(ROTATION_AGE, |max_age| max_age.age);
    let state = key.state(now);
    let due = key.end_of_age(age);
    let old_secrets = key.previous().iter().filter(|secret| secret.expires_at > now);
    let mut shown = json!({
        "state": state.name(),
        "rotation_due_at": due.map(|due| due.to_string()),
        "rotation_due": state.is_live() && due.is_none_or(|due| now >= due),
        "old_secrets_until": old_secrets.map(|secret| secret.expires_at.to_string()).collect::<Vec<_>>(),
        "limits": limits(gateway, live),
        "usage": usage(gateway, key.id()),
    });
    if let Value::Object(shown) = &mut shown {
        let fields = FIELDS.iter().filter(|field| field.shown == Shown::ByApi);
        shown.extend(fields.map(|field| (field.name.to_owned(), field.shown(field.of_key(key).as_ref()))));
    }
    shown
}

/// Returns the state of the limits of the key, and of those of its group. The limits of routes are not
/// included.
fn limits(gateway: &Gateway, live: &LiveKey) -> Value {
    let Gateway { snapshot, limiter, .. } = gateway;
    let snapshot = snapshot.load();
    let key = &live.key;
    // A key that was never used has no limit state, so an empty state is shown for the key.
    let unused = || Arc::new(KeyState::default());
    let state = limiter.known_state(key.id()).unwrap_or_else(unused);
    let own: Option<Vec<_>> =
        key.rate_limits().map(|quotas| quotas.iter().map(|quota| limiter.window(None, *quota)).collect());
    let windows = own.as_deref().unwrap_or(&snapshot.default_windows);
    let of_key =
        of_windows(&limiter.status(&Holder { state: &state, windows: [windows, &[]], budgets: &[] }));
    let group = key.group().and_then(|name| snapshot.groups.get(name));
    let of_group = group.map(|group| of_windows(&limiter.status(&group.holder()))).into_iter().flatten();
    let windows: Vec<Value> = of_key.into_iter().chain(of_group).collect();
    let concurrent = key.max_concurrent().or(snapshot.default_max_concurrent);
    let concurrent = concurrent.map(|limit| json!({"limit": limit, "in_flight": state.in_flight()}));
    // A key that was never used has used nothing of its budgets.
    let budgets: Vec<_> = key.budgets().iter().map(|quota| limiter.budget(None, quota)).collect();
    let of_key = limiter.budgets(&Holder { state: &state, windows: [&[], &[]], budgets: &budgets });
    let of_group = group.map(|group| limiter.budgets(&group.holder())).unwrap_or_default();
    let budgets: Vec<_> = of_key.into_iter().chain(of_group).map(status::budget).collect();
    json!({"rate_limits": windows, "concurrent": concurrent, "budgets": budgets})
}

fn of_windows(status: &LimitStatus) -> Vec<Value> {
    status
        .windows()
        .map(|(policy, quota, remaining, reset)| {
            json!({
                "policy": policy,
                "unit": quota.unit.field(),
                "limit": quota.amount,
                "window_seconds": quota.per.as_secs(),
                "burst": quota.burst,
                "remaining": remaining,
                "full_in_seconds": reset.as_secs_f64(),
            })
        })
        .collect()
}

/// Returns the usage of the key since the process started.
fn usage(gateway: &Gateway, id: &str) -> Value {
    let Some(usage) = gateway.usage.find(id) else {
        let last_used = gateway.usage.last_used(id).map(|at| at.to_string());
        return json!({"requests": 0, "refusals": {}, "last_used_at": last_used, "last_address": null});
    };
    json!({
        "requests": usage.requests(),
        "refusals": usage.refusals(),
        "last_used_at": usage.last_used().map(|at| at.to_string()),
        "last_address": usage.last_address(),
    })
}
