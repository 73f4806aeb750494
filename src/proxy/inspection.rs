//! Looks at the beginning of a request's body before the request is admitted: for its model, the
//! output that it asks for, and the tokens that it may need.
//!
//! Nothing is read of a request whose route neither names a model in the body nor uses tokens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Method;
use http::header::{ACCEPT_ENCODING, HeaderValue};
use http::request::Parts;
use jiff::Timestamp;

use super::countable::{Countable, asking};
use super::gateway::Peer;
use super::seen_body::{self, HeldCap, SeenBody, caps_of, kind_of_body, learned_name};
use crate::config::{Limits, ModelIn, Priority, TellsPriority};
use crate::denial::Denial;
use crate::gate::{Context, Grant, Verdict};
use crate::limit::Cost;
use crate::model::{BodyKind, BodyScan, Declared, DeclaredStream, Given, Named};
use crate::route::Route;
use crate::snapshot::Snapshot;
use crate::tokens::{Asking, Estimate, InputSize, Reservation, TokenAccount, accept_readable_encodings};
use crate::upstream::request_body::{Edit, Patience, RequestBody, UploadFailure};
use crate::upstream::upload::{UploadGuard, UploadLimits};

/// What is known of a request's model and tokens before it is admitted.
pub(super) struct Inspection {
    /// The model that the request names.
    pub(super) model: Named,
    /// What was read of the body; `None` if nothing was read.
    seen: Option<SeenBody>,
    /// Whether the grant depends on the model.
    needs_model: bool,
    /// Changes of the part of the body that was read.
    edits: Vec<Edit>,
    /// The most output tokens that the request may ask for.
    output: Option<u32>,
    /// Whether the body's `priority` is set here, so that no other one may follow.
    sets_priority: bool,
    /// Whether limits or budgets count the request's tokens.
    is_counted: bool,
    /// What the body must not say; `None` if that does not matter.
    countable: Option<Countable>,
    /// Whether the usage of a stream is asked for in the part of the body that was read.
    asks_for_usage: bool,
    estimate: Option<(Estimate, InputSize)>,
    limits: Limits,
    /// Whether the body names the model, and not the path or the query.
    is_of_body: bool,
    /// Whether the length of the whole body is known, so that the estimate includes all of it.
    has_length: bool,
    /// Bytes of the body that passed behind the part that was read.
    passed: Arc<AtomicU64>,
}

/// What to read of a request's body.
struct Look {
    kind: BodyKind,
    /// Whether the request is refused if its body can't be looked at.
    must: bool,
    /// Whether the request waits until the part of the body that is looked at was received.
    waits: bool,
}

impl Inspection {
    /// Whether the model or the tokens of a request matter, for its decision or for its record.
    pub(super) fn is_needed(verdict: &Verdict, method: &Method, body: &RequestBody) -> bool {
        let route = verdict.route();
        let has_body = || !body.is_empty();
        match route.model.place {
            ModelIn::Path | ModelIn::Query => true,
            ModelIn::Body | ModelIn::Form => has_body() || verdict.needs_model(),
            ModelIn::List => verdict.needs_model(),
            ModelIn::None => verdict.needs_model() || (route.uses_tokens(method) && has_body()),
        }
    }

    /// Reads what the decision about a request depends on. Called if that [is
    /// needed](Self::is_needed).
    ///
    /// # Errors
    ///
    /// 503 if the bodies of all requests need too much memory; 408 or 400 if the body stalls or
    /// breaks.
    pub(super) async fn of(
        peer: &Peer,
        verdict: &Verdict,
        parts: &Parts,
        path: &str,
        body: &RequestBody,
        snapshot: &Snapshot,
    ) -> Result<Box<Self>, Denial> {
        let (route, needs_model) = (verdict.route(), verdict.needs_model());
        let mut inspection = Box::new(Inspection {
            model: Named::Absent,
            seen: None,
            needs_model,
            edits: Vec::new(),
            output: None,
            sets_priority: false,
            is_counted: false,
            countable: None,
            asks_for_usage: false,
            estimate: None,
            limits: snapshot.limits,
            has_length: true,
            is_of_body: matches!(route.model.place, ModelIn::Body | ModelIn::Form),
            passed: Arc::default(),
        });
        let context = peer.gateway.context(snapshot, Timestamp::UNIX_EPOCH);
        let keeps_usage = peer.gateway.usage.is_kept();
        if let Some(look) = look(verdict, &parts.method, body, context, keeps_usage) {
            inspection.read(peer, &look, route, parts, body).await?;
        }
        let seen = inspection.seen.as_ref();
        inspection.model = seen_body::named_model(route, path, parts.uri.query(), seen, needs_model);
        if inspection.is_of_body {
            inspection.refuse_late_model()?;
        }
        Ok(inspection)
    }

