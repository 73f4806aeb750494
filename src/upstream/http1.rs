//! HTTP/1.1 to upstream, in the task of the request: heads, bodies, and the end of a connection.
//!
//! [`Http1::send`] writes a request and reads the head of its answer; [`Http1Body`] reads the body. No
//! task lives between two requests.
//! Invariants: what RFC 9112 leaves open is refused, and costs the connection. A connection serves
//! another request only if the request and its answer have ended as both heads said, and no byte
//! follows the answer.

mod body;
mod chunked;
mod connection;
mod decoder;
mod head;
mod outgoing;
#[cfg(any(test, feature = "fuzzing"))]
mod reading;
mod request_head;
mod sending;

pub(super) use body::Http1Body;
pub(super) use connection::{Http1, Tunnelled};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use reading::{Reading, listed};
