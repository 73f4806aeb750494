//! `bearward keys list --admin`: shows the keys of a running bearward, and the usage of each since
//! the process started.

use std::path::Path;
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use http::Method;
use jiff::Timestamp;
use serde_json::Value;

use crate::ago::ahead_or_ago;
use crate::cli::client;
use crate::cli::failure::Failure;
use crate::cli::terminal::print;
use crate::keys::State;

const PATIENCE: Duration = Duration::from_secs(30);
/// Number of keys that are requested from the API at once.
const PAGE: usize = 1000;

/// Which keys to show, and whether to print JSON.
pub(super) struct Wanted<'a> {
    pub(super) state: Option<State>,
    /// The text that the name or the id of a shown key contains.
    pub(super) holds: Option<&'a str>,
    pub(super) is_json: bool,
}

pub(super) fn list(admin: &str, token_file: Option<&Path>, wanted: &Wanted<'_>) -> Result<(), Failure> {
    let token = token_file.map(client::read_token).transpose()?;
    let address = client::address(admin);
    let (mut keys, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/v1/keys?limit={PAGE}&after={after}");
        let answer =
            client::ask(&address, &Method::GET, &path, token.as_deref().map(String::as_str), PATIENCE)?;
        let answered: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
        let page = answered.pointer("/data/keys").and_then(Value::as_array).cloned();
        let Some(page) = page.filter(|_| answer.status().is_success()) else {
            let message = answered.pointer("/error/message").and_then(Value::as_str);
            return Err(Failure::Failed(format!(
                "{admin}: {}",
                message.unwrap_or("the answer is not from bearward")
            )));
        };
        keys.extend(page.into_iter().filter(|key| wanted.wants(key)));
        match answered.pointer("/data/next_after").and_then(Value::as_str) {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    if wanted.is_json {
        return print(&format!("{}\n", Value::Array(keys)));
    }
    let now = Timestamp::now();
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "ID",
        "NAME",
        "STATE",
        "REQUESTS",
        "REFUSED",
        "LAST USE",
        "FROM",
        "LEAST LEFT",
        "EXPIRES",
    ]);
    for key in &keys {
        table.add_row(cells(key, now));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim().to_owned()).collect();
    print(&format!("{}\n", lines.join("\n")))
}

impl Wanted<'_> {
    fn wants(&self, key: &Value) -> bool {
        let field = |name: &str| key.get(name).and_then(Value::as_str).unwrap_or_default();
        self.state.is_none_or(|state| state.name() == field("state"))
            && self.holds.is_none_or(|text| field("id").contains(text) || field("name").contains(text))
    }
}

fn cells(key: &Value, now: Timestamp) -> [String; 9] {
    let text = |place: &str| key.pointer(place).and_then(Value::as_str).unwrap_or_default().to_owned();
    let time = |place: &str| text(place).parse::<Timestamp>().ok();
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64).unwrap_or_default();
    let refusals = key.pointer("/usage/refusals").and_then(Value::as_object);
    let refused: u64 =
        refusals.into_iter().flat_map(|counts| counts.values()).filter_map(Value::as_u64).sum();
    let windows = key.pointer("/limits/rate_limits").and_then(Value::as_array);
    let least = windows.into_iter().flatten().min_by_key(|window| number(window, "remaining"));
    let left = least.map(|window| {
        let policy = window.get("policy").and_then(Value::as_str).unwrap_or_default();
        format!("{} of {policy}", number(window, "remaining"))
    });
    [
        text("/id"),
        text("/name"),
        text("/state"),
        key.pointer("/usage/requests").and_then(Value::as_u64).unwrap_or_default().to_string(),
        refused.to_string(),
        time("/usage/last_used_at").map(|at| ahead_or_ago(now, at)).unwrap_or_else(|| "never".to_owned()),
        text("/usage/last_address"),
        left.unwrap_or_default(),
        time("/expires_at").map(|end| ahead_or_ago(now, end)).unwrap_or_else(|| "never".to_owned()),
    ]
}
