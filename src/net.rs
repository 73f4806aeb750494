//! Serves client connections: accepts them, terminates TLS, and runs HTTP/1.1 or HTTP/2 on them.

mod authority;
pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod conn;
pub(crate) mod connections_by_address;
mod frames;
mod http2;
pub(crate) mod https;
pub(crate) mod inherited;
mod linger;
pub(crate) mod listen;
pub(crate) mod local;
pub(crate) mod phase;
pub(crate) mod presence;
pub(crate) mod proxied;
mod proxy_header;
pub(crate) mod server;
mod service;
pub(crate) mod standing;
mod streams;
pub(crate) mod tls;
mod waits;
pub(crate) mod wire;
