//! Commands that change one file of a Secret, where a mounted store comes from.
//!
//! Invariant: no command touches another file of the Secret, and so no other key. `kubectl create … | kubectl
//! apply` would remove the files that it does not name.

/// Returns the command that replaces a file of a Secret by the file of the same name in the working directory, or
/// adds it. Nothing is done if there is no such file here, or an empty one.
pub(crate) fn replacing(file: &str) -> String {
    let file = plain(file);
    format!(
        r#"test -s {file} && kubectl patch secret NAME --type merge --patch "{{\"data\": {{\"{file}\": \"$(base64 < {file} | tr -d '\n')\"}}}}""#
    )
}

/// Returns the command that removes a file from a Secret.
pub(super) fn removing(file: &str) -> String {
    let file = plain(file);
    format!(r#"kubectl patch secret NAME --type merge --patch '{{"data": {{"{file}": null}}}}'"#)
}

/// Returns the name of a file as a Secret can have it, or a word in its place: no name becomes a part of a command.
fn plain(file: &str) -> &str {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if file.bytes().all(is_plain) { file } else { "FILE" }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};

    use super::*;

    /// Returns the patch that a shell gives to kubectl.
    fn patch(command: &str, directory: &std::path::Path) -> Value {
        let shell = format!(
            "kubectl() {{ [ \"$1 $2 $3 $4 $5 $6 $#\" = 'patch secret NAME --type merge --patch 7' ] && printf %s \"$7\"; }}; {command}"
        );
        let output = Command::new("sh").args(["-c", &shell]).current_dir(directory).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    #[test]
    fn a_shell_makes_a_patch_of_one_file_of_each_command() {
        let directory = tempfile::tempdir().unwrap();
        let text = format!("id: key_1\nname: \"it's\"\n{}", "#".repeat(200));
        std::fs::write(directory.path().join("checkout.yaml"), &text).unwrap();
        let patch = |command: &str| patch(command, directory.path());
        let replaced = patch(&replacing("checkout.yaml"));
        let coded = replaced["data"]["checkout.yaml"].as_str().unwrap();
        assert_eq!(STANDARD.decode(coded).unwrap(), text.as_bytes());
        assert_eq!(replaced["data"].as_object().unwrap().len(), 1);
        for name in ["$(touch x).yaml", "a b", "x\"y", "a;b"] {
            assert!(!replacing(name).contains(name) && !removing(name).contains(name), "{name}");
        }
        let elsewhere = format!("kubectl() {{ echo patched; }}; {} || true", replacing("missing.yaml"));
        let output =
            Command::new("sh").args(["-c", &elsewhere]).current_dir(directory.path()).output().unwrap();
        assert!(output.stdout.is_empty(), "a file that is not there empties none: {output:?}");
        assert_eq!(patch(&removing("checkout.yaml")), json!({"data": {"checkout.yaml": null}}));
    }
}
