//! Paths in messages, and in the commands that these advise.

use std::borrow::Cow;
use std::path::Path;

/// Returns a path for a message, with `?` for each control character, by which a name could mislead a terminal.
pub(crate) fn shown(path: &Path) -> String {
    path.to_string_lossy().replace(char::is_control, "?")
}

/// Returns a path as one word of a shell's command (POSIX, Shell Command Language, section 2.2): as it is if nothing in
/// it means anything to a shell, else in quotes. So no name of a file becomes a part of a command that somebody copies,
/// nor an option of the command. With [`shown`]'s `?` for control characters, the command finds no such file.
pub(crate) fn shell_word(path: &Path) -> String {
    let begins_as_option = path.as_os_str().as_encoded_bytes().starts_with(b"-");
    let path = if begins_as_option { Cow::Owned(Path::new(".").join(path)) } else { Cow::Borrowed(path) };
    let text = shown(&path);
    // Without a NUL, everything can be quoted.
    shlex::try_quote(&text).map_or_else(|_| String::new(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_shell_reads_one_word() {
        for path in [
            "/etc/bearward/keys.yaml",
            "my keys/it's.yaml",
            "$(touch /tmp/x)",
            "a;b",
            "`c`",
            "~",
            "é|\\",
            "#",
        ] {
            let script = format!("printf %s {}", shell_word(Path::new(path)));
            let printed = Command::new("sh").args(["-c", &script]).output().unwrap().stdout;
            assert_eq!(printed, path.as_bytes(), "{script}");
        }
        assert_eq!(shell_word(Path::new("/etc/bearward/keys.yaml")), "/etc/bearward/keys.yaml");
        assert_eq!(shell_word(Path::new("-rf")), "./-rf");
        assert_eq!(shell_word(Path::new("a\n\u{1b}[2Jb")), "'a??[2Jb'");
    }
}
