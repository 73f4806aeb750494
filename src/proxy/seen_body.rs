//! What was read of a request's body, and what follows from it: the model, the cap on output, and
//! the tokens that the request may need.
//!
//! Nothing here reads a body or changes a limit, so `bearward explain` can call it, too.

use http::{HeaderMap, Method};

use super::countable::Countable;
use crate::config::{Limits, ModelIn, OnExcess, OutputCap, Priority};
use crate::denial::Denial;
use crate::gate::Principal;
use crate::model::{BodyKind, BodyScan, Declared, Named, Spellings, in_query};
use crate::route::Route;
use crate::tokens::{Estimate, InputSize, Learned};
use crate::upstream::request_body::Edit;

/// What was read of a request's body.
#[derive(Debug)]
pub(crate) struct SeenBody {
    pub(super) scan: Box<BodyScan>,
    /// Whether the whole body was read.
    pub(super) is_whole: bool,
}

/// The cap that a request's output has, and how its body is changed for it.
#[derive(Debug, Default)]
pub(crate) struct HeldCap {
    /// The most output tokens that the request may ask for.
    pub(crate) output: Option<u32>,
    /// Changes of the part of the body that was read.
    pub(crate) edits: Vec<Edit>,
}

/// Returns the form of the body in which a route's requests declare their model and their output;
/// `None` if nothing in their bodies matters.
pub(crate) fn kind_of_body(route: &Route, method: &Method) -> Option<BodyKind> {
    match route.model.place {
        ModelIn::Form => Some(BodyKind::Form),
        ModelIn::Body => Some(BodyKind::Json),
        _ => route.uses_tokens(method).then_some(BodyKind::Json),
    }
}

/// Returns the model that a request names. `seen`: what was read of its body; `needs_model`: whether the
/// grant depends on the model.
pub(crate) fn named_model(
    route: &Route,
    path: &str,
    query: Option<&str>,
    seen: Option<&SeenBody>,
    needs_model: bool,
) -> Named {
    let model = match route.model.place {
        ModelIn::Path => route.model_in_path(path),
        ModelIn::Query => in_query(query),
        ModelIn::List => route.model_in_list(path),
        ModelIn::Body | ModelIn::Form => match seen {
            // Some servers take a parameter of the query before a member of the body.
            Some(_) if needs_model && in_query(query) != Named::Absent => Named::Ambiguous,
            Some(seen) => seen.named().clone(),
            None => Named::Absent,
        },
        ModelIn::None => Named::Absent,
    };
    // A body may pick another model, or an adapter, than the path names.
    match needs_model && seen.is_some_and(|seen| seen.declared().has_other_model) {
        true => Named::Ambiguous,
        false => model,
    }
}

/// Returns the caps on the output of a request: of its key, and of its route.
pub(crate) fn caps_of(
    principal: Option<&Principal>,
    route: &Route,
    method: &Method,
) -> impl Iterator<Item = OutputCap> + Clone {
    let of_principal = principal.map(Principal::output_caps).into_iter().flatten();
    let has_output =
        route.uses_tokens(method) && route.model.place != ModelIn::Form && !route.model.has_no_output;
    of_principal.chain([route.model.request]).flatten().filter(move |_| has_output)
}

impl SeenBody {
    /// Scans a body that is read whole.
    pub(crate) fn of_whole(kind: BodyKind, headers: &HeaderMap, body: &[u8]) -> Self {
        let mut scan = Box::new(BodyScan::new(kind, headers));
        scan.push(body);
        scan.finish();
        SeenBody { scan, is_whole: true }
    }

    /// Checks that the tokens of the answer will be known.
    ///
    /// # Errors
    ///
    /// 400 if they may not be.
    pub(crate) fn check_countable(&self, countable: Countable) -> Result<(), Denial> {
        Ok(countable.check(&self.scan)?)
    }

    /// Returns the model that the body names, as far as it was read.
    pub(crate) fn named(&self) -> &Named {
        self.scan.named()
    }

    pub(crate) fn declared(&self) -> &Declared {
        self.scan.declared()
    }

    /// Holds the body to all caps on its output.
    ///
    /// # Errors
    ///
    /// 400 if the request asks for more output than it may, or for no certain number.
    pub(crate) fn hold(
        &self,
        caps: impl Iterator<Item = OutputCap>,
        spellings: Spellings,
    ) -> Result<HeldCap, Denial> {
        let mut held = HeldCap::default();
        for cap in caps {
            let edits = self.capped(cap, spellings)?;
            held.output = Some(held.output.map_or(cap.max_output_tokens, |of| of.min(cap.max_output_tokens)));
            // The edits of a lower cap replace those of a higher one.
            let is_lowest = held.edits.is_empty() || Some(cap.max_output_tokens) == held.output;
            if is_lowest && !edits.is_empty() {
                held.edits = edits;
            }
        }
        Ok(held)
    }

