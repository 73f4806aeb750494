//! Decodes a [`Node`] tree field by field, and goes on after a fault, so that one run tells all of them.
//!
//! Used by the configuration and by the key file. A decoder is a function
//! `fn(&mut Decoder, &Node) -> Option<T>`; `None` means that it has reported a fault.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use jiff::{Span, SpanRelativeTo, Timestamp};

use super::fault::{Fault, Position};
use super::network::{NetworkFault, network_of};
use super::tree::{Key, Kind, Node, Quoting};

/// Looks up an environment variable.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What is right in the place of an empty field, see [`Decoder::narrowing`].
const EMPTY_HINT: &str = "give it a value, or leave the field out";

pub(crate) struct Decoder<'a> {
    file: &'a Path,
    quoting: Quoting,
    /// Where `${VAR}` comes from; `None` where the file's kind has no interpolation.
    environment: Option<Environment<'a>>,
    /// What variables stood for, with what is written for it.
    expanded: Vec<(String, String)>,
    pub(crate) faults: Vec<Fault>,
    /// The files that are named, and where.
    pub(crate) named_files: Vec<(PathBuf, Position)>,
    /// The files that are written to, and where they are named.
    pub(crate) written_files: Vec<(PathBuf, Position)>,
}

/// A map that is being decoded: what was not asked for by the end is unknown.
pub(crate) struct Fields<'n> {
    pub(crate) at: Position,
    what: &'static str,
    entries: Vec<(&'n Key, &'n Node)>,
    known: Vec<&'static str>,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(file: &'a Path, quoting: Quoting, environment: Option<Environment<'a>>) -> Self {
        Decoder {
            file,
            quoting,
            environment,
            expanded: Vec::new(),
            faults: Vec::new(),
            named_files: Vec::new(),
            written_files: Vec::new(),
        }
    }

    /// The directory that relative paths in the file start from is the process's own, as in every peer.
    pub(crate) fn fault(&mut self, at: Position, message: impl Into<String>) -> &mut Fault {
        self.faults.push(Fault::at(self.file, at, message));
        // Just pushed, so it is there.
        let last = self.faults.len() - 1;
        #[allow(clippy::indexing_slicing, reason = "the line above pushed this very element")]
        &mut self.faults[last]
    }

    fn hinted<T>(&mut self, at: Position, message: impl Into<String>, hint: impl Into<String>) -> Option<T> {
        self.fault(at, message).hint = Some(hint.into());
        None
    }

    /// An environment variable that is set to something.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        self.environment?(name).filter(|value| !value.is_empty())
    }

    /// `text` for a message, where the file's kind allows quoting.
    fn quoted(&self, text: &str) -> String {
        match self.quoting {
            Quoting::Allowed => format!("`{text}`"),
            Quoting::Never => "this".to_owned(),
        }
    }

    pub(crate) fn fields<'n>(&mut self, node: &'n Node, what: &'static str) -> Option<Fields<'n>> {
        let Kind::Map(entries) = &node.kind else {
            return self.hinted(
                node.at,
                format!("{what} must be a map of fields"),
                "`field: value`, one a line",
            );
        };
        self.report_repeated(entries);
        let entries = entries.iter().map(|(key, value)| (key, value)).collect();
        Some(Fields { at: node.at, what, entries, known: Vec::new() })
    }

    /// Reports each field that stands a second time. The first one is decoded all the same.
    pub(crate) fn report_repeated(&mut self, entries: &[(Key, Node)]) {
        let mut names = HashSet::new();
        for (key, _) in entries.iter().filter(|(key, _)| !names.insert(key.name.as_str())) {
            let message = match self.quoting {
                Quoting::Allowed => format!("the field `{}` stands twice", key.name),
                Quoting::Never => "this field stands twice".to_owned(),
            };
            self.fault(key.at, message).hint = Some("keep one of them".to_owned());
        }
    }

    pub(crate) fn optional<T>(
        &mut self,
        fields: &mut Fields<'_>,
        name: &'static str,
        decode: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        fields.known.push(name);
        let (key, node) = *fields.entries.iter().find(|(key, _)| key.name == name)?;
        fields.entries.retain(|(key, _)| key.name != name);
        match (node.is_null(), self.environment) {
            (false, _) => decode(self, node),
            // In a configuration nearly every field bounds something, and a template that renders nothing must not take
            // the bound away.
            (true, Some(_)) => self.hinted(key.at, format!("`{name}` is there and has no value"), EMPTY_HINT),
            // In a key file, `field:` with nothing behind it reads as "left out", unless the field narrows.
            (true, None) => None,
        }
    }

    /// As [`Decoder::optional`], of a field whose absence grants more than any value of it would.
    ///
    /// Present but empty (null, `[]` or `{}`) is a fault and never "left out": a template that renders
    /// nothing must not widen what somebody may do. Text that is empty is for `decode` to refuse.
    pub(crate) fn narrowing<T>(
        &mut self,
        fields: &mut Fields<'_>,
        name: &'static str,
        decode: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        self.unless(Node::is_empty, fields, name, decode)
    }

    /// As [`Decoder::optional`], of a field that may be an empty list, and may not be null.
    pub(crate) fn given<T>(
        &mut self,
        fields: &mut Fields<'_>,
        name: &'static str,
        decode: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        self.unless(Node::is_null, fields, name, decode)
    }

    /// Decodes a field, unless it is there and without a value.
    fn unless<T>(
        &mut self,
        is_empty: impl Fn(&Node) -> bool,
        fields: &mut Fields<'_>,
        name: &'static str,
        decode: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        let empty = fields.entries.iter().find(|(key, node)| key.name == name && is_empty(node));
        // The name's place: a value that is not there may have its place in the next line.
        let Some(at) = empty.map(|(key, _)| key.at) else { return self.optional(fields, name, decode) };
        fields.known.push(name);
        fields.entries.retain(|(key, _)| key.name != name);
        self.hinted(at, format!("`{name}` is there and has no value"), EMPTY_HINT)
    }

    pub(crate) fn required<T>(
        &mut self,
        fields: &mut Fields<'_>,
        name: &'static str,
        decode: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        let is_there = fields.entries.iter().any(|(key, node)| key.name == name && !node.is_null());
        if !is_there {
            fields.known.push(name);
            fields.entries.retain(|(key, _)| key.name != name);
            self.fault(fields.at, format!("{} needs the field `{name}`", fields.what));
            return None;
        }
        self.optional(fields, name, decode)
    }

    /// Reports what is left over, with the nearest known name.
    pub(crate) fn done(&mut self, fields: Fields<'_>) {
        for (key, _) in &fields.entries {
            let message = match self.quoting {
                Quoting::Allowed => format!("unknown field `{}` in {}", key.name, fields.what),
                Quoting::Never => format!("unknown field in {}", fields.what),
            };
            let hint = match nearest(&key.name, &fields.known) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("known are: {}", fields.known.join(", ")),
            };
            self.fault(key.at, message).hint = Some(hint);
        }
    }

    /// Every item of a list; a fault in one does not hide those of the next.
    pub(crate) fn list<T>(
        &mut self,
        node: &Node,
        mut decode: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Kind::List(items) = &node.kind else {
            return self.hinted(node.at, "a list is needed here", "[a, b], or one item a line behind `- `");
        };
        let before = self.faults.len();
        let decoded: Vec<T> = items.iter().filter_map(|item| decode(self, item)).collect();
        (self.faults.len() == before).then_some(decoded)
    }

    /// A scalar's text, interpolated.
    pub(crate) fn text(&mut self, node: &Node) -> Option<String> {
        let Kind::Scalar { text, .. } = &node.kind else {
            self.fault(node.at, "a single value is needed here");
            return None;
        };
        // Of a list: `[~]` is no item of that name.
        if node.is_null() && !text.is_empty() {
            return self.hinted(node.at, "no value stands here", EMPTY_HINT);
        }
        let Some(environment) = self.environment else { return Some(text.clone()) };
        match interpolate(text, environment) {
            Ok(value) => {
                if value != *text {
                    self.expanded.push((value.clone(), text.clone()));
                }
                Some(value)
            }
            Err(message) => {
                self.fault(node.at, message);
                None
            }
        }
    }

    /// The faults, without what variables stood for and without the user info of addresses: both may be secrets.
    pub(crate) fn told_faults(self) -> Vec<Fault> {
        let Decoder { expanded, mut faults, .. } = self;
        for fault in &mut faults {
            for text in std::iter::once(&mut fault.message).chain(&mut fault.hint) {
                for (value, written) in &expanded {
                    *text = masked(text, value, written);
                }
                *text = without_user_info(text);
            }
        }
        faults
    }

    /// Text with something in it.
    pub(crate) fn word(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node)?;
        if text.is_empty() {
            self.fault(node.at, "must not be empty");
            return None;
        }
        Some(text)
    }

    pub(crate) fn path(&mut self, node: &Node) -> Option<PathBuf> {
        let path = self.word(node).map(PathBuf::from)?;
        self.named_files.push((path.clone(), node.at));
        Some(path)
    }

    /// Anything that reads itself from text.
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

    /// A whole number of at least `least`.
    pub(crate) fn number<T: FromStr + PartialOrd + std::fmt::Display>(
        &mut self,
        node: &Node,
        least: T,
    ) -> Option<T> {
        let value: T = self.parsed(node, "a whole number in range", "digits only, as in 600")?;
        if value < least {
            return self.hinted(node.at, "too small", format!("at least {least}"));
        }
        Some(value)
    }

    /// `10s`, `5m`, `90d`: more than nothing.
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

    /// `32MiB`, `8KiB` or a number of bytes.
    pub(crate) fn size(&mut self, node: &Node) -> Option<u64> {
        let size: bytesize::ByteSize = self.parsed(node, "a size", "as in 8KiB, 32MiB or 65536")?;
        if size.as_u64() == 0 {
            return self.hinted(node.at, "a size of nothing", "at least 1");
        }
        Some(size.as_u64())
    }

    /// An instant, always with its zone (RFC 3339).
    pub(crate) fn instant(&mut self, node: &Node) -> Option<Timestamp> {
        self.parsed(node, "a time with a zone", "as in 2026-12-01T00:00:00Z")
    }

    /// `10.0.0.0/8`, or one address.
    pub(crate) fn network(&mut self, node: &Node) -> Option<IpNet> {
        let text = self.text(node)?;
        match network_of(&text) {
            Ok(network) => Some(network),
            Err(NetworkFault::HostBits(right)) => {
                self.hinted(node.at, "a network with host bits set", format!("{right} is meant?"))
            }
            Err(NetworkFault::Mapped(right)) => {
                let message = "a network of IPv4 in the form of IPv6, which no address is of";
                self.hinted(node.at, message, format!("{right} is meant?"))
            }
            Err(NetworkFault::NoNetwork) => {
                let message = format!("{} is not a network", self.quoted(&text));
                self.hinted(node.at, message, "as in 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32")
            }
        }
    }

    /// Refuses files to write to that are read as something else: what is appended there would destroy them.
    pub(crate) fn refuse_overwritten(&mut self) {
        let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let mut read: Vec<PathBuf> = self.named_files.iter().map(|(path, _)| resolved(path)).collect();
        read.push(resolved(self.file));
        for (path, at) in std::mem::take(&mut self.written_files) {
            let path = resolved(&path);
            // A directory that is named is one of keys.
            let is_read = |read: &PathBuf| *read == path || (read.is_dir() && path.parent() == Some(read));
            if read.iter().any(is_read) {
                let message = "no log goes there: the file is the configuration, or one that it names";
                self.fault(at, message).hint = Some("as in /var/log/bearward/access.log".to_owned());
            }
        }
    }

    /// One of a closed set of names.
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

