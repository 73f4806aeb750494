//! What is no key, and what is one though it looks odd, in every form of store.
//!
//! Each row is refused with its place and a hint, by `check` of the real binary; none of what is refused is quoted.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use super::{Files, Form, entry, hash};

/// A field of an otherwise good entry, and what is said of it: a part of the message, and of the hint.
const BAD_FIELDS: &[(&str, &str, &str)] = &[
    ("\"allow_from\":null", "`allow_from` is there and has no value", "leave the field out"),
    ("\"allow_from\":[]", "`allow_from` is there and has no value", "leave the field out"),
    ("\"allow_from\":\"\"", "a list is needed here", "[a, b]"),
    ("\"allow_from\":\"10.0.0.0/8\"", "a list is needed here", "[a, b]"),
    ("\"allow_from\":[\"10.0.0.1/8\"]", "host bits", "10.0.0.0/8"),
    ("\"allow_from\":[\"\"]", "not a network", "as in 10.0.0.0/8"),
    ("\"allow_from\":[null]", "no value here", "leave the field out"),
    ("\"allow_from\":[\"::ffff:10.0.0.1\"]", "IPv4 in the form of IPv6", "10.0.0.1/32 is meant?"),
    ("\"allow_from\":[\"*\"]", "not a network", "as in 10.0.0.0/8"),
    ("\"routes\":null", "`routes` is there and has no value", "leave the field out"),
    ("\"routes\":[]", "`routes` is there and has no value", "leave the field out"),
    ("\"routes\":\"chat\"", "a list is needed here", "[a, b]"),
    ("\"routes\":[\"\"]", "must not be empty", ""),
    ("\"routes\":{}", "`routes` is there and has no value", "leave the field out"),
    ("\"expires_at\":null", "`expires_at` is there and has no value", "leave the field out"),
    ("\"expires_at\":\"\"", "not a time with a zone", "as in 2026-12-01T00:00:00Z"),
    ("\"expires_at\":\"2027-01-01\"", "not a time with a zone", "as in 2026-12-01T00:00:00Z"),
    ("\"expires_at\":\"2027-01-01T00:00:00\"", "not a time with a zone", "as in 2026-12-01T00:00:00Z"),
    ("\"expires_at\":\"never\"", "not a time with a zone", "as in 2026-12-01T00:00:00Z"),
    ("\"expires_at\":1767225600", "not a time with a zone", "as in 2026-12-01T00:00:00Z"),
    ("\"not_before\":null", "`not_before` is there and has no value", "leave the field out"),
    ("\"not_before\":\"tomorrow\"", "not a time with a zone", "as in 2026-12-01T00:00:00Z"),
    ("\"disabled\":null", "`disabled` is there and has no value", "leave the field out"),
    ("\"disabled\":\"yes\"", "not true or false", "write true or false"),
    ("\"disabled\":1", "not true or false", "write true or false"),
    ("\"environment\":null", "`environment` is there and has no value", "leave the field out"),
    ("\"environment\":\"\"", "must not be empty", ""),
    ("\"environment\":\" a\"", "white space", ""),
    ("\"max_concurrent\":null", "`max_concurrent` is there and has no value", "leave the field out"),
    ("\"max_concurrent\":0", "too small", "at least 1"),
    ("\"max_concurrent\":-1", "not a whole number", "digits only"),
    ("\"max_concurrent\":\"unlimited\"", "not a whole number", "digits only"),
    ("\"rate_limits\":null", "`rate_limits` is there and has no value", "leave the field out"),
    ("\"rate_limits\":[]", "`rate_limits` is there and has no value", "leave the field out"),
    ("\"rate_limits\":\"off\"", "a list is needed here", "[a, b]"),
    ("\"rate_limits\":[{\"requests\":0,\"per\":\"1m\"}]", "too small", "at least 1"),
    ("\"rate_limits\":[{\"requests\":1,\"per\":\"60\"}]", "not a duration", "with its unit"),
    ("\"rate_limits\":[{\"requests\":1,\"per\":null}]", "needs the field `per`", ""),
    ("\"previous\":null", "`previous` is there and has no value", "leave the field out"),
    ("\"previous\":[{\"hash\":\"HASH\"}]", "needs the field `expires_at`", ""),
    ("\"previous\":[{\"hash\":\"HASH\",\"expires_at\":null}]", "needs the field `expires_at`", ""),
    ("\"permission\":[\"read\"]", "unknown field in a key", "did you mean `permissions`?"),
    ("\"expires\":\"2027-01-01T00:00:00Z\"", "unknown field in a key", "did you mean `expires_at`?"),
    ("\"disabled\":true,\"disabled\":false", "this field is given twice", "keep one of them"),
    ("\"metadata\":[]", "a map of names", ""),
    ("\"metadata\":{\"a\":\"1\",\"a\":\"2\"}", "this field is given twice", "keep one of them"),
];

