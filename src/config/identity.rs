//! `identities` and `certificates`: what a token's claims or a certificate's names have to be, and what its
//! holder may do then.

use serde_json::json;

use crate::config::budget::{BudgetQuota, budgets};
use crate::config::decode::Decoder;
use crate::config::form::{Form, non_empty, number, one_of, text, word};
use crate::config::group::group_name;
use crate::config::model::{OutputCap, models};
use crate::config::queue::Priority;
use crate::config::quota::{Quota, quotas, rate_limits};
use crate::config::section::{nested, section};
use crate::config::tree::{Kind, Node};
use crate::model::ModelPatterns;
use crate::permission::{Permission, Permissions};

section! {
    /// An identity: what a token or a certificate has to say of its holder, and what the holder may do. The
    /// limits hold for each holder, and those of a group for all of its members together.
    #[derive(Clone, Debug)]
    pub(crate) struct Identity in "an identity" {
        /// What has to hold, all of it: the name of a claim, or `subject`, `dns`, `uri` or `email` of a
        /// certificate, with a pattern or a list of patterns. `*` stands for any characters.
        when: Conditions = conditions().required();
        /// What the holder may do.
        permissions: Permissions = permissions().required();
        /// The group whose limits, models and caps hold for the holder, too.
        group: Option<String> = text(group_name).optional().narrowing();
        /// Rate limits of each holder; `none`: not even the default ones. Left out: the default ones.
        rate_limits: Option<Vec<Quota>> = own_rate_limits().optional().narrowing();
        /// Budgets of each holder. They need `state`, or `shared`.
        budgets: Option<Vec<BudgetQuota>> = budgets().optional().narrowing();
        /// The number of requests of each holder in flight at once.
        max_concurrent: Option<u32> = number(1).optional().narrowing();
        /// The names of the routes that the holder may use. Left out: all routes.
        routes: Option<Vec<String>> = non_empty(word()).optional().narrowing();
        /// Patterns of the models that the holder may use, as in llama-3*. Left out: all models.
        models: Option<ModelPatterns> = models().optional().narrowing();
        /// How much output a request of the holder may ask for.
        request: Option<OutputCap> = nested().optional().narrowing();
        /// The class of the holder's requests in a queue. Left out: that of the group, or `standard`.
        priority: Option<Priority> = one_of(&Priority::WORDS).optional().narrowing();
        /// The share of the holder within its class. Left out: that of the group, or 1.
        weight: Option<u32> = number(1).optional().narrowing();
    }
}

/// The word for no rate limits at all.
const NO_LIMITS: &str = "none";

/// Conditions on what is said of a holder. All of them have to hold. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conditions(pub(crate) Vec<Condition>);

/// A condition: one of the values of `name` matches one of the patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// A claim, a path of names in claims (RFC 6901), or the kind of a certificate's name.
    pub(crate) name: String,
    pub(crate) patterns: Vec<String>,
}

/// The kinds of a certificate's names.
pub(crate) const NAMES_OF_CERTIFICATES: [&str; 4] = ["subject", "dns", "uri", "email"];

/// Returns the `Form` of conditions: a map of names to a pattern or a list of patterns.
fn conditions() -> Form<Conditions> {
    let schema = || {
        let pattern = json!({"type": ["string", "boolean", "number"]});
        json!({
            "type": "object", "minProperties": 1,
            "additionalProperties": {"anyOf": [pattern, {"type": "array", "items": pattern, "minItems": 1}]},
        })
    };
    Form::new(decode_conditions, schema)
}

fn decode_conditions(d: &mut Decoder<'_>, node: &Node) -> Option<Conditions> {
    const HINT: &str = "as in {sub: \"system:serviceaccount:evals:*\"}";
    let Kind::Map(entries) = &node.kind else {
        return d.hinted(node.at, "conditions are a map of claims or names to patterns", HINT);
    };
    if entries.is_empty() {
        return d.hinted(node.at, "without a condition, everybody would be this identity", HINT);
    }
    let before = d.faults.len();
    d.report_repeated(entries);
    let mut conditions = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        if key.name.trim().is_empty() {
            d.fault(key.at, "a condition needs the name of a claim, or of a certificate's names");
            continue;
        }
        let patterns = match &value.kind {
            Kind::List(items) if items.is_empty() => {
                d.hinted(value.at, format!("no pattern for `{}`, so nobody matches", key.name), HINT)
            }
            Kind::List(_) => d.list(value, pattern),
            _ => pattern(d, value).map(|pattern| vec![pattern]),
        };
        conditions.extend(patterns.map(|patterns| Condition { name: key.name.clone(), patterns }));
    }
    (d.faults.len() == before).then_some(Conditions(conditions))
}

