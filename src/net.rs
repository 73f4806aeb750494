//! Serves client connections: accepts them, terminates TLS, and runs HTTP/1.1 or HTTP/2 on them.

mod authority;
pub(crate) mod authority_client;
pub(crate) mod body;
pub(crate) mod client;
mod client_certificate;
pub(crate) mod conn;
pub(crate) mod connections_by_address;
mod frames;
mod http2;
mod https;
pub(crate) mod inherited;
pub(crate) mod issuer_client;
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
