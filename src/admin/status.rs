//! Builds the JSON of the status and of the last refusals.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::identities;
use super::scrape;
use super::state::Admin;
use crate::acme::{Shown, ShownFault};
use crate::config::{Door, StorePlace, Unenforceable};
use crate::denial::{Denial, catalogue};
use crate::group::Group;
use crate::key_cache::Outlook;
use crate::key_store::edit::unwritable_reason;
use crate::key_store::redis::Health as StoreHealth;
use crate::limit::ShownBudget;
use crate::observe::history::STEP;
use crate::observe::metrics::{Certificate, QueueSample};
use crate::observe::observer::Levels;
use crate::observe::refused::Refused;
use crate::observe::reloads::{PartState, Reloads, State};
use crate::observe::repeats::Repeated;
use crate::observe::shown;
use crate::observe::tally::Tally;
use crate::observe::token_minute::MinuteUse;
use crate::observe::usage::KeyLabel;
use crate::proxy::Gateway;
use crate::shared::LinkReport;
use crate::state::{Health, Keeping};

/// Maximum number of pairs of a key and a model whose tokens the status shows.
const TOKEN_ROWS: usize = 100;

/// Checks that the server is ready for requests. With `admin.ready_with_upstreams`, every upstream must
/// have a reachable endpoint. A server with an empty key store is ready, because somebody emptied
/// the store on purpose.
///
/// # Errors
///
/// The answer to a probe of a server that is not ready.
pub(super) async fn check_ready(admin: &Admin) -> Result<(), Denial> {
    let snapshot = admin.gateway.snapshot.load_full();
    if !admin.gateway.keys.availability.is_available() {
        return Err(Denial::key_store_unavailable());
    }
    if !admin.config.ready_with_upstreams {
        return Ok(());
    }
    match admin.reachable.check(&snapshot).await.as_deref() {
        None => Ok(()),
        Some(upstream) => Err(Denial::upstream_unavailable(upstream)),
    }
}

/// Whether the server was ready when its upstreams were last looked at.
fn seemed_ready(admin: &Admin) -> bool {
    let keys = &admin.gateway.keys.availability;
    admin.reachable.last() && keys.is_available() && waiting(admin).is_none()
}

/// Returns the certificates that listeners wait for, with the reasons why they are not there; `None` if each
/// listener has one.
pub(super) fn waiting(admin: &Admin) -> Option<Value> {
    let waiting = admin.certificates.iter().filter_map(|(listener, tls)| {
        let tls = tls.load();
        Some((listener.to_string(), tls.acme.clone().filter(|_| tls.is_waiting())?))
    });
    let known = admin.gateway.acme.shown();
    let shown: Vec<Value> = waiting
        .map(|(listener, name)| {
            let of_it = known.iter().find(|shown| shown.name == name);
            let fault = of_it.and_then(|shown| shown.fault.as_ref());
            json!({
                "listener": listener,
                "domains": of_it.map(|shown| &shown.domains),
                "fault": fault.map(|fault| &fault.message),
                "advice": fault.map(|fault| &fault.advice),
                "retry_at": of_it.and_then(|shown| shown.due_at).filter(|_| fault.is_some()).map(|at| at.to_string()),
            })
        })
        .collect();
    (!shown.is_empty()).then_some(Value::Array(shown))
}

/// Returns the body of the answer to a readiness probe. If the configuration, the keys or the
/// certificates in service differ from their files, the body names these parts.
pub(super) fn readiness(reloads: &Reloads) -> Value {
    let now = Timestamp::now();
    let mut readiness = Map::from_iter([("status".to_owned(), json!("ready"))]);
    for part in reloads.state().parts {
        let mut of_part = Map::new();
        if let (Some(since), Some(seconds)) = (part.stale_since(), part.stale_seconds(now)) {
            of_part.insert("stale_since".to_owned(), json!(since.to_string()));
            of_part.insert("stale_seconds".to_owned(), json!(seconds));
            of_part.insert("loaded_at".to_owned(), json!(part.loaded_at.to_string()));
        } else if part.mismatch.is_some() {
            of_part.insert("held".to_owned(), json!(part.held()));
        } else {
            continue;
        }
        readiness.insert(part.part.to_owned(), Value::Object(of_part));
    }
    Value::Object(readiness)
}

