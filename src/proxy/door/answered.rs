//! How a question of another proxy ends.

use http::{HeaderName, HeaderValue, Response};

use crate::denial::{Code, Denial};

/// How a question ends.
pub(in crate::proxy) enum Answered {
    /// The request may pass.
    Granted(Box<Granted>),
    /// The request may not pass, and its client gets this answer.
    Refused(Denial),
    /// The request is a preflight, and its client gets this answer.
    Preflight(Response<()>),
    /// There is no decision, because the question can't be answered.
    Failed(Denial),
}

impl From<Denial> for Answered {
    fn from(denial: Denial) -> Self {
        Answered::Refused(denial)
    }
}

/// What the proxy has to do with a request that may pass.
#[derive(Debug)]
pub(in crate::proxy) struct Granted {
    /// The headers that it sets on the request.
    pub(in crate::proxy) identity: [(HeaderName, HeaderValue); 4],
    pub(in crate::proxy) request_id: HeaderValue,
    /// The headers that it removes from the request, if it can be told to.
    pub(in crate::proxy) removes: Vec<String>,
    /// The WebSocket protocols that it forwards in place of the client's.
    pub(in crate::proxy) protocols: Option<HeaderValue>,
}

/// Facts about a decision, for the log of the proxy.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Facts {
    /// The code of the refusal, and its gRPC status.
    pub(in crate::proxy) code: Option<&'static str>,
    pub(in crate::proxy) grpc: Option<u8>,
    pub(in crate::proxy) key_id: Option<String>,
    pub(in crate::proxy) route: Option<String>,
}

impl Facts {
    pub(in crate::proxy) fn of(code: Option<Code>, key_id: Option<String>, route: Option<String>) -> Self {
        Facts { code: code.map(Code::name), grpc: code.map(Code::grpc), key_id, route }
    }
}