/// Values that are shorter than this hide nothing, and are part of other words by chance.
const LEAST_MASKED: usize = 8;

/// A message with what was written in the place of what a variable stood for.
///
/// A short value is replaced only where it is quoted by itself: an empty one is part of every text.
fn masked(text: &str, value: &str, written: &str) -> String {
    match value.len() < LEAST_MASKED {
        true => text.replace(&format!("`{value}`"), &format!("`{written}`")),
        false => text.replace(value, written),
    }
}

/// `http://user:password@host` as `http://…@host`.
fn without_user_info(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let end = after.find(['/', ' ', '`', '"', '\'']).unwrap_or(after.len());
        let (authority, behind) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => out.extend(["…@", host]),
            None => out.push_str(authority),
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// A positive duration in jiff's friendly form; a day has 24 hours, months and years have no length.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let span: Span = text.trim().parse().ok()?;
    if span.get_months() != 0 || span.get_years() != 0 {
        return None;
    }
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(duration).ok().filter(|duration| !duration.is_zero())
}

/// The known name that a misspelled one most likely means.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let distance = |known: &str| strsim::damerau_levenshtein(&name.to_lowercase(), known);
    let best = known.iter().min_by_key(|known| distance(known))?;
    (distance(best) <= best.len().max(3) / 3).then_some(*best)
}

