//! Decoders of single values: words, numbers, durations, sizes, networks.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::{Span, SpanRelativeTo, Timestamp};

use super::decoder::{Decoder, nearest};
use crate::config::beside::beside;
use crate::config::files::{Content, NamedFile};
use crate::config::network::{NetworkFault, network_of};
use crate::config::tree::Node;

impl Decoder<'_> {
    /// Decodes text that is not empty.
    pub(crate) fn word(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node)?;
        if text.is_empty() {
            self.fault(node.at, "must not be empty");
            return None;
        }
        Some(text)
    }

    /// Decodes the path of a file that bearward reads, and that has no secret. A relative path begins at the
    /// directory of the file that is decoded ([`beside`]).
    pub(crate) fn path(&mut self, node: &Node) -> Option<PathBuf> {
        self.named_file(node, Content::Public)
    }

    /// Decodes the path of a file that has a secret, such as a key, a password or a token. A relative path begins
    /// as in [`Decoder::path`].
    pub(crate) fn secret_path(&mut self, node: &Node) -> Option<PathBuf> {
        self.named_file(node, Content::Secret)
    }

    /// Decodes the path of a directory whose files bearward makes. A relative path begins as in [`Decoder::path`].
    pub(crate) fn own_directory(&mut self, node: &Node) -> Option<PathBuf> {
        self.named_file(node, Content::Own)
    }

    fn named_file(&mut self, node: &Node, content: Content) -> Option<PathBuf> {
        let path = beside(self.file(), &self.word(node)?);
        self.context.named_files.push(NamedFile { path: path.clone(), at: node.at, content });
        Some(path)
    }

    /// Decodes the path of a file that bearward writes to. A relative path begins as in [`Decoder::path`].
    pub(crate) fn written_path(&mut self, node: &Node) -> Option<PathBuf> {
        let path = beside(self.file(), &self.word(node)?);
        self.context.written_files.push((path.clone(), node.at));
        Some(path)
    }

    /// Decodes a value by the `FromStr` of its type. In the message of a fault, `needed` describes
    /// the values that are accepted, as in "a size".
    pub(crate) fn parsed<T: FromStr>(&mut self, node: &Node, needed: &str, hint: &str) -> Option<T> {
        let text = self.text(node)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(_) => {
                let message = format!("{} is not {needed}", self.quoted(&text));
                self.hinted(node.at, message, hint)
            }
        }
    }

    pub(crate) fn boolean(&mut self, node: &Node) -> Option<bool> {
        self.parsed(node, "true or false", "write true or false")
    }

    /// Decodes a whole number of at least `least`.
    pub(crate) fn number<T: FromStr + PartialOrd + Display>(&mut self, node: &Node, least: T) -> Option<T> {
        const HINT: &str = "digits only, as in 600";
        // A leading zero is refused, because some YAML parsers read such a number as octal.
        let text = self.text(node)?;
        if text.starts_with('+') || (text.starts_with('0') && text.len() > 1) {
            let message = format!("{} is not a whole number in range", self.quoted(&text));
            return self.hinted(node.at, message, HINT);
        }
        let value: T = self.parsed(node, "a whole number in range", HINT)?;
        if value < least {
            return self.hinted(node.at, "too small", format!("at least {least}"));
        }
        Some(value)
    }

    /// Decodes a duration above zero: `10s`, `5m`, `90d`.
    pub(crate) fn duration(&mut self, node: &Node) -> Option<Duration> {
        let text = self.text(node)?;
        match parse_duration(&text) {
            Some(duration) => Some(duration),
            None => {
                let message = format!("{} is not a duration", self.quoted(&text));
                self.hinted(node.at, message, "a number with its unit, as in 250ms, 10s, 5m, 12h, 90d")
            }
        }
    }

    /// Decodes a size above zero: `32MiB`, `8KiB` or a number of bytes.
    pub(crate) fn size(&mut self, node: &Node) -> Option<u64> {
        let size: bytesize::ByteSize = self.parsed(node, "a size", "as in 8KiB, 32MiB or 65536")?;
        if size.as_u64() == 0 {
            return self.hinted(node.at, "a size of zero", "at least 1");
        }
        Some(size.as_u64())
    }

    /// Decodes an instant with its time zone (RFC 3339).
    pub(crate) fn instant(&mut self, node: &Node) -> Option<Timestamp> {
        self.parsed(node, "a time with a zone", "as in 2026-12-01T00:00:00Z")
    }

    /// Decodes a network, as in `10.0.0.0/8`, or a single address.
    pub(crate) fn network(&mut self, node: &Node) -> Option<IpNet> {
        let text = self.text(node)?;
        match network_of(&text) {
            Ok(network) => Some(network),
            Err(NetworkFault::HostBits(right)) => {
                self.hinted(node.at, "a network with host bits set", format!("{right} is meant?"))
            }
            Err(NetworkFault::Mapped(right)) => {
                let message = "IPv4 in the form of IPv6, which no address matches";
                self.hinted(node.at, message, format!("{right} is meant?"))
            }
            Err(NetworkFault::NoNetwork) => {
                let message = format!("{} is not a network", self.quoted(&text));
                self.hinted(node.at, message, "as in 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32")
            }
        }
    }

    /// Decodes one name out of a closed set.
    pub(crate) fn one_of<T: Copy>(&mut self, node: &Node, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.text(node)?;
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let names: Vec<&'static str> = choices.iter().map(|(name, _)| *name).collect();
        let hint = match nearest(&text, &names) {
            Some(name) => format!("did you mean `{name}`? known are: {}", names.join(", ")),
            None => format!("one of: {}", names.join(", ")),
        };
        let message = format!("{} is not known here", self.quoted(&text));
        self.hinted(node.at, message, hint)
    }
}

/// Parses a positive duration in jiff's friendly format. A day has 24 hours; months and years are
/// refused, because their length varies.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let span: Span = text.trim().parse().ok()?;
    if span.get_months() != 0 || span.get_years() != 0 {
        return None;
    }
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(duration).ok().filter(|duration| !duration.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_a_length() {
        assert_eq!(parse_duration("90d"), Some(Duration::from_secs(90 * 86_400)));
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("1h30m"), Some(Duration::from_secs(5400)));
        for bad in ["10", "0s", "-5s", "1mo", "", "x"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
