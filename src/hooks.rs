//! What a test puts in the place of the world: faults on purpose, and names of its own.
//!
//! An embedder's tests pass a function; the binary has none, unless it was built with the feature
//! `test-hooks`, where `BEARWARD_TEST_PANIC_ON=/path` makes requests for that path panic.

use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;

/// Functions of a test that are called on the way of a request.
#[derive(Clone, Default)]
pub struct Hooks {
    on_request: Option<Arc<OnRequest>>,
    resolver: Option<Arc<Resolver>>,
}

type OnRequest = dyn Fn(&str) + Send + Sync;
type Resolver = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

impl Hooks {
    /// Calls `hook` with the path of every permitted request, on the request path. It may panic.
    pub fn on_request(hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Hooks { on_request: Some(Arc::new(hook)), resolver: None }
    }

    /// Looks up the names of upstreams by `resolver` in the place of the system's, on a thread of its own each time.
    pub fn resolving(resolver: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Hooks { on_request: None, resolver: Some(Arc::new(resolver)) }
    }

    /// Those that the environment asks for.
    #[cfg(feature = "test-hooks")]
    pub(crate) fn from_environment() -> Self {
        match std::env::var("BEARWARD_TEST_PANIC_ON") {
            Ok(fatal) => {
                Hooks::on_request(move |path| assert_ne!(path, fatal, "a test asked for this panic"))
            }
            Err(_) => Hooks::default(),
        }
    }

    /// None: this build has no hooks.
    #[cfg(not(feature = "test-hooks"))]
    pub(crate) fn from_environment() -> Self {
        Hooks::default()
    }

    pub(crate) fn call(&self, path: &str) {
        if let Some(hook) = &self.on_request {
            hook(path);
        }
    }

    /// The addresses of a name, in the order of preference. Blocks.
    ///
    /// # Errors
    ///
    /// What the resolver said.
    pub(crate) fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        match &self.resolver {
            Some(resolver) => resolver(host),
            None => Ok((host, 0).to_socket_addrs()?.map(|socket| socket.ip()).collect()),
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.on_request.is_some() || self.resolver.is_some() {
            "Hooks(on)"
        } else {
            "Hooks(off)"
        })
    }
}