/// Replaces `${VAR}`, `${VAR:-default}` and `${VAR:?message}`; `$${` stands for a literal `${`.
fn interpolate(text: &str, environment: Environment<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(literal) = before.strip_suffix('$') {
            out.push_str(literal);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some((expression, behind)) = after.split_once('}') else {
            return Err("`${` without its `}`".to_owned());
        };
        out.push_str(&resolve(expression, environment)?);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

fn resolve(expression: &str, environment: Environment<'_>) -> Result<String, String> {
    let (name, default, complaint) = match (expression.split_once(":-"), expression.split_once(":?")) {
        (Some((name, default)), _) => (name, Some(default), None),
        (None, Some((name, complaint))) => (name, None, Some(complaint)),
        (None, None) => (expression, None, None),
    };
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name {
        // What stands behind the name may be a secret.
        let shown = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
        return Err(format!("`${{{}…}}` is not a variable's name", name.get(..shown).unwrap_or_default()));
    }
    // As in a shell, `:-` and `:?` take an empty variable for an unset one.
    let value = environment(name);
    match (value, default, complaint) {
        (Some(value), None, None) => Ok(value),
        (Some(value), _, _) if !value.is_empty() => Ok(value),
        (_, Some(default), _) => Ok(default.to_owned()),
        (_, None, Some(complaint)) => Err(format!("the environment variable {name} is not set: {complaint}")),
        (None, None, None) => Err(format!("the environment variable {name} is not set")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_as_in_a_shell() {
        let environment = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let ok = |text: &str| interpolate(text, &environment).unwrap();
        assert_eq!(ok("x${A}y${A}"), "x1y1");
        assert_eq!(ok("${B:-2}"), "2");
        assert_eq!(ok("${EMPTY:-2}${EMPTY}"), "2");
        assert_eq!(ok("$${A} $A"), "${A} $A");
        assert_eq!(
            interpolate("${B:?say it}", &environment).unwrap_err(),
            "the environment variable B is not set: say it"
        );
        assert!(interpolate("${B}", &environment).is_err());
        assert!(interpolate("${A", &environment).is_err());
        assert_eq!(
            interpolate("${A=sk-secret}", &environment).unwrap_err(),
            "`${A…}` is not a variable's name"
        );
    }

    fn read(source: &str) -> (Option<Option<String>>, Vec<String>) {
        let file = Path::new("t.yaml");
        let root = super::super::tree::parse(file, source, Quoting::Allowed).unwrap().unwrap();
        let mut decoder = Decoder::new(file, Quoting::Allowed, None);
        let decoded = decoder.fields(&root, "a test").map(|mut fields| {
            let value = decoder.narrowing(&mut fields, "a", Decoder::word);
            decoder.done(fields);
            value
        });
        (decoded, decoder.faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_narrowing_field_without_a_value_is_a_fault() {
        for (source, place) in [
            ("a:", "1:1"),
            ("a: null", "1:1"),
            ("a: NULL", "1:1"),
            ("a: ~", "1:1"),
            ("a: []", "1:1"),
            ("a: {}", "1:1"),
            ("{a: !!null null}", "1:2"),
        ] {
            let (value, faults) = read(source);
            assert_eq!((value, faults.len()), (Some(None), 1), "{source}: {faults:?}");
            let expected = format!("t.yaml:{place}: `a` is there and has no value ({EMPTY_HINT})");
            assert_eq!(faults[0], expected, "{source}");
        }
        assert_eq!(read("a: \"\"").1.len(), 1, "empty text is refused by what decodes it");
        assert_eq!(read("a: x"), (Some(Some("x".to_owned())), Vec::new()));
        assert_eq!(read("{}"), (Some(None), Vec::new()));
    }

    #[test]
    fn a_field_that_stands_twice_does_not_hide_other_faults() {
        let (_, faults) = read("a: x\nb: 1\na: y\n");
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("t.yaml:3:1: the field `a` stands twice"), "{faults:?}");
        assert!(faults[1].starts_with("t.yaml:2:1: unknown field `b`"), "{faults:?}");
    }

    #[test]
    fn what_a_variable_stood_for_is_masked_and_nothing_else() {
        let text = "`1` is not a duration (a number with its unit, as in 10s); 12345678 is told";
        assert_eq!(masked(text, "", "${A:-}"), text);
        assert_eq!(masked(text, "1", "${A}"), text.replacen("`1`", "`${A}`", 1));
        assert_eq!(masked(text, "12345678", "${A}"), text.replace("12345678", "${A}"));
        assert_eq!(masked("`` is not a size", "", "${A:-}"), "`${A:-}` is not a size");
    }

    #[test]
    fn user_info_is_not_told() {
        assert_eq!(without_user_info("`http://bob:pw@a:1/x` is no"), "`http://…@a:1/x` is no");
        assert_eq!(without_user_info("http://a:1, https://b"), "http://a:1, https://b");
    }

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
