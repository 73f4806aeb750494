//! The decoder of maps, lists and text.

use std::collections::HashSet;
use std::path::Path;

use super::context::Context;
use super::variables::{self, Environment};
use crate::config::fault::{Fault, Position};
use crate::config::tree::{Key, Kind, Node, Quoting};

/// The hint for a field without a value; see [`Decoder::narrowing`].
const EMPTY_HINT: &str = "give it a value, or leave the field out";

pub(crate) struct Decoder<'a> {
    file: &'a Path,
    quoting: Quoting,
    /// The environment variables for `${VAR}`; `None` for key files, in which `${VAR}` is not
    /// replaced.
    environment: Option<Environment<'a>>,
    /// The values of variables, each with the text in the file that it replaced.
    expanded: Vec<(String, String)>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) context: Context,
}

/// A map that is being decoded. [`Decoder::done`] reports the fields that no decoder asked for.
pub(crate) struct Fields<'n> {
    pub(crate) node: &'n Node,
    pub(crate) at: Position,
    /// The name of the map in faults.
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
            context: Context::default(),
        }
    }

    /// Returns the path of the file that is decoded, as it was given.
    pub(super) fn file(&self) -> &'a Path {
        self.file
    }

    /// Reports a fault.
    pub(crate) fn fault(&mut self, at: Position, message: impl Into<String>) -> &mut Fault {
        self.faults.push(Fault::at(self.file, at, message));
        let last = self.faults.len() - 1;
        #[allow(clippy::indexing_slicing, reason = "the line above pushed this very element")]
        &mut self.faults[last]
    }

    /// Reports a fault with a hint. Returns `None`, as every decoder does after a fault.
    pub(crate) fn hinted<T>(
        &mut self,
        at: Position,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Option<T> {
        self.fault(at, message).hint = Some(hint.into());
        None
    }

    /// Returns the value of an environment variable; `None` if it is unset or empty.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        self.environment?(name).filter(|value| !value.is_empty())
    }

    /// Returns `text` in backticks for a message, or "this" if messages must not quote the file.
    pub(super) fn quoted(&self, text: &str) -> String {
        match self.quoting {
            Quoting::Allowed => format!("`{text}`"),
            Quoting::Never => "this".to_owned(),
        }
    }

    /// Returns the fields of a map; `what` is the name of the map in faults.
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
        Some(Fields { node, at: node.at, what, entries, known: Vec::new() })
    }

    /// Reports each repeated field. The first field of each name is decoded nevertheless.
    pub(crate) fn report_repeated(&mut self, entries: &[(Key, Node)]) {
        let mut names = HashSet::new();
        for (key, _) in entries.iter().filter(|(key, _)| !names.insert(key.name.as_str())) {
            let message = match self.quoting {
                Quoting::Allowed => format!("the field `{}` is given twice", key.name),
                Quoting::Never => "this field is given twice".to_owned(),
            };
            self.fault(key.at, message).hint = Some("keep one of them".to_owned());
        }
    }

    /// Decodes a field that may be left out.
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
            (false, _) => {
                let before = self.faults.len();
                let value = decode(self, node);
                debug_assert!(
                    value.is_some() || self.faults.len() > before,
                    "`{name}`: no fault is reported"
                );
                value
            }
            // In a configuration, nearly every field is a limit. If a template renders nothing for
            // the value of a field, the limit must not disappear.
            (true, Some(_)) => self.hinted(key.at, format!("`{name}` is there and has no value"), EMPTY_HINT),
            // In a key file, a field without a value, as in `field:`, is treated as left out. If
            // the field narrows access, `narrowing` has already reported a fault.
            (true, None) => None,
        }
    }

    /// Decodes a field that may be left out and narrows access: leaving the field out grants more
    /// access than any value of the field.
    ///
    /// A field that is present but empty (null, `[]` or `{}`) is a fault, and is not treated as
    /// left out: a template that renders nothing must not widen access. The function `decode` must
    /// refuse empty text.
    pub(crate) fn narrowing<T>(
        &mut self,
        fields: &mut Fields<'_>,
        name: &'static str,
        decode: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        self.unless(Node::is_empty, fields, name, decode)
    }

    /// Decodes a field that may be left out or be an empty list, but not be null.
    pub(crate) fn given<T>(
        &mut self,
        fields: &mut Fields<'_>,
        name: &'static str,
        decode: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        self.unless(Node::is_null, fields, name, decode)
    }

    /// Decodes a field that may be left out. A value for which `is_empty` is true is a fault.
    fn unless<T>(
        &mut self,
        is_empty: impl Fn(&Node) -> bool,
        fields: &mut Fields<'_>,
        name: &'static str,
        decode: impl FnOnce(&mut Self, &Node) -> Option<T>,
    ) -> Option<T> {
        let empty = fields.entries.iter().find(|(key, node)| key.name == name && is_empty(node));
        // The fault gets the position of the field's name, because the position of a missing value
        // may be in the next line.
        let Some(at) = empty.map(|(key, _)| key.at) else { return self.optional(fields, name, decode) };
        fields.known.push(name);
        fields.entries.retain(|(key, _)| key.name != name);
        self.hinted(at, format!("`{name}` is there and has no value"), EMPTY_HINT)
    }

    /// Decodes a field that must be given.
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

    /// Reports the fields that no decoder asked for, each with the nearest known name.
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

    /// Decodes every item of a list, and continues after an item with a fault.
    pub(crate) fn list<T>(
        &mut self,
        node: &Node,
        mut decode: impl FnMut(&mut Self, &Node) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Kind::List(items) = &node.kind else {
            return self.hinted(node.at, "a list is needed here", "[a, b], or one item a line after `- `");
        };
        let before = self.faults.len();
        let decoded: Vec<T> = items.iter().filter_map(|item| decode(self, item)).collect();
        (self.faults.len() == before).then_some(decoded)
    }

    /// Returns the text of a scalar, with `${VAR}` replaced.
    pub(crate) fn text(&mut self, node: &Node) -> Option<String> {
        let Kind::Scalar { text, .. } = &node.kind else {
            self.fault(node.at, "a single value is needed here");
            return None;
        };
        // In a list, as in `[~]`, `~` is a missing value, and not an item with the name `~`.
        if node.is_null() && !text.is_empty() {
            return self.hinted(node.at, "no value here", EMPTY_HINT);
        }
        let Some(environment) = self.environment else { return Some(text.clone()) };
        match variables::interpolate(text, environment) {
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

    /// Returns the faults. Values of variables and user info of addresses are masked, because they
    /// may be secrets.
    pub(crate) fn into_faults(self) -> Vec<Fault> {
        let Decoder { expanded, mut faults, .. } = self;
        for fault in &mut faults {
            for text in std::iter::once(&mut fault.message).chain(&mut fault.hint) {
                for (value, written) in &expanded {
                    *text = variables::masked(text, value, written);
                }
                *text = variables::without_user_info(text);
            }
        }
        faults
    }

    /// Refuses log files that bearward also reads: log lines would destroy their content.
    pub(crate) fn refuse_overwritten(&mut self) {
        for at in self.context.overwritten(self.file) {
            let message = "a log can't be written to the configuration, nor to a file that it names";
            self.fault(at, message).hint = Some("as in /var/log/bearward/access.log".to_owned());
        }
    }
}

/// Returns the known name that a misspelled name most likely means.
pub(super) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let distance = |known: &str| strsim::damerau_levenshtein(&name.to_lowercase(), known);
    let best = known.iter().min_by_key(|known| distance(known))?;
    (distance(best) <= best.len().max(3) / 3).then_some(*best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree;

    fn read(source: &str) -> (Option<Option<String>>, Vec<String>) {
        let file = Path::new("t.yaml");
        let root = tree::parse(file, source, Quoting::Allowed).unwrap().unwrap();
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
        for (source, position) in [
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
            let expected = format!("t.yaml:{position}: `a` is there and has no value ({EMPTY_HINT})");
            assert_eq!(faults[0], expected, "{source}");
        }
        assert_eq!(read("a: \"\"").1.len(), 1, "the field's own decoder refuses empty text");
        assert_eq!(read("a: x"), (Some(Some("x".to_owned())), Vec::new()));
        assert_eq!(read("{}"), (Some(None), Vec::new()));
    }

    #[test]
    fn a_repeated_field_does_not_hide_other_faults() {
        let (_, faults) = read("a: x\nb: 1\na: y\n");
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[0].starts_with("t.yaml:3:1: the field `a` is given twice"), "{faults:?}");
        assert!(faults[1].starts_with("t.yaml:2:1: unknown field `b`"), "{faults:?}");
    }
}
