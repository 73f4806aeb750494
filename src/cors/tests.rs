//! Tests of CORS policies and of the headers that they write.

use std::time::Duration;

use http::Request;

use super::*;
use crate::web_origin::WebOrigin;

fn cors(origins: &[&str]) -> config::Cors {
    let origins = origins.iter().map(|origin| WebOrigin::parse(origin).unwrap()).collect::<Vec<_>>();
    config::Cors {
        origins: if origins.is_empty() { CorsOrigins::Any } else { CorsOrigins::Listed(origins) },
        methods: None,
        headers: None,
        expose: Vec::new(),
        credentials: false,
        max_age: Duration::from_secs(600),
    }
}

fn policy(cors: &config::Cors) -> CorsPolicy {
    CorsPolicy::new(cors, [Some(&[Method::GET, Method::POST][..])].into_iter())
}

fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

fn shown(policy: &CorsPolicy, request: &HeaderMap, mut answer: HeaderMap) -> HeaderMap {
    policy.answer_to(request).write_to(StatusCode::OK, &mut answer);
    answer
}

#[test]
fn an_origin_is_listed_only_if_every_byte_is_equal() {
    let policy = policy(&cors(&["https://a.example", "http://b.example:3000"]));
    for origin in ["https://a.example", "http://b.example:3000"] {
        let answer = shown(&policy, &headers(&[("origin", origin)]), HeaderMap::new());
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], origin);
    }
    for origin in [
        "http://a.example",
        "https://a.example:443",
        "https://a.example/",
        "https://A.example",
        "https://a.example.evil",
        "https://evil-a.example",
        "https://x.a.example",
        "https://a.example, http://b.example:3000",
        "http://b.example",
        "null",
        "*",
        "",
    ] {
        let answer = shown(&policy, &headers(&[("origin", origin)]), HeaderMap::new());
        assert_eq!(answer, headers(&[("vary", "Origin")]), "{origin}");
    }
    let mut twice = headers(&[("origin", "https://a.example")]);
    twice.append(ORIGIN, HeaderValue::from_static("https://a.example"));
    for request in [twice, HeaderMap::new()] {
        assert!(!policy.lists_origin_of(&request), "{request:?}");
    }
}

#[test]
fn a_star_allows_whatever_is_an_origin() {
    let policy = policy(&cors(&[]));
    for origin in ["https://a.example", "null", "app://x"] {
        let answer = shown(&policy, &headers(&[("origin", origin)]), HeaderMap::new());
        assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], "*", "{origin}");
    }
    for origin in ["", "*", "https://a, https://b", "x"] {
        assert!(!policy.lists_origin_of(&headers(&[("origin", origin)])), "{origin}");
    }
}

