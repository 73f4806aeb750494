//! Keys made and changed by commands and over the admin API, where a store is locked or a field is empty.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{Files, Form, Served, entry};
use crate::harness::{Raw, bearward};

#[test]
fn whoever_can_read_a_store_can_not_keep_others_from_changing_it() {
    for form in [Form::Yaml, Form::JsonLines, Form::Directory] {
        let files = Files::new(form);
        files.write(&[entry("a", ""), entry("b", "")]);
        let store = files.store();
        let directory = if form == Form::Directory { store.as_path() } else { store.parent().unwrap() };
        // All that a reader can lock: the directory, and each file in it.
        let mut locks = vec![fs::File::open(directory).unwrap()];
        let readable = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        locks.extend(readable.filter(|path| path.is_file()).map(|path| fs::File::open(path).unwrap()));
        locks.iter().for_each(|lock| lock.lock().unwrap());
        let began = Instant::now();
        let revoked = bearward(&["keys", "revoke", "key_a", "--keys", store.to_str().unwrap()], "");
        assert!(revoked.status.success(), "{form:?}: {}", String::from_utf8_lossy(&revoked.stderr));
        assert!(began.elapsed() < Duration::from_secs(10), "{form:?}: {:?}", began.elapsed());
        assert!(!directory.join(".bearward.lock").exists(), "it goes with the command");
    }
}

#[tokio::test]
async fn a_fault_in_one_entry_does_not_hold_up_a_revocation_of_another() {
    for form in [Form::Yaml, Form::JsonLines, Form::Directory] {
        let names = ["a", "b", "c", "d"];
        let served = Served::of(form, &names.map(|name| entry(name, ""))).await;
        let mut broken = names.map(|name| entry(name, ""));
        broken[3] = entry("d", "\"allow_from\":[]");
        served.files.write(&broken);
        served.reload().await.assert_denied(422, "RELOAD_REFUSED");
        let store = served.files.store();
        let store = store.to_str().unwrap();
        for command in [["revoke", "key_a"], ["delete", "key_b"]] {
            let done = bearward(&["keys", command[0], command[1], "--keys", store], "");
            let said = String::from_utf8(done.stderr).unwrap();
            assert!(done.status.success(), "{form:?}: {command:?}: {said}");
        }
        let answer = served.ask("POST /api/v1/keys/key_c/revoke").await;
        assert_eq!(answer.status, 200, "{form:?}: {}", String::from_utf8_lossy(&answer.body));
        assert_eq!(served.statuses(names).await, [401, 401, 401, 200], "{form:?}");
        // The entry at fault itself is reported, and not touched.
        let found = bearward(&["keys", "revoke", "key_d", "--keys", store], "");
        assert!(!found.status.success(), "{form:?}");
        assert!(String::from_utf8(found.stderr).unwrap().contains("`allow_from`"), "{form:?}");
    }
    // Of two entries with one id nobody knows which is served.
    for form in [Form::Yaml, Form::JsonLines] {
        let files = Files::new(form);
        files.write(&[entry("a", ""), entry("a", "\"disabled\":true"), entry("b", "")]);
        let found = bearward(&["keys", "revoke", "key_a", "--keys", files.store().to_str().unwrap()], "");
        assert!(String::from_utf8(found.stderr).unwrap().contains("appears twice"), "{form:?}");
    }
}

#[test]
fn empty_arguments_make_no_key() {
    let files = Files::new(Form::Yaml);
    files.write(&[entry("a", "")]);
    let store = files.store();
    let before = fs::read_to_string(&store).unwrap();
    for arguments in [
        ["--allow-from", ""],
        ["--allow-from", ","],
        ["--routes", ""],
        ["--routes", "chat,"],
        ["--rate", ""],
        ["--max-concurrent", ""],
        ["--max-concurrent", "0"],
        ["--expires-in", ""],
        ["--expires-in", "0d"],
        ["--environment", ""],
        ["--name", ""],
        ["--metadata", ""],
        ["--permissions", ""],
    ] {
        let mut all = vec!["keys", "create", "--keys", store.to_str().unwrap(), arguments[0], arguments[1]];
        if arguments[0] != "--permissions" {
            all.extend(["--permissions", "read"]);
        }
        let made = bearward(&all, "");
        assert_eq!(made.status.code(), Some(2), "{arguments:?}: {}", String::from_utf8_lossy(&made.stderr));
        assert!(made.stdout.is_empty(), "{arguments:?}: no secret is shown");
    }
    assert_eq!(fs::read_to_string(&store).unwrap(), before);
}

