//! What every step of a request knows of it.

use super::caller::Caller;
use super::gateway::Peer;
use crate::gate::Context;
use crate::guard::client::Client;
use crate::upstream::request_body::RequestBody;

/// What every step knows of its request.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) peer: &'a Peer,
    pub(super) caller: &'a Caller,
    pub(super) client: &'a Client,
    pub(super) body: &'a RequestBody,
    pub(super) context: Context<'a>,
}

impl Known<'_> {
    /// Whether the client sent the request without TLS.
    pub(super) fn is_plain(&self) -> bool {
        !self.peer.is_tls && !self.client.via_trusted
    }
}
