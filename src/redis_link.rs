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
#[cfg(feature = "redis")]
mod tls;

use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "redis")]
pub(crate) use redis::{
    ErrorKind, FromRedisValue, PushInfo, PushKind, RedisError, RedisResult, Script, ServerErrorKind, Value,
    aio::MultiplexedConnection, cmd, from_redis_value_ref,
};
use zeroize::Zeroizing;

#[cfg(not(feature = "redis"))]
pub(crate) use absent::{
    Connection, ErrorKind, FromRedisValue, MultiplexedConnection, PushInfo, PushKind, RedisError,
    RedisResult, Script, ServerErrorKind, Value, cmd, from_redis_value_ref,
};
#[cfg(feature = "redis")]
pub(crate) use connecting::Connection;

use crate::redis_address::RedisAddress;

/// Longest text of an error that is shown, in characters.
const LONGEST_TEXT: usize = 200;

/// A server, and how to connect to it.
#[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "nothing connects"))]
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: RedisAddress,
    pub(crate) password: Option<Zeroizing<String>>,
    pub(crate) certificates: Certificates,
    /// The time after which an answer counts as none.
    pub(crate) timeout: Duration,
    /// Whether keys or usage are read, and not limits.
    pub(crate) has_long_answers: bool,
}

/// The PEM text of the authorities, and of bearward's own certificate and its key.
#[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "nothing connects"))]
#[derive(Clone, Default)]
pub(crate) struct Certificates {
    pub(crate) ca: Option<Vec<u8>>,
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Returns the text of an error. A server's text is bounded, and has no control characters.
pub(crate) fn text_of(error: &RedisError) -> String {
    error.to_string().chars().filter(|c| !c.is_control()).take(LONGEST_TEXT).collect()
}

/// A function that gets each push message of a server (RESP3). It must not block.
pub(crate) type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;
