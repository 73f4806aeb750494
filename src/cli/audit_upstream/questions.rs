//! What a model server is asked, path by path.
//!
//! Invariant: no question has an effect. A path that is only read is asked with GET. A path that operates the
//! server is asked with PATCH, which no model server implements there: its answer tells whether the key is looked
//! at before the method. A path that generates is asked with a body that is no JSON, which no server can act on.

use std::collections::BTreeMap;

use http::Method;

use crate::config::Access;
use crate::config::presets::{KnownPath, Preset, known_paths};
use crate::permission::Permission;

/// A request without a key.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) body: Option<&'static str>,
    pub(super) purpose: Purpose,
}

/// What a path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    /// It operates the server: loads models or weights, or shows the requests of others.
    Operates,
    /// It generates, or changes data.
    Works,
    /// It reads.
    Reads,
}

impl Purpose {
    pub(super) fn name(self) -> &'static str {
        match self {
            Purpose::Operates => "operates the server",
            Purpose::Works => "generates or changes",
            Purpose::Reads => "reads",
        }
    }
}

/// A body that is no JSON.
const NO_JSON: &str = "{";

/// Paths at which a GET has an effect: it generates.
const GETS_WITH_EFFECT: [&str; 1] = ["/health_generate"];

/// What presets say of a path, together.
#[derive(Debug, Default)]
struct Known {
    /// Whether every method may have an effect.
    has_all_methods: bool,
    methods: Vec<Method>,
    /// The permission that it needs; the one that operates the server, if presets differ. `None` if it needs none.
    permission: Option<Permission>,
}

/// Returns the questions about these kinds of servers, those that matter most first.
pub(super) fn about(presets: &[Preset]) -> Vec<Question> {
    let mut by_path: BTreeMap<&'static str, Known> = BTreeMap::new();
    for KnownPath { path, methods, access } in presets.iter().flat_map(|preset| known_paths(*preset)) {
        let known = by_path.entry(path).or_default();
        known.has_all_methods |= methods.is_empty();
        known.methods.extend(methods.iter().cloned());
        if let Access::Needs(permission) = access {
            known.permission = match known.permission {
                Some(Permission::Admin) => Some(Permission::Admin),
                _ => Some(permission),
            };
        }
    }
    let mut questions: Vec<Question> =
        by_path.into_iter().filter_map(|(path, known)| question(path, &known)).collect();
    questions.sort_by_key(|question| (question.purpose, question.path));
    questions
}

/// Returns how to ask about a path; `None` if no question about it is harmless, or if it needs no key.
fn question(path: &'static str, known: &Known) -> Option<Question> {
    let Known { has_all_methods, methods, permission } = known;
    let permission = (*permission)?;
    // Paths of gRPC: `/package.Service/Method`.
    let is_grpc = path.trim_start_matches('/').split('/').next().is_some_and(|first| first.contains('.'));
    if is_grpc || *has_all_methods || methods.contains(&Method::PATCH) {
        return None;
    }
    let is_get = methods.iter().all(|method| method == Method::GET);
    let purpose = match permission {
        Permission::Admin | Permission::Webhook => Purpose::Operates,
        _ if is_get => Purpose::Reads,
        _ => Purpose::Works,
    };
    let (method, body) = match purpose {
        _ if is_get && !GETS_WITH_EFFECT.contains(&path) => (Method::GET, None),
        Purpose::Works if permission == Permission::Read && methods.contains(&Method::POST) => {
            (Method::POST, Some(NO_JSON))
        }
        _ => (Method::PATCH, None),
    };
    Some(Question { method, path, body, purpose })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Preset> {
        let presets = Preset::ALL.iter().map(|(_, preset)| *preset);
        presets.filter(|preset| *preset != Preset::Any).collect()
    }

    #[test]
    fn no_question_has_an_effect() {
        let each = all().into_iter().map(|preset| vec![preset]);
        for presets in each.chain([all()]) {
            let questions = about(&presets);
            assert!(questions.len() > 5, "{presets:?}");
            for question in questions {
                let known = presets.iter().flat_map(|preset| known_paths(*preset));
                let of_path = known.filter(|known| known.path == question.path);
                let methods: Vec<Method> = of_path.flat_map(|known| known.methods.to_vec()).collect();
                match (&question.method, question.body) {
                    (&Method::GET, None) => {
                        assert!(methods.iter().all(|method| method == Method::GET));
                        assert!(!GETS_WITH_EFFECT.contains(&question.path));
                    }
                    (&Method::PATCH, None) => assert!(!methods.contains(&Method::PATCH), "{question:?}"),
                    (&Method::POST, Some(NO_JSON)) => assert!(question.purpose == Purpose::Works),
                    other => panic!("{presets:?} {question:?} {other:?}"),
                }
                assert!(!question.path.contains(['*', '{']), "{question:?}");
            }
        }
    }

    #[test]
    fn what_operates_a_server_is_asked_first_and_never_by_its_own_method() {
        let questions = about(&[Preset::Vllm]);
        let asked = |path: &str| questions.iter().find(|question| question.path == path).unwrap();
        assert_eq!((&asked("/pause").method, asked("/pause").body), (&Method::PATCH, None));
        assert_eq!(asked("/v1/chat/completions").body, Some(NO_JSON));
        assert_eq!(asked("/v1/models").method, Method::GET);
        assert_eq!(questions.first().unwrap().purpose, Purpose::Operates);
        // A GET has an effect there.
        let sglang = about(&[Preset::SgLang]);
        for path in ["/flush_cache", "/health_generate"] {
            let question = sglang.iter().find(|question| question.path == path).unwrap();
            assert_eq!(question.method, Method::PATCH, "{path}");
        }
    }
}
