//! The last part of a decision, which depends on the model that the request names.

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::admission::{Grant, InFlightPermits, counts_tokens};
use super::authorization;
use super::context::Context;
use super::principal::Principal;
use crate::config::ModelIn;
use crate::denial::Denial;
use crate::model::Named;
use crate::route::Route;

/// A request whose head may pass. Its grant may still depend on its model.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(super) principal: Option<Principal>,
    /// The route of the request; the first of several if the model selects one of them.
    pub(super) route: Arc<Route>,
    /// All routes that the model selects from, in their order; empty if the route is certain.
    pub(super) by_model: SmallVec<[Arc<Route>; 2]>,
    /// Routes of the path's other readings; nearly always empty.
    pub(super) readings: Vec<Arc<Route>>,
    /// The permits of the request in flight, if it took them already.
    pub(super) in_flight: Option<InFlightPermits>,
}

impl Verdict {
    /// Returns the route of the request; the first of several if the model selects one of them.
    pub(crate) fn route(&self) -> &Arc<Route> {
        &self.route
    }

    pub(crate) fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// Whether the grant depends on the model: the model selects the route, or the key is
    /// restricted to models.
    pub(crate) fn needs_model(&self) -> bool {
        let is_restricted =
            || self.principal.as_ref().is_some_and(|principal| principal.models().next().is_some());
        let are_free = || self.readings.iter().chain([&self.route]).all(|route| route.model.models_free);
        !self.by_model.is_empty() || (is_restricted() && !are_free())
    }

    /// Whether a limit of the request's key or of its route counts tokens.
    pub(crate) fn has_token_limit(&self, context: Context<'_>) -> bool {
        counts_tokens(self.principal.as_ref(), &self.route, context)
            || self.by_model.iter().any(|route| !route.windows.is_empty())
    }

    /// Whether an upstream to which the request may lead is told the class of each request.
    pub(crate) fn may_tell_priority(&self) -> bool {
        let mut routes = self.by_model.iter().chain([&self.route]);
        routes.any(|route| route.upstream.tells_priority.is_some())
    }

    /// Takes the permits of the request in flight before its body is looked at: a client may take its
    /// time with the body, and the body takes memory.
    ///
    /// # Errors
    ///
    /// 429 if the key has too many requests in flight, and 503 if the process has.
    pub(crate) async fn take_permits(
        &mut self,
        address: Option<IpAddr>,
        context: Context<'_>,
    ) -> Result<(), Denial> {
        self.in_flight = Some(InFlightPermits::take(self.principal.as_ref(), address, context).await?);
        Ok(())
    }

    /// Grants the request, which names `model`. The value of `model` does not matter if the grant
    /// does not depend on it.
    ///
    /// # Errors
    ///
    /// 400 if servers might disagree on the model, 403 if the key may not use the model or its
    /// route, and 404 if no route matches the model.
    pub(crate) fn grant(self, model: &Named, method: &str, path: &str) -> Result<Grant, Denial> {
        if !self.needs_model() {
            let Verdict { principal, route, readings, in_flight, .. } = self;
            hold_output(principal.as_ref(), &route, method)?;
            return Ok(Grant { principal, route, readings, in_flight });
        }
        if *model == Named::Ambiguous {
            return Err(Denial::unclear_model());
        }
        let Verdict { principal, route, by_model, readings, in_flight } = self;
        // The model was read where the first route says. If another one reads it elsewhere, a request
        // may name two models.
        let reads_elsewhere = |other: &Arc<Route>| other.model.place != route.model.place;
        if by_model.iter().chain(&readings).any(reads_elsewhere) {
            return Err(Denial::unclear_model());
        }
        let route = match by_model.is_empty() {
            true => route,
            false => {
                let selected = by_model.iter().find(|route| route.matches_model(model)).cloned();
                let route = selected.ok_or_else(|| Denial::route_not_found(method, path))?;
                authorization::authorize(principal.as_ref(), std::iter::once(&route))?;
                route
            }
        };
        if let Some(principal) = &principal {
            readings.iter().chain([&route]).try_for_each(|route| may_use_model(principal, route, model))?;
        }
        hold_output(principal.as_ref(), &route, method)?;
        Ok(Grant { principal, route, readings, in_flight })
    }
}

/// Checks that the output of a request can be held to the cap of its key.
///
/// # Errors
///
/// 400 if the key has a cap, and the configuration does not say what requests on the route are.
fn hold_output(principal: Option<&Principal>, route: &Route, method: &str) -> Result<(), Denial> {
    let mut caps = principal.into_iter().flat_map(Principal::output_caps).flatten();
    match caps.next().filter(|_| route.hides_output(method)) {
        Some(cap) => Err(Denial::output_hidden(&route.name, cap.max_output_tokens)),
        None => Ok(()),
    }
}

/// Checks that the key may use the model on a route.
///
/// # Errors
///
/// 403 if the key is restricted to other models, or if the request names no model.
fn may_use_model(principal: &Principal, route: &Route, model: &Named) -> Result<(), Denial> {
    if route.model.models_free {
        return Ok(());
    }
    principal.models().try_for_each(|allowed| match model {
        Named::Model(name) if route.model.naming.is_allowed(allowed, name) => Ok(()),
        Named::Model(name) => Err(Denial::model_not_allowed(Some(name), allowed.written())),
        // The answer to a request for a list is filtered.
        Named::Absent if route.model.place == ModelIn::List => Ok(()),
        Named::Absent => Err(Denial::model_not_allowed(None, allowed.written())),
        Named::Ambiguous => Err(Denial::unclear_model()),
    })
}