#[test]
fn a_network_that_no_client_is_of_makes_no_key() {
    let files = Files::new(Form::Yaml);
    files.write(&[entry("a", "")]);
    for (network, right) in [
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ("10.1.2.3/8", "10.0.0.0/8"),
    ] {
        let store = files.store();
        let store = store.to_str().unwrap();
        let made = bearward(
            &["keys", "create", "--keys", store, "--permissions", "read", "--allow-from", network],
            "",
        );
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        assert_eq!(made.status.code(), Some(2), "{network}: {said}");
        assert!(said.contains(&format!("{right} is meant?")), "{network}: {said}");
    }
}

#[test]
fn a_key_without_limits_is_made_and_read_again() {
    for form in [Form::Yaml, Form::JsonLines, Form::Directory] {
        let files = Files::new(form);
        files.write(&[entry("a", "")]);
        let store = files.store();
        let store = store.to_str().unwrap();
        let made = bearward(
            &["keys", "create", "--keys", store, "--permissions", "read", "--name", "n", "--rate", "none"],
            "",
        );
        assert!(made.status.success(), "{form:?}: {}", String::from_utf8_lossy(&made.stderr));
        let shown = bearward(&["keys", "list", "--keys", store, "--json"], "");
        let listed: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        let made = listed.as_array().unwrap().iter().find(|key| key["name"] == "n").unwrap();
        assert_eq!(made["rate_limits"], serde_json::json!([]), "{form:?}: null would be the defaults");
    }
}

#[test]
fn what_is_clearly_no_secret_is_not_hashed() {
    for (text, place) in [
        ("${API_KEY}", "column 1"),
        ("sk-<your-key>", "column 4"),
        ("\"sk-quoted\"", "column 1"),
        ("API_KEY=sk-1", "column 1"),
        ("ann:$apr1$gxq1$Oz4M", "column 5"),
        ("%API_KEY%", "column 1"),
        ("Bearer ${OLLAMA_KEY}", "column 8"),
    ] {
        let hashed = bearward(&["keys", "hash"], text);
        let said = String::from_utf8(hashed.stderr).unwrap();
        assert_eq!((hashed.status.code(), hashed.stdout.is_empty()), (Some(2), true), "{text}: {said}");
        assert!(said.contains(place) && !said.contains("sk-1") && !said.contains("gxq1"), "{text}: {said}");
    }
    assert!(bearward(&["keys", "hash"], "secret").status.success(), "a weak key is a key");
}