pub(super) fn status(admin: &Admin) -> Value {
    let gateway = &admin.gateway;
    let Levels { connections, connections_begun, in_flight, streams } = gateway.observers.levels();
    let tally = gateway.observers.tally();
    let Outlook { keys, due_for_rotation, next_ends, .. } = admin.outlook.outlook(gateway);
    let State { generation, parts, needs_restart } = gateway.reloads.state();
    let next_ends: Vec<Value> = next_ends
        .into_iter()
        .map(|(key_id, expires_at)| json!({"key_id": key_id, "expires_at": expires_at.to_string()}))
        .collect();
    let lost: Map<String, Value> =
        gateway.observers.logs().lost().map(|(log, count)| (log, json!(count))).collect();
    let left_out: Map<String, Value> = gateway
        .observers
        .logs()
        .left_out()
        .map(|(log, count)| (log.to_owned(), json!(count)))
        .into_iter()
        .collect();
    let is_draining = gateway.is_draining.load(Ordering::Relaxed);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "started_at": admin.started.to_string(),
        "uptime_seconds": Timestamp::now().duration_since(admin.started).as_secs().max(0),
        "is_ready": !is_draining && seemed_ready(admin),
        "is_draining": is_draining,
        "generation": generation,
        "reloads": parts.iter().map(reload).collect::<Vec<_>>(),
        "needs_restart": needs_restart,
        "connections": connections,
        "connections_accepted": connections_begun,
        "requests": tally.requests(),
        "requests_in_flight": in_flight,
        "open_streams": streams,
        "refusals": tally.refusals,
        "added": {"count": tally.added.count(), "p95_seconds": tally.added.quantile(0.95)},
        "keys": {
            "keys": keys,
            "secrets": gateway.keys.len(),
            "due_for_rotation": due_for_rotation,
            "next_ends": next_ends,
        },
        "endpoints": endpoints(gateway),
        "queues": scrape::queues(gateway).into_iter().map(queue).collect::<Vec<_>>(),
        "doors": doors(gateway, &tally),
        "certificates": scrape::certificates(admin).into_iter().map(certificate).collect::<Vec<_>>(),
        "acme": gateway.acme.shown().into_iter().map(acme).collect::<Vec<_>>(),
        "identities": identities::status(gateway),
        "log_lines_dropped": lost,
        "log_lines_left_out": left_out,
        "trend": trend(admin),
        "tokens_last_minute": tokens_last_minute(admin),
        "store": store_of(admin),
        "groups": groups(gateway),
        "state": gateway.keeping.as_ref().map(|keeping| state(keeping)),
        "shared": scrape::shared(gateway).map(|(report, leases)| shared(gateway, &report, leases)),
    })
}

/// Returns all groups, with what their keys use together.
fn groups(gateway: &Gateway) -> Vec<Value> {
    let snapshot = gateway.snapshot.load();
    let group = |group: &Arc<Group>| {
        let budgets = gateway.limiter.budgets(&group.holder());
        json!({
            "name": &*group.name,
            "requests_in_flight": group.state.in_flight(),
            "budgets": budgets.into_iter().map(budget).collect::<Vec<_>>(),
        })
    };
    snapshot.groups.all().map(group).collect()
}

/// Returns a budget as JSON.
pub(super) fn budget(budget: ShownBudget) -> Value {
    let ShownBudget { policy, limit, used, resets_at } = budget;
    json!({"policy": policy, "limit": limit, "used": used, "resets_at": resets_at.to_string()})
}

/// Returns the state directory, and whether it can be written.
fn state(keeping: &Keeping) -> Value {
    let Health { bytes, written_at, failures, trouble } = keeping.health();
    json!({
        "path": keeping.path.display().to_string(),
        "bytes": bytes,
        "written_at": written_at.map(|at| at.to_string()),
        "write_failures": failures,
        "trouble": trouble,
    })
}

