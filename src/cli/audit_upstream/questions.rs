//! What a model server is asked, path by path.
//!
//! Invariant: no question has an effect. A path that operates the server is asked with PATCH, which no model
//! server implements there: its answer tells whether the key is looked at before the method. A path that
//! generates is asked with a body that is no JSON, which no server can act on.

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

/// Returns the questions about a kind of server, those that matter most first.
pub(super) fn about(preset: Preset) -> Vec<Question> {
    let mut questions: Vec<Question> = known_paths(preset).filter_map(question).collect();
    questions.sort_by_key(|question| (question.purpose, question.path));
    questions.dedup_by(|one, other| (&one.method, one.path) == (&other.method, other.path));
    questions
}

/// Returns how to ask about a path; `None` if no question about it is harmless, or if it needs no key.
fn question(known: KnownPath) -> Option<Question> {
    let KnownPath { path, methods, access } = known;
    let permission = match access {
        Access::Needs(permission) => permission,
        Access::Public => return None,
    };
    // Paths of gRPC: `/package.Service/Method`.
    let is_grpc = path.trim_start_matches('/').split('/').next().is_some_and(|first| first.contains('.'));
    if is_grpc || methods.is_empty() || methods.contains(&Method::PATCH) {
        return None;
    }
    let is_get = methods == [Method::GET];
    let purpose = match permission {
        Permission::Admin | Permission::Webhook => Purpose::Operates,
        _ if is_get => Purpose::Reads,
        _ => Purpose::Works,
    };
    let (method, body) = match purpose {
        _ if is_get => (Method::GET, None),
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

    #[test]
    fn no_question_has_an_effect() {
        let presets = Preset::ALL.iter().map(|(_, preset)| *preset);
        for preset in presets {
            let questions = about(preset);
            assert!(preset == Preset::Any || questions.len() > 5, "{preset:?}");
            for question in questions {
                let known: Vec<KnownPath> =
                    known_paths(preset).filter(|known| known.path == question.path).collect();
                match (&question.method, question.body) {
                    (&Method::GET, None) => assert!(known.iter().any(|known| known.methods == [Method::GET])),
                    (&Method::PATCH, None) => {
                        assert!(!known.iter().any(|known| known.methods.contains(&Method::PATCH)));
                    }
                    (&Method::POST, Some(NO_JSON)) => assert!(question.purpose == Purpose::Works),
                    other => panic!("{preset:?} {question:?} {other:?}"),
                }
            }
        }
    }

    #[test]
    fn what_operates_a_server_is_asked_first_and_never_by_its_own_method() {
        let questions = about(Preset::Vllm);
        let asked = |path: &str| questions.iter().find(|question| question.path == path).unwrap();
        assert_eq!((&asked("/pause").method, asked("/pause").body), (&Method::PATCH, None));
        assert_eq!(asked("/v1/chat/completions").body, Some(NO_JSON));
        assert_eq!(asked("/v1/models").method, Method::GET);
        assert_eq!(questions.first().unwrap().purpose, Purpose::Operates);
        // A GET has an effect there.
        let sglang = about(Preset::SgLang);
        let flush = sglang.iter().find(|question| question.path == "/flush_cache").unwrap();
        assert_eq!(flush.method, Method::PATCH);
    }
}
