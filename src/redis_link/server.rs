//! A server, and how to connect to it.

use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "redis")]
use redis::PushInfo;
use zeroize::Zeroizing;

#[cfg(not(feature = "redis"))]
use super::absent::PushInfo;
use crate::redis_address::RedisAddress;

/// A function that gets each push message of a server (RESP3). It must not block.
pub(crate) type OnPush = Arc<dyn Fn(PushInfo) + Send + Sync>;

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
