//! A key in service, with the parts that are built when the key is first used.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::HeaderValue;
use once_cell::race::OnceBox;
use smallvec::SmallVec;

use crate::keys::ApiKey;
use crate::limit::{Budget, KeyState, Limiter, Window};
use crate::observe::usage::{Usage, UsageBook};

/// A key in service: its fields, and the parts that are built when the key is first used. Most of a
/// million keys are never used.
#[derive(Debug)]
pub(crate) struct LiveKey {
    pub(crate) key: ApiKey,
    in_use: Parts,
    /// The number of the newest key set that contains the key.
    pub(super) generation: AtomicU32,
    /// The fingerprint of the line of the key file from which the key was read; zero if the key has
    /// no line of its own.
    pub(super) fingerprint: AtomicU64,
    /// The index of the key in its file, in the order of the lines.
    pub(super) position: AtomicU32,
}

/// The parts of a key in use.
#[derive(Debug)]
enum Parts {
    OfKey(OnceBox<InUse>),
    /// The holder of a token or certificate, of whom there may be a hundred thousand in use. Its headers are made
    /// for each request.
    OfIdentity(OnceBox<Counted>),
}

#[derive(Debug)]
struct InUse {
    headers: IdentityHeaders,
    counted: Counted,
}

/// What counts the requests of a key.
#[derive(Debug, Default)]
struct Counted {
    limits: OnceLock<KeyLimits>,
    usage: OnceLock<Arc<Usage>>,
}

/// The limits of a key in service.
#[derive(Debug)]
pub(crate) struct KeyLimits {
    pub(crate) state: Arc<KeyState>,
    /// The windows of the key's own rate limits. `None`: the key has no limits of its own, so the
    /// configuration's defaults apply.
    pub(crate) windows: Option<SmallVec<[Arc<Window>; 2]>>,
    pub(crate) budgets: Box<[Arc<Budget>]>,
}

/// The values of the `x-bearward-*` headers, which describe the key to the upstream.
#[derive(Clone, Debug)]
pub(crate) struct IdentityHeaders {
    pub(crate) key_id: HeaderValue,
    pub(crate) key_name: Option<HeaderValue>,
    pub(crate) environment: Option<HeaderValue>,
    pub(crate) permissions: HeaderValue,
}

impl IdentityHeaders {
    /// Makes the identity headers of the holder of a token or certificate.
    fn of_identity(key: &ApiKey) -> Self {
        let value = |text: &str| HeaderValue::from_str(text).ok();
        IdentityHeaders {
            key_id: value(key.id()).unwrap_or_else(|| HeaderValue::from_static("")),
            key_name: key.name().and_then(|name| HeaderValue::from_bytes(name.as_bytes()).ok()),
            environment: None,
            permissions: HeaderValue::from_static(key.permissions.joined()),
        }
    }

    /// Makes the identity headers of a key, with all their text in one allocation. With a million
    /// keys, few are in the processor's cache, and each further allocation would cost a cache miss.
    fn of(key: &ApiKey) -> Self {
        let (id, name, environment) = (key.id(), key.name(), key.environment());
        let text = Bytes::from([id, name.unwrap_or(""), environment.unwrap_or("")].concat());
        let mut end = 0;
        let mut next = |part: &str| {
            let start = end;
            end += part.len();
            let value = HeaderValue::from_maybe_shared(text.slice(start..end)).ok();
            debug_assert!(value.is_some(), "the decoders refuse control characters in ids and labels");
            value
        };
        IdentityHeaders {
            key_id: next(id).unwrap_or_else(|| HeaderValue::from_static("")),
            key_name: name.and_then(&mut next),
            environment: environment.and_then(&mut next),
            permissions: HeaderValue::from_static(key.permissions.joined()),
        }
    }
}

impl LiveKey {
    pub(super) fn new(key: ApiKey, fingerprint: u64) -> Self {
        LiveKey {
            key,
            in_use: Parts::OfKey(OnceBox::new()),
            generation: AtomicU32::new(0),
            fingerprint: AtomicU64::new(fingerprint),
            position: AtomicU32::new(0),
        }
    }

    /// Makes a key of the holder of a token or certificate, which is in no store.
    pub(crate) fn of_identity(key: ApiKey) -> Self {
        LiveKey { in_use: Parts::OfIdentity(OnceBox::new()), ..LiveKey::new(key, 0) }
    }

    /// Whether no limit of the key holds back any requests. Limits of its group do not count.
    pub(crate) fn holds_nothing_back(&self, limiter: &Limiter) -> bool {
        let counted = match &self.in_use {
            Parts::OfKey(in_use) => in_use.get().map(|in_use| &in_use.counted),
            Parts::OfIdentity(counted) => counted.get(),
        };
        let limits = counted.and_then(|counted| counted.limits.get());
        limits.is_none_or(|limits| limiter.holds_nothing_of(&limits.state))
    }

    pub(super) fn is_of(&self, generation: u32) -> bool {
        self.generation.load(Ordering::Relaxed) == generation
    }

    /// Returns the headers that describe the key to the upstream.
    pub(crate) fn headers(&self) -> Cow<'_, IdentityHeaders> {
        match &self.in_use {
            Parts::OfKey(in_use) => Cow::Borrowed(&in_use.get_or_init(|| self.made()).headers),
            Parts::OfIdentity(_) => Cow::Owned(IdentityHeaders::of_identity(&self.key)),
        }
    }

    fn made(&self) -> Box<InUse> {
        Box::new(InUse { headers: IdentityHeaders::of(&self.key), counted: Counted::default() })
    }

    fn counted(&self) -> &Counted {
        match &self.in_use {
            Parts::OfKey(in_use) => &in_use.get_or_init(|| self.made()).counted,
            Parts::OfIdentity(counted) => counted.get_or_init(Box::default),
        }
    }

    pub(crate) fn limits(&self, limiter: &Limiter) -> &KeyLimits {
        self.counted().limits.get_or_init(|| {
            let own = self.key.rate_limits();
            KeyLimits {
                state: limiter.state(self.key.id()),
                windows: own.map(|quotas| quotas.iter().map(|quota| limiter.window(None, *quota)).collect()),
                budgets: self.key.budgets().iter().map(|quota| limiter.budget(None, quota)).collect(),
            }
        })
    }

    /// Returns the usage record of the key.
    pub(crate) fn usage(&self, book: &UsageBook) -> &Arc<Usage> {
        self.counted().usage.get_or_init(|| book.of(self.key.id()))
    }
}
