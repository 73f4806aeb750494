//! Connections to a Redis or Valkey server: alone, of a Sentinel group, or a cluster.
//!
//! Everything that talks to such a server takes the client's names from here, and nothing else knows the
//! client. A build without the feature `redis` has [`absent`] in its place: no address is accepted
//! ([`crate::redis_address`]), so nothing ever connects.

#[cfg(not(feature = "redis"))]
mod absent;
#[cfg(feature = "redis")]
mod bounded;
#[cfg(feature = "redis")]
mod connecting;
mod server;
#[cfg(feature = "redis")]
mod tls;
#[cfg(not(feature = "redis"))]
mod unconnected;

#[cfg(not(feature = "redis"))]
pub(crate) use absent::{
    Connection, ErrorKind, FromRedisValue, MultiplexedConnection, PushInfo, PushKind, RedisError,
    RedisResult, Script, ServerErrorKind, Value, cmd, from_redis_value_ref,
};
#[cfg(feature = "redis")]
pub(crate) use connecting::Connection;
#[cfg(feature = "redis")]
pub(crate) use redis::{
    ErrorKind, FromRedisValue, PushInfo, PushKind, RedisError, RedisResult, Script, ServerErrorKind, Value,
    aio::MultiplexedConnection, cmd, from_redis_value_ref,
};
pub(crate) use server::{Certificates, OnPush, Server};

/// Longest text of an error that is shown, in characters.
const LONGEST_TEXT: usize = 200;

/// Returns the text of an error. A server's text is bounded, and has no control characters.
pub(crate) fn text_of(error: &RedisError) -> String {
    error.to_string().chars().filter(|c| !c.is_control()).take(LONGEST_TEXT).collect()
}
