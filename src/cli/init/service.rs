//! What to do with the files of a service of systemd.

use std::path::Path;

use crate::shell_word::shell_word;

/// The program, for a service, if it runs from a directory that a service can't see.
pub(super) const BINARY: &str = "/usr/local/bin/bearward";

/// Directories that the unit can't see.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// A service, and its files.
pub(super) struct Service<'a> {
    pub(super) directory: &'a Path,
    /// The files that the service reads, and their directory if it is new.
    pub(super) owned: Vec<String>,
    /// The program, if the service can't see it where it is.
    pub(super) installs: Option<&'a Path>,
    pub(super) has_socket: bool,
}

impl Service<'_> {
    /// Returns the commands that begin the service. `curl`: a request to it.
    pub(super) fn steps(&self, curl: &str) -> Vec<String> {
        let Service { directory, owned, installs, has_socket } = self;
        let mut steps = vec!["bearward: next, as root, with the secret in KEY:".to_owned()];
        if let Some(binary) = installs {
            steps.push(format!("  install -m 0755 {} {BINARY}", shell_word(binary)));
        }
        let units = if *has_socket { "bearward.socket bearward.service" } else { "bearward.service" };
        let of_directory = units.split(' ').map(|unit| directory.join(unit).display().to_string());
        steps.extend([
            "  useradd --system --no-create-home --shell /usr/sbin/nologin bearward".to_owned(),
            format!("  chown root:bearward {}", owned.join(" ")),
            // Whoever made the files; in a directory, X is the right to enter.
            format!("  chmod g+rX {}", owned.join(" ")),
            // Whoever made the files, a unit is root's.
            format!(
                "  install -o root -g root -m 0644 {} /etc/systemd/system/",
                of_directory.collect::<Vec<_>>().join(" ")
            ),
            "  systemctl daemon-reload".to_owned(),
            format!("  systemctl enable --now {units}"),
            format!("  {curl}"),
            format!(
                "bearward: its log: journalctl -u bearward; after a change: bearward reload --config {}",
                directory.join("config.yaml").display()
            ),
        ]);
        steps
    }
}

/// Whether a service can't see a path.
pub(super) fn is_hidden(path: &Path) -> bool {
    HIDDEN.iter().any(|hidden| path.starts_with(hidden))
}

/// Whether a path can be written into a unit and into a shell's command as it is.
pub(super) fn is_plain(path: &Path) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./".contains(byte);
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().all(is_plain) && !path.components().any(|part| part == std::path::Component::ParentDir)
}
