//! From a socket to requests: accept, TLS, the wire under hyper, and HTTP/1.1 or HTTP/2 on it.

pub(crate) mod conn;
pub(crate) mod connections_by_address;
mod frames;
mod http2;
pub(crate) mod inherited;
mod linger;
pub(crate) mod listen;
pub(crate) mod phase;
pub(crate) mod presence;
mod service;
mod streams;
pub(crate) mod tls;
pub(crate) mod wire;