/// A whole entry, and what is said of it.
const BAD_ENTRIES: &[(&str, &str, &str)] = &[
    ("{\"hash\":\"HASH\",\"permissions\":[\"read\"]}", "needs the field `id`", ""),
    ("{\"id\":null,\"hash\":\"HASH\",\"permissions\":[\"read\"]}", "needs the field `id`", ""),
    ("{\"id\":\"ci\",\"hash\":\"HASH\",\"permissions\":[\"read\"]}", "not a key's id", "key_4f9Zk2Qx7B"),
    ("{\"id\":\"key_x\",\"permissions\":[\"read\"]}", "needs the field `hash`", ""),
    (
        "{\"id\":\"key_x\",\"hash\":\"sha256:\",\"permissions\":[\"read\"]}",
        "not a key's hash",
        "bearward keys hash",
    ),
    (
        "{\"id\":\"key_x\",\"hash\":\"sk-SECRET\",\"permissions\":[\"read\"]}",
        "not a key's hash",
        "bearward keys hash",
    ),
    (
        "{\"id\":\"key_x\",\"hash\":\"${HASH_OF_KEY}\",\"permissions\":[\"read\"]}",
        "not a key's hash",
        "bearward keys hash",
    ),
    ("{\"id\":\"key_x\",\"hash\":\"HASH\"}", "needs the field `permissions`", ""),
    ("{\"id\":\"key_x\",\"hash\":\"HASH\",\"permissions\":null}", "needs the field `permissions`", ""),
    (
        "{\"id\":\"key_x\",\"hash\":\"HASH\",\"permissions\":[]}",
        "a key without permissions",
        "disabled: true",
    ),
    ("{\"id\":\"key_x\",\"hash\":\"HASH\",\"permissions\":\"admin\"}", "a list is needed here", "[a, b]"),
    (
        "{\"id\":\"key_x\",\"hash\":\"HASH\",\"permissions\":[\"Read\"]}",
        "not known here",
        "did you mean `read`?",
    ),
    ("{\"id\":\"key_x\",\"hash\":\"HASH\",\"permissions\":[\"*\"]}", "not known here", "read"),
    ("[\"key_x\"]", "a key must be a map of fields", "field: value"),
];

/// A line of a plain list, its column, and what is said of it.
const BAD_LINES: &[(&str, usize, &str, &str)] = &[
    ("${API_KEY}", 1, "a variable in `${…}`", "render the template first"),
    ("  ${API_KEY}", 3, "a variable in `${…}`", "render the template first"),
    ("Bearer ${OLLAMA_KEY}", 8, "a variable in `${…}`", "render the template first"),
    ("sk-${KEY:-SECRET}", 4, "a variable in `${…}`", "render the template first"),
    ("{{ .Values.key }}", 1, "a template in `{{…}}`", "render the template first"),
    ("%API_KEY%", 1, "a variable in `%…%`", "render the template first"),
    ("$API_KEY", 1, "a variable with `$`", "render the template first"),
    ("<your-api-key>", 1, "a placeholder in `<…>`", "put the secret in its place"),
    ("\"sk-SECRET\"", 1, "a value in quotes", "write the secret alone"),
    ("'sk-SECRET'", 1, "a value in quotes", "write the secret alone"),
    ("API_KEY=sk-SECRET", 1, "`NAME=value`", "write the secret alone"),
    ("export API_KEY=sk-SECRET", 1, "`NAME=value`", "write the secret alone"),
    ("ann:$apr1$SECRET$hash", 5, "htpasswd", "the secret itself is needed"),
    ("ann:$2y$05$SECRET", 5, "htpasswd", "the secret itself is needed"),
    ("ann:{SHA}SECRET=", 5, "htpasswd", "the secret itself is needed"),
    ("os.environ/SECRET", 1, "a reference to a secret", "write the secret itself"),
    ("Bearer sk-SECRET", 1, "a header's value", "write the secret alone"),
    ("{\"key\":\"sk-SECRET\"}", 1, "another kind of file", "one token a line"),
    ("changeme", 1, "a placeholder's usual text", "put the secret in its place"),
    ("sk-xxxxxxxxxxxxxxxx", 1, "a placeholder's usual text", "put the secret in its place"),
    ("two SECRET words", 1, "this is not a token", "one printable ASCII word a line"),
    ("a,SECRET", 1, "this is not a token", "one printable ASCII word a line"),
    ("gehe\u{ed}m-SECRET", 1, "this is not a token", "one printable ASCII word a line"),
    ("bwk_4f9Zk2Qx7B_00000000000000000000000000000000000000", 1, "wrong checksum", "lost or changed"),
];