fn pattern(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    if node.is_null() {
        return d.hinted(node.at, "a condition without a pattern", "\"*\" stands for any value");
    }
    let pattern = d.word(node)?;
    if pattern.starts_with('!') {
        return d.hinted(node.at, "a pattern here takes nothing out", "`deny` refuses single holders");
    }
    let is_from_variable = matches!(&node.kind, Kind::Scalar { text, .. } if text.contains("${"));
    if is_from_variable && pattern.bytes().all(|byte| byte == b'*') {
        return d.hinted(node.at, "without its variable, this pattern means everybody", "set the variable");
    }
    match pattern.trim() == pattern && !pattern.contains(char::is_control) {
        true => Some(pattern),
        false => d.hinted(
            node.at,
            "a pattern with white space around it, or with control characters",
            "as in \"spiffe://cluster/ns/evals/*\"",
        ),
    }
}

fn permissions() -> Form<Permissions> {
    non_empty(one_of(&Permission::ALL)).then(|_, _, permissions| Some(permissions.into_iter().collect()))
}

/// Returns the `Form` of the rate limits of an identity, or `none`.
fn own_rate_limits() -> Form<Vec<Quota>> {
    let schema = || json!({"anyOf": [{"const": NO_LIMITS}, rate_limits().schema()]});
    Form::new(
        |d, node| match node.is_scalar(NO_LIMITS) {
            true => Some(Vec::new()),
            false => quotas(d, node),
        },
        schema,
    )
}

/// Returns the `Form` of the identities of an issuer's tokens.
pub(super) fn identities() -> Form<Vec<Identity>> {
    non_empty(nested::<Identity>()).then(|d, node, identities| {
        for (number, identity) in identities.iter().enumerate() {
            let at = node.item(number).map_or(node.at, |item| item.position_of("when"));
            for Condition { name, .. } in &identity.when.0 {
                if name.starts_with('/') && !is_pointer(name) {
                    return d.hinted(at, format!("`{name}` is no path of names in a token"), POINTER_HINT);
                }
            }
        }
        Some(identities)
    })
}

/// Decodes the name of a claim, or a path of names in claims.
pub(super) fn claim(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let name = d.word(node)?;
    match name.starts_with('/') && !is_pointer(&name) {
        true => d.hinted(node.at, format!("`{name}` is no path of names in a token"), POINTER_HINT),
        false => Some(name),
    }
}

const POINTER_HINT: &str = "as in /kubernetes.io/namespace; `~1` stands for a `/` in a name, `~0` for `~`";

/// Whether a text is a JSON Pointer (RFC 6901, section 3) to something within a document.
fn is_pointer(text: &str) -> bool {
    let is_sound =
        |name: &str| !name.is_empty() && name.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    text.strip_prefix('/').is_some_and(|names| names.split('/').all(is_sound))
}

/// Returns the `Form` of the identities of client certificates.
pub(super) fn certificate_identities() -> Form<Vec<Identity>> {
    non_empty(nested::<Identity>()).then(|d, node, identities| {
        for (number, identity) in identities.iter().enumerate() {
            let at = node.item(number).map_or(node.at, |item| item.position_of("when"));
            let is_known = |condition: &&Condition| NAMES_OF_CERTIFICATES.contains(&condition.name.as_str());
            if let Some(unknown) = identity.when.0.iter().find(|condition| !is_known(condition)) {
                let message = format!("certificates have no names of the kind `{}`", unknown.name);
                return d.hinted(at, message, format!("one of: {}", NAMES_OF_CERTIFICATES.join(", ")));
            }
        }
        Some(identities)
    })
}
