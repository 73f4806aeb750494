//! `GET /.bearward/me`: what the holder of a key may do, and what is left of its limits and budgets.
//!
//! Invariant: an answer says nothing of other keys. What a group has used, its keys have used together,
//! and each of them may see.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Method, Response};
use serde_json::{Value, json};

use super::gateway::Peer;
use super::state::{Handled, RequestState};
use crate::denial::Denial;
use crate::gate::{self, Context, Head, Identity, Principal};
use crate::guard::client::Client;
use crate::limit::ShownBudget;

/// The path, in the only spelling that is answered.
const PATH: &str = "/.bearward/me";

/// Whether a request asks about its own key, and the configuration answers that.
pub(super) fn is_asked(parts: &Parts, state: &RequestState) -> bool {
    state.snapshot.self_service
        && parts.uri.path() == PATH
        && (parts.method == Method::GET || parts.method == Method::HEAD)
}

/// Answers a request about its own key.
///
/// # Errors
///
/// As for any other request without a valid key.
pub(super) fn answer<'a>(
    peer: &'a Peer,
    state: &'a mut RequestState,
    parts: &'a Parts,
    client: &'a Client,
    is_plain: bool,
    context: Context<'a>,
) -> BoxFuture<'a, Result<Handled, Denial>> {
    // The future is boxed, because few requests are about their own key.
    Box::pin(async move { make(peer, state, parts, client, is_plain, context).await.map(Handled::Own) })
}

async fn make(
    peer: &Peer,
    state: &mut RequestState,
    parts: &Parts,
    client: &Client,
    is_plain: bool,
    context: Context<'_>,
) -> Result<Response<Bytes>, Denial> {
    let head = Head { parts, client, is_plain, identity: Identity::Presented(peer.certificate.as_ref()) };
    let (mut facts, outcome) = gate::decide_own(&head, context).await;
    state.note_facts(peer, &mut facts, &parts.headers);
    let shown = shown(&outcome?, context);
    let accepted = parts.headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok());
    let (body, kind) = match accepted.is_some_and(|accepted| accepted.contains("text/html")) {
        true => (page(&shown), "text/html; charset=utf-8"),
        false => (format!("{shown}\n"), "application/json"),
    };
    let mut response = Response::new(Bytes::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if kind.starts_with("text/html") {
        let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
        headers.insert("content-security-policy", HeaderValue::from_static(policy));
    }
    Ok(response)
}

/// Returns what is shown of a key to its holder.
fn shown(principal: &Principal, context: Context<'_>) -> Value {
    let key = &principal.key().key;
    let (mut limits, mut budgets) = (Vec::new(), Vec::new());
    for holder in gate::holders(principal, context) {
        let status = context.limiter.status(&holder);
        // A limit that only counts is not shown, as in the headers of answers.
        let enforced = status.windows().filter(|(_, quota, _, _)| quota.is_enforced);
        limits.extend(enforced.map(|(policy, quota, remaining, resets)| {
            json!({
                "policy": policy,
                "limit": quota.amount,
                "remaining": remaining,
                "resets_in_seconds": resets.as_secs() + u64::from(resets.subsec_nanos() > 0),
            })
        }));
        budgets.extend(context.limiter.budgets(&holder).into_iter().map(|budget| {
            let ShownBudget { policy, limit, used, resets_at } = budget;
            json!({"policy": policy, "limit": limit, "used": used, "resets_at": resets_at.to_string()})
        }));
    }
    let models: Vec<&String> = principal.models().flat_map(|patterns| patterns.written()).collect();
    json!({
        "id": key.id(),
        "name": key.name(),
        "group": key.group(),
        "permissions": key.permissions.names(),
        "expires_at": principal.ends_at().map(|end| end.to_string()),
        "models": (!models.is_empty()).then_some(models),
        "limits": limits,
        "budgets": budgets,
    })
}

/// Returns a page without scripts that shows the same.
fn page(shown: &Value) -> String {
    let mut text = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Your key</title><style>body{font:16px/1.5 system-ui;margin:2rem auto;max-width:44rem;padding:0 1rem}\
         table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #8884}\
         td.n,th.n{text-align:right}</style><h1>Your key</h1><table>",
    );
    for (name, label) in [
        ("id", "Id"),
        ("name", "Name"),
        ("group", "Group"),
        ("permissions", "Permissions"),
        ("models", "Models"),
        ("expires_at", "Expires"),
    ] {
        let value = match &shown[name] {
            Value::Null => continue,
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            other => other.as_str().unwrap_or_default().to_owned(),
        };
        text.push_str(&format!("<tr><th>{label}</th><td>{}</td></tr>", escaped(&value)));
    }
    text.push_str("</table>");
    let tables = [
        (
            "limits",
            "Limits",
            ["limit", "remaining", "resets_in_seconds"],
            ["Limit", "Left", "Full in seconds"],
        ),
        ("budgets", "Budgets", ["limit", "used", "resets_at"], ["Budget", "Used", "Begins anew"]),
    ];
    for (name, heading, columns, labels) in tables {
        let rows = shown[name].as_array().map(Vec::as_slice).unwrap_or_default();
        if rows.is_empty() {
            continue;
        }
        text.push_str(&format!("<h2>{heading}</h2><table><tr><th>Policy</th>"));
        labels.iter().for_each(|label| text.push_str(&format!("<th class=\"n\">{label}</th>")));
        for row in rows {
            text.push_str(&format!(
                "</tr><tr><td>{}</td>",
                escaped(row["policy"].as_str().unwrap_or_default())
            ));
            for column in columns {
                let value = row[column].as_str().map_or_else(|| row[column].to_string(), str::to_owned);
                text.push_str(&format!("<td class=\"n\">{}</td>", escaped(&value)));
            }
        }
        text.push_str("</tr></table>");
    }
    text.push_str("</html>\n");
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
