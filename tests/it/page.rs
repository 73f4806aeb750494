//! The status page: who gets it, what it holds without a script, and what a hostile caller can put there.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::harness::{Answer, Gateway, Raw, Running, Upstream, answer_of, until};

const TOKEN: &str = "the-admin-token";

async fn asked(gateway: &Running, request_line: &str, headers: &str) -> Answer {
    let mut raw = Raw::connect(gateway.admin).await;
    raw.send(format!("{request_line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")).await;
    raw.answer().await
}

async fn page(gateway: &Running, target: &str) -> String {
    let answer = asked(gateway, &format!("GET {target}"), "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
    String::from_utf8(answer.body).unwrap()
}

fn challenges_of(answer: &Answer) -> Vec<&str> {
    let named = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("www-authenticate"));
    named.map(|(_, value)| value.as_str()).collect()
}

#[tokio::test]
async fn it_has_what_the_api_has_without_a_script() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key(
            "checkout",
            "permissions: [read], rate_limits: [{requests: 7, per: 1h, burst: 7}], max_concurrent: 3",
        )
        .start()
        .await;
    assert!(page(&gateway, "/").await.contains("not asked yet"), "nothing is known of the endpoint");
    for _ in 0..2 {
        assert_eq!(gateway.get("/v1/models", "checkout").await.status, 200);
    }
    gateway.get("/v1/files", "checkout").await;
    gateway.get("/nowhere", "checkout").await;
    // The data of keys may be a moment old: as old as it pays to read all of them again.
    for part in [
        "<b class=\"good\">Ready</b>",
        "<b>checkout</b>",
        "4 of 7 left at once",
        "in flight: 0 of 3",
        "<span class=\"good\">healthy</span>",
        "Refusals: 1",
        "ROUTE_NOT_FOUND",
        "GET /nowhere",
        "New key",
    ] {
        until(part, async || page(&gateway, "/").await.contains(part)).await;
    }
    assert!(!page(&gateway, "/").await.contains("bwk_"), "no secret");
}

#[tokio::test]
async fn what_others_chose_is_text() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway =
        Gateway::guarding(&upstream).key("<img src=x onerror=alert(1)>", "permissions: [read]").start().await;
    gateway.get("/%3Cimg'onerror=\"alert(2)\"{{7*7}}", "<img src=x onerror=alert(1)>").await;
    gateway.get(&format!("/{}", "long/".repeat(1000)), "<img src=x onerror=alert(1)>").await;
    let page = page(&gateway, "/").await;
    assert!(!page.contains("<img"), "{page}");
    assert!(page.contains("<b>&#60;img src=x onerror=alert(1)&#62;</b>"), "{page}");
    assert!(page.contains("GET /%3Cimg&#39;onerror=%22alert(2)%22"), "{page}");
    assert!(page.contains("GET /long/") && !page.contains(&"long/".repeat(20)), "cut short");
}

#[tokio::test]
async fn nothing_runs_on_it_but_its_own_script() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").start().await;
    let answer = asked(&gateway, "GET /", "").await;
    let policy = answer.header("content-security-policy").unwrap().to_owned();
    let html = String::from_utf8(answer.body.clone()).unwrap();
    for tag in ["style", "script"] {
        let (_, rest) = html.split_once(&format!("<{tag}>")).unwrap();
        let (content, _) = rest.split_once(&format!("</{tag}>")).unwrap();
        let hash = STANDARD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content.as_bytes()));
        assert!(policy.contains(&format!("{tag}-src 'sha256-{hash}';")), "{tag}: {policy}");
    }
    for part in ["default-src 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(html.matches("http://").count(), 1, "the endpoint's address alone: {html}");
}