/// Returns the replicas that share limits, and the state of the server that has these.
fn shared(gateway: &Gateway, report: &LinkReport, leases: usize) -> Value {
    let own = gateway.replica();
    let replicas = report.state.replicas.iter().map(|replica| {
        json!({
            "id": shown::visible(&replica.id),
            "is_this": replica.id == own.id,
            "generation": replica.generation,
            "configuration": shown::visible(&replica.configuration),
        })
    });
    let asks = report.answered.count();
    let mean = (asks > 0).then(|| report.answered.sum() / asks as f64);
    let server = gateway.sharing.as_ref().map(|sharing| sharing.settings().server.address.to_string());
    json!({
        "server": server,
        "is_available": report.state.is_available,
        "trouble": report.trouble,
        "unavailable_seconds": tenths(report.away.as_secs_f64()),
        "granted_unavailable": report.granted_away,
        "id": own.id,
        "replicas": replicas.collect::<Vec<_>>(),
        "leases": leases,
        "asks": asks,
        "asks_unanswered": report.unanswered,
        "asks_per_second": tenths(report.asks_per_second),
        "ask_mean_seconds": mean,
        "ask_p99_seconds": report.answered.quantile(0.99),
    })
}

/// Returns all endpoints with their health, as JSON.
fn endpoints(gateway: &Gateway) -> Vec<Value> {
    let all = scrape::endpoints(gateway).into_iter().map(|endpoint| {
        json!({
            "upstream": &*endpoint.upstream,
            "endpoint": endpoint.endpoint,
            "address": endpoint.address,
            "is_healthy": endpoint.is_healthy,
            "was_asked": endpoint.is_known,
            "fault": endpoint.fault,
            "look_up_fault": endpoint.look_up_fault,
            "requests_in_flight": endpoint.in_flight,
        })
    });
    all.collect()
}

/// Returns a certificate as JSON.
fn certificate(certificate: Certificate) -> Value {
    let Certificate { listener, file, not_after } = certificate;
    json!({"listener": listener, "file": file, "expires_at": not_after.to_string()})
}

/// Returns a certificate that bearward gets from an authority as JSON.
fn acme(shown: Shown) -> Value {
    let Shown { domains, directory, not_after, due_at, is_asking, issued, failed, fault, .. } = shown;
    let text = |at: Timestamp| at.to_string();
    let fault = fault.map(|ShownFault { message, advice, at }| {
        json!({"message": shown::visible(&message), "advice": advice, "at": at.to_string()})
    });
    json!({
        "domains": domains,
        "directory": directory,
        "expires_at": not_after.map(text),
        "due_at": due_at.map(text),
        "is_asking": is_asking,
        "issued": issued,
        "failed": failed,
        "fault": fault,
    })
}

/// Returns the listeners at which other proxies ask. The numbers of questions are of all listeners at which
/// the same proxy asks.
fn doors(gateway: &Gateway, tally: &Tally) -> Vec<Value> {
    let door = |(address, door): &(String, Door)| {
        let classes = tally.doors.get(&door.asker).copied().unwrap_or_default();
        let [.., granted, _, _, _] = classes;
        json!({
            "address": address,
            "asked_by": door.asker.name(),
            "unenforceable": match door.unenforceable {
                Unenforceable::Refuse => "refuse",
                Unenforceable::Ignore => "ignore",
            },
            "granted": granted,
            "refused": classes.iter().sum::<u64>() - granted,
        })
    };
    gateway.doors.iter().map(door).collect()
}

/// Returns a queue as JSON.
fn queue(queue: QueueSample) -> Value {
    let QueueSample { upstream, slots, taken, waiting } = queue;
    let waiting: Map<String, Value> =
        waiting.into_iter().map(|(class, count)| (class.name().to_owned(), json!(count))).collect();
    json!({"upstream": &*upstream, "slots": slots, "slots_taken": taken, "waiting": waiting})
}

/// Returns samples of the request figures in the last five minutes, oldest first.
fn trend(admin: &Admin) -> Value {
    let steps = admin.history.steps((Instant::now(), admin.gateway.observers.sums()));
    json!({
        "step_seconds": STEP.as_secs(),
        "requests_per_second": steps.iter().map(|step| tenths(step.requests_per_second)).collect::<Vec<_>>(),
        "tokens_per_minute": steps.iter().map(|step| tenths(step.tokens_per_minute)).collect::<Vec<_>>(),
        "refusals_per_second": steps.iter().map(|step| tenths(step.refusals_per_second)).collect::<Vec<_>>(),
        "added_p95_seconds": steps.iter().map(|step| step.added_p95).collect::<Vec<_>>(),
        "requests_in_flight": steps.iter().map(|step| step.in_flight).collect::<Vec<_>>(),
    })
}

