//! The status page: who gets it, what it holds without a script, and what a hostile caller can put there.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

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
async fn without_a_credential_for_changes_the_page_offers_none() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway =
        Gateway::guarding(&upstream).without_admin_token().key("ci", "permissions: [read]").start().await;
    let id = format!("key_{}", gateway.token("ci").split('_').nth(1).unwrap());
    let html = page(&gateway, "/").await;
    assert!(html.contains("set <code>admin.token_file</code>") && !html.contains("data-act=\""), "{html}");
    assert!(!page(&gateway, &format!("/keys/{id}")).await.contains("data-act=\""));
    let gateway =
        Gateway::guarding(&upstream).without_admin_token().key("boss", "permissions: [admin]").start().await;
    let html = page(&gateway, "/").await;
    assert!(html.contains("data-act=\"create\"") && !html.contains("id=\"unmanaged\""), "{html}");
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
    let of_key = asked(&gateway, "GET /keys/key_unknown", "").await;
    of_key.assert_denied(401, "MISSING_API_KEY");
    assert_eq!(challenges_of(&of_key).len(), 2, "nobody learns which keys there are");
    for (password, status) in
        [(TOKEN, 200), (gateway.token("boss"), 200), (gateway.token("ci"), 403), ("wrong", 401), ("", 401)]
    {
        let id = format!("key_{}", gateway.token("ci").split('_').nth(1).unwrap());
        for path in ["/", "/api/v1/events", "/api/v1/status", &format!("/keys/{id}")] {
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
    assert!(quiet.len() <= 24 * 1024, "{} bytes", quiet.len());
    for number in 0..120 {
        gateway.get(&format!("/v1/unknown/{number}"), &format!("service-{}", number % 10)).await;
    }
    let page = page(&gateway, "/").await;
    assert_eq!(page.matches("<li id=\"r").count(), 10, "one line for each key");
    assert_eq!(page.matches("<b class=\"much\">12 ×</b>").count(), 10);
    let zipped = asked(&gateway, "GET /", "Accept-Encoding: br, gzip\r\n").await;
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    assert!(zipped.body.len() <= 12 * 1024, "{} bytes", zipped.body.len());
    assert!(page.len() <= 40 * 1024, "{} bytes", page.len());
    for refused in ["Accept-Encoding: gzip;q=0\r\n", "Accept-Encoding: br\r\n", ""] {
        assert_eq!(asked(&gateway, "GET /", refused).await.header("content-encoding"), None);
    }
}

#[tokio::test]
async fn repeated_refusals_are_one_line_with_a_count_and_the_last_requests() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .key("another", "permissions: [read]")
        .start()
        .await;
    for number in 0..30 {
        gateway.get(&format!("/nowhere/{number}"), "ci").await;
    }
    gateway.get("/nowhere/0", "another").await;
    let page = page(&gateway, "/").await;
    assert_eq!(page.matches("<li id=\"r").count(), 2, "{page}");
    for part in
        ["30 ×", "GET /nowhere/29", "GET /nowhere/28", "GET /nowhere/27", "and other requests", "Add a route"]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("/nowhere/26") && !page.contains("1 ×"));
    let kinds = gateway.admin("GET /api/v1/refusals/kinds", "").await.json();
    assert_eq!((&kinds["data"][1]["count"], &kinds["data"][0]["count"]), (&json!(30), &json!(1)));
    assert_eq!(kinds["data"][1]["examples"].as_array().unwrap().len(), 3);
    let all = gateway.admin("GET /api/v1/refusals", "").await.json();
    assert_eq!(all["data"].as_array().unwrap().len(), 31, "each of them is there for programs");
}