    /// Reads the beginning of the body, and scans it.
    async fn read(
        &mut self,
        peer: &Peer,
        look: &Look,
        route: &Route,
        parts: &Parts,
        body: &RequestBody,
    ) -> Result<(), Denial> {
        let limits = self.limits;
        let most = route.model.model_prelude.unwrap_or(limits.model_prelude);
        let memory = peer.gateway.prelude_memory.permit(limits.model_memory);
        let idle = limits.body_idle_timeout;
        let patience = if look.waits { Patience::UpTo(idle) } else { Patience::None };
        let prelude = body.prelude(most, patience, Some(memory)).await.map_err(|failure| match failure {
            UploadFailure::Stalled => Denial::body_stalled(idle),
            _ => Denial::bad_request("The request body is malformed"),
        })?;
        let mut scan = Box::new(BodyScan::new(look.kind, &parts.headers));
        if !prelude.has_room && look.must {
            return Err(Denial::too_much_held_back());
        }
        scan.push(&prelude.data);
        if prelude.is_whole {
            scan.finish();
        }
        self.seen = Some(SeenBody { scan, is_whole: prelude.is_whole });
        Ok(())
    }

    /// Refuses a request whose model is needed, and is not in the part of the body that was read.
    fn refuse_late_model(&self) -> Result<(), Denial> {
        let is_late = self.needs_model && !self.is_whole() && self.model == Named::Absent;
        if is_late { Err(Denial::unclear_model()) } else { Ok(()) }
    }

    fn declared(&self) -> Option<&Declared> {
        self.seen.as_ref().map(SeenBody::declared)
    }

    /// Whether the whole body was read.
    fn is_whole(&self) -> bool {
        self.seen.as_ref().is_none_or(|seen| seen.is_whole)
    }

    /// Holds the caps on output, and returns what to charge for the request.
    ///
    /// # Errors
    ///
    /// 400 if the request asks for more output than it may, or for no certain number.
    pub(super) fn cost(
        inspection: &mut Option<Box<Self>>,
        peer: &Peer,
        grant: &Grant,
        parts: &Parts,
        path: &str,
        body: &RequestBody,
        context: Context<'_>,
    ) -> Result<Cost, Denial> {
        let Some(inspection) = inspection else { return Ok(Cost::REQUEST) };
        if let Some(seen) = &inspection.seen {
            let caps = caps_of(grant.principal(), grant.route(), &parts.method);
            let spellings = grant.route().model.server.spellings(path);
            let HeldCap { output, edits } = seen.hold(caps, spellings)?;
            (inspection.output, inspection.edits) = (output, edits);
            let counts = grant.has_token_limit(context);
            let countable = Countable::new(grant.route(), path, (output.is_some(), counts));
            seen.check_countable(countable)?;
            inspection.countable = countable.matters().then_some(countable);
            inspection.is_counted = counts;
        }
        Ok(inspection.estimate(peer, grant.route(), &parts.method, path, body))
    }

    /// Whether the tokens of the request are counted, so that it has an account.
    pub(super) fn counts_tokens(&self) -> bool {
        self.estimate.is_some()
    }

    /// Sets the body's `priority` by the request's class, where the upstream is told of it. A client's own is
    /// taken out. Called behind [`Self::cost`].
    ///
    /// # Errors
    ///
    /// 400 if it is not certain where the server reads the priority, or if the configuration does not say what
    /// requests on the route are.
    pub(super) fn tell_priority(
        inspection: &mut Option<Box<Self>>,
        route: &Route,
        method: &Method,
        body: &RequestBody,
        class: Priority,
    ) -> Result<(), Denial> {
        let Some(TellsPriority::Vllm) = route.upstream.tells_priority else { return Ok(()) };
        if route.hides_output(method.as_str()) {
            return Err(Denial::unclear_priority());
        }
        if !has_priority(route, method) || body.is_empty() {
            return Ok(());
        }
        let inspection = inspection.as_mut().ok_or_else(Denial::unclear_priority)?;
        let seen = inspection.seen.as_ref().ok_or_else(Denial::unclear_priority)?;
        let edits = seen.prioritized(class, &inspection.edits)?;
        inspection.edits.splice(0..0, edits);
        inspection.edits.sort_by_key(|edit| edit.at);
        inspection.sets_priority = true;
        Ok(())
    }

