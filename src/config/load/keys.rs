//! `keys` and `auth`: where keys are kept, and where requests present them.

use std::collections::BTreeSet;

use http::HeaderName;
use http::header::{COOKIE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use zeroize::Zeroizing;

use super::non_empty;
use super::upstreams::{secret_in_file, secret_in_variable};
use crate::config::decode::Decoder;
use crate::config::tree::Node;
use crate::config::{AgeAction, Auth, Conflict, ID_SECRET_LENGTH, Keys, MaxAge, SecretValue, Watch};
use crate::placeholder;

/// Different characters of the secret of key ids: `changemechangeme…` has seven.
const LEAST_CHARACTERS: usize = 8;

pub(super) fn keys(d: &mut Decoder<'_>, node: &Node) -> Option<Keys> {
    let mut fields = d.fields(node, "keys")?;
    let path = d.required(&mut fields, "path", Decoder::path);
    let allow_plaintext = d.optional(&mut fields, "allow_plaintext", Decoder::boolean);
    let environment = d.optional(&mut fields, "environment", environment);
    let age = d.optional(&mut fields, "max_age", Decoder::duration);
    let actions = [("warn", AgeAction::Warn), ("refuse", AgeAction::Refuse)];
    let action =
        d.optional(&mut fields, "max_age_action", |d, node| Some((node.at, d.one_of(node, &actions)?)));
    let cut_open_streams = d.optional(&mut fields, "cut_open_streams", Decoder::boolean);
    let id_secret = d.optional(&mut fields, "id_secret", |d, node| Some(id_secret(d, node)));
    let watch = d.optional(&mut fields, "watch", watch);
    d.done(fields);
    // A faulty section must not turn into none.
    let id_secret = id_secret.map_or(Some(None), |section| section.map(Some))?;
    if let (None, Some((at, AgeAction::Refuse))) = (age, action) {
        // A rule that nobody is held to would be believed in.
        d.fault(at, "keys past an age are to be refused, and no `max_age` is named").hint =
            Some("as in `max_age: 90d`".to_owned());
    }
    let action = action.map(|(_, action)| action).unwrap_or_default();
    Some(Keys {
        path: path?,
        allow_plaintext: allow_plaintext.unwrap_or(false),
        max_age: age.map(|age| MaxAge { age, action }),
        environment,
        cut_open_streams: cut_open_streams.unwrap_or(false),
        id_secret,
        watch: watch.unwrap_or_default(),
    })
}

/// As a key can have it: another one would refuse every key.
fn environment(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let text = d.word(node)?;
    if text.contains(char::is_control) || text.trim() != text {
        d.fault(node.at, "must not hold control characters, nor begin or end with white space").hint =
            Some("as in production".to_owned());
        return None;
    }
    Some(text)
}

fn watch(d: &mut Decoder<'_>, node: &Node) -> Option<Watch> {
    let mut fields = d.fields(node, "keys.watch")?;
    let poll = d.optional(&mut fields, "poll", Decoder::duration);
    d.done(fields);
    Some(poll.map_or_else(Watch::default, |poll| Watch { poll }))
}

/// `{file: PATH}` or `{env: NAME}`.
fn id_secret(d: &mut Decoder<'_>, node: &Node) -> Option<SecretValue> {
    let mut fields = d.fields(node, "keys.id_secret")?;
    let from_env = d.optional(&mut fields, "env", |d, node| Some(secret_in_variable(d, node)));
    let from_file = d.optional(&mut fields, "file", |d, node| Some(secret_in_file(d, node)));
    d.done(fields);
    let (file, value) = match (from_env, from_file) {
        (Some(value), None) => (None, value?),
        (None, Some(read)) => read.map(|(file, value)| (Some(file), value))?,
        _ => {
            d.fault(node.at, "the secret of key ids needs one of `env` and `file`");
            return None;
        }
    };
    let value = Zeroizing::new(value);
    let secret = value.trim();
    if let Some(found) = placeholder::find(secret) {
        d.fault(node.at, format!("the secret of key ids is {}", found.what)).hint =
            Some(found.hint.to_owned());
        return None;
    }
    if secret.len() < ID_SECRET_LENGTH {
        let message = match secret.is_empty() {
            true => "the secret of key ids is empty".to_owned(),
            false => format!("the secret of key ids has less than {ID_SECRET_LENGTH} characters"),
        };
        d.fault(node.at, message).hint = Some("`openssl rand -hex 32` makes one".to_owned());
        return None;
    }
    // What machines make has more of them, but for one in some hundreds of random digits.
    let characters: BTreeSet<char> = secret.chars().collect();
    if characters.len() < LEAST_CHARACTERS {
        let message = format!("the secret of key ids has less than {LEAST_CHARACTERS} different characters");
        d.fault(node.at, message).hint = Some("`openssl rand -hex 32` makes one".to_owned());
        return None;
    }
    Some(SecretValue::new(secret, file))
}

const CONFLICTS: [(&str, Conflict); 2] = [("refuse", Conflict::Refuse), ("any", Conflict::Any)];

pub(super) fn auth(d: &mut Decoder<'_>, node: &Node) -> Option<Auth> {
    let mut fields = d.fields(node, "auth")?;
    let f = &mut fields;
    let default = Auth::default();
    let auth = Auth {
        headers: d
            .optional(f, "headers", |d, node| non_empty(d, node, key_header))
            .unwrap_or(default.headers),
        conflict: d.optional(f, "conflict", |d, node| d.one_of(node, &CONFLICTS)).unwrap_or(default.conflict),
        basic: d.optional(f, "basic", Decoder::boolean).unwrap_or(default.basic),
        websocket_protocol: d
            .optional(f, "websocket_protocol", Decoder::boolean)
            .unwrap_or(default.websocket_protocol),
    };
    d.done(fields);
    Some(auth)
}

/// A header that a key may stand in: none that has another meaning, since all of them are taken away from the request.
fn key_header(d: &mut Decoder<'_>, node: &Node) -> Option<HeaderName> {
    const TAKEN: [HeaderName; 3] = [COOKIE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL];
    let name = header_name(d, node)?;
    if TAKEN.contains(&name) || has_other_meaning(&name) {
        let hint = match name == SEC_WEBSOCKET_PROTOCOL {
            true => "`websocket_protocol: true` takes a key from it",
            false => "as in authorization or x-api-key",
        };
        d.fault(node.at, format!("`{name}` has another meaning: no key stands there")).hint =
            Some(hint.to_owned());
        return None;
    }
    Some(name)
}

/// Whether a header says where a request goes, where it ends or what is in it, or is one that bearward itself says: who
/// calls, for whom, and in which request. No secret stands in one of these, in any spelling that folds to it.
pub(super) fn has_other_meaning(name: &HeaderName) -> bool {
    const OURS: [&str; 2] = ["x-bearward-", "x-forwarded-"];
    const TAKEN: [&str; 21] = [
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "max-forwards",
        "proxy-connection",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-forwarded",
        "x-real-ip",
        "x-request-id",
    ];
    let is_plain = |c: char| c.is_ascii_alphanumeric();
    let folded: String = name.as_str().chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
    TAKEN.contains(&folded.as_str()) || OURS.iter().any(|prefix| folded.starts_with(prefix))
}

/// Whether a token is a name that headers and protocols have. `*` and `|` are tokens, too (RFC 9110, section 5.6.2), by which
/// other programs mean several names.
pub(super) fn is_ordinary(token: &str) -> bool {
    token.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

pub(super) fn header_name(d: &mut Decoder<'_>, node: &Node) -> Option<HeaderName> {
    let name: HeaderName = d.parsed(node, "a header's name", "as in authorization or x-api-key")?;
    if !is_ordinary(name.as_str()) {
        d.fault(node.at, format!("`{name}` is no header's name: nothing stands for others in it")).hint =
            Some("each name by itself, as in [x-debug, x-trace]".to_owned());
        return None;
    }
    Some(name)
}
