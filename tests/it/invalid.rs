//! Every broken file in `tests/data/invalid` is reported with its position, its fault and a hint.
//!
//! `NAME.expected` beside each is the output; `UPDATE_EXPECTED=1 cargo test` writes it anew.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Checks a configuration; `input` is standard input.
fn check(directory: &Path, config: &Path, input: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bearward"))
        .args(["check", "--config"])
        .arg(config)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that was given a file does not read.
    let _unread = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{}: {printed}", config.display());
    assert!(output.stdout.is_empty());
    printed
}

#[test]
fn every_broken_file_is_reported_with_a_hint() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/invalid");
    let mut names: Vec<String> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".expected") && !name.starts_with("good."))
        .collect();
    names.sort();
    assert!(names.len() >= 40, "{}", names.len());
    let mut differences = Vec::new();
    for name in &names {
        let printed = if name.contains(".config.") {
            check(&directory, Path::new(name), "")
        } else {
            // Paths in a configuration from a pipe begin at the working directory.
            let text = format!(
                "listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:1]}}]\nkeys: {{path: {name}}}\n"
            );
            check(&directory, Path::new("/dev/stdin"), &text)
        };
        assert!(
            !printed.contains("0123456789abcdef") && !printed.contains("0000000000000000"),
            "{name}: {printed}"
        );
        let expected = directory.join(format!("{name}.expected"));
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&expected, &printed).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        if printed != expected {
            differences.push(format!("{name}:\n--- expected\n{expected}--- printed\n{printed}"));
        }
        // A file, a position where there is one, and the message.
        assert!(printed.starts_with("bearward: ") && printed.contains(": "), "{printed}");
        assert!(printed.contains(name.as_str()) || printed.contains("missing."), "{name}: {printed}");
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn a_file_with_three_faults_reports_three() {
    for name in ["three-faults.config.yaml", "three-faults.keys.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/invalid").join(name);
        let expected = fs::read_to_string(path.with_file_name(format!("{name}.expected"))).unwrap();
        let faults = expected.lines().filter(|line| line.contains(&format!("{name}:")));
        assert!(faults.count() >= 3, "{expected}");
    }
}
