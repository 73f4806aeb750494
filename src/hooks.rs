//! Functions of a test on the request path: faults on purpose, names of its own, and observers.
//!
//! An embedder's tests pass functions. The binary has none, unless it was built with the feature
//! `test-hooks`, where `BEARWARD_TEST_PANIC_ON=/path` makes requests for that path panic.

use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;

use bytes::Bytes;
use http_body::Frame;

use crate::tap::{BodyEnd, Tap, TapSlot, Taps};
use crate::upstream::request_body::Prelude;

/// Functions of a test that are called on the request path.
#[derive(Clone, Default)]
pub struct Hooks {
    on_request: Option<Arc<OnRequest>>,
    resolver: Option<Arc<Resolver>>,
    prelude: Option<(usize, Arc<OnPrelude>)>,
    on_body: Option<Arc<OnBody>>,
}

type OnRequest = dyn Fn(&str) + Send + Sync;
type Resolver = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;
type OnPrelude = dyn Fn(&[u8], bool) + Send + Sync;
type OnBody = dyn Fn(Direction, BodyEvent) + Send + Sync;

/// The direction of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to upstream.
    Request,
    /// From upstream to the client.
    Response,
}

/// What a tap on a body sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyEvent {
    /// Data passed.
    Data(Bytes),
    /// Trailers passed.
    Trailers,
    /// The body ended.
    End(BodyEnd),
}

/// A test's tap on one body.
struct HookTap {
    direction: Direction,
    hook: Arc<OnBody>,
}

impl Tap for HookTap {
    fn frame(&mut self, frame: &Frame<Bytes>) {
        let event = frame.data_ref().map_or(BodyEvent::Trailers, |data| BodyEvent::Data(data.clone()));
        (self.hook)(self.direction, event);
    }

    fn ended(&mut self, end: BodyEnd) {
        (self.hook)(self.direction, BodyEvent::End(end));
    }
}

impl Hooks {
    /// Calls `hook` with the path of every permitted request, on the request path. It may panic.
    pub fn on_request(hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Hooks { on_request: Some(Arc::new(hook)), ..Hooks::default() }
    }

    /// Looks up the names of upstreams by `resolver` instead of the system's, each time on a thread of its own.
    pub fn resolving(resolver: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Hooks { resolver: Some(Arc::new(resolver)), ..Hooks::default() }
    }

    /// Reads the first `bytes` of every request's body before the request is admitted. Calls `hook`
    /// with them, and with whether they are all of the body.
    pub fn looking_ahead(bytes: usize, hook: impl Fn(&[u8], bool) + Send + Sync + 'static) -> Self {
        Hooks { prelude: Some((bytes, Arc::new(hook))), ..Hooks::default() }
    }

    /// Calls `hook` with each frame of every forwarded body as it passes, and with the body's end.
    pub fn on_body(hook: impl Fn(Direction, BodyEvent) + Send + Sync + 'static) -> Self {
        Hooks { on_body: Some(Arc::new(hook)), ..Hooks::default() }
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

    /// How much of a request's body is read before the request is admitted, in bytes.
    pub(crate) fn prelude_bytes(&self) -> Option<usize> {
        self.prelude.as_ref().map(|(bytes, _)| *bytes)
    }

    pub(crate) fn looked_ahead(&self, prelude: &Prelude) {
        if let Some((_, hook)) = &self.prelude {
            hook(&prelude.data.concat(), prelude.is_whole);
        }
    }

    /// The taps on the bodies of a forwarded request.
    pub(crate) fn taps(&self) -> Taps {
        let tap = |direction, hook: &Arc<OnBody>| TapSlot::of(HookTap { direction, hook: hook.clone() });
        match &self.on_body {
            None => Taps::default(),
            Some(hook) => {
                Taps { request: tap(Direction::Request, hook), response: tap(Direction::Response, hook) }
            }
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
        let Hooks { on_request, resolver, prelude, on_body } = self;
        let has_any = on_request.is_some() || resolver.is_some() || prelude.is_some() || on_body.is_some();
        f.write_str(if has_any { "Hooks(on)" } else { "Hooks(off)" })
    }
}
