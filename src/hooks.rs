//! Hooks for tests on the request path: they cause faults on purpose, resolve names, and observe
//! bodies.
//!
//! Tests that embed this library pass functions. The binary has no hooks, unless it was built with
//! the feature `test-hooks`. With that feature, `BEARWARD_TEST_PANIC_ON=/path` makes requests for
//! that path panic, and `BEARWARD_TEST_END_THREAD=NAME:/path` makes the thread NAME panic once the
//! file `/path` exists.

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
    on_thread: Option<Arc<OnThread>>,
    resolver: Option<Arc<Resolver>>,
    prelude: Option<(usize, Arc<OnPrelude>)>,
    on_body: Option<Arc<OnBody>>,
}

type OnRequest = dyn Fn(&str) + Send + Sync;
type OnThread = dyn Fn(&str) + Send + Sync;
type Resolver = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;
type OnPrelude = dyn Fn(&[u8], bool) + Send + Sync;
type OnBody = dyn Fn(Direction, BodyEvent) + Send + Sync;

/// The direction of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The body of a request, from the client to upstream.
    Request,
    /// The body of a response, from upstream to the client.
    Response,
}

/// An event that a tap on a body observes.
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
    /// Calls `hook` with the path of every permitted request, on the request path. `hook` may
    /// panic.
    pub fn on_request(hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Hooks { on_request: Some(Arc::new(hook)), ..Hooks::default() }
    }

    /// Calls `hook` with the name of a thread or accept loop each time that the thread or loop
    /// begins a piece of work. A worker and the accept loop `listener` do so for each connection,
    /// the thread `reload` for each message and each interval. `hook` may panic.
    pub fn on_thread(hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Hooks { on_thread: Some(Arc::new(hook)), ..Hooks::default() }
    }

    /// Resolves the names of upstreams with `resolver` instead of the system's resolver, each time
    /// on a separate thread.
    pub fn resolving(resolver: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Hooks { resolver: Some(Arc::new(resolver)), ..Hooks::default() }
    }

    /// Reads the first `bytes` of every request's body before the request is admitted. Calls `hook`
    /// with these bytes, and with whether they are the whole body.
    pub fn looking_ahead(bytes: usize, hook: impl Fn(&[u8], bool) + Send + Sync + 'static) -> Self {
        Hooks { prelude: Some((bytes, Arc::new(hook))), ..Hooks::default() }
    }

    /// Calls `hook` with each frame of every forwarded body as it passes, and with the body's end.
    pub fn on_body(hook: impl Fn(Direction, BodyEvent) + Send + Sync + 'static) -> Self {
        Hooks { on_body: Some(Arc::new(hook)), ..Hooks::default() }
    }

    /// Returns the hooks that environment variables request.
    #[cfg(feature = "test-hooks")]
    pub(crate) fn from_environment() -> Self {
        if let Ok(fatal) = std::env::var("BEARWARD_TEST_PANIC_ON") {
            return Hooks::on_request(move |path| assert_ne!(path, fatal, "a test asked for this panic"));
        }
        let Ok(fatal) = std::env::var("BEARWARD_TEST_END_THREAD") else { return Hooks::default() };
        Hooks::on_thread(move |name| {
            let is_due = fatal
                .split_once(':')
                .is_some_and(|(fatal, file)| fatal == name && std::path::Path::new(file).exists());
            assert!(!is_due, "a test asked for this panic");
        })
    }

    /// Returns no hooks, because this build has none.
    #[cfg(not(feature = "test-hooks"))]
    pub(crate) fn from_environment() -> Self {
        Hooks::default()
    }

    /// Calls the hook for a permitted request. Returns the taps on the bodies of the request.
    pub(crate) fn call(&self, path: &str) -> Taps {
        if let Some(hook) = &self.on_request {
            hook(path);
        }
        self.taps()
    }

    /// Calls the hook for threads. Called when a thread begins a piece of work.
    pub(crate) fn takes_up_work(&self, thread: &str) {
        if let Some(hook) = &self.on_thread {
            hook(thread);
        }
    }

    /// Returns the number of bytes of a request's body to read before the request is admitted.
    pub(crate) fn prelude_bytes(&self) -> Option<usize> {
        self.prelude.as_ref().map(|(bytes, _)| *bytes)
    }

    pub(crate) fn looked_ahead(&self, prelude: &Prelude) {
        if let Some((_, hook)) = &self.prelude {
            hook(&prelude.data, prelude.is_whole);
        }
    }

    fn taps(&self) -> Taps {
        let tap = |direction, hook: &Arc<OnBody>| TapSlot::of(HookTap { direction, hook: hook.clone() });
        match &self.on_body {
            None => Taps::default(),
            Some(hook) => {
                Taps { request: tap(Direction::Request, hook), response: tap(Direction::Response, hook) }
            }
        }
    }

    /// Resolves `host` to addresses, in the order of preference. Blocks the thread.
    ///
    /// # Errors
    ///
    /// Fails with the resolver's error.
    pub(crate) fn resolve(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        match &self.resolver {
            Some(resolver) => resolver(host),
            None => Ok((host, 0).to_socket_addrs()?.map(|socket| socket.ip()).collect()),
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hooks { on_request, on_thread, resolver, prelude, on_body } = self;
        let observes = on_request.is_some() || on_thread.is_some() || on_body.is_some();
        let has_any = observes || resolver.is_some() || prelude.is_some();
        f.write_str(if has_any { "Hooks(on)" } else { "Hooks(off)" })
    }
}
