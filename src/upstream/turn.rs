//! The turn of one request at an upstream with a queue: it waits for a slot, and has the slot until its
//! answer has ended.
//!
//! Invariant: a request that waits has neither a connection to upstream nor a slot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::compiled::{Upstream, UpstreamQueue};
use super::endpoints::Endpoint;
use super::queue::{Destination, Free, NotServed, Slot, Tried, Who};
use crate::config::Priority;
use crate::token_report::TokenReport;

/// The turn of one request. Dropping it gives its slot back, or its place in the line up.
#[derive(Debug)]
pub(crate) struct Turn {
    upstream: Arc<Upstream>,
    who: Who,
    slot: Option<Slot>,
    /// How long the request has waited.
    waited: Duration,
    tokens: Option<Arc<TokenReport>>,
}

impl Turn {
    /// Begins the turn of a request, and takes a slot if one is free and nobody waits. Returns `None` if the
    /// upstream has no queue.
    pub(crate) fn begin(upstream: &Arc<Upstream>, who: impl FnOnce() -> Who) -> Option<Box<Self>> {
        let queue = upstream.queue.as_ref()?;
        let who = who();
        let slot = queue.shared.take_at_once(&**upstream, who);
        Some(Box::new(Turn { upstream: upstream.clone(), who, slot, waited: Duration::ZERO, tokens: None }))
    }

    /// Whether the request has to wait for a slot.
    pub(crate) fn must_wait(&self) -> bool {
        self.slot.is_none()
    }

    pub(crate) fn class(&self) -> Priority {
        self.who.class
    }

    /// Returns how long the request has waited.
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    /// Sets the place where the tokens of the request will be reported, by which its key is served.
    pub(crate) fn counts(&mut self, tokens: Arc<TokenReport>) {
        match &mut self.slot {
            Some(slot) => slot.counts(tokens),
            None => self.tokens = Some(tokens),
        }
    }

    /// Waits for a slot, but not longer than the configuration says.
    ///
    /// # Errors
    ///
    /// The request is not served. It may not be sent to upstream.
    pub(crate) async fn wait(&mut self) -> Result<(), NotServed> {
        match self.slot {
            Some(_) => Ok(()),
            None => self.wait_in_line(Vec::new(), false).await,
        }
    }

    async fn wait_in_line(&mut self, tried: Vec<Tried>, returns: bool) -> Result<(), NotServed> {
        let UpstreamQueue { shared, settings, .. } = self.queue().ok_or(NotServed::Nowhere)?;
        let began = Instant::now();
        let left = settings.max_wait.saturating_sub(self.waited);
        let destination: Arc<dyn Destination> = self.upstream.clone();
        let mut waiting = shared.wait(destination, self.who, tried, returns, began)?;
        let served = tokio::time::timeout(left, &mut waiting).await;
        let now = Instant::now();
        self.waited += now.saturating_duration_since(began);
        let mut slot = match served {
            Ok(served) => served?,
            Err(_elapsed) => return Err(NotServed::TimedOut(self.would_wait(now))),
        };
        if let Some(tokens) = self.tokens.take() {
            slot.counts(tokens);
        }
        self.slot = Some(slot);
        Ok(())
    }

    /// Whether the slots of the upstream are those of its endpoints.
    pub(crate) fn is_at_endpoint(&self) -> bool {
        self.queue().is_some_and(|queue| queue.of_sets.is_some())
    }

    /// Returns the endpoint whose slot the request has; `None` if its slot is of all endpoints together. If
    /// that endpoint is in `tried`, the request first gets a slot of another one, or of one that has come back
    /// while the request waited. That one is taken out of `tried`.
    ///
    /// # Errors
    ///
    /// The request is not served by any other endpoint.
    pub(crate) async fn endpoint(
        &mut self,
        tried: &mut Vec<Arc<Endpoint>>,
    ) -> Result<Option<Arc<Endpoint>>, NotServed> {
        let Some(endpoint) = self.slot.as_ref().and_then(Slot::endpoint) else { return Ok(None) };
        if !tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint)) {
            return Ok(Some(endpoint.clone()));
        }
        let failed: Vec<Tried> = tried.iter().cloned().map(Tried::new).collect();
        match self.upstream.take(&failed) {
            Free::Taken(place) => {
                if let Some(slot) = &mut self.slot {
                    slot.move_to(place);
                }
            }
            Free::Nowhere => return Err(NotServed::Nowhere),
            Free::Busy => {
                // The failed endpoint gets the slot back while the request waits for another one.
                self.tokens = self.slot.take().and_then(Slot::without_tokens);
                Box::pin(self.wait_in_line(failed, true)).await?;
            }
        }
        let endpoint = self.slot.as_ref().and_then(Slot::endpoint).cloned();
        tried.retain(|tried| endpoint.as_ref().is_none_or(|endpoint| !Arc::ptr_eq(tried, endpoint)));
        Ok(endpoint)
    }

    /// Notes that the request is sent now, so that its key is served.
    pub(crate) fn sent(&mut self) {
        self.slot.iter_mut().for_each(Slot::sent);
    }

    /// Returns how long a request of the same class that came now would wait.
    pub(crate) fn would_wait(&self, now: Instant) -> Duration {
        self.queue().map(|queue| queue.shared.would_wait(self.who.class, now)).unwrap_or_default()
    }

    fn queue(&self) -> Option<&UpstreamQueue> {
        self.upstream.queue.as_ref()
    }
}
