//! A holder of limits: a key, or a group of keys.

use std::sync::Arc;

use super::charge::TokenCharge;
use super::gcra::Window;
use super::key_state::KeyState;

/// A holder of limits to which a request is charged: its key, or the group of its key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder<'a> {
    pub(crate) state: &'a Arc<KeyState>,
    /// The windows that the request is charged to: those of the holder, and those of the request's
    /// route.
    pub(crate) windows: [&'a [Arc<Window>]; 2],
}

impl<'a> Holder<'a> {
    pub(super) fn windows(&self) -> impl Iterator<Item = &'a Arc<Window>> + Clone + use<'a> {
        let [own, of_route] = self.windows;
        own.iter().chain(of_route)
    }

    pub(crate) fn has_limits(&self) -> bool {
        self.windows.iter().any(|windows| !windows.is_empty())
    }

    pub(crate) fn counts_tokens(&self) -> bool {
        self.windows().any(|window| window.counts_tokens())
    }
}

/// A charge of tokens, and the state of the holder that was charged.
#[derive(Debug)]
pub(crate) struct Debit {
    pub(super) state: Arc<KeyState>,
    pub(super) charge: TokenCharge,
}
