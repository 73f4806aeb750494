//! `keys`: the key store, and rules for all of its keys.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::decode::Decoder;
use crate::config::form::{Form, boolean, duration, one_of, text};
use crate::config::secret::{SecretValue, env_or_file};
use crate::config::section::{fields_of, nested, section};
use crate::config::store_place::{KeysRedis, StorePlace, store_place};
use crate::config::tree::Node;
use crate::placeholder;

section! {
    /// The key store.
    #[derive(Clone, Debug)]
    pub(crate) struct Keys in "keys" {
        /// The path of the key store: a .yaml, .jsonl or .txt file, or a directory; or the URL of a
        /// Redis or Valkey server, or a list of URLs for a cluster.
        path: StorePlace = store_place().required();
        /// The access to a store in a Redis server. Left out: as in `shared`, if it is the same
        /// server.
        redis: Option<KeysRedis> = nested().optional();
        /// How long the known keys are accepted while the Redis server can't be reached. Left out:
        /// without an end.
        max_stale: Option<Duration> = duration().optional();
        /// Whether a key store of unhashed tokens (.txt) is accepted.
        allow_plaintext: bool = boolean().or(false);
        max_age: Option<MaxAge> = fields_of::<Age>().then(max_age);
        /// The label that a key must have to be accepted.
        environment: Option<String> = text(environment).optional();
        /// Whether the open answers, uploads and tunnels of a key are cut when the key is revoked,
        /// has expired, or may no longer use their route.
        cut_open_streams: bool = boolean().or(false);
        id_secret: Option<SecretValue> = nested::<IdSecret>().then(id_secret).optional();
        watch: Watch = nested().or_default();
    }
}

/// Returns the form of the section. Fields for a store in a Redis server are refused for any other
/// store, where they would have no effect.
pub(super) fn keys() -> Form<Keys> {
    nested::<Keys>().checked(|d, node, keys| {
        let is_redis = matches!(keys.path, StorePlace::Redis(_));
        let needless = [("redis", keys.redis.is_some()), ("max_stale", keys.max_stale.is_some())];
        match needless.into_iter().find(|(_, is_given)| *is_given && !is_redis) {
            Some((field, _)) => {
                let message = format!("`{field}` needs a key store in a Redis server");
                d.hinted(node.position_of(field), message, "as in `path: redis://redis:6379/0`")
            }
            None => Some(keys),
        }
    })
}

section! {
    /// The highest age of keys.
    #[derive(Clone, Debug)]
    struct Age in "keys" {
        /// The highest age of a key, counted from the creation of its current secret.
        max_age: Option<Duration> = duration().optional();
        /// Whether a key older than `max_age` is accepted and logged, or refused.
        max_age_action: AgeAction = one_of(&ACTIONS).or(AgeAction::Warn);
    }
}

section! {
    /// The secret from which bearward derives the ids of credentials that contain no id. Left out:
    /// bearward keeps such a secret in a file beside the key store.
    #[derive(Clone, Debug)]
    struct IdSecret in "keys.id_secret" {
        secret: SecretValue = env_or_file("the secret of key ids");
    }
}

section! {
    /// Polling of files, for changes that the system does not report.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Watch: Default in "keys.watch" {
        /// The poll interval for all files, in addition to the system's notifications.
        poll: Duration = duration().or(Duration::from_secs(10));
    }
}

/// The highest age of a key, counted from the creation of its current secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MaxAge {
    pub(crate) age: Duration,
    pub(crate) action: AgeAction,
}

/// What bearward does about a key that is older than `max_age`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AgeAction {
    /// A key that is older than `max_age` is accepted and logged.
    #[default]
    Warn,
    Refuse,
}

const ACTIONS: [(&str, AgeAction); 2] = [("warn", AgeAction::Warn), ("refuse", AgeAction::Refuse)];

fn max_age(d: &mut Decoder<'_>, node: &Node, age: Age) -> Option<Option<MaxAge>> {
    let action = age.max_age_action;
    if age.max_age.is_none() && action == AgeAction::Refuse {
        // Without `max_age`, `refuse` would refuse no key, contrary to what the operator expects.
        return d.hinted(
            node.position_of("max_age_action"),
            "keys past an age are to be refused, and no `max_age` is given",
            "as in `max_age: 90d`",
        );
    }
    Some(age.max_age.map(|age| MaxAge { age, action }))
}

/// Decodes the label of an environment. A label that no key can have is a fault, because it would
/// refuse every key.
fn environment(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let text = d.word(node)?;
    if text.contains(char::is_control) || text.trim() != text {
        let message = "must not hold control characters, nor begin or end with white space";
        return d.hinted(node.at, message, "as in production");
    }
    Some(text)
}

/// The minimum length of `keys.id_secret`, in bytes.
pub(crate) const ID_SECRET_LENGTH: usize = 32;

/// The minimum number of different characters in `keys.id_secret`: `changemechangeme…` has seven.
const LEAST_CHARACTERS: usize = 8;

fn id_secret(d: &mut Decoder<'_>, node: &Node, given: IdSecret) -> Option<SecretValue> {
    const HINT: &str = "`openssl rand -hex 32` makes one";
    let secret = given.secret.trimmed();
    let text = secret.text();
    if let Some(found) = placeholder::find(text) {
        return d.hinted(node.at, format!("the secret of key ids is {}", found.what), found.hint);
    }
    if text.is_empty() {
        return d.hinted(node.at, "the secret of key ids is empty", HINT);
    }
    if text.len() < ID_SECRET_LENGTH {
        let message = format!("the secret of key ids has less than {ID_SECRET_LENGTH} characters");
        return d.hinted(node.at, message, HINT);
    }
    // Nearly all random secrets have more different characters. Of the secrets of 32 random
    // hexadecimal digits, one in 28 million has fewer than eight different digits.
    let characters: BTreeSet<char> = text.chars().collect();
    if characters.len() < LEAST_CHARACTERS {
        let message = format!("the secret of key ids has less than {LEAST_CHARACTERS} different characters");
        return d.hinted(node.at, message, HINT);
    }
    Some(secret)
}