/// Returns the keys and models with the most tokens in the last minute.
fn tokens_last_minute(admin: &Admin) -> Vec<Value> {
    let Gateway { observers, usage, .. } = &*admin.gateway;
    let key_ids = usage.labelled();
    let uses = admin.history.tokens.uses(Instant::now(), &observers.token_sums());
    let rows = uses.into_iter().filter_map(|MinuteUse { key, model, tokens }| {
        let key_id = match key {
            KeyLabel::None => "none",
            KeyLabel::Other => "other",
            // A key that was removed in the meantime has no label.
            KeyLabel::Id(number) => key_ids.get(&number)?,
        };
        Some(json!({
            "key_id": key_id,
            "model": shown::visible(&model),
            "input_tokens": tokens.input,
            "cached_tokens": tokens.cached,
            "output_tokens": tokens.output,
        }))
    });
    rows.take(TOKEN_ROWS).collect()
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Returns the key store in service, as in the status.
pub(super) fn store_of(admin: &Admin) -> Value {
    store(admin, &admin.gateway.snapshot.load().keys_place)
}

/// Returns the path of the key store, and whether this process can write to the key store; for a
/// store in a Redis server, also the health of the server.
fn store(admin: &Admin, place: &StorePlace) -> Value {
    let why = unwritable_reason(place);
    let path = place.path().display().to_string();
    let server = admin.gateway.followed_store.load().as_ref().map(|store| {
        let StoreHealth { is_reachable, generation, replicas } = store.health().clone();
        json!({"is_reachable": is_reachable, "generation": generation, "replicas": replicas})
    });
    json!({"path": path, "is_writable": why.is_none(), "why_not": why, "server": server})
}

fn reload(state: &PartState) -> Value {
    let (refused_at, faults) = match &state.mismatch {
        Some(mismatch) => (Some(mismatch.refused_at.to_string()), mismatch.faults.as_json().collect()),
        None => (None, Vec::new()),
    };
    json!({
        "part": state.part,
        "is_current": state.mismatch.is_none(),
        "loaded_at": state.loaded_at.to_string(),
        "stale_since": state.stale_since().map(|since| since.to_string()),
        "stale_seconds": state.stale_seconds(Timestamp::now()),
        "held": state.held(),
        "applied": state.applied,
        "refused": state.refused,
        "refused_at": refused_at,
        "faults": faults,
    })
}

/// Returns the last refusals, oldest first.
pub(super) fn refusals(admin: &Admin) -> Value {
    let recent = admin.gateway.observers.new_refusals(&mut Vec::new());
    Value::Array(recent.iter().map(|refused| refusal(refused)).collect())
}

/// Returns the last refusals by kind, newest first.
pub(super) fn refusal_kinds(admin: &Admin) -> Value {
    let kinds = admin.gateway.observers.repeated_refusals().into_iter().map(|repeated| {
        let Repeated { count, first_sequence, first_at, last, examples, has_others } = repeated;
        json!({
            "first_sequence": first_sequence,
            "first_at": first_at.to_string(),
            "last_at": last.at.to_string(),
            "count": count,
            "code": last.code,
            "reason": last.reason,
            "advice": catalogue::advice(last.code, &last.reason),
            "key_id": last.key_id.as_ref().filter(|_| last.is_of_key),
            "route": last.route,
            "examples": examples.iter().map(|refused| refusal(refused)).collect::<Vec<_>>(),
            "has_others": has_others,
        })
    });
    Value::Array(kinds.collect())
}

pub(super) fn refusal(refused: &Refused) -> Value {
    json!({
        "sequence": refused.sequence,
        "at": refused.at.to_string(),
        "code": refused.code,
        "reason": refused.reason,
        "advice": catalogue::advice(refused.code, &refused.reason),
        "request_id": refused.request_id,
        "client": refused.client,
        "method": refused.method,
        "path": refused.path,
        "key_id": refused.key_id,
        "claimed_key_id": refused.claimed_key_id,
        "route": refused.route,
        "model": refused.model,
    })
}
