//! What templates leave behind is no secret, wherever secrets are read.

use std::path::Path;

use bearward::Config;

use crate::harness::bearward;

const LEFT: [&str; 21] = [
    "null",
    "NULL",
    "undefined",
    "None",
    "none",
    "nil",
    "(null)",
    "NaN",
    "~",
    "__API_KEY__",
    "@@KEY@@",
    "@KEY@",
    "%(key)s",
    "%{key}",
    "sk-#{key}",
    "{key}",
    "*alias",
    "&anchor",
    "Bearer",
    "sk-",
    "sk-${KEY}",
];
/// What people put there, and might mean.
const WORDS: [&str; 3] = ["redacted", "***REDACTED***", "todo"];

#[test]
fn what_a_template_leaves_is_no_key_in_any_list_and_is_not_hashed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (list, store, keys) = (path("keys.txt"), path("bearward.yaml"), path("keys.yaml"));
    let config = format!(
        "listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:1]}}]\nkeys: {{path: {list}, allow_plaintext: true}}\n"
    );
    std::fs::write(&store, config).unwrap();
    let mut taken = Vec::new();
    for word in LEFT.iter().chain(&WORDS) {
        if bearward(&["keys", "hash"], word).status.code() != Some(2) {
            taken.push(format!("hash: {word}"));
        }
        let lists = [
            ("lines", format!("{word}\n")),
            ("env", format!("A_API_KEY='{word}'\n")),
            ("nginx", format!("map $http_authorization $who {{ \"Bearer {word}\" ann; }}\n")),
        ];
        for (form, text) in lists {
            std::fs::write(&keys, "keys: []\n").unwrap();
            let arguments = ["keys", "import", "-", "--partial", "--format", form, "--keys", &keys];
            bearward(&arguments, &text);
            if std::fs::read_to_string(&keys).unwrap() != "keys: []\n" {
                taken.push(format!("{form}: {word}"));
            }
        }
        std::fs::write(&list, format!("sk-a-key-of-its-own-1\n{word}\n")).unwrap();
        if bearward(&["check", "--config", &store], "").status.success() {
            taken.push(format!("store: {word}"));
        }
    }
    std::fs::write(&list, "sk-a-key-of-its-own-1\n").unwrap();
    let token = path("admin.token");
    let mut config = std::fs::read_to_string(&store).unwrap();
    config.push_str(&format!("admin: {{address: 127.0.0.1:0, token_file: {token}}}\n"));
    std::fs::write(&store, config).unwrap();
    // A weak word is a warning there.
    for (word, is_right) in LEFT.map(|word| (word, false)).into_iter().chain([("redacted", true)]) {
        std::fs::write(&token, format!("{word}\n")).unwrap();
        if bearward(&["check", "--config", &store], "").status.success() != is_right {
            taken.push(format!("admin token: {word}"));
        }
    }
    assert!(taken.is_empty(), "{}", taken.join("\n"));
    assert!(bearward(&["keys", "hash"], "nonesuch").status.success(), "a weak key is a key");
}

fn loads(fields: &str, secret: &str) -> Result<(), String> {
    let config = format!(
        "listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:1]{}}}]\nkeys: {{path: k.yaml{}}}\n",
        fields.strip_prefix("upstream").unwrap_or_default(),
        fields.strip_prefix("keys").unwrap_or_default(),
    );
    let environment = |name: &str| (name == "WORD").then(|| secret.to_owned());
    match Config::parse(Path::new("c.yaml"), &config, &environment) {
        Ok(_) => Ok(()),
        Err(faults) => Err(faults.to_string()),
    }
}

#[test]
fn nor_is_it_a_credential_for_an_upstream_or_the_secret_of_key_ids() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("word");
    let forms = ["env: WORD".to_owned(), format!("file: \"{}\"", file.display())];
    let mut wrong = Vec::new();
    for form in &forms {
        let credential = format!("upstream, credential: {{{form}}}");
        let in_header = format!("upstream, credential: {{header: x-api-key, {form}}}");
        let id_secret = format!("keys, id_secret: {{{form}}}");
        let mut expect = |fields: &str, secret: &str, is_right: bool| {
            std::fs::write(&file, format!("{secret}\n")).unwrap();
            match (loads(fields, secret), is_right) {
                (Ok(()), true) => {}
                (Err(reported), false) if !reported.contains("less than 32 characters") => {}
                (reported, _) => wrong.push(format!("{fields} {secret}: {reported:?}")),
            }
        };
        let more = ["<your-key>", "\"quoted\"", "$KEY", "{{ .Values.key }}", "op://vault/key"];
        for word in LEFT.iter().chain(&more) {
            expect(&credential, word, false);
            expect(&in_header, word, false);
            if *word != "Bearer" {
                expect(&credential, &format!("Bearer {word}"), false);
            }
        }
        // A server behind us may have been given any word.
        for word in ["changeme", "redacted", "EMPTY", "Basic dTpw", "Digest username=\"x\"", "session=abc"] {
            expect(&credential, word, true);
            expect(&in_header, word, true);
        }
        for secret in [
            format!("${{{}}}", "X".repeat(40)),
            "<put-the-secret-of-our-ids-in-here>".to_owned(),
            "changeme".repeat(5),
            "a".repeat(32),
            "0101".repeat(10),
            format!("\"{}\"", "0123456789abcdef".repeat(2)),
        ] {
            expect(&id_secret, &secret, false);
        }
        expect(&id_secret, &"0123456789abcdef".repeat(2), true);
        expect(&id_secret, "kJ8v2mQ0xR7tN4wB9yC1pL6sD3fG5hZa+/aE8uI0oPQ=", true);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
