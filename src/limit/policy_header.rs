//! The `RateLimit-Policy` header of an answer. The header's value depends only on the windows, so
//! each thread caches the value that it made last.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use bytes::BytesMut;
use http::HeaderValue;
use smallvec::SmallVec;

use super::gcra::Window;

/// The cached header value, with the windows that the value was made for. A weak reference prevents
/// a new window from getting the address of an old window, but does not keep the old window in use.
struct Remembered {
    windows: SmallVec<[Weak<Window>; 2]>,
    value: HeaderValue,
}

thread_local! {
    static LAST: RefCell<Option<Remembered>> = const { RefCell::new(None) };
}

/// Returns the header's value for these windows, in their order.
pub(super) fn value<'w>(windows: impl Iterator<Item = &'w Arc<Window>> + Clone) -> Option<HeaderValue> {
    LAST.with_borrow_mut(|last| {
        if let Some(last) = last
            && last.windows.iter().map(Weak::as_ptr).eq(windows.clone().map(Arc::as_ptr))
        {
            return Some(last.value.clone());
        }
        let mut text = BytesMut::new();
        for (index, window) in windows.clone().enumerate() {
            text.extend_from_slice(if index > 0 { b", " } else { b"" });
            text.extend_from_slice(window.policy.as_bytes());
        }
        let value = HeaderValue::from_maybe_shared(text.freeze());
        debug_assert!(value.is_ok(), "the names of windows are visible ASCII");
        let value = value.ok()?;
        *last = Some(Remembered { windows: windows.map(Arc::downgrade).collect(), value: value.clone() });
        Some(value)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Quota, Unit};

    #[test]
    fn the_value_is_that_of_the_windows_that_are_asked_for() {
        let window = |requests| {
            let quota = Quota::new(Unit::Requests, requests, Duration::from_secs(60), Some(1));
            Arc::new(Window::new(None, quota))
        };
        let (one, two) = (window(10), window(20));
        let of = |windows: &[&Arc<Window>]| value(windows.iter().copied()).unwrap();
        for _ in 0..2 {
            assert_eq!(of(&[&one]), "\"requests-1m\";q=10;w=60");
            assert_eq!(of(&[&one, &two]), "\"requests-1m\";q=10;w=60, \"requests-1m\";q=20;w=60");
            assert_eq!(of(&[&two]), "\"requests-1m\";q=20;w=60");
        }
        drop(two);
        assert_eq!(of(&[&window(30)]), "\"requests-1m\";q=30;w=60");
    }
}
