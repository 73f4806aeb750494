//! Where keys are kept, and where requests present them.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use zeroize::Zeroizing;

use super::ReadFile;

#[derive(Clone, Debug)]
pub(crate) struct Keys {
    pub(crate) path: PathBuf,
    /// Whether the store may be a list of tokens as they are.
    pub(crate) allow_plaintext: bool,
    pub(crate) max_age: Option<MaxAge>,
    /// Keys of other environments are refused.
    pub(crate) environment: Option<String>,
    /// Whether a key that goes takes its open answers with it.
    pub(crate) cut_open_streams: bool,
    /// What the ids of credentials that carry none are made with; `None`: a secret beside the store.
    pub(crate) id_secret: Option<SecretValue>,
    pub(crate) watch: Watch,
}

/// The least length of `keys.id_secret`, in bytes.
pub(crate) const ID_SECRET_LENGTH: usize = 32;

/// A secret that was read with the configuration.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretValue {
    value: Zeroizing<String>,
    /// Where it was read from, so that a change of it can be noticed.
    pub(crate) file: Option<ReadFile>,
}

impl SecretValue {
    pub(super) fn new(value: &str, file: Option<ReadFile>) -> Self {
        SecretValue { value: Zeroizing::new(value.to_owned()), file }
    }

    pub(crate) fn value(&self) -> &[u8] {
        self.value.as_bytes()
    }
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretValue").field("file", &self.file).finish_non_exhaustive()
    }
}

/// How old a key may be, counted from the making of its current secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MaxAge {
    pub(crate) age: Duration,
    pub(crate) action: AgeAction,
}

/// What happens to a key that is older.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AgeAction {
    /// It is let in, and told of.
    #[default]
    Warn,
    Refuse,
}

/// How changes of files are noticed where the system does not tell of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    /// All files are looked at again after this long.
    pub(crate) poll: Duration,
}

impl Default for Watch {
    fn default() -> Self {
        Watch { poll: Duration::from_secs(10) }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Auth {
    /// Headers that a key may stand in, in the order they are looked at.
    pub(crate) headers: Vec<HeaderName>,
    pub(crate) conflict: Conflict,
    /// Whether the password of a Basic credential is taken as the key.
    pub(crate) basic: bool,
    /// Whether a browser may present its key among the protocols of a WebSocket.
    pub(crate) websocket_protocol: bool,
}

impl Default for Auth {
    fn default() -> Self {
        Auth {
            headers: vec![http::header::AUTHORIZATION],
            conflict: Conflict::default(),
            basic: false,
            websocket_protocol: false,
        }
    }
}

/// What becomes of a request that presents two different credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// It is refused.
    #[default]
    Refuse,
    /// The one that is a key counts.
    Any,
}