fn check(files: &Files) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_bearward"))
        .args(["check", "--config"])
        .arg(files.config("127.0.0.1:1".parse().unwrap()))
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// The line of `said` with this message and hint, which names the file with a line and a column.
fn assert_reported(said: &str, row: &str, message: &str, hint: &str, place: &str) {
    let found = said.lines().find(|line| line.contains(message) && line.contains(hint));
    let found = found.unwrap_or_else(|| panic!("{row}: {said}"));
    let rest = found.split("keys").nth(1).unwrap_or_else(|| panic!("{row}: {said}"));
    let numbers: Vec<&str> = rest.split(':').filter(|part| part.parse::<usize>().is_ok()).collect();
    assert!(numbers.len() >= 2 && rest.contains(place), "{row}: {found}");
    assert!(!said.contains("SECRET") && !said.contains("sha256:0"), "{row}: {said}");
}

#[test]
fn every_bad_entry_is_refused_in_every_store_with_its_place_and_a_hint() {
    let fields = BAD_FIELDS
        .iter()
        .map(|(field, message, hint)| (entry("x", &field.replace("HASH", &hash("old"))), *message, *hint));
    let entries =
        BAD_ENTRIES.iter().map(|(bad, message, hint)| (bad.replace("HASH", &hash("x")), *message, *hint));
    let rows: Vec<_> = fields.chain(entries).collect();
    assert!(rows.len() >= 55, "{}", rows.len());
    for form in [Form::Yaml, Form::JsonLines, Form::Directory] {
        for (bad, message, hint) in &rows {
            let files = Files::new(form);
            match form {
                // A file of a directory may hold a list, too.
                Form::Directory => {
                    fs::write(files.store().join("good"), entry("good", "")).unwrap();
                    fs::write(files.store().join("list"), format!("keys:\n- {bad}\n")).unwrap();
                }
                _ => files.write(&[entry("good", ""), bad.clone()]),
            }
            let (code, said) = check(&files);
            assert_eq!(code, Some(78), "{form:?}: {bad}: {said}");
            let place = match form {
                Form::Yaml => ".yaml:3:",
                Form::JsonLines => ".jsonl:2:",
                _ => "/list:2:",
            };
            assert_reported(&said, &format!("{form:?}: {bad}"), message, hint, place);
        }
    }
}

#[test]
fn every_bad_line_of_a_plain_list_is_refused_with_its_place_and_a_hint() {
    assert!(BAD_LINES.len() >= 20);
    for (line, column, message, hint) in BAD_LINES {
        let files = Files::new(Form::Text);
        files.write_raw(&format!("# ours\nsk-good\n{line}\n"));
        let (code, said) = check(&files);
        assert_eq!(code, Some(78), "{line}: {said}");
        assert_reported(&said, line, message, hint, &format!(".txt:3:{column}:"));
    }
}

/// Stores as they are on disk that are refused as a whole.
const BAD_STORES: &[(Form, &str, &str)] = &[
    (Form::Yaml, "", "the key file is empty"),
    (Form::Yaml, "# none\n", "the key file is empty"),
    (Form::Yaml, "---\n", "must be a map of fields"),
    (Form::Yaml, "keys:\n", "needs the field `keys`"),
    (Form::Yaml, "keys: ~\n", "needs the field `keys`"),
    (Form::Yaml, "keys: {}\n", "a list is needed here"),
    (Form::Yaml, "keys: none\n", "a list is needed here"),
    (Form::Yaml, "- {id: key_a}\n", "must be a map of fields"),
    (Form::Yaml, "keys: [", "not valid YAML"),
    (Form::Yaml, "keys: []\nkeys: []\n", "this field is given twice"),
    (Form::Yaml, "keys: []\nkyes: []\n", "unknown field in a key file"),
    (Form::Yaml, "keys: []\n---\nkeys: []\n", "a second YAML document"),
    (Form::JsonLines, "[]\n", "must be a map of fields"),
    (Form::JsonLines, "{\"id\":", "not valid JSON"),
    (Form::JsonLines, "keys: []\n", "not valid JSON"),
    (Form::JsonLines, "null\n", "must be a map of fields"),
];

