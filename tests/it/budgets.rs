//! Budgets by the calendar: they hold, begin anew at their time, and survive a reload.

use serde_json::json;

use crate::harness::{Gateway, Running, Upstream, answer_of, bearward, eventually};

const USAGE: &str = r#"{"usage":{"prompt_tokens":4,"completion_tokens":6}}"#;
const BODY: &str = r#"{"model": "m", "max_tokens": 6, "messages": []}"#;

fn json_answer(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
}

struct Budgeted {
    gateway: Running,
    hands: std::sync::Arc<bearward::Manual>,
    _upstream: Upstream,
    _state: tempfile::TempDir,
}

async fn budgeted(now: &str, budgets: &str, groups: &str) -> Budgeted {
    let upstream = Upstream::answering(json_answer(USAGE)).await;
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("state");
    let gateway = Gateway::guarding(&upstream)
        .key("ci", &format!("permissions: [read, write], budgets: [{budgets}]"))
        .key("member", "permissions: [read, write], group: team")
        .key("other", "permissions: [read, write], group: team")
        .config(&format!("state: {{path: {}}}\nself_service: true\ngroups: [{groups}]", path.display()));
    let (gateway, hands) = gateway.clock(now);
    Budgeted { gateway: gateway.start().await, hands, _upstream: upstream, _state: state }
}

impl Budgeted {
    async fn status(&self, key: &str) -> u16 {
        self.gateway.post("/v1/chat/completions", key, BODY).await.status
    }

    fn at(&self, time: &str) {
        self.hands.set_wall(time.parse().unwrap());
    }

    async fn used(&self, key: &str) -> u64 {
        let me = self.gateway.get("/.bearward/me", key).await.json();
        me["budgets"][0]["used"].as_u64().unwrap()
    }
}

#[tokio::test]
async fn a_budget_is_used_up_and_begins_anew_in_its_zone() {
    let budget = "{tokens: 25, every: month, zone: Europe/Berlin}";
    let budgeted = budgeted("2026-11-30T22:00:00Z", budget, "{name: team}").await;
    assert_eq!((budgeted.status("ci").await, budgeted.status("ci").await), (200, 200));
    let refused = budgeted.gateway.post("/v1/chat/completions", "ci", BODY).await;
    refused.assert_denied(429, "BUDGET_EXCEEDED");
    let details = json!({"policy": "tokens-month", "limit": 25, "resets_at": "2026-11-30T23:00:00Z"});
    assert_eq!(refused.json()["error"]["details"], details);
    assert_eq!(refused.header("retry-after"), Some("3600"));
    assert_eq!(refused.header("ratelimit"), None, "budgets are not in these headers");
    assert_eq!(budgeted.used("ci").await, 20);
    budgeted.at("2026-11-30T22:59:59Z");
    assert_eq!(budgeted.status("ci").await, 429);
    budgeted.at("2026-11-30T23:00:00Z");
    assert_eq!(budgeted.status("ci").await, 200);
    // The clock goes back: nothing begins anew, and nothing comes back.
    budgeted.at("2026-11-30T22:59:00Z");
    assert_eq!((budgeted.status("ci").await, budgeted.status("ci").await), (200, 429));
    budgeted.at("2026-11-30T23:00:10Z");
    assert_eq!((budgeted.status("ci").await, budgeted.used("ci").await), (429, 20));
}

#[tokio::test]
async fn a_day_has_23_or_25_hours() {
    let budget = "{requests: 1, every: day, zone: Europe/Berlin}";
    let budgeted = budgeted("2026-03-28T22:59:59Z", budget, "{name: team}").await;
    for (time, status) in [
        ("2026-03-28T22:59:59Z", 200),
        ("2026-03-28T23:00:00Z", 200),
        ("2026-03-29T21:59:59Z", 429),
        ("2026-03-29T22:00:00Z", 200),
        ("2026-10-24T22:00:00Z", 200),
        ("2026-10-25T22:59:59Z", 429),
        ("2026-10-25T23:00:00Z", 200),
        ("2026-10-25T23:00:01Z", 429),
    ] {
        budgeted.at(time);
        assert_eq!(budgeted.status("ci").await, status, "{time}");
    }
}

