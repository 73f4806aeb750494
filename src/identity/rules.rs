//! What the configuration says of identities, compiled: which holders there are, and what each may do.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::denied::Denied;
use super::json::{Json, Object};
use super::source::Source;
use crate::config::{Algorithm, Condition, Identity, Issuer};
use crate::glob;
use crate::keys::Terms;
use crate::keys::id_secret::IdSecret;
use crate::permission::Permissions;

/// What the configuration says of identities.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// Distinguishes these rules from all others of the process. What was judged by other rules is judged again.
    pub(super) number: u64,
    pub(super) issuers: Vec<Trusted>,
    pub(super) certificates: Vec<Rule>,
    pub(super) denied: Arc<ArcSwap<Denied>>,
    /// The file of denied tokens.
    pub(super) deny: Option<PathBuf>,
    /// Makes the ids of holders; `None` if there are no identities.
    pub(super) ids: Option<Arc<IdSecret>>,
}

/// An issuer whose tokens are accepted.
#[derive(Debug)]
pub(super) struct Trusted {
    pub(super) issuer: Issuer,
    pub(super) name: Path,
    pub(super) source: Arc<Source>,
    pub(super) rules: Vec<Rule>,
}

/// An identity: what has to hold, and what its holder may do then.
#[derive(Debug)]
pub(super) struct Rule {
    conditions: Vec<(Path, Vec<String>)>,
    pub(super) permissions: Permissions,
    /// Shared by all holders.
    pub(super) terms: Arc<Terms>,
}

/// The place of a claim: its name, or a path of names (RFC 6901) if it begins with `/`.
#[derive(Debug)]
pub(super) struct Path(Vec<String>);

impl Path {
    pub(super) fn of(written: &str) -> Self {
        let name = |name: &str| name.replace("~1", "/").replace("~0", "~");
        match written.strip_prefix('/') {
            Some(names) => Path(names.split('/').map(name).collect()),
            None => Path(vec![written.to_owned()]),
        }
    }

    pub(super) fn find<'c>(&self, claims: &'c Object) -> Option<&'c Json> {
        let (first, rest) = self.0.split_first()?;
        rest.iter().try_fold(claims.get(first)?, |value, name| value.at(name))
    }
}

impl Rules {
    /// Whether tokens identify anybody.
    pub(crate) fn accept_tokens(&self) -> bool {
        !self.issuers.is_empty()
    }

    /// Whether client certificates identify anybody.
    pub(crate) fn accept_certificates(&self) -> bool {
        !self.certificates.is_empty()
    }

    /// Returns the id of a holder, by what identifies it.
    pub(super) fn id_of(&self, prefix: &str, identified_by: &[&str]) -> String {
        self.ids.as_ref().map(|ids| ids.holder_id(prefix, identified_by)).unwrap_or_default()
    }
}

impl Trusted {
    pub(super) fn accepts(&self, algorithm: Algorithm) -> bool {
        self.issuer.algorithms.contains(&algorithm)
    }
}

impl Rule {
    pub(super) fn new(identity: &Identity) -> Self {
        let Identity {
            when,
            permissions,
            group,
            rate_limits,
            budgets,
            max_concurrent,
            routes,
            models,
            request,
            priority,
            weight,
        } = identity.clone();
        let conditions =
            when.0.into_iter().map(|Condition { name, patterns }| (Path::of(&name), patterns)).collect();
        let terms = Terms {
            group,
            rate_limits,
            budgets,
            max_concurrent,
            routes,
            models,
            request,
            priority,
            weight,
            ..Terms::default()
        };
        Rule { conditions, permissions, terms: Arc::new(terms) }
    }

    /// Whether the claims of a token fulfil all conditions. Of a claim that is a list, one item has to match.
    pub(super) fn holds_for(&self, claims: &Object) -> bool {
        let matches = |value: &Json, patterns: &[String]| {
            value
                .shown()
                .is_some_and(|text| patterns.iter().any(|pattern| glob::matches(pattern, &text, false)))
        };
        self.conditions.iter().all(|(path, patterns)| match path.find(claims) {
            Some(Json::List(items)) => items.iter().any(|item| matches(item, patterns)),
            Some(value) => matches(value, patterns),
            None => false,
        })
    }

    /// Returns the name of a certificate that fulfils the first condition, if its names fulfil all of them.
    /// `names`: its names of a kind.
    pub(super) fn name_among<'n, N>(&self, names: impl Fn(&str) -> N) -> Option<&'n str>
    where
        N: Iterator<Item = &'n str>,
    {
        let mut found = self.conditions.iter().map(|(Path(kind), patterns)| {
            let kind = kind.first().map(String::as_str).unwrap_or_default();
            // DNS names have no case (RFC 4343).
            let ignores_case = kind == "dns";
            let is_meant =
                |name: &&str| patterns.iter().any(|pattern| glob::matches(pattern, name, ignores_case));
            names(kind).find(is_meant)
        });
        let first = found.next()??;
        found.all(|name| name.is_some()).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// Returns the conditions of an identity as a rule.
    fn rule(when: &str) -> Rule {
        let source = format!(
            "listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:1]}}]\n\
             keys: {{path: k.yaml}}\nauth:\n  jwt:\n    - issuer: https://a\n      audience: m\n      identities:\n        \
             - {{when: {when}, permissions: [read]}}\n"
        );
        let config = Config::parse("b.yaml".as_ref(), &source, &|_| None).unwrap();
        Rule::new(&config.auth.jwt[0].identities[0])
    }

    #[test]
    fn all_conditions_have_to_hold_for_one_value_each() {
        let claims = Object::parse(
            br#"{"sub":"system:serviceaccount:evals:runner","groups":["a","b"],"ok":true,"level":3,
                "kubernetes.io":{"namespace":"evals","pod":{"name":"x/y"}},"none":null,"deep":{"x":"y"}}"#,
        )
        .unwrap();
        for (when, holds) in [
            ("{sub: \"system:serviceaccount:evals:*\"}", true),
            ("{sub: \"system:serviceaccount:evals:\"}", false),
            ("{sub: [x, \"*:runner\"]}", true),
            ("{sub: \"*\", groups: b}", true),
            ("{sub: \"*\", groups: c}", false),
            ("{groups: \"a,b\"}", false),
            ("{ok: true}", true),
            ("{ok: \"true\"}", true),
            ("{level: 3}", true),
            ("{missing: \"*\"}", false),
            ("{none: \"*\"}", false),
            ("{deep: \"*\"}", false),
            ("{kubernetes.io: \"*\"}", false),
            ("{/kubernetes.io/namespace: evals}", true),
            ("{/kubernetes.io/namespace: evals2}", false),
            ("{/kubernetes.io/pod/name: \"x/y\"}", true),
            ("{/groups/1: b}", true),
            ("{/groups/2: \"*\"}", false),
            ("{SUB: \"*\"}", false),
        ] {
            assert_eq!(rule(when).holds_for(&claims), holds, "{when}");
        }
    }
}