#[test]
fn a_store_that_is_no_list_of_keys_is_refused() {
    for (form, content, message) in BAD_STORES {
        let files = Files::new(*form);
        files.write_raw(content);
        let (code, said) = check(&files);
        assert_eq!(code, Some(78), "{form:?} {content:?}: {said}");
        assert!(said.contains(message) && said.contains("keys."), "{form:?} {content:?}: {said}");
    }
}

#[test]
fn a_duplicate_is_refused_in_every_store() {
    let named = |name: &str| entry(name, "\"name\":\"n\"");
    let pairs = [
        ("id", entry("a", ""), entry("b", "").replace("key_b", "key_a")),
        ("hash", entry("a", ""), entry("a", "").replace("key_a", "key_b")),
        ("name", named("a"), named("b")),
        (
            "hash",
            entry("a", ""),
            entry(
                "b",
                &format!(
                    "\"previous\":[{{\"hash\":\"{}\",\"expires_at\":\"2030-01-01T00:00:00Z\"}}]",
                    hash("a")
                ),
            ),
        ),
    ];
    for form in [Form::Yaml, Form::JsonLines, Form::Directory] {
        for (what, first, second) in &pairs {
            let files = Files::new(form);
            match form {
                Form::Directory => {
                    fs::write(files.store().join("one"), first).unwrap();
                    fs::write(files.store().join("two"), second).unwrap();
                }
                _ => files.write(&[first.clone(), second.clone()]),
            }
            let (code, said) = check(&files);
            assert_eq!(code, Some(78), "{form:?}: {what}: {said}");
            let is_reported = match form {
                Form::Directory => said.contains("another file of the directory has, too"),
                _ => said.contains(&format!("this {what} appears twice")),
            };
            assert!(is_reported, "{form:?}: {what}: {said}");
        }
    }
}

/// Fields of an entry that look odd, and are right.
const ODD_FIELDS: &[&str] = &[
    "",
    "\"name\":null",
    "\"name\":\"null\"",
    "\"name\":\"a b\"",
    "\"name\":\"${NAME}\"",
    "\"name\":\"\\u00e9\\ud83d\\ude00\"",
    "\"created_at\":null",
    "\"created_at\":\"1970-01-01T00:00:00Z\"",
    "\"metadata\":null",
    "\"metadata\":{}",
    "\"metadata\":{\"\":\"\"}",
    "\"metadata\":{\"note\":\"<your-api-key>\"}",
    "\"previous\":[]",
    "\"disabled\":true",
    "\"disabled\":false",
    "\"disabled\":\"true\"",
    "\"environment\":\"none\"",
    "\"environment\":\"null\"",
    "\"expires_at\":\"2001-01-01T00:00:00Z\"",
    "\"expires_at\":\"2030-01-01T00:00:00+05:30\"",
    "\"expires_at\":\"9000-12-31T00:00:00.5Z\"",
    "\"not_before\":\"9000-01-01T00:00:00Z\"",
    "\"allow_from\":[\"0.0.0.0/0\"]",
    "\"allow_from\":[\"::/0\"]",
    "\"allow_from\":[\"::1\",\"127.0.0.1\"]",
    "\"routes\":[\"does-not-exist\"]",
    "\"routes\":[\"null\"]",
    "\"routes\":[\"a\",\"a\"]",
    "\"max_concurrent\":\"8\"",
    "\"max_concurrent\":4294967295",
    "\"rate_limits\":\"none\"",
    "\"rate_limits\":[{\"requests\":1,\"per\":\"1d\"}]",
    "\"rate_limits\":[{\"requests\":1,\"per\":\"1h\",\"burst\":null}]",
    "\"rate_limits\":[{\"requests\":4,\"per\":\"90s\",\"burst\":9},{\"requests\":9,\"per\":\"2d\"}]",
];

