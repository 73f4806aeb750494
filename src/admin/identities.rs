//! What the status and the metrics say of issuers, and of the holders of tokens and certificates.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::identity::{Shown, ShownSource};
use crate::observe::metrics::{IdentityFigures, IssuerSample};
use crate::observe::shown;
use crate::proxy::Gateway;

/// The most holders that the status shows: those that were used last.
const MOST_SHOWN: usize = 50;

/// Returns the identities as JSON; null if the configuration has none.
pub(super) fn status(gateway: &Gateway) -> Value {
    if !are_configured(gateway) {
        return Value::Null;
    }
    let Shown { issuers, are_fresh, holders, tokens, denied } = gateway.identities.shown();
    let issuers: Vec<Value> =
        issuers.into_iter().zip(are_fresh).map(|(source, is_fresh)| issuer(source, is_fresh)).collect();
    let latest = gateway.identities.latest(&gateway.usage, MOST_SHOWN);
    let latest: Vec<Value> = latest
        .into_iter()
        .map(|(live, usage)| {
            json!({
                "id": live.key.id(),
                "name": live.key.name().map(shown::visible),
                "group": live.key.group(),
                "permissions": live.key.permissions.names(),
                "requests": usage.requests(),
                "last_used_at": usage.last_used().map(|at| at.to_string()),
            })
        })
        .collect();
    json!({"issuers": issuers, "holders": holders, "tokens": tokens, "denied": denied, "latest": latest})
}

fn issuer(source: ShownSource, is_fresh: bool) -> Value {
    let ShownSource { issuer, keys, kinds, unusable, confirmed_at, fault } = source;
    let fault = fault.map(|(message, at)| json!({"message": shown::visible(&message), "at": at.to_string()}));
    json!({
        "issuer": issuer,
        "keys": keys.unwrap_or_default(),
        "kinds": kinds,
        "unusable": unusable.iter().map(|why| shown::visible(why)).collect::<Vec<_>>(),
        "are_used": is_fresh,
        "confirmed_at": confirmed_at.map(|at: Timestamp| at.to_string()),
        "fault": fault,
    })
}

/// Returns the figures of identities; `None` if the configuration has none.
pub(super) fn figures(gateway: &Gateway) -> Option<IdentityFigures> {
    if !are_configured(gateway) {
        return None;
    }
    let Shown { issuers, are_fresh, holders, tokens, .. } = gateway.identities.shown();
    let sample = |(source, is_fresh): (ShownSource, bool)| IssuerSample {
        issuer: source.issuer,
        keys: source.keys.filter(|_| is_fresh).unwrap_or_default(),
        confirmed_at: source.confirmed_at,
        is_failing: source.fault.is_some(),
    };
    Some(IdentityFigures {
        issuers: issuers.into_iter().zip(are_fresh).map(sample).collect(),
        holders,
        tokens,
    })
}

fn are_configured(gateway: &Gateway) -> bool {
    let rules = gateway.identities.in_service();
    rules.accept_tokens() || rules.accept_certificates()
}
