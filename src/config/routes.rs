//! `routes`: a preset, or a list of routes and presets.

use serde_json::json;

use crate::config::decode::Decoder;
use crate::config::fault::Position;
use crate::config::form::{Form, non_empty, one_of};
use crate::config::presets::{self, Preset};
use crate::config::route::{Route, route};
use crate::config::section::{nested, schema_of, section};
use crate::config::tree::{Kind, Node};

section! {
    /// A built-in set of routes, as an item of the list of routes.
    #[derive(Clone, Debug)]
    struct PresetItem in "a preset among routes" {
        /// The name of the built-in set.
        preset: Preset = one_of(&Preset::ALL).required();
    }
}

/// Returns the `Form` of the field `routes`. The default is shown as the name of a preset, not as a
/// list of routes.
pub(super) fn routes() -> Form<Vec<Route>> {
    let schema = || {
        let item = json!({"anyOf": [schema_of::<Route>(), schema_of::<PresetItem>()]});
        json!({"anyOf": [
            one_of(&Preset::ALL).schema(),
            {"type": "array", "minItems": 1, "items": item},
        ]})
    };
    Form::new(decode, schema).written_as(|_| json!("openai"))
}

pub(super) fn default_routes() -> Vec<Route> {
    presets::routes(Preset::OpenAi)
}

fn decode(d: &mut Decoder<'_>, node: &Node) -> Option<Vec<Route>> {
    if let Kind::Scalar { .. } = node.kind {
        return d.one_of(node, &Preset::ALL).map(presets::routes);
    }
    let items = non_empty(Form::new(item, || json!({})).positioned()).decode(d, node)?;
    let mut names: Vec<(String, Option<&'static str>)> = Vec::new();
    let mut routes = Vec::new();
    for (at, Item { preset, routes: of_item }) in items {
        for route in &of_item {
            check_name(d, at, &route.name, preset, &names);
        }
        names.extend(of_item.iter().map(|route| (route.name.clone(), preset)));
        routes.extend(of_item);
    }
    Some(routes)
}

/// An item of the list in `routes`.
struct Item {
    /// The name of the item's preset; `None` for an item that is a single route.
    preset: Option<&'static str>,
    routes: Vec<Route>,
}

fn item(d: &mut Decoder<'_>, node: &Node) -> Option<Item> {
    if node.field("preset").is_none() {
        return Some(Item { preset: None, routes: vec![route().decode(d, node)?] });
    }
    let PresetItem { preset } = nested().decode(d, node)?;
    Some(Item { preset: Some(preset.name()), routes: presets::routes(preset) })
}

/// Refuses a route whose name another route already has, because keys are narrowed to routes by
/// name. Routes of two presets may have the same name, because a name means the same in all
/// presets.
fn check_name(
    d: &mut Decoder<'_>,
    at: Position,
    name: &str,
    preset: Option<&str>,
    names: &[(String, Option<&'static str>)],
) {
    if name.contains(':') {
        d.fault(at, "the name of a route has no `:`").hint =
            Some("keys are narrowed to `bearward:admin` and `bearward:metrics` by such names".to_owned());
    }
    let Some((_, other)) = names.iter().find(|(known, _)| known == name) else { return };
    let message = match (preset, *other) {
        (Some(_), Some(_)) => return,
        (Some(preset), None) | (None, Some(preset)) => {
            format!("the preset {preset} has a route `{name}`, and so has this list")
        }
        (None, None) => format!("the route `{name}` is given twice"),
    };
    d.fault(at, message).hint = Some("a name of its own, since keys are narrowed by it".to_owned());
}