    /// Begins the exchange of an admitted request: asks for its usage, changes its body, and makes
    /// its account and the guard of the rest of its body.
    #[expect(clippy::too_many_arguments, reason = "all that an inspection takes effect on")]
    pub(super) fn begin(
        mut self,
        peer: &Peer,
        route: &Route,
        reservation: Option<Box<Reservation>>,
        parts: &mut Parts,
        path: &str,
        body: &RequestBody,
        limits: &mut UploadLimits,
    ) -> (Option<Box<TokenAccount>>, Option<Box<dyn UploadGuard>>) {
        let asking = self.ask_for_usage(route, parts, path);
        let account = self.account(peer, route, reservation, asking);
        if account.is_some() && asking == Asking::Leave {
            accept_readable_encodings(&mut parts.headers);
        }
        (account, self.take_effect(body, limits))
    }

    /// Estimates the tokens that a request may need, and returns what to charge.
    fn estimate(
        &mut self,
        peer: &Peer,
        route: &Route,
        method: &Method,
        path: &str,
        body: &RequestBody,
    ) -> Cost {
        if !route.uses_tokens(method) || body.is_empty() {
            return Cost::REQUEST;
        }
        let (length, model) = (body.exact_length(), learned_name(route, &self.model));
        let (learned, seen) = (&peer.gateway.learned, self.seen.as_ref());
        let spellings = route.model.server.spellings(path);
        let found =
            seen_body::estimate(seen, length, route, spellings, learned, &model, &self.limits, self.output);
        self.has_length = length.is_some();
        self.estimate = Some(found);
        found.0.cost()
    }