#[tokio::test]
async fn a_group_has_its_budget_together_and_a_reload_keeps_what_was_used() {
    let group = "{name: team, budgets: [{tokens: 30, every: week}, {requests: 100, every: day}]}";
    let budgeted = budgeted("2026-11-29T23:00:00Z", "{requests: 5, every: day}", group).await;
    for key in ["member", "other", "member"] {
        assert_eq!(budgeted.status(key).await, 200);
    }
    let refused = budgeted.gateway.post("/v1/chat/completions", "other", BODY).await;
    refused.assert_denied(429, "BUDGET_EXCEEDED");
    assert_eq!(refused.json()["error"]["details"]["policy"], "group-team-tokens-week");
    assert_eq!(budgeted.status("ci").await, 200);

    let config = std::fs::read_to_string(budgeted.gateway.path("bearward.yaml")).unwrap();
    budgeted.gateway.rename_in("bearward.yaml", &config.replace("tokens: 30", "tokens: 50"));
    assert_eq!(budgeted.gateway.reload().await.status, 200);
    assert_eq!(budgeted.used("other").await, 30);
    assert_eq!((budgeted.status("other").await, budgeted.status("other").await), (200, 200));
    assert_eq!(budgeted.status("other").await, 429);
    budgeted.at("2026-11-30T00:00:00Z");
    assert_eq!((budgeted.status("other").await, budgeted.used("member").await), (200, 10));
    let metrics = budgeted.gateway.admin("GET /metrics", "Bearer the-admin-token").await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    for line in [
        "bearward_budget_used{key=\"\",group=\"team\",policy=\"group-team-tokens-week\"} 10.0",
        "bearward_budget_limit{key=\"\",group=\"team\",policy=\"group-team-tokens-week\"} 50.0",
        "bearward_budget_resets_at_seconds{key=\"\",group=\"team\",policy=\"group-team-tokens-week\"} 1796601600.0",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn the_audit_log_tells_once_of_80_and_of_100_per_cent() {
    let upstream = Upstream::answering(json_answer(USAGE)).await;
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("state");
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read, write], budgets: [{tokens: 100, every: month}]")
        .config(&format!("state: {{path: {}}}", path.display()))
        .start_binary()
        .await;
    for count in 1..=11 {
        let status = gateway.post("/v1/chat/completions", "ci", BODY).await.status;
        assert_eq!(status, if count <= 10 { 200 } else { 429 });
    }
    let told = || {
        let log = gateway.log();
        let of_budget = log.iter().filter(|line| line.contains("budget_passed"));
        of_budget.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect::<Vec<_>>()
    };
    eventually("the audit log tells of it", || told().len() >= 2).await;
    let told = told();
    assert_eq!(told.iter().map(|line| line["percent"].as_u64().unwrap()).collect::<Vec<_>>(), [80, 100]);
    assert_eq!((&told[1]["policy"], &told[1]["limit"]), (&json!("tokens-month"), &json!(100)));
    assert!(told[1]["key_id"].as_str().unwrap().starts_with("key_"));
}

#[tokio::test]
async fn nobody_sees_another_key_and_without_a_key_nothing_is_seen() {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let mut gateway = Gateway::guarding(&upstream).config("self_service: true\nmax_concurrent: 9");
    for number in 0..50 {
        gateway = gateway.key(
            &format!("holder-{number}"),
            &format!(
                "permissions: [read], models: [model-{number}], rate_limits: [{{requests: {}, per: 1m}}]",
                60 + number
            ),
        );
    }
    let gateway = gateway.start().await;
    for number in 0..50 {
        let me = gateway.get("/.bearward/me", &format!("holder-{number}")).await;
        assert_eq!((me.status, me.header("cache-control")), (200, Some("no-store")));
        let me = me.json();
        assert_eq!(me["name"], format!("holder-{number}"));
        assert_eq!(me["models"], json!([format!("model-{number}")]));
        assert_eq!(me["limits"][0]["limit"], 60 + number);
        let text = me.to_string();
        assert!(
            (0..50).all(|other| other == number || !text.contains(&format!("holder-{other}\""))),
            "{text}"
        );
    }
    gateway
        .sends("GET /.bearward/me HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .assert_denied(401, "MISSING_API_KEY");
    let wrong = "GET /.bearward/me HTTP/1.1\r\nhost: a\r\nauthorization: Bearer wrong\r\n\r\n";
    gateway.sends(wrong).await.assert_denied(401, "INVALID_API_KEY");
    let bearer = gateway.bearer("holder-1");
    for path in ["/.bearward/me/", "/.bearward/ME", "/.bearward/other", "//.bearward/me"] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n{bearer}\r\n");
        let answer = gateway.sends(request).await;
        assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
    }
    let page = format!("GET /.bearward/me HTTP/1.1\r\nhost: a\r\n{bearer}accept: text/html\r\n\r\n");
    let page = gateway.sends(page).await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let text = String::from_utf8(page.body).unwrap();
    assert!(text.contains("holder-1") && text.contains("requests-1m") && !text.contains("<script"), "{text}");
}

#[test]
fn a_budget_that_nothing_keeps_is_a_fault() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let keys = |fields: &str| {
        let hash = format!("sha256:{:064x}", 1);
        let text = format!("keys:\n  - {{id: key_a, hash: \"{hash}\", permissions: [read]{fields}}}\n");
        std::fs::write(path("keys.yaml"), text).unwrap();
    };
    let check = |more: &str| {
        let config = format!(
            "listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:1]}}]\nadmin: off\nkeys: {{path: {}}}\n{more}\n",
            path("keys.yaml")
        );
        std::fs::write(path("bearward.yaml"), config).unwrap();
        let output = bearward(&["check", "--config", &path("bearward.yaml")], "");
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let state = format!("state: {{path: {}}}", path("state"));
    let groups = "groups: [{name: g, budgets: [{tokens: 5, every: day}]}]";
    keys("");
    let (code, said) = check(groups);
    assert!(code == Some(78) && said.contains("nothing keeps what was used of them"), "{said}");
    assert_eq!(check(&format!("{groups}\n{state}")).0, Some(0));
    for wrong in [
        "groups: [{name: g, budgets: []}, {name: g}]",
        "groups: [{name: g, budgets: [{tokens: 5, every: day}, {tokens: 6, every: day, zone: Europe/Berlin}]}]",
        "groups: [{name: g, budgets: [{tokens: 0, every: day}]}]",
        "groups: [{name: g, budgets: [{tokens: 5, requests: 6, every: day}]}]",
        "groups: [{name: g, budgets: [{every: day}]}]",
        "groups: [{name: g, budgets: [{tokens: 5}]}]",
        "groups: [{name: g, budgets: [{tokens: 5, every: day, zone: Mars/Olympus}]}]",
        "groups: [{name: g, budgets: }]",
        "groups: [{name: 'a b'}]",
        "groups: [{name: }]",
    ] {
        let (code, said) = check(&format!("{wrong}\n{state}"));
        assert_eq!(code, Some(78), "{wrong}: {said}");
    }
    keys(", budgets: [{tokens: 5, every: day}]");
    let (code, said) = check("");
    assert!(code == Some(78) && said.contains("keys.yaml:2:5") && said.contains("state:"), "{said}");
    assert_eq!(check(&state).0, Some(0));
    for wrong in [", budgets: ", ", budgets: [{tokens: 5, every: year}]", ", budgets: none", ", group: "] {
        keys(wrong);
        assert_eq!(check(&state).0, Some(78), "{wrong}");
    }
}
