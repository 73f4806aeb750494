//! Key stores of every form, served: what counts while something in them is at fault, or nothing is in them.

mod commands;
mod directories;
mod table;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bearward::{App, Clock, Config, Credential, Hooks, Local, StartError, Token};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::harness::{Answer, Raw, Upstream, answer_of, until};

/// How a store holds its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Yaml,
    JsonLines,
    Text,
    Directory,
}

const STRUCTURED: [Form; 3] = [Form::Yaml, Form::JsonLines, Form::Directory];
const ALL: [Form; 4] = [Form::Yaml, Form::JsonLines, Form::Text, Form::Directory];

/// The hash of a key's secret, which is `secret-NAME`.
fn hash(name: &str) -> String {
    Credential::new(format!("secret-{name}").as_bytes()).hash().to_stored()
}

/// A key as JSON, which is YAML as well. `more`: further fields, as in `"disabled":true`.
fn entry(name: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    let hash = hash(name);
    format!("{{\"id\":\"key_{name}\",\"hash\":\"{hash}\",\"permissions\":[\"read\"]{comma}{more}}}")
}

/// A store in a directory of its own, which nothing serves yet.
struct Files {
    form: Form,
    root: TempDir,
    /// Where the store is, where that is not the root.
    place: Option<PathBuf>,
}

impl Files {
    fn new(form: Form) -> Self {
        let files = Files { form, root: tempfile::tempdir().unwrap(), place: None };
        if form == Form::Directory {
            fs::create_dir(files.store()).unwrap();
        }
        files
    }

    /// Where the store is.
    fn store(&self) -> PathBuf {
        let name = match self.form {
            Form::Yaml => "keys.yaml",
            Form::JsonLines => "keys.jsonl",
            Form::Text => "keys.txt",
            Form::Directory => "keys",
        };
        self.place.as_deref().unwrap_or(self.root.path()).join(name)
    }

    /// Writes a store of these entries, and nothing else into it. A plain list has the secret of each.
    fn write(&self, entries: &[String]) {
        let lines = |entries: &[String]| entries.iter().map(|entry| format!("{entry}\n")).collect::<String>();
        match self.form {
            Form::Yaml if entries.is_empty() => self.write_raw("keys: []\n"),
            Form::Yaml => {
                let entries: Vec<String> = entries.iter().map(|entry| format!("- {entry}")).collect();
                self.write_raw(&format!("keys:\n{}", lines(&entries)));
            }
            Form::JsonLines => self.write_raw(&lines(entries)),
            Form::Text => {
                let id = |entry: &String| {
                    entry.split("\"key_").nth(1).unwrap().split('"').next().unwrap().to_owned()
                };
                let secrets: Vec<String> =
                    entries.iter().map(|entry| format!("secret-{}", id(entry))).collect();
                self.write_raw(&lines(&secrets));
            }
            Form::Directory => {
                let gone = fs::read_dir(self.store()).unwrap();
                let gone: Vec<PathBuf> = gone.map(|entry| entry.unwrap().path()).collect();
                let mut kept = Vec::new();
                for entry in entries {
                    // A file a key, named by it.
                    let name = entry.split("sha256:").nth(1).map_or("odd", |rest| rest.get(..8).unwrap());
                    let path = self.store().join(format!("{name}.yaml"));
                    fs::write(&path, format!("{entry}\n")).unwrap();
                    kept.push(path);
                }
                gone.iter()
                    .filter(|path| !kept.contains(path))
                    .for_each(|path| fs::remove_file(path).unwrap());
            }
        }
    }

    /// Writes the file itself.
    fn write_raw(&self, text: &str) {
        fs::write(self.store(), text).unwrap();
    }

