//! Faults that a test provokes on purpose.
//!
//! An embedder's tests pass a function; the binary has none, unless it was built with the feature
//! `test-hooks`, where `BEARWARD_TEST_PANIC_ON=/path` makes requests for that path panic.

use std::fmt;
use std::sync::Arc;

/// Called with the path of each permitted request, on the request path. May panic.
#[derive(Clone, Default)]
pub struct Hooks(Option<Arc<Hook>>);

type Hook = dyn Fn(&str) + Send + Sync;

impl Hooks {
    /// Calls `hook` for every permitted request.
    pub fn on_request(hook: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Hooks(Some(Arc::new(hook)))
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
        if let Some(hook) = &self.0 {
            hook(path);
        }
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Hooks(on)" } else { "Hooks(off)" })
    }
}
