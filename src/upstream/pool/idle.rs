//! Idle HTTP/1.1 connections of one worker.
//!
//! A lease adds its connection here after an answer, and the pool removes the connection for the
//! next request.
//! Invariant: a connection is removed for reuse only if nothing has arrived on it while it was
//! idle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::config::Pool;
use crate::upstream::endpoints::Endpoint;
use crate::upstream::http1::Http1;

/// A map by endpoint id. bearward assigns these ids and no client can choose them, so a fast hash
/// without a secret is safe.
pub(super) type ByEndpoint<T> = HashMap<u64, T, foldhash::fast::RandomState>;

/// The idle HTTP/1.1 connections of one worker, by endpoint id.
#[derive(Debug, Default)]
pub(super) struct IdleConnections(Mutex<ByEndpoint<Vec<Idle>>>);

/// An HTTP/1.1 connection between two requests.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) http1: Arc<Http1>,
    pub(super) since: Instant,
    pub(super) made: Instant,
    pub(super) limits: Pool,
}

impl Idle {
    /// Whether the connection has exceeded neither its idle time nor its maximum age.
    fn is_fresh(&self) -> bool {
        let now = Instant::now();
        now.saturating_duration_since(self.since) < self.limits.idle
            && now.saturating_duration_since(self.made) < self.limits.max_age
    }

    /// Whether upstream has sent nothing, and has not closed the connection.
    fn is_quiet(&self) -> bool {
        self.http1.is_ready() && self.http1.socket.has_nothing_to_read()
    }
}

impl IdleConnections {
    /// Removes and returns the most recently used connection to the endpoint that is still alive.
    pub(super) fn take(&self, endpoint: &Endpoint) -> Option<Idle> {
        loop {
            let candidate = {
                let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                idle.get_mut(&endpoint.id)?.pop()?
            };
            if candidate.is_fresh() && candidate.is_quiet() {
                return Some(candidate);
            }
        }
    }

    /// Stores a connection for the next request, or closes the connection if the endpoint already
    /// has `max_idle` idle connections.
    pub(super) fn keep(&self, endpoint: &Endpoint, connection: Idle) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.entry(endpoint.id).or_default();
        if connections.len() < connection.limits.max_idle {
            connections.push(connection);
        }
    }

    /// Closes all idle connections. Returns whether any were closed.
    pub(super) fn close_all(&self) -> bool {
        let idle = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        idle.values().any(|connections| !connections.is_empty())
    }

    /// Closes connections that have been idle for too long, are too old, or were closed by
    /// upstream.
    pub(super) fn sweep(&self) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for connections in idle.values_mut() {
            connections.retain(|idle| idle.is_fresh() && idle.is_quiet());
        }
        idle.retain(|_, connections| !connections.is_empty());
    }
}