    /// Returns the changes after which the body has the priority of a class: 0, 1 or 2, the lowest first, as
    /// vLLM reads it. `others`: the other changes, of which those at the same place follow.
    ///
    /// # Errors
    ///
    /// 400 if servers might disagree on the body, so that it is not certain which priority counts.
    pub(crate) fn prioritized(&self, class: Priority, others: &[Edit]) -> Result<Vec<Edit>, Denial> {
        let declared = self.declared();
        let inside = declared.inside.filter(|_| !self.scan.is_faulty() && !declared.has_more_priorities);
        let at = inside.ok_or_else(Denial::unclear_priority)?;
        let number = class.index().to_string();
        if declared.priorities.is_empty() {
            let is_first = !declared.has_members && others.iter().all(|other| other.at != at);
            let comma = if is_first { "" } else { "," };
            return Ok(vec![Edit { at, length: 0, bytes: format!("\"priority\":{number}{comma}") }]);
        }
        let in_place = declared.priorities.iter();
        Ok(in_place.map(|(from, to)| Edit { at: *from, length: to - from, bytes: number.clone() }).collect())
    }

    /// Checks what a body asks for against a cap. Returns the changes that lower it.
    ///
    /// # Errors
    ///
    /// 400 if the body asks for more, and the cap does not lower it, or no change would be certain.
    fn capped(&self, cap: OutputCap, spellings: Spellings) -> Result<Vec<Edit>, Denial> {
        let (limit, declared) = (cap.max_output_tokens, self.declared());
        let field = declared.outputs.first().map_or("max_tokens", |output| output.field);
        let each = u64::from(limit) / declared.multiplier();
        let is_unclear =
            self.scan.is_faulty() || declared.has_more_outputs || declared.has_repeated_output() || each == 0;
        let declares = declared.declares_output(spellings);
        let exceeds = |tokens: Option<u64>| tokens.is_none_or(|tokens| tokens > each);
        let excess = declared.outputs.iter().find(|output| !output.is_null && exceeds(output.tokens));
        if is_unclear || (!declares && !self.is_whole) {
            return Err(Denial::output_limit(field, limit));
        }
        match (cap.on_excess, excess, declares) {
            (_, None, true) => Ok(Vec::new()),
            (OnExcess::Refuse, excess, _) => {
                Err(Denial::output_limit(excess.map_or(field, |output| output.field), limit))
            }
            (OnExcess::Lower, _, _) => {
                lowered(declared, each, spellings).ok_or_else(|| Denial::output_limit(field, limit))
            }
        }
    }
}

/// Returns the changes with which a body asks for `each` output tokens; `None` if it is not certain
/// where the server reads the number.
fn lowered(declared: &Declared, each: u64, spellings: Spellings) -> Option<Vec<Edit>> {
    let exceeds = |tokens: Option<u64>| tokens.is_none_or(|tokens| tokens > each);
    let in_place = declared.outputs.iter().filter(|output| exceeds(output.tokens));
    let edits: Vec<Edit> = in_place
        .map(|output| Edit { at: output.from, length: output.to - output.from, bytes: each.to_string() })
        .collect();
    // A list or an object in place of a number has no end that is known.
    if edits.iter().any(|edit| edit.length == 0) {
        return None;
    }
    if declared.outputs.iter().any(|output| output.is_read_by(spellings)) {
        return Some(edits);
    }
    // Servers differ on two objects of the same name.
    if declared.has_options() {
        return None;
    }
    let member = spellings.member(each)?;
    let edit = match declared.null_options(spellings) {
        Some(at) => {
            let (_, value) = member.split_once(':')?;
            Edit { at, length: "null".len() as u64, bytes: value.to_owned() }
        }
        None => {
            let comma = if declared.has_members { "," } else { "" };
            Edit { at: declared.inside?, length: 0, bytes: member + comma }
        }
    };
    let mut all: Vec<Edit> = std::iter::once(edit).chain(edits).collect();
    all.sort_by_key(|edit| edit.at);
    Some(all)
}

/// Estimates the tokens that a request may need, and returns the size of its input. `seen`: what was
/// read of its body, if anything was; `length`: the length of the body, if it is known; `model`: the
/// name under which the model's answers are remembered; `output`: the most output tokens that the
/// request may ask for.
#[expect(clippy::too_many_arguments, reason = "all that an estimate depends on")]
pub(crate) fn estimate(
    seen: Option<&SeenBody>,
    length: Option<u64>,
    route: &Route,
    spellings: Spellings,
    learned: &Learned,
    model: &str,
    limits: &Limits,
    output: Option<u32>,
) -> (Estimate, InputSize) {
    let empty = Declared::default();
    // All bytes of a body that can't be read count as text: some servers may read it.
    let (scanned, unreadable, declared) = match seen {
        Some(seen) if seen.scan.is_faulty() => (0, seen.scan.bytes(), &empty),
        Some(seen) => (seen.scan.bytes(), 0, seen.declared()),
        None => (0, 0, &empty),
    };
    let unread = length.unwrap_or(unreadable).saturating_sub(scanned);
    let size = InputSize::of(declared, unread, seen.is_none_or(|seen| seen.is_whole));
    let estimate = Estimate::new(size, declared, spellings, learned, model, limits.media_tokens, output);
    let output = if route.model.has_no_output { 0 } else { estimate.output };
    (Estimate { output, ..estimate }, size)
}

/// Returns the name under which the answers of a model are remembered.
pub(crate) fn learned_name(route: &Route, model: &Named) -> String {
    let model = match model {
        Named::Model(name) => name,
        Named::Absent | Named::Ambiguous => "",
    };
    format!("{}/{model}", route.upstream.name)
}
