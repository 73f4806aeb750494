//! The steps of a decision, in words.

use std::sync::Arc;

use http::request::Parts;

use crate::app::Prepared;
use crate::config::{Access, ModelIn, Quota, Unit};
use crate::denial::Denial;
use crate::gate::{Context, Grant, Principal};
use crate::key_cache::LiveKey;
use crate::limit::{Cost, Window};
use crate::model::Named;
use crate::proxy::countable::Countable;
use crate::proxy::seen_body::{HeldCap, SeenBody, caps_of, estimate, learned_name};
use crate::route::Route;
use crate::tokens::Learned;

/// The steps of a decision: the name of each step, and the result of the step as text.
#[derive(Default)]
pub(super) struct Steps(pub(super) Vec<(&'static str, String)>);

impl Steps {
    pub(super) fn add(&mut self, name: &'static str, text: impl Into<String>) {
        self.0.push((name, text.into()));
    }
}

/// Adds a step for the queue of the route's upstream, if it has one.
pub(super) fn explain_queue(route: &Route, principal: Option<&Principal>, steps: &mut Steps) {
    let Some(queue) = &route.upstream.queue else { return };
    let class = principal.map(Principal::priority).unwrap_or_default().name();
    let weight = principal.map_or(1, Principal::weight);
    let (_, slots) = queue.slots(&route.upstream.sets);
    let (waiting, wait) = (queue.settings.max_waiting, queue.settings.max_wait);
    steps.add(
        "queue",
        format!("as {class}, with weight {weight}; {slots} slots, and {waiting} may wait, each for {wait:?}"),
    );
}

/// Adds steps for the model of a granted request, and for what the request does with tokens.
pub(super) fn explain_model(model: &Named, needs_model: bool, route: &Route, steps: &mut Steps) {
    match model {
        Named::Model(name) if needs_model => steps.add("model", format!("{name}, which the key may use")),
        Named::Model(name) => steps.add("model", format!("{name}; any model may be used")),
        Named::Absent if needs_model => steps.add("model", "the answer lists the models of the key alone"),
        Named::Absent if route.model.place == ModelIn::None => {}
        Named::Absent | Named::Ambiguous => {
            steps.add(
                "model",
                format!("any; the request names it ({}), see --model", route.model.place.name()),
            );
        }
    }
}

/// Adds steps for the output that a request may ask for, and for the tokens that it reserves.
/// `length`: the length of the body, in bytes.
///
/// # Errors
///
/// 400 if the body asks for more output than it may, or if its input alone exceeds a limit.
#[expect(clippy::too_many_arguments, reason = "all that an estimate depends on")]
pub(super) fn explain_tokens(
    grant: &Grant,
    seen: Option<&SeenBody>,
    model: &Named,
    length: u64,
    parts: &Parts,
    path: &str,
    context: Context<'_>,
    steps: &mut Steps,
) -> Result<(), Denial> {
    let (route, method) = (grant.route(), &parts.method);
    let caps = caps_of(grant.principal(), route, method);
    for cap in caps.clone() {
        let what = format!("at most {} tokens, else {}", cap.max_output_tokens, cap.on_excess.name());
        steps.add("output", what);
    }
    if !route.uses_tokens(method) {
        return Ok(());
    }
    let Some(seen) = seen else {
        steps.add("tokens", "those of its input and output are reserved, see --body");
        return Ok(());
    };
    let spellings = route.model.server.spellings(path);
    let HeldCap { output, edits } = seen.hold(caps, spellings)?;
    seen.check_countable(Countable::new(route, path, (output.is_some(), grant.has_token_limit(context))))?;
    if !edits.is_empty() {
        steps.add("lowered", format!("the body is changed to ask for {} tokens", output.unwrap_or(0)));
    }
    let (limits, learned) = (&context.snapshot.limits, Learned::default());
    let name = learned_name(route, model);
    let (estimate, size) =
        estimate(Some(seen), Some(length), route, spellings, &learned, &name, limits, output);
    let declares = if seen.declared().declares_output(spellings) { "declared" } else { "of a new model" };
    let files = if size.media > 0 { format!(" and {} files", size.media) } else { String::new() };
    let (input, output) = (estimate.input, estimate.output);
    let what = format!(
        "{input} of input (estimated from {} bytes{files}) and {output} of output ({declares}) are reserved",
        size.text_bytes
    );
    steps.add("tokens", what);
    grant.check_unused(estimate.cost(), context)?;
    for window in grant.overdrawn(estimate.cost(), context) {
        let has_cap = caps_of(grant.principal(), route, method).next().is_some();
        steps.add("debt", debt(&window, estimate.cost(), has_cap));
    }
    Ok(())
}

/// Describes what a request does with a window whose burst is less than the request's cost.
fn debt(window: &Window, cost: Cost, has_cap: bool) -> String {
    let Quota { unit, amount, per, burst, .. } = window.quota();
    let needed = cost.of(unit);
    let wait = per
        .as_secs()
        .saturating_mul(u64::from(needed.saturating_sub(burst)))
        .div_ceil(u64::from(amount.max(1)));
    let cap = match unit {
        Unit::Tokens | Unit::OutputTokens if !has_cap => {
            "; a cap on the key's output holds it down: `keys create --max-output-tokens N`"
        }
        _ => "",
    };
    format!(
        "{}: {needed} are more than the {burst} of the limit: granted when the window is full; leaves a debt, so later \
         requests wait (up to {wait} s longer){cap}",
        window.name()
    )
}

/// Adds a step for the permission that the route needs, and a step for each other route that would
/// match if a server read the path in another way.
pub(super) fn explain_permissions(route: &Arc<Route>, readings: &[Arc<Route>], steps: &mut Steps) {
    match route.access {
        Access::Public => steps.add("permission", "none is needed: the route is public"),
        Access::Needs(permission) => steps.add("permission", format!("{} is needed", permission.name())),
    }
    for reading in readings.iter().filter(|reading| reading.name != route.name) {
        let needs = match reading.access {
            Access::Public => "which is public".to_owned(),
            Access::Needs(permission) => format!("for which {} is needed", permission.name()),
        };
        steps.add("read as", format!("{}, too, by some servers, {needs}", reading.name));
    }
}

pub(super) fn limits(prepared: &Prepared, key: Option<&LiveKey>, route: &Route) -> String {
    let snapshot = &prepared.snapshot;
    let Some(live) = key else {
        return "none without a key".to_owned();
    };
    let own = live.limits(&prepared.limiter).windows.as_deref();
    let source = if own.is_some() { "the key's" } else { "the default" };
    let quota = |window: &Arc<Window>, source: &str| {
        let quota = window.quota();
        let (amount, per, burst) = (quota.amount, quota.per.as_secs(), quota.burst);
        let only_counts = if quota.is_enforced { "" } else { ", only counted" };
        let debt = match quota.unit {
            Unit::Requests => "",
            _ => ", but a request that needs more passes when the window is full, and leaves a debt",
        };
        format!("{} ({source}): {amount} in {per} s, {burst} at once{debt}{only_counts}", window.name())
    };
    let of_key = own.unwrap_or(&snapshot.default_windows).iter().map(|window| quota(window, source));
    let group = live.key.group().and_then(|name| snapshot.groups.get(name));
    let of_group =
        group.into_iter().flat_map(|group| &group.windows).map(|window| quota(window, "the group's"));
    let group_concurrent = group.and_then(|group| group.max_concurrent);
    let group_concurrent = group_concurrent.map(|limit| format!("{limit} in flight in the group"));
    let of_route = route.windows.iter().map(|window| quota(window, "the route's"));
    let concurrent = live.key.max_concurrent().or(snapshot.default_max_concurrent);
    let concurrent = concurrent.map(|limit| format!("{limit} in flight"));
    let all: Vec<String> =
        of_key.chain(of_route).chain(of_group).chain(concurrent).chain(group_concurrent).collect();
    if all.is_empty() { "none".to_owned() } else { all.join("; ") }
}
