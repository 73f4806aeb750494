//! The routes that anybody can use without a key, for `bearward check`: a preset may have some.

use serde_json::{Value, json};

use crate::route::RouteTable;

/// Returns the routes as `NAME (PATHS)`, with commas between them.
pub(super) fn text(routes: &RouteTable) -> String {
    let shown = routes.open_routes().map(|route| {
        let paths: Vec<&str> = route.written_paths().collect();
        format!("{} ({})", route.name, paths.join(", "))
    });
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() { "no route".to_owned() } else { shown.join(", ") }
}

/// Returns the routes as a list of `{"route", "methods", "paths"}`; `methods` is null for all methods.
pub(super) fn json(routes: &RouteTable) -> Value {
    let shown = routes.open_routes().map(|route| {
        let paths: Vec<&str> = route.written_paths().collect();
        json!({"route": &*route.name, "methods": route.method_names(), "paths": paths})
    });
    shown.collect()
}