    /// Asks the upstream for the usage of a stream, if that is configured and the request does not
    /// ask by itself.
    fn ask_for_usage(&mut self, route: &Route, parts: &mut Parts, path: &str) -> Asking {
        let asking = asking(route);
        // Of a body that was not read whole, the rest is checked where tokens are limited. Many clients send the
        // options of the stream at its end.
        let is_known = |seen: &SeenBody| {
            let declared = seen.declared();
            let has_options = declared.stream.options != Given::Never && !declared.is_in_stream_options();
            seen.is_whole || (self.is_counted && has_options)
        };
        let is_clear = |seen: &&SeenBody| is_known(seen) && !seen.scan.is_faulty();
        let edit = self.seen.as_ref().filter(is_clear).and_then(|seen| {
            if !route.uses_tokens(&parts.method) { None } else { asking.edit(path, seen.declared()) }
        });
        let Some(edit) = edit else { return Asking::Leave };
        // What comes by asking can be removed only from a body that is not compressed.
        if parts.headers.contains_key(ACCEPT_ENCODING) {
            parts.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        self.edits.push(edit);
        self.edits.sort_by_key(|edit| edit.at);
        self.asks_for_usage = true;
        asking
    }

    /// Makes the account of the request's tokens; `None` if the request uses none.
    fn account(
        &self,
        peer: &Peer,
        route: &Route,
        reservation: Option<Box<Reservation>>,
        asking: Asking,
    ) -> Option<Box<TokenAccount>> {
        let estimate = self.estimate?;
        let has_several = self.declared().is_some_and(|declared| declared.multiplier() > 1);
        let (limiter, learned) = (&peer.gateway.limiter, &peer.gateway.learned);
        let model = learned_name(route, &self.model);
        let mut account = TokenAccount::new(limiter, learned, reservation, estimate, has_several, model);
        if let Asking::Ask { strips_null } = asking {
            account.asked(strips_null);
        }
        if !self.has_length {
            account.counts_more_input(self.passed.clone());
        }
        Some(Box::new(account))
    }

    /// Changes the body where that was decided, and returns the guard of the rest of the body.
    /// `limits`: the limits of the upload, which grow by what is inserted.
    fn take_effect(self, body: &RequestBody, limits: &mut UploadLimits) -> Option<Box<dyn UploadGuard>> {
        limits.output = self.output;
        if !self.edits.is_empty() {
            let before = body.prelude_bytes();
            body.edit_prelude(&self.edits);
            limits.bytes = limits.bytes.saturating_add(body.prelude_bytes().saturating_sub(before));
        }
        let is_checked = self.needs_model
            || self.output.is_some()
            || self.sets_priority
            || !self.has_length
            || self.countable.is_some()
            || self.asks_for_usage;
        let scan = self.seen.filter(|seen| !seen.is_whole && is_checked)?.scan;
        let (model, is_of_body) = (self.needs_model.then_some(self.model), self.is_of_body);
        let (prelude, passed) = (scan.bytes(), self.passed);
        let multiplier = scan.declared().multiplier();
        let declared = scan.declared();
        let priorities = self.sets_priority.then_some(declared.priorities.len());
        let stream = self.asks_for_usage.then_some(declared.stream);
        Some(Box::new(Guard {
            scan,
            model,
            is_of_body,
            output: self.output,
            replayed: body.prelude_bytes(),
            prelude,
            passed,
            multiplier,
            priorities,
            stream,
            countable: self.countable,
        }))
    }
}

/// Returns what to look at in the body of a request. `keeps_usage`: whether usage is kept by model.
fn look(
    verdict: &Verdict,
    method: &Method,
    body: &RequestBody,
    context: Context<'_>,
    keeps_usage: bool,
) -> Option<Look> {
    let route = verdict.route();
    if body.is_empty() {
        return None;
    }
    let kind = kind_of_body(route, method)?;
    let is_capped = caps_of(verdict.principal(), route, method).next().is_some();
    let names_model = matches!(route.model.place, ModelIn::Body | ModelIn::Form);
    let needs_model = names_model && verdict.needs_model();
    let is_told = verdict.may_tell_priority() && has_priority(route, method);
    let counts_tokens = route.uses_tokens(method) && verdict.has_token_limit(context);
    let must = needs_model || is_capped || is_told || counts_tokens;
    let is_counted = keeps_usage && names_model && verdict.principal().is_some();
    Some(Look { kind, must, waits: must || is_counted })
}

/// Whether the bodies of such requests may have a `priority`: those that generate or embed.
fn has_priority(route: &Route, method: &Method) -> bool {
    route.uses_tokens(method) && kind_of_body(route, method) == Some(BodyKind::Json)
}

/// Checks the part of a body behind its prelude.
struct Guard {
    scan: Box<BodyScan>,
    /// The model for which the request was granted; `None` if the grant does not depend on it.
    model: Option<Named>,
    /// Whether the body names the model, and not the path or the query.
    is_of_body: bool,
    output: Option<u32>,
    /// Bytes of the prelude that are still to be replayed. They were scanned before.
    replayed: u64,
    /// Length of the prelude before it was changed, in bytes.
    prelude: u64,
    passed: Arc<AtomicU64>,
    /// How often the output is generated, as far as the prelude says.
    multiplier: u64,
    /// How often the prelude has a `priority`, if that was set there; `None` if it was not.
    priorities: Option<usize>,
    /// What the prelude says of the stream whose usage was asked for there; `None` if it was not.
    stream: Option<DeclaredStream>,
    countable: Option<Countable>,
}

impl UploadGuard for Guard {
    fn check(&mut self, data: &[u8], is_last: bool) -> Result<(), UploadFailure> {
        let replayed = self.replayed.min(data.len() as u64);
        self.replayed -= replayed;
        let new = data.get(replayed as usize..).unwrap_or_default();
        self.passed.fetch_add(new.len() as u64, Ordering::Relaxed);
        self.scan.push(new);
        if is_last {
            self.scan.finish();
        }
        let names_other = |model: &Named| model != self.scan.named() && self.is_of_body;
        let is_other = self.model.as_ref().is_some_and(names_other);
        if is_other || (self.model.is_some() && self.scan.declared().has_other_model) {
            return Err(UploadFailure::UnclearModel);
        }
        let declared = self.scan.declared();
        let has_more = |known: usize| declared.priorities.len() > known || declared.has_more_priorities;
        if self.priorities.is_some_and(|known| has_more(known) || self.scan.is_faulty()) {
            return Err(UploadFailure::LatePriority);
        }
        if let Some(countable) = self.countable {
            countable.check(&self.scan)?;
        }
        if self.stream.is_some_and(|known| known != declared.stream || self.scan.is_faulty()) {
            return Err(UploadFailure::UnclearStream);
        }
        let Some(limit) = self.output else { return Ok(()) };
        let each = u64::from(limit) / declared.multiplier();
        let exceeds = |tokens: Option<u64>| tokens.is_none_or(|tokens| tokens > each);
        // A number that was lowered in the prelude is no excess.
        let exceeds_behind = declared
            .outputs
            .iter()
            .any(|output| !output.is_null && output.from >= self.prelude && exceeds(output.tokens));
        let is_multiplied = declared.multiplier() > self.multiplier;
        let is_unclear = self.scan.is_faulty() || declared.has_more_outputs || declared.has_repeated_output();
        match is_unclear || is_multiplied || exceeds_behind {
            true => Err(UploadFailure::TooMuchOutput),
            false => Ok(()),
        }
    }
}