#[test]
fn odd_entries_that_are_right_load_in_every_store() {
    let odd = ODD_FIELDS;
    assert!(odd.len() >= 33, "{}", odd.len());
    for form in [Form::Yaml, Form::JsonLines, Form::Directory] {
        let files = Files::new(form);
        let entries = odd.iter().enumerate().map(|(number, field)| entry(&format!("odd-{number}"), field));
        files.write(&entries.collect::<Vec<_>>());
        let (code, said) = check(&files);
        assert_eq!(code, Some(0), "{form:?}: {said}");
        assert!(said.contains(&format!("the keys have {} secret", odd.len())), "{form:?}: {said}");
    }
}

#[test]
fn odd_stores_that_are_right_load() {
    let (a, b) = (entry("a", ""), entry("b", ""));
    let fields = format!("id: key_a\nhash: {}\npermissions: [read]\n", hash("a"));
    let stores: Vec<(Form, String, usize)> = vec![
        (Form::Yaml, "keys: []\n".to_owned(), 0),
        (Form::Yaml, "# none any more\nkeys: [ ]   # none\n".to_owned(), 0),
        (Form::Yaml, format!("{{\"keys\":[{a},{b}]}}"), 2),
        (Form::Yaml, format!("\u{feff}keys:\r\n- {a}\r\n- {b}\r\n"), 2),
        (Form::Yaml, format!("---\nkeys:\n- {a}\n...\n"), 1),
        (
            Form::Yaml,
            format!(
                "keys:\n- &a\n  permissions: &p [read]\n  id: key_a\n  hash: {}\n- {{<<: *a, id: key_b, hash: '{}'}}\n",
                hash("a"),
                hash("b")
            ),
            2,
        ),
        (
            Form::Yaml,
            format!(
                "keys:\n- id: key_a\n  hash: >-\n    {}\n  permissions:\n  - read\n  - read\n",
                hash("a")
            ),
            1,
        ),
        (Form::Yaml, format!("keys:\n-\n    {}", fields.replace('\n', "\n    ")), 1),
        (Form::JsonLines, String::new(), 0),
        (Form::JsonLines, "\n \n\r\n".to_owned(), 0),
        (Form::JsonLines, format!("\u{feff}{a}\r\n\r\n  {b}  "), 2),
        (Form::JsonLines, a.replace("\"id\"", "\"\\u0069d\""), 1),
        (Form::Text, String::new(), 0),
        (Form::Text, "# none\n\n".to_owned(), 0),
        (Form::Text, "\u{feff}sk-a\r\n#sk-b\r\n  sk-c\t\n".to_owned(), 2),
        (
            Form::Text,
            "secret\n1\nuser:password\na$b\n100%\nQWxhZGRpbjpvcGVuIHNlc2FtZQ==\nabcd=\n".to_owned(),
            7,
        ),
        (Form::Text, "hf_xx\ngsk_xxx1\nkey-changeme-2026\nsk-proj-a_B-1\na<b\nid.secret\n".to_owned(), 6),
    ];
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (form, content, keys) in stores {
        let files = Files::new(form);
        files.write_raw(&content);
        let (code, said) = check(&files);
        if keys == 0 {
            // A list without keys is a list: only a start with it is refused.
            assert_eq!(code, Some(78), "{form:?} {content:?}: {said}");
            assert!(said.contains("has no keys"), "{form:?} {content:?}: {said}");
        } else {
            assert_eq!(code, Some(0), "{form:?} {content:?}: {said}");
            assert!(said.contains(&format!("the keys have {keys} secret")), "{form:?} {content:?}: {said}");
        }
        *counts.entry(format!("{form:?}")).or_default() += 1;
    }
    let directory = Files::new(Form::Directory);
    let (code, said) = check(&directory);
    assert_eq!(code, Some(78), "an empty directory: {said}");
    assert!(said.contains("the key directory has no keys"), "{said}");
    for (name, content) in
        [("a", fields.as_str()), ("b.yaml", "keys: []\n"), (".hidden", "nonsense"), ("c~", "nonsense")]
    {
        fs::write(directory.store().join(name), content).unwrap();
    }
    let (code, said) = check(&directory);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("the keys have 1 secret"), "{said}");
    assert_eq!(counts.len(), 3);
}