#[tokio::test]
async fn a_key_has_a_page_with_its_limits_and_its_use() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key(
            "<i>'\"",
            "permissions: [read], rate_limits: [{requests: 7, per: 1h, burst: 7}], max_concurrent: 3, allow_from: [127.0.0.0/8]",
        )
        .key("idle", "permissions: [read]")
        .start()
        .await;
    let id = |name: &str| format!("key_{}", gateway.token(name).split('_').nth(1).unwrap());
    let (busy, idle) = (id("<i>'\""), id("idle"));
    until("its history begins", async || {
        gateway.get("/v1/models", "<i>'\"").await;
        page(&gateway, &format!("/keys/{busy}")).await.contains("chart-requests")
    })
    .await;
    gateway.get("/nowhere", "<i>'\"").await;
    for part in [
        "<title>&#60;i&#62;&#39;&#34; · bearward</title>",
        "7 requests in 1h, 7 at once",
        "3 requests at the same time",
        "<dt>Networks</dt><dd>127.0.0.0/8</dd>",
        "</b> ROUTE_NOT_FOUND</th>",
        "GET /nowhere",
        "data-act=\"revoke\"",
    ] {
        until(part, async || page(&gateway, &format!("/keys/{busy}")).await.contains(part)).await;
    }
    let html = page(&gateway, &format!("/keys/{busy}")).await;
    assert!(!html.contains("<i>") && !html.contains("bwk_"), "{html}");
    let unused = page(&gateway, &format!("/keys/{idle}")).await;
    assert!(
        unused.contains("was not used in the last five minutes") && !unused.contains("chart-"),
        "{unused}"
    );
    let trend = gateway.admin(&format!("GET /api/v1/keys/{busy}/trend"), "").await.json();
    let refused: u64 = trend["data"]["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|step| step["refusals"]["ROUTE_NOT_FOUND"].as_u64())
        .sum();
    assert_eq!((refused, &trend["data"]["is_kept"]), (1, &json!(true)));
    let of_idle = gateway.admin(&format!("GET /api/v1/keys/{idle}/trend"), "").await.json();
    assert_eq!(of_idle["data"], json!({"step_seconds": 10, "is_kept": true, "steps": []}));
}

#[tokio::test]
async fn an_id_that_no_key_has_is_answered_with_a_page() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").start().await;
    let long = format!("key_{}", "x".repeat(500));
    for id in ["key_nobody", "'\"&", &long] {
        let answer = asked(&gateway, &format!("GET /keys/{id}"), "").await;
        assert_eq!(answer.status, 404, "{id}");
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
        assert!(answer.header("content-security-policy").is_some());
        let html = String::from_utf8(answer.body).unwrap();
        assert!(html.contains("No key has this id") && !html.contains("'\"&"), "{html}");
        assert!(!html.contains(&"x".repeat(100)), "a long id is cut");
    }
    let unknown = gateway.admin("GET /api/v1/keys/key_nobody/trend", "").await;
    unknown.assert_denied(404, "KEY_NOT_FOUND");
    assert_eq!(asked(&gateway, "POST /keys/key_nobody", "").await.status, 401);
}

#[tokio::test]
async fn a_page_of_much_data_is_small_and_its_keys_are_all_reached() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let windows: Vec<String> =
        (1..=9).map(|hours| format!("{{requests: 1000000, per: {hours}h, burst: 1000}}")).collect();
    let fields =
        format!("permissions: [read, write], rate_limits: [{}], max_concurrent: 8", windows.join(", "));
    let mut guarding = Gateway::guarding(&upstream).config("failed_attempts: off");
    for number in 0..40 {
        guarding = guarding.key(&format!("{}{number}", "&name".repeat(16)), &fields);
    }
    for number in 0..60 {
        let line =
            format!("  - {{name: upstream-{number}-{}, endpoints: [http://127.0.0.1:1]}}", "x".repeat(60));
        guarding = guarding.more_upstreams(&line);
    }
    let gateway = guarding.start().await;
    for number in 0..110 {
        let path = format!("/{}/{number}", "'%3C&".repeat(20));
        gateway.get(&path, &format!("{}{}", "&name".repeat(16), number % 40)).await;
    }
    let (mut target, mut shown, mut pages) = ("/".to_owned(), 0, 0);
    loop {
        let html = page(&gateway, &target).await;
        assert!(html.len() < 60 * 1024, "{} bytes", html.len());
        assert!(html.contains("61 in all: <a href=\"/api/v1/status\">"), "not all endpoints fit");
        shown += html.matches("<li id=\"key_").count();
        pages += 1;
        let Some((_, rest)) = html.split_once("<a href=\"/?after=") else { break };
        target = format!("/?after={}", rest.split_once('"').unwrap().0);
    }
    assert_eq!(shown, 40, "each key is on one page");
    assert!(pages > 2, "fewer keys than usual fit on a page");
}
