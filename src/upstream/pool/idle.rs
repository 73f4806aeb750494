//! HTTP/1.1 connections between two requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hyper::client::conn::http1;

use crate::config::Pool;
use crate::upstream::endpoints::Endpoint;
use crate::upstream::socket::Socket;
use crate::upstream::upload::Upload;

/// Ids are numbers of ours: nobody chooses them so that they collide.
pub(super) type ByEndpoint<T> = HashMap<u64, T, foldhash::fast::RandomState>;

/// All of a worker's, by the endpoint's id.
#[derive(Debug, Default)]
pub(super) struct IdleConnections(Mutex<ByEndpoint<Vec<Idle>>>);

/// An HTTP/1.1 connection between two requests.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) sender: http1::SendRequest<Upload>,
    pub(super) socket: Arc<Socket>,
    pub(super) since: Instant,
    pub(super) made: Instant,
    pub(super) limits: Pool,
}

impl Idle {
    /// Whether it may serve another request, as far as time tells.
    fn is_fresh(&self) -> bool {
        let now = Instant::now();
        now.saturating_duration_since(self.since) < self.limits.idle
            && now.saturating_duration_since(self.made) < self.limits.max_age
    }
}

impl IdleConnections {
    /// The one that was used last, of those that are alive.
    pub(super) fn take(&self, endpoint: &Endpoint) -> Option<Idle> {
        loop {
            let candidate = {
                let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                idle.get_mut(&endpoint.id)?.pop()?
            };
            if candidate.is_fresh() && candidate.sender.is_ready() && candidate.socket.is_quiet() {
                return Some(candidate);
            }
        }
    }

    /// Keeps a connection for the next request, unless there are as many as may be.
    pub(super) fn keep(&self, endpoint: &Endpoint, connection: Idle) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.entry(endpoint.id).or_default();
        if connections.len() < connection.limits.max_idle {
            connections.push(connection);
        }
    }

    /// Closes all. Returns whether there were any.
    pub(super) fn close_all(&self) -> bool {
        let idle = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        idle.values().any(|connections| !connections.is_empty())
    }

    /// Closes those that have been idle for too long.
    pub(super) fn sweep(&self) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for connections in idle.values_mut() {
            connections.retain(|idle| idle.is_fresh() && !idle.sender.is_closed());
        }
        idle.retain(|_, connections| !connections.is_empty());
    }
}