#[tokio::test]
async fn empty_fields_make_no_key_over_the_admin_api() {
    let served = Served::of(Form::Yaml, &[entry("a", "")]).await;
    let create = async |body: &str| {
        let mut raw = Raw::connect(served.admin).await;
        raw.send(format!(
            "POST /api/v1/keys HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer the-admin-token\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
        raw.answer().await
    };
    let before = fs::read_to_string(served.files.store()).unwrap();
    for field in [
        "\"allow_from\":null",
        "\"allow_from\":[]",
        "\"allow_from\":\"\"",
        "\"routes\":null",
        "\"routes\":[]",
        "\"routes\":[\"\"]",
        "\"expires_at\":null",
        "\"expires_at\":\"\"",
        "\"expires_in\":null",
        "\"expires_in\":\"\"",
        "\"not_before\":null",
        "\"environment\":null",
        "\"environment\":\"\"",
        "\"max_concurrent\":null",
        "\"max_concurrent\":0",
        "\"rate_limits\":null",
        "\"rate_limits\":[]",
        "\"rate_limits\":\"\"",
        "\"rate_limits\":\"all\"",
        "\"permissions\":[]",
        "\"permissions\":null",
        "\"name\":\"\"",
    ] {
        let permissions = if field.contains("permissions") { "" } else { ",\"permissions\":[\"read\"]" };
        let answer = create(&format!("{{{field}{permissions}}}")).await;
        answer.assert_denied(400, "BAD_REQUEST");
    }
    assert_eq!(fs::read_to_string(served.files.store()).unwrap(), before);
    let made = create("{\"permissions\":[\"read\"],\"rate_limits\":\"none\"}").await;
    assert_eq!(made.status, 201, "{}", String::from_utf8_lossy(&made.body));
    assert!(fs::read_to_string(served.files.store()).unwrap().contains("rate_limits: none"));
    let secret = made.json()["data"]["secret"].as_str().unwrap().to_owned();
    assert_eq!(served.get(&secret).await.header("ratelimit"), None, "the defaults do not hold for it");
}

#[test]
fn an_entry_is_put_into_an_empty_store_of_every_kind() {
    for (form, content) in [
        (Form::Yaml, "keys: []\n"),
        (Form::Yaml, ""),
        (Form::Yaml, "keys:\n"),
        (Form::JsonLines, ""),
        (Form::JsonLines, "\n"),
    ] {
        let files = Files::new(form);
        files.write_raw(content);
        let store = files.store();
        let made =
            bearward(&["keys", "create", "--keys", store.to_str().unwrap(), "--permissions", "read"], "");
        assert!(made.status.success(), "{form:?}: {}", String::from_utf8_lossy(&made.stderr));
        assert!(is_listed(&store), "{form:?} {content:?}");
    }
}

fn is_listed(store: &Path) -> bool {
    let listed = bearward(&["keys", "list", "--keys", store.to_str().unwrap(), "--json"], "");
    serde_json::from_slice::<serde_json::Value>(&listed.stdout).unwrap().as_array().unwrap().len() == 1
}

#[test]
fn a_command_changes_the_store_beside_its_configuration() {
    const CONFIG: &str = "listeners: [{address: 127.0.0.1:1}]\nupstreams: [{name: m, endpoints: [http://a]}]\n\
                          keys: {path: keys.yaml}\n";
    let directory = tempfile::tempdir().unwrap();
    let (here, other) = (directory.path().join("here"), directory.path().join("other"));
    for one in [&here, &other] {
        fs::create_dir(one).unwrap();
        fs::write(one.join("bearward.yaml"), CONFIG).unwrap();
        fs::write(one.join("keys.yaml"), "keys: []\n").unwrap();
    }
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bearward"));
        command.args(arguments).current_dir(&here).env_remove("BEARWARD_CONFIG").output().unwrap()
    };
    let names = |directory: &Path| {
        let text = fs::read_to_string(directory.join("keys.yaml")).unwrap();
        ["far", "near"].into_iter().filter(|name| text.contains(&format!("name: {name}"))).collect::<Vec<_>>()
    };
    let create = |name, config: &[&str]| {
        let made = run(&[&["keys", "create", "--name", name, "--permissions", "read"], config].concat());
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    create("far", &["--config", "../other/bearward.yaml"]);
    create("near", &[]);
    assert_eq!((names(&here), names(&other)), (vec!["near"], vec!["far"]));
    // Another store has no such key, and says so.
    assert!(!run(&["keys", "revoke", "near", "--config", "../other/bearward.yaml"]).status.success());
    // Paths on the command line begin at the working directory.
    let both = ["keys", "list", "--json", "--keys", "keys.yaml", "--config", "../other/bearward.yaml"];
    assert!(String::from_utf8(run(&both).stdout).unwrap().contains("near"));
    // Messages show short paths where the configuration is in the working directory.
    fs::remove_file(here.join("keys.yaml")).unwrap();
    let said = String::from_utf8(run(&["check"]).stderr).unwrap();
    assert!(said.contains(" keys.yaml"), "{said}");
}