#[test]
fn the_upstreams_own_headers_are_replaced_and_its_vary_is_kept() {
    let mut with_credentials = cors(&["https://a.example"]);
    with_credentials.credentials = true;
    with_credentials.expose = vec![HeaderName::from_static("x-own")];
    let policy = policy(&with_credentials);
    let upstream = || {
        headers(&[
            ("vary", "Accept-Encoding"),
            ("access-control-allow-origin", "*"),
            ("access-control-allow-private-network", "true"),
            ("access-control-max-age", "1"),
            ("x-ratelimit-limit-project-tokens", "1"),
            ("ratelimit-limit", "1"),
            ("x-bearward-queued-ms", "1"),
            ("x-other", "1"),
        ])
    };
    let answer = shown(&policy, &headers(&[("origin", "https://a.example")]), upstream());
    assert_eq!(answer[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
    assert_eq!(answer[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
    let varies: Vec<_> = answer.get_all(VARY).iter().collect();
    assert_eq!(varies, ["Accept-Encoding", "Origin"]);
    let exposed = answer[ACCESS_CONTROL_EXPOSE_HEADERS].to_str().unwrap();
    let exposed: Vec<&str> = exposed.split(", ").collect();
    for name in ["x-own", "x-ratelimit-limit-project-tokens", "ratelimit-limit", "x-bearward-queued-ms"] {
        assert!(exposed.contains(&name), "{name}: {exposed:?}");
    }
    assert!(EXPOSED.iter().all(|name| exposed.contains(name)) && !exposed.contains(&"x-other"));
    assert!(!answer.contains_key("access-control-max-age"));

    let unlisted = shown(&policy, &HeaderMap::new(), upstream());
    assert!(unlisted.keys().all(|name| !name.as_str().starts_with("access-control-")), "{unlisted:?}");
    for vary in ["origin", "Accept, ORIGIN", "*"] {
        let answer = shown(&policy, &HeaderMap::new(), headers(&[("vary", vary)]));
        assert_eq!(answer.get_all(VARY).iter().count(), 1, "{vary}");
    }
    let mut switching = upstream();
    policy.answer_to(&HeaderMap::new()).write_to(StatusCode::SWITCHING_PROTOCOLS, &mut switching);
    assert_eq!(switching[VARY], "Accept-Encoding");
    assert!(!switching.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
}

#[test]
fn a_preflight_repeats_the_headers_that_it_asks_for_if_they_are_names() {
    let policy = policy(&cors(&["https://a.example"]));
    let allowed = |asked: &[&str]| {
        let mut request = headers(&[("origin", "https://a.example")]);
        for value in asked {
            request.append(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_str(value).unwrap());
        }
        let answer = policy.preflight(&request, &Method::POST).unwrap();
        answer.headers().get(ACCESS_CONTROL_ALLOW_HEADERS).map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(allowed(&["authorization,content-type"]).unwrap(), "authorization, content-type");
    assert_eq!(allowed(&["Authorization", "x-a"]).unwrap(), "authorization, x-a");
    for bad in ["", "a b", "authorization,", "a;b", "a\u{e9}"] {
        assert_eq!(allowed(&[bad]), None, "{bad:?}");
    }
    assert_eq!(allowed(&[]), None);
    assert!(allowed(&["x".repeat(LONGEST_REPEATED).as_str()]).is_some());
    assert_eq!(allowed(&["x".repeat(LONGEST_REPEATED + 1).as_str()]), None);
}

#[test]
fn a_preflight_lists_the_methods_of_the_routes() {
    let request = headers(&[("origin", "https://a.example")]);
    let methods = |cors: &config::Cors, routes: &[Option<&[Method]>], asked: Method| {
        let policy = CorsPolicy::new(cors, routes.iter().copied());
        let answer = policy.preflight(&request, &asked).unwrap();
        answer.headers().get(ACCESS_CONTROL_ALLOW_METHODS).map(|value| value.to_str().unwrap().to_owned())
    };
    let mut cors = cors(&["https://a.example"]);
    let (get, post) = (Some(&[Method::GET][..]), Some(&[Method::POST][..]));
    assert_eq!(methods(&cors, &[post, get, post], Method::PUT).unwrap(), "GET, HEAD, POST");
    assert_eq!(methods(&cors, &[post, None], Method::PUT).unwrap(), "PUT");
    assert_eq!(methods(&cors, &[], Method::PUT), None);
    cors.methods = Some(vec![Method::DELETE]);
    assert_eq!(methods(&cors, &[get], Method::PUT).unwrap(), "DELETE");
}

#[test]
fn a_preflight_is_known_by_its_headers() {
    let asked = |method: &str, fields: &[(&str, &str)]| {
        let request = fields
            .iter()
            .fold(Request::builder().method(method), |request, (name, value)| request.header(*name, *value));
        preflighted_method(&request.body(()).unwrap().into_parts().0)
    };
    let (origin, method) = (("origin", "x"), ("access-control-request-method", "PUT"));
    assert_eq!(asked("OPTIONS", &[origin, method]), Some(Method::PUT));
    for (of, fields) in [
        ("GET", &[origin, method][..]),
        ("OPTIONS", &[origin]),
        ("OPTIONS", &[method]),
        ("OPTIONS", &[origin, method, method]),
        ("OPTIONS", &[origin, origin, method]),
        ("OPTIONS", &[origin, ("access-control-request-method", "a b")]),
        ("OPTIONS", &[origin, ("access-control-request-method", "")]),
        ("OPTIONS", &[origin, ("access-control-request-method", "X".repeat(LONGEST_METHOD + 1).as_str())]),
    ] {
        assert_eq!(asked(of, fields), None, "{of} {fields:?}");
    }
}