    fn config(&self, upstream: SocketAddr) -> PathBuf {
        let path = self.root.path().join("bearward.yaml");
        let text = format!(
            "listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [http://{upstream}]}}]\nkeys: {{path: {}, allow_plaintext: true}}\nadmin: {{address: 127.0.0.1:0, token_file: {}}}\nfailed_attempts: off\nrate_limits: [{{requests: 1000, per: 1m}}]\nworkers: 1\n",
            self.store().display(),
            self.root.path().join("admin.token").display(),
        );
        fs::write(self.root.path().join("admin.token"), "the-admin-token\n").unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Adds lines to the configuration that is served.
    fn add_to_config(&self, lines: &str) {
        let path = self.root.path().join("bearward.yaml");
        let text = fs::read_to_string(&path).unwrap() + lines;
        fs::write(path, text).unwrap();
    }

    async fn serve(self) -> Result<Served, StartError> {
        let upstream = Upstream::answering(answer_of("hi")).await;
        let config = Config::load(&self.config(upstream.address)).unwrap_or_else(|faults| panic!("{faults}"));
        let app = App::bind(&config, Clock::system(), Hooks::default())?;
        let [Local::Tcp(address)] = app.addresses()[..] else { panic!() };
        let Some(Local::Tcp(admin)) = app.admin_address() else { panic!() };
        let (stop, stopping) = oneshot::channel::<()>();
        tokio::spawn(app.run(async { drop(stopping.await) }));
        Ok(Served { files: self, address, admin, _upstream: upstream, _stops_when_dropped: stop })
    }
}

/// A store that is served.
struct Served {
    files: Files,
    address: SocketAddr,
    admin: SocketAddr,
    _upstream: Upstream,
    _stops_when_dropped: oneshot::Sender<()>,
}

impl Served {
    async fn of(form: Form, entries: &[String]) -> Self {
        let files = Files::new(form);
        files.write(entries);
        files.serve().await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The status of a request with the key of this name.
    async fn status(&self, name: &str) -> u16 {
        Box::pin(self.get(&format!("secret-{name}"))).await.status
    }

    async fn get(&self, secret: &str) -> Answer {
        let mut raw = Raw::connect(self.address).await;
        raw.send(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\n\r\n"))
            .await;
        raw.answer().await
    }

    async fn statuses<const N: usize>(&self, names: [&str; N]) -> [u16; N] {
        let mut statuses = [0; N];
        for (status, name) in statuses.iter_mut().zip(names) {
            *status = self.status(name).await;
        }
        statuses
    }

    async fn ask(&self, request_line: &str) -> Answer {
        let mut raw = Raw::connect(self.admin).await;
        raw.send(format!(
            "{request_line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer the-admin-token\r\n\r\n"
        ))
        .await;
        raw.answer().await
    }

    async fn text(&self, path: &str) -> String {
        String::from_utf8(self.ask(&format!("GET {path}")).await.body).unwrap()
    }

    /// What the status says of the keys' reloads.
    async fn of_keys(&self) -> serde_json::Value {
        let status = self.ask("GET /api/v1/status").await.json();
        let parts = status["data"]["reloads"].as_array().unwrap().clone();
        parts.into_iter().find(|part| part["part"] == "keys").unwrap()
    }

    async fn reload(&self) -> Answer {
        self.ask("POST /api/v1/reload").await
    }

    async fn until_status(&self, name: &str, status: u16) {
        // A test that waits often would have one large future after the other in its own.
        Box::pin(until(&format!("{status} for {name}"), async || self.status(name).await == status)).await;
    }
}

#[tokio::test]
async fn a_fault_in_one_entry_holds_up_that_entry_alone() {
    for form in STRUCTURED {
        let all = ["a", "b", "c", "d"].map(|name| entry(name, ""));
        let served = Served::of(form, &all).await;
        assert_eq!(served.statuses(["a", "b", "c", "d"]).await, [200; 4]);
        // One has a fault, one is deleted, one is turned off, one is new.
        let [_, _, _, d] = all;
        let mixed =
            [entry("a", "\"routes\":null"), entry("c", "\"disabled\":true"), d.clone(), entry("e", "")];
        served.files.write(&mixed);
        let answer = served.reload().await;
        answer.assert_denied(422, "RELOAD_REFUSED");
        let faults = &answer.json()["error"]["details"]["faults"];
        assert_eq!(faults.as_array().unwrap().len(), 1, "{form:?}: {faults}");
        assert!(faults[0]["line"].as_u64().unwrap() > 0 && faults[0]["column"].as_u64().unwrap() > 0);
        assert_eq!(faults[0]["message"], "`routes` is there and has no value");
        assert_eq!(served.statuses(["a", "b", "c", "d", "e"]).await, [200, 401, 401, 200, 200], "{form:?}");
        let of_keys = served.of_keys().await;
        assert_eq!((&of_keys["is_current"], &of_keys["held"]), (&false.into(), &1.into()), "{of_keys}");
        assert!(of_keys["stale_since"].is_null(), "{of_keys}");
        let ready = served.ask("GET /readyz").await;
        assert_eq!((ready.status, &ready.json()["keys"]["held"]), (200, &1.into()));
        let metrics = served.text("/metrics").await;
        for line in ["bearward_keys_held 1", "bearward_reload_success{part=\"keys\"} 0"] {
            assert!(metrics.contains(line), "{line}");
        }
        assert!(served.text("/").await.contains("1 stay in their last good form"));
        // It stays so at the next change, and what is deleted then goes.
        served.files.write(&[entry("a", "\"routes\":null"), entry("e", "")]);
        served.reload().await;
        assert_eq!(served.statuses(["a", "d", "e"]).await, [200, 401, 200], "{form:?}");
        served.files.write(&[entry("a", "\"disabled\":true"), entry("e", "")]);
        assert_eq!(served.reload().await.status, 200, "{form:?}");
        assert_eq!(served.statuses(["a", "e"]).await, [401, 200], "{form:?}");
        assert_eq!(served.of_keys().await["held"], 0);
    }
}

#[tokio::test]
async fn an_entry_at_fault_is_known_by_its_id_or_by_its_hash() {
    let whole = entry("a", "");
    let (id, of_hash) = ("\"key_a\"", hash("a"));
    for form in STRUCTURED {
        for (what, broken, stays) in [
            ("the id is misspelled", whole.replace(id, "\"kye_a\""), true),
            ("the id is another one", whole.replace(id, "\"key_A\"").replace("[\"read\"]", "[]"), true),
            ("the hash is cut", whole.replace(&of_hash, of_hash.get(..40).unwrap()), true),
            ("the id stands twice", whole.replace("{\"id\"", "{\"id\":\"key_z\",\"id\""), true),
            ("a permission is none", whole.replace("read", "read_only"), true),
            ("a field is unknown", entry("a", "\"permisions\":[\"read\"]"), true),
            ("a time has no zone", entry("a", "\"expires_at\":\"2027-01-01T00:00:00\""), true),
        ] {
            let served = Served::of(form, &[whole.clone(), entry("b", "")]).await;
            // The directory's file keeps its name: a directory is changed file by file.
            let file = fs::read_dir(served.files.store())
                .ok()
                .map(|mut files| files.next().unwrap().unwrap().path());
            match file {
                Some(_) => {
                    let name = format!("{}.yaml", of_hash.get(7..15).unwrap());
                    fs::write(served.files.store().join(name), &broken).unwrap();
                }
                None => served.files.write(&[broken, entry("b", "")]),
            }
            served.reload().await.assert_denied(422, "RELOAD_REFUSED");
            let status = if stays { 200 } else { 401 };
            assert_eq!(served.statuses(["a", "b"]).await, [status, 200], "{form:?}: {what}");
        }
    }
    // Nothing says whose entry it is: what is no longer there is gone.
    for form in [Form::Yaml, Form::JsonLines] {
        let served = Served::of(form, &[whole.clone(), entry("b", "")]).await;
        let nobody = "{\"id\":\"nobody\",\"hash\":\"none\",\"permissions\":[\"read\"]}".to_owned();
        served.files.write(&[nobody, entry("b", "")]);
        served.reload().await.assert_denied(422, "RELOAD_REFUSED");
        assert_eq!(served.statuses(["a", "b"]).await, [401, 200], "{form:?}");
    }
}

#[tokio::test]
async fn what_is_deleted_is_gone_even_where_no_entry_is_good() {
    let typo = |name: &str| entry(name, "\"permisions\":[\"read\"]");
    let nobody = "{\"id\":\"nobody\",\"hash\":\"none\",\"permissions\":[\"read\"]}".to_owned();
    for form in STRUCTURED {
        for (what, entries, of_a) in [
            ("a new one with a typo", vec![typo("c")], 401),
            ("two new ones with typos", vec![typo("c"), typo("d")], 401),
            ("two that are the same", vec![entry("c", ""), entry("c", "")], 401),
            ("one that is about nobody", vec![nobody.clone()], 401),
            ("one without fields", vec!["{}".to_owned()], 401),
            ("an old one with a typo", vec![typo("a")], 200),
            ("an old one with a typo, and a new one", vec![typo("c"), typo("a")], 200),
        ] {
            let served = Served::of(form, &[entry("a", ""), entry("b", "")]).await;
            served.files.write(&entries);
            let reloaded = served.reload().await;
            assert!(form == Form::Directory || reloaded.status == 422, "{form:?}: {what}");
            assert_eq!(served.statuses(["a", "b"]).await, [of_a, 401], "{form:?}: {what}");
        }
    }
    let served = Served::of(Form::Text, &[entry("a", ""), entry("b", "")]).await;
    served.files.write_raw("# new\nsecret,c\n");
    served.reload().await.assert_denied(422, "RELOAD_REFUSED");
    assert_eq!(served.statuses(["a", "b"]).await, [401; 2], "a list of tokens with a typo");
}

#[tokio::test]
async fn what_is_no_list_changes_nothing() {
    let line = entry("b", "");
    let cases: &[(Form, &[&str])] = &[
        (
            Form::Yaml,
            &[
                "",
                "keys:\n",
                "# none\n",
                "keys: [\n",
                "keys: [null]\n",
                "keys: [1, x]\n",
                "keys: {}\n",
                "{}\n",
                "error: not found\n",
                &format!("keys: []\nkeys: [{line}]\n"),
                &format!("keys: [{line}]\nkeys: []\n"),
            ],
        ),
        (
            Form::JsonLines,
            &[
                "<html>\n<body>\n",
                "keys:\n- id: key_a\n",
                "null\n1\n",
                &format!("[{line}]\n"),
                "\u{1}\u{2}\n",
            ],
        ),
        (Form::Text, &["<html>\n<p>not found</p>\n", "no such key\n"]),
    ];
    for (form, texts) in cases {
        let served = Served::of(*form, &[entry("a", ""), line.clone()]).await;
        for text in *texts {
            served.files.write_raw(text);
            served.reload().await.assert_denied(422, "RELOAD_REFUSED");
            assert_eq!(served.statuses(["a", "b"]).await, [200; 2], "{form:?}: {text}");
        }
    }
}

#[tokio::test]
async fn a_line_that_is_no_json_is_a_fault_of_its_own_and_a_file_that_is_cut_changes_nothing() {
    let all = ["a", "b", "c"].map(|name| entry(name, ""));
    let served = Served::of(Form::JsonLines, &all).await;
    let [a, _, c] = all.clone();
    served.files.write(&[a.replace(",\"permissions\"", " \"permissions\""), c.clone()]);
    served.reload().await.assert_denied(422, "RELOAD_REFUSED");
    assert_eq!(served.statuses(["a", "b", "c"]).await, [200, 401, 200]);
    served.files.write(&all);
    assert_eq!(served.reload().await.status, 200);
    let whole = fs::read_to_string(served.files.store()).unwrap();
    for bad in [&whole[..whole.len() / 2], "<html>\n<body>\n", "keys:\n- id: key_a\n"] {
        served.files.write_raw(bad);
        served.reload().await.assert_denied(422, "RELOAD_REFUSED");
        assert_eq!(served.statuses(["a", "b", "c"]).await, [200; 3], "{bad}");
        assert!(served.of_keys().await["stale_since"].is_string(), "{bad}");
    }
}

#[tokio::test]
async fn entries_that_share_something_do_not_count_unless_they_had_it_before() {
    for form in [Form::Yaml, Form::JsonLines] {
        let named = |name: &str, more: &str| entry(name, &format!("\"name\":\"n-{name}\"{more}"));
        let both = [named("a", ""), named("b", "")];
        let off = named("a", ",\"disabled\":true");
        let thief = named("t", "").replace(&hash("t"), &hash("a"));
        let namesake = named("t", "").replace("n-t", "n-a");
        for (what, entries, expected) in [
            (
                "the old form and another one",
                vec![both[0].clone(), off.clone(), both[1].clone()],
                [200, 200, 401],
            ),
            ("somebody else's hash", vec![thief.clone(), off.clone(), both[1].clone()], [401, 200, 401]),
            ("somebody else's name", vec![off.clone(), namesake, both[1].clone()], [401, 200, 401]),
            ("two that are new", vec![both[1].clone(), named("t", ""), named("t", "")], [401, 200, 401]),
        ] {
            let served = Served::of(form, &both).await;
            served.files.write(&entries);
            served.reload().await.assert_denied(422, "RELOAD_REFUSED");
            assert_eq!(served.statuses(["a", "b", "t"]).await, expected, "{form:?}: {what}");
            // And what is right again counts again.
            served.files.write(&[off.clone(), both[1].clone(), named("t", "")]);
            assert_eq!(served.reload().await.status, 200, "{form:?}: {what}");
            assert_eq!(served.statuses(["a", "b", "t"]).await, [401, 200, 200], "{form:?}: {what}");
        }
    }
}

#[tokio::test]
async fn an_explicit_empty_list_lets_nobody_in() {
    for form in [Form::Yaml, Form::Directory] {
        let served = Served::of(form, &[entry("a", "")]).await;
        served.files.write(&[]);
        served.until_status("a", 401).await;
        assert_eq!(served.of_keys().await["is_current"], true);
        assert_eq!(served.ask("GET /readyz").await.status, 200, "it was asked for");
        served.files.write(&[entry("b", "")]);
        served.until_status("b", 200).await;
    }
}

#[tokio::test]
async fn a_file_without_lines_lets_nobody_in_once_it_has_stood_still() {
    for (form, blank) in
        [(Form::JsonLines, ""), (Form::JsonLines, "\n\n"), (Form::Text, "# none\n"), (Form::Text, "")]
    {
        let served = Served::of(form, &[entry("a", "")]).await;
        served.files.write_raw(blank);
        let began = Instant::now();
        served.reload().await.assert_denied(422, "RELOAD_REFUSED");
        assert_eq!(served.status("a").await, 200, "it may be about to be written");
        served.until_status("a", 401).await;
        assert!(began.elapsed() > Duration::from_secs(4), "{form:?}: {:?}", began.elapsed());
        assert_eq!(served.of_keys().await["is_current"], true);
        served.files.write(&[entry("b", "")]);
        served.until_status("b", 200).await;
    }
}

#[tokio::test]
async fn a_configuration_applies_no_file_without_lines_before_it_has_stood_still() {
    for form in [Form::JsonLines, Form::Text] {
        let served = Served::of(form, &[entry("a", "")]).await;
        served.files.write_raw("");
        // A configuration with another group has the keys read again.
        served.files.add_to_config("groups: [{name: team}]\n");
        let refused = served.reload().await;
        refused.assert_denied(422, "RELOAD_REFUSED");
        let details = &refused.json()["error"]["details"];
        assert_eq!(
            (&details["config"], &details["keys"]),
            (&"applied".into(), &"refused".into()),
            "{details}"
        );
        assert_eq!(served.status("a").await, 200, "{form:?}: it may be about to be written");
        served.files.write(&[entry("b", "")]);
        served.until_status("b", 200).await;
        assert_eq!(served.status("a").await, 401);
    }
}

#[tokio::test]
async fn keys_that_a_configuration_makes_good_are_refused_no_more() {
    for form in STRUCTURED {
        let served = Served::of(form, &[entry("a", "")]).await;
        served.files.write(&[entry("a", ""), entry("b", "\"group\":\"team\"")]);
        served.reload().await.assert_denied(422, "RELOAD_REFUSED");
        assert_eq!(served.of_keys().await["is_current"], false);
        assert_eq!(served.statuses(["a", "b"]).await, [200, 401]);
        // Nobody asks for a reload.
        served.files.add_to_config("groups: [{name: team}]\n");
        served.until_status("b", 200).await;
        until("the keys are current", async || served.of_keys().await["is_current"] == true).await;
        assert_eq!(served.of_keys().await["held"], 0);
    }
}

#[tokio::test]
async fn a_key_that_two_files_have_is_not_said_to_be_unknown() {
    let served = Served::of(Form::Directory, &[entry("a", "")]).await;
    fs::write(served.files.store().join("copy.yaml"), entry("a", "")).unwrap();
    let refused = served.ask("POST /api/v1/keys/key_a/revoke").await;
    refused.assert_denied(409, "KEY_CONFLICT");
    assert!(refused.json().to_string().contains("copy.yaml; remove one of them"), "{}", refused.json());
    served.ask("POST /api/v1/keys/key_b/revoke").await.assert_denied(404, "KEY_NOT_FOUND");
}

#[tokio::test]
async fn what_can_not_be_read_changes_nothing_and_the_age_of_what_serves_is_reported() {
    for form in ALL {
        let served = Served::of(form, &[entry("a", "")]).await;
        match form {
            Form::Yaml => served.files.write_raw("# all gone\n"),
            Form::JsonLines => served.files.write_raw("{\"id\":"),
            Form::Text => served.files.write_raw("<html>\n"),
            Form::Directory => {
                fs::rename(served.files.store(), served.files.root.path().join("gone")).unwrap()
            }
        }
        served.reload().await.assert_denied(422, "RELOAD_REFUSED");
        assert_eq!(served.status("a").await, 200, "{form:?}");
        let of_keys = served.of_keys().await;
        assert_eq!((&of_keys["is_current"], &of_keys["held"]), (&false.into(), &0.into()), "{of_keys}");
        let since = of_keys["stale_since"].as_str().unwrap().to_owned();
        until("a second of age in the metric", async || {
            let metrics = served.text("/metrics").await;
            let line =
                metrics.lines().find(|line| line.starts_with("bearward_reload_stale_seconds{part=\"keys\"}"));
            line.unwrap().split(' ').nth(1).unwrap().parse::<f64>().unwrap() >= 1.0
        })
        .await;
        // Another try does not make it younger.
        served.reload().await.assert_denied(422, "RELOAD_REFUSED");
        let ready = served.ask("GET /readyz").await;
        assert_eq!(ready.status, 200, "readiness stays");
        let keys = &ready.json()["keys"];
        assert_eq!(keys["stale_since"], since, "{form:?}: {keys}");
        assert!(keys["stale_seconds"].as_u64().unwrap() >= 1 && keys["loaded_at"].is_string(), "{keys}");
        assert!(served.text("/").await.contains("nothing on disk has counted since"), "{form:?}");
    }
}

#[tokio::test]
async fn a_fault_at_the_start_is_no_start_but_for_a_file_of_a_directory() {
    for form in STRUCTURED {
        let files = Files::new(form);
        files.write(&[entry("a", "\"allow_from\":[]"), entry("b", "")]);
        let check = std::process::Command::new(env!("CARGO_BIN_EXE_bearward"))
            .args(["check", "--config"])
            .arg(files.config("127.0.0.1:1".parse().unwrap()))
            .output()
            .unwrap();
        assert_eq!(check.status.code(), Some(78), "{form:?}");
        let said = String::from_utf8(check.stderr).unwrap();
        assert!(said.contains("`allow_from` is there and has no value"), "{form:?}: {said}");
        match (form, files.serve().await) {
            (Form::Directory, Ok(served)) => {
                assert_eq!(served.statuses(["a", "b"]).await, [401, 200]);
                assert_eq!(served.of_keys().await["is_current"], false);
            }
            (Form::Directory, Err(error)) => panic!("{error}"),
            (_, served) => assert!(served.is_err(), "{form:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_does_not_start_without_keys() {
    for form in ALL {
        let files = Files::new(form);
        files.write(&[]);
        let refused = files.serve().await.err().unwrap_or_else(|| panic!("{form:?} starts"));
        assert!(refused.to_string().contains("has no keys"), "{form:?}: {refused}");
    }
}

#[tokio::test]
async fn defaults_do_not_hold_for_a_key_without_limits() {
    for form in STRUCTURED {
        let served = Served::of(form, &[entry("a", "\"rate_limits\":\"none\""), entry("b", "")]).await;
        assert_eq!(served.get("secret-a").await.header("ratelimit"), None, "{form:?}");
        assert!(served.get("secret-b").await.header("ratelimit").is_some(), "{form:?}");
    }
}

#[tokio::test]
async fn a_byte_order_mark_is_no_part_of_a_store() {
    for form in ALL {
        let files = Files::new(form);
        files.write(&[entry("a", ""), entry("b", "")]);
        let paths: Vec<PathBuf> = match form {
            Form::Directory => {
                fs::read_dir(files.store()).unwrap().map(|entry| entry.unwrap().path()).collect()
            }
            _ => vec![files.store()],
        };
        let mark = |path: &Path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, format!("\u{feff}{}", text.replace('\n', "\r\n"))).unwrap();
        };
        paths.iter().for_each(|path| mark(path));
        let served = files.serve().await.unwrap_or_else(|error| panic!("{form:?}: {error}"));
        assert_eq!(served.statuses(["a", "b"]).await, [200, 200], "{form:?}");
        assert_eq!(served.reload().await.status, 200);
    }
}

#[tokio::test]
async fn a_byte_order_mark_is_no_part_of_a_credential_or_a_certificate() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let marked = |name: &str, text: &str| {
        let text = text.replace('\n', "\r\n");
        fs::write(path(name), format!("\u{feff}{text}\r\n")).unwrap();
    };
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    marked("tls.crt", &made.cert.pem());
    marked("tls.key", &made.signing_key.serialize_pem());
    marked("upstream.key", "sk-upstream");
    marked("admin.token", "the-admin-token");
    marked("keys.yaml", &format!("keys:\n- {}", entry("a", "")));
    let at = |name: &str| path(name).display().to_string();
    let config = format!(
        "listeners: [{{address: 127.0.0.1:0, tls: {{certificate: {}, private_key: {}}}}}]\nupstreams: [{{name: m, endpoints: [http://{}], credential: {{file: {}}}}}]\nkeys: {{path: {}}}\nadmin: {{address: 127.0.0.1:0, token_file: {}}}",
        at("tls.crt"),
        at("tls.key"),
        upstream.address,
        at("upstream.key"),
        at("keys.yaml"),
        at("admin.token"),
    );
    marked("bearward.yaml", &config);
    let config = Config::load(&path("bearward.yaml")).unwrap_or_else(|faults| panic!("{faults}"));
    let app = App::bind(&config, Clock::system(), Hooks::default()).unwrap_or_else(|error| panic!("{error}"));
    let [Local::Tcp(address)] = app.addresses()[..] else { panic!() };
    let Some(Local::Tcp(admin)) = app.admin_address() else { panic!() };
    let (_stop, stopping) = oneshot::channel::<()>();
    tokio::spawn(app.run(async { drop(stopping.await) }));
    let mut raw = Raw::connect_tls(address, &made.cert.pem(), "http/1.1").await;
    raw.send("GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret-a\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 200);
    assert_eq!(upstream.only_request().headers("authorization"), ["Bearer sk-upstream"]);
    let mut raw = Raw::connect(admin).await;
    raw.send(
        "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer the-admin-token\r\n\r\n",
    )
    .await;
    assert_eq!(raw.answer().await.status, 200);
}

#[tokio::test]
async fn a_token_that_was_mistyped_keeps_its_key() {
    let files = Files::new(Form::Text);
    let token = Token::generate().unwrap();
    let token = token.reveal();
    files.write_raw(&format!("{token}\nsecret-b\n"));
    let served = files.serve().await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(served.get(token).await.status, 200);
    let other = if token.ends_with('0') { "1" } else { "0" };
    let mistyped = format!("{}{other}", token.get(..token.len() - 1).unwrap());
    served.files.write_raw(&format!("{mistyped}\nsecret-c\n"));
    served.reload().await.assert_denied(422, "RELOAD_REFUSED");
    assert_eq!(served.get(token).await.status, 200);
    assert_eq!(served.get(&mistyped).await.status, 401);
    assert_eq!(served.statuses(["b", "c"]).await, [401, 200]);
}