#[tokio::test]
async fn a_browser_off_loopback_is_asked_for_the_token_and_changes_nothing_by_it() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .key("boss", "permissions: [admin]")
        .key("scraper", "permissions: [admin], routes: ['bearward:metrics']")
        .config("failed_attempts: off")
        .admin_on("0.0.0.0:0")
        .start()
        .await;
    let scraper = gateway.bearer("scraper");
    assert_eq!(asked(&gateway, "GET /metrics", &scraper).await.status, 200);
    for elsewhere in
        ["GET /", "GET /api/v1/keys", "GET /api/v1/status", "POST /api/v1/reload", "POST /metrics"]
    {
        asked(&gateway, elsewhere, &scraper).await.assert_denied(403, "ROUTE_NOT_ALLOWED");
    }
    let basic =
        |password: &str| format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("me:{password}")));
    let refused = asked(&gateway, "GET /", "").await;
    refused.assert_denied(401, "MISSING_API_KEY");
    let challenges = challenges_of(&refused);
    assert!(challenges.iter().any(|challenge| challenge.starts_with("Basic realm=")), "{challenges:?}");
    assert!(challenges.iter().any(|challenge| challenge.starts_with("Bearer realm=")), "{challenges:?}");
    assert_eq!(challenges_of(&asked(&gateway, "GET /api/v1/status", "").await).len(), 1);
    for (password, status) in
        [(TOKEN, 200), (gateway.token("boss"), 200), (gateway.token("ci"), 403), ("wrong", 401), ("", 401)]
    {
        for path in ["/", "/api/v1/events", "/api/v1/status"] {
            let mut raw = Raw::connect(gateway.admin).await;
            raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{}\r\n", basic(password))).await;
            let head = raw.head().await;
            assert_eq!(head.status, status, "{path} with {password}");
        }
    }
    for odd in ["Basic", "Basic !!!", "Basic bm9jb2xvbg==", "Basic /////w=="] {
        let answer = asked(&gateway, "GET /", &format!("Authorization: {odd}\r\n")).await;
        assert_eq!(answer.status, 401, "{odd}");
    }
    // A browser sends a password along wherever it is led.
    let id = format!("key_{}", gateway.token("ci").split('_').nth(1).unwrap());
    let revoked = asked(&gateway, &format!("POST /api/v1/keys/{id}/revoke"), &basic(TOKEN)).await;
    revoked.assert_denied(401, "MISSING_API_KEY");
}

#[tokio::test]
async fn a_link_from_elsewhere_leads_here_and_no_other_page_reads_it() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").start().await;
    let from = |site: &str, dest: &str| format!("Sec-Fetch-Site: {site}\r\nSec-Fetch-Dest: {dest}\r\n");
    assert_eq!(asked(&gateway, "GET /", &from("cross-site", "document")).await.status, 200);
    assert_eq!(asked(&gateway, "GET /", &from("none", "document")).await.status, 200);
    assert_eq!(asked(&gateway, "GET /", &from("same-origin", "empty")).await.status, 200);
    for (site, dest) in [("cross-site", "empty"), ("cross-site", "iframe"), ("same-site", "script")] {
        asked(&gateway, "GET /", &from(site, dest)).await.assert_denied(400, "BAD_REQUEST");
    }
    let posted = asked(&gateway, "POST /api/v1/reload", &from("cross-site", "document")).await;
    posted.assert_denied(400, "BAD_REQUEST");
}

#[tokio::test]
async fn keys_come_in_pages() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let mut guarding = Gateway::guarding(&upstream);
    for number in 0..30 {
        guarding = guarding.key(&format!("key-{number:02}"), "permissions: [read]");
    }
    let gateway = guarding.start().await;
    let first = page(&gateway, "/").await;
    assert_eq!(first.matches("<li id=\"key_").count(), 25);
    let (_, rest) = first.split_once("<a href=\"/?after=").expect("more keys");
    let (after, _) = rest.split_once('"').unwrap();
    let second = page(&gateway, &format!("/?after={after}")).await;
    assert_eq!(second.matches("<li id=\"key_").count(), 5);
    assert!(second.contains("First keys") && !second.contains("More keys"));
    assert_eq!(asked(&gateway, "GET /?after=%22%3E", "").await.status, 400);
}

#[tokio::test]
async fn a_busy_page_is_still_a_light_one() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let mut guarding = Gateway::guarding(&upstream).config("failed_attempts: off");
    for number in 0..10 {
        let fields =
            "permissions: [read], rate_limits: [{requests: 600, per: 1m, burst: 60}], max_concurrent: 8";
        guarding = guarding.key(&format!("service-{number}"), fields);
    }
    let gateway = guarding.start().await;
    let quiet = page(&Gateway::guarding(&upstream).start().await, "/").await;
    assert!(quiet.len() <= 20 * 1024, "{} bytes", quiet.len());
    for number in 0..120 {
        gateway.get(&format!("/v1/unknown/{number}"), &format!("service-{}", number % 10)).await;
    }
    let page = page(&gateway, "/").await;
    assert_eq!(page.matches("<li id=\"r").count(), 100);
    let zipped = asked(&gateway, "GET /", "Accept-Encoding: br, gzip\r\n").await;
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    assert!(zipped.body.len() <= 16 * 1024, "{} bytes", zipped.body.len());
    assert!(page.len() <= 52 * 1024, "{} bytes", page.len());
    for refused in ["Accept-Encoding: gzip;q=0\r\n", "Accept-Encoding: br\r\n", ""] {
        assert_eq!(asked(&gateway, "GET /", refused).await.header("content-encoding"), None);
    }
}
