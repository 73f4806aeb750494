//! Limits that can't be held where another proxy forwards the request, and only its beginning is seen.

use http::Method;

use super::admission::{Grant, InFlightPermits, holders_of};
use super::context::Context;
use crate::config::Unit;
use crate::denial::Denial;

impl Grant {
    /// Returns the name of the first limit of the request's key, of its group or of its route that can't be
    /// held by whoever sees only the beginning of the request; `None` if all of them can. `sees_body`:
    /// whether the whole body of the request is seen.
    ///
    /// How many requests are in flight and how many tokens an answer has is never seen. The tokens of the
    /// input, and the output that a request asks for, are in its body.
    pub(crate) fn unenforceable(
        &self,
        method: &Method,
        sees_body: bool,
        context: Context<'_>,
    ) -> Option<String> {
        let is_capped = || {
            let mut of_principal = self.principal.iter().flat_map(|principal| principal.output_caps());
            of_principal.any(|cap| cap.is_some())
                || (self.route.model.request.is_some() && self.route.uses_tokens(method))
        };
        if !sees_body && is_capped() {
            return Some("max_output_tokens".to_owned());
        }
        // The class of a request is written into its body.
        if self.route.upstream.tells_priority.is_some() && self.route.uses_tokens(method) {
            return Some("priority".to_owned());
        }
        let principal = self.principal.as_ref()?;
        let of_key = principal.key().key.max_concurrent().or(context.snapshot.default_max_concurrent);
        let of_group = principal.group().and_then(|group| group.max_concurrent);
        if of_key.or(of_group).is_some() {
            return Some("max_concurrent".to_owned());
        }
        let is_unseen = |unit| match unit {
            Unit::Requests => false,
            Unit::InputTokens => !sees_body,
            Unit::Tokens | Unit::OutputTokens => true,
        };
        holders_of(principal, &self.route, context).find_map(|holder| {
            let mut windows = holder.windows();
            let window = windows.find(|window| window.quota().is_enforced && is_unseen(window.unit()));
            let budget = || holder.budgets.iter().find(|budget| is_unseen(budget.unit()));
            let window = window.map(|window| window.name().to_owned());
            window.or_else(|| budget().map(|budget| budget.policy().to_owned()))
        })
    }

    /// Counts the request as in flight for the process alone, while it is decided. Neither its key nor its
    /// client's address has a place in flight for it: nobody tells when the request ends.
    ///
    /// # Errors
    ///
    /// 503 if the process has no room for another request.
    pub(crate) fn enter_undecided(&mut self, context: Context<'_>) -> Result<(), Denial> {
        self.in_flight = Some(InFlightPermits::of_process(context)?);
        Ok(())
    }
}
