//! The paths of the admin listener, and the methods that each path accepts.

use http::Method;

/// A liveness or readiness probe. A probe needs no credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// The probe that succeeds while the process runs, whatever the state of its upstreams.
    Live,
    /// The probe that succeeds while the server is ready for requests.
    Ready,
}

/// The resource at a path of the admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AdminPath {
    Probe(Probe),
    /// The status page.
    Page,
    /// The page of the key with this id.
    KeyPage(String),
    Metrics,
    OpenApi,
    Status,
    Refusals,
    /// The refusals by kind.
    RefusalKinds,
    Usage,
    Events,
    Reload,
    Keys,
    /// The key with this id. The values of `Trend`, `Rotate` and `Revoke` are key ids, too.
    Key(String),
    Trend(String),
    Rotate(String),
    Revoke(String),
}

impl AdminPath {
    pub(super) fn find(path: &str) -> Option<Self> {
        let of_key = |rest: &str| {
            let (id, action) = rest.split_once('/').map_or((rest, None), |(id, action)| (id, Some(action)));
            match action {
                _ if id.is_empty() => None,
                None => Some(AdminPath::Key(id.to_owned())),
                Some("trend") => Some(AdminPath::Trend(id.to_owned())),
                Some("rotate") => Some(AdminPath::Rotate(id.to_owned())),
                Some("revoke") => Some(AdminPath::Revoke(id.to_owned())),
                Some(_) => None,
            }
        };
        Some(match path {
            "/" => AdminPath::Page,
            "/livez" | "/healthz" => AdminPath::Probe(Probe::Live),
            "/readyz" => AdminPath::Probe(Probe::Ready),
            "/metrics" => AdminPath::Metrics,
            "/api/openapi.json" => AdminPath::OpenApi,
            "/api/v1/status" => AdminPath::Status,
            "/api/v1/refusals" => AdminPath::Refusals,
            "/api/v1/refusals/kinds" => AdminPath::RefusalKinds,
            "/api/v1/usage" => AdminPath::Usage,
            "/api/v1/events" => AdminPath::Events,
            "/api/v1/reload" => AdminPath::Reload,
            "/api/v1/keys" => AdminPath::Keys,
            _ => match path.strip_prefix("/keys/") {
                Some(id) if id.is_empty() || id.contains('/') => return None,
                Some(id) => AdminPath::KeyPage(id.to_owned()),
                None => of_key(path.strip_prefix("/api/v1/keys/")?)?,
            },
        })
    }

    /// Returns the methods that the path accepts, as the value of the header `Allow`.
    pub(super) fn methods(&self) -> &'static str {
        match self {
            AdminPath::Reload | AdminPath::Rotate(_) | AdminPath::Revoke(_) => "POST",
            AdminPath::Keys => "GET, HEAD, POST",
            AdminPath::Key(_) => "GET, HEAD, DELETE",
            _ => "GET, HEAD",
        }
    }

    pub(super) fn takes(&self, method: &Method) -> bool {
        self.methods().split(", ").any(|known| known == method.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_describes_these_paths_and_methods() {
        let document: serde_json::Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert!(paths.len() > 12);
        for (path, item) in paths {
            let found = AdminPath::find(&path.replace("{id}", "key_a")).unwrap_or_else(|| panic!("{path}"));
            let described =
                ["get", "post", "delete", "put"].into_iter().filter(|method| item.get(method).is_some());
            let described: Vec<String> = described.map(str::to_uppercase).collect();
            let taken: Vec<&str> = found.methods().split(", ").filter(|method| *method != "HEAD").collect();
            assert_eq!(described, taken, "{path}");
        }
    }

    #[test]
    fn paths_are_found_whole_or_not_at_all() {
        assert_eq!(AdminPath::find("/api/v1/keys/key_a"), Some(AdminPath::Key("key_a".to_owned())));
        assert_eq!(AdminPath::find("/api/v1/keys/key_a/revoke"), Some(AdminPath::Revoke("key_a".to_owned())));
        assert_eq!(AdminPath::find("/keys/key_a"), Some(AdminPath::KeyPage("key_a".to_owned())));
        for nothing in [
            "",
            "//",
            "/api/v1/keys/",
            "/api/v1/keys/a/b",
            "/api/v1/keys//rotate",
            "/keys/",
            "/keys/a/b",
            "/livez/",
            "/api/v1",
        ] {
            assert_eq!(AdminPath::find(nothing), None, "{nothing}");
        }
        assert!(AdminPath::Keys.takes(&Method::POST) && !AdminPath::Reload.takes(&Method::GET));
    }
}
