//! Forms of values. A form decodes a value, describes the value in the JSON Schema, and writes
//! defaults for the documentation.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::config::decode::Decoder;
use crate::config::fault::Position;
use crate::config::tree::Node;

pub(crate) const KIB: u64 = 1024;
pub(crate) const MIB: u64 = 1024 * KIB;

type Decode<T> = dyn Fn(&mut Decoder<'_>, &Node) -> Option<T>;
type Write<T> = dyn Fn(&T) -> Option<Value>;

/// The form of a value. Functions such as `number(1)`, `duration()` and `list_of(word())` return
/// forms.
pub(crate) struct Form<T> {
    decode: Box<Decode<T>>,
    schema: Box<dyn Fn() -> Value>,
    written: Box<Write<T>>,
}

impl<T: 'static> Form<T> {
    /// Makes a form from a decoder and a JSON Schema. Defaults of this form are not shown anywhere.
    pub(crate) fn new(
        decode: impl Fn(&mut Decoder<'_>, &Node) -> Option<T> + 'static,
        schema: impl Fn() -> Value + 'static,
    ) -> Self {
        Form { decode: Box::new(decode), schema: Box::new(schema), written: Box::new(|_| None) }
    }

    /// Adds a function that writes a default for the schema and the documentation.
    pub(crate) fn written_as(self, written: impl Fn(&T) -> Value + 'static) -> Self {
        Form { written: Box::new(move |value| Some(written(value))), ..self }
    }

    /// Makes a form that writes defaults for the schema and the documentation by the `Display` of
    /// the value.
    pub(crate) fn shown(self) -> Self
    where
        T: Display,
    {
        self.written_as(|value| json!(value.to_string()))
    }

    /// Adds a check of the decoded value to the form.
    pub(crate) fn checked(self, check: impl Fn(&mut Decoder<'_>, &Node, T) -> Option<T> + 'static) -> Self {
        let Form { decode, schema, written } = self;
        let decode = Box::new(move |d: &mut Decoder<'_>, node: &Node| {
            let value = decode(d, node)?;
            check(d, node, value)
        });
        Form { decode, schema, written }
    }

    /// Makes a form of another type: `make` converts the decoded value.
    pub(crate) fn then<U: 'static>(
        self,
        make: impl Fn(&mut Decoder<'_>, &Node, T) -> Option<U> + 'static,
    ) -> Form<U> {
        let Form { decode, schema, .. } = self;
        let decode = move |d: &mut Decoder<'_>, node: &Node| {
            let value = decode(d, node)?;
            make(d, node, value)
        };
        Form::new(decode, schema)
    }

    /// Makes a form whose value includes its position in the file.
    pub(crate) fn positioned(self) -> Form<(Position, T)> {
        self.then(|_, node, value| Some((node.at, value)))
    }

    pub(crate) fn decode(&self, d: &mut Decoder<'_>, node: &Node) -> Option<T> {
        (self.decode)(d, node)
    }

    pub(crate) fn schema(&self) -> Value {
        (self.schema)()
    }

    /// Returns a value as it is written in a configuration file; `None` for sections.
    pub(crate) fn written(&self, value: &T) -> Option<Value> {
        (self.written)(value)
    }
}

/// Returns the `Form` of a text that the function `decode` decodes.
pub(crate) fn text<T: 'static>(decode: impl Fn(&mut Decoder<'_>, &Node) -> Option<T> + 'static) -> Form<T> {
    Form::new(decode, || json!({"type": "string"}))
}

/// Returns the `Form` of a text that is not empty.
pub(crate) fn word() -> Form<String> {
    text(|d, node| d.word(node)).shown()
}

/// Returns the `Form` of the path of a file that bearward reads, relative to the configuration's directory.
pub(crate) fn path() -> Form<PathBuf> {
    text(|d, node| d.path(node))
}

/// Returns the `Form` of the path of a file that has a secret.
pub(crate) fn secret_path() -> Form<PathBuf> {
    text(|d, node| d.secret_path(node))
}

/// Returns the `Form` of the path of a directory whose files bearward makes.
pub(crate) fn own_directory() -> Form<PathBuf> {
    text(|d, node| d.own_directory(node))
}

pub(crate) fn boolean() -> Form<bool> {
    Form::new(|d, node| d.boolean(node), || or_variable(json!({"type": "boolean"})))
        .written_as(|value| json!(value))
}

/// Returns the `Form` of a whole number of at least `least`.
pub(crate) fn number<T>(least: T) -> Form<T>
where
    T: FromStr + PartialOrd + Display + Serialize + Copy + 'static,
{
    let schema = move || or_variable(json!({"type": "integer", "minimum": least}));
    Form::new(move |d, node| d.number(node, least), schema).written_as(|value| json!(value))
}

/// Returns the `Form` of a duration above zero.
pub(crate) fn duration() -> Form<Duration> {
    let pattern = "^\\s*([0-9]+(\\.[0-9]+)?\\s*[a-zµ]+\\s*)+$";
    let schema = move || or_variable(json!({"type": "string", "pattern": pattern}));
    Form::new(|d, node| d.duration(node), schema).written_as(|value| json!(duration_text(*value)))
}

/// Returns the `Form` of a duration of at least `least`; `fault` is the message for a shorter
/// duration.
pub(crate) fn duration_of_at_least(least: Duration, fault: &'static str) -> Form<Duration> {
    duration().checked(move |d, node, value| match value < least {
        true => d.hinted(node.at, fault, format!("at least {}", duration_text(least))),
        false => Some(value),
    })
}

/// Returns the `Form` of a number of bytes above zero.
pub(crate) fn size() -> Form<u64> {
    let schema = || {
        or_variable(json!({"anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "string", "pattern": "^[0-9.]+ ?[kKMGT]?i?B?$"},
        ]}))
    };
    Form::new(|d, node| d.size(node), schema).written_as(|value| json!(size_text(*value)))
}

/// Returns the `Form` of a number of bytes from 1 to `most`.
pub(crate) fn size_up_to(most: u64) -> Form<u64> {
    size().checked(move |d, node, value| match value > most {
        true => d.hinted(node.at, "too large", format!("at most {}", size_text(most))),
        false => Some(value),
    })
}

/// Returns the `Form` of a share: a number from 0 to 1.
pub(crate) fn share() -> Form<f64> {
    const HINT: &str = "from 0 to 1, as in 0.1";
    let decode = |d: &mut Decoder<'_>, node: &Node| {
        let share: f64 = d.parsed(node, "a number", HINT)?;
        match (0.0..=1.0).contains(&share) {
            true => Some(share),
            false => d.hinted(node.at, "not a share of a whole", HINT),
        }
    };
    let schema = || or_variable(json!({"type": "number", "minimum": 0, "maximum": 1}));
    Form::new(decode, schema).written_as(|value| json!(value))
}

/// Returns the `Form` of one word out of a closed set.
pub(crate) fn one_of<T: Copy + PartialEq + 'static>(words: &'static [(&'static str, T)]) -> Form<T> {
    let schema = || json!({"enum": words.iter().map(|(word, _)| *word).collect::<Vec<_>>()});
    Form::new(move |d, node| d.one_of(node, words), schema).written_as(|value| {
        let word = words.iter().find(|(_, known)| known == value);
        debug_assert!(word.is_some(), "each value has a word");
        json!(word.map(|(word, _)| *word))
    })
}

/// Returns the `Form` of a list, which may be empty.
pub(crate) fn list_of<T: 'static>(item: Form<T>) -> Form<Vec<T>> {
    let Form { decode, schema, written } = item;
    Form::new(
        move |d, node| d.list(node, |d, node| decode(d, node)),
        move || json!({"type": "array", "items": schema()}),
    )
    .written_as(move |items| items.iter().filter_map(&written).collect())
}

/// Returns the `Form` of a list with at least one item.
pub(crate) fn non_empty<T: 'static>(item: Form<T>) -> Form<Vec<T>> {
    let Form { decode, schema, written } = list_of(item);
    let schema = move || with(schema(), "minItems", json!(1));
    let form = Form { decode, schema: Box::new(schema), written };
    form.checked(|d, node, items| match items.is_empty() {
        true => {
            d.fault(node.at, "at least one is needed here");
            None
        }
        false => Some(items),
    })
}

/// Returns the `Form` of a field that is either `off`, which is decoded as `None`, or a value of
/// `form`.
pub(crate) fn off_or<T: 'static>(form: Form<T>) -> Form<Option<T>> {
    let Form { decode, schema, .. } = form;
    Form::new(
        move |d, node| if is_off(node) { Some(None) } else { decode(d, node).map(Some) },
        // Parsers of YAML 1.1 read the word `off` as the boolean `false`.
        move || json!({"anyOf": [{"enum": ["off", false]}, schema()]}),
    )
}

/// Whether a node is `off`, or `false`: tools that use YAML 1.1 rewrite `off` as `false`.
pub(crate) fn is_off(node: &Node) -> bool {
    node.is_scalar("off") || node.is_scalar("false")
}

/// Adds the entry `name` to a JSON Schema, and returns the schema.
pub(crate) fn with(mut schema: Value, name: &str, value: Value) -> Value {
    debug_assert!(schema.is_object(), "a schema is an object");
    if let Some(entries) = schema.as_object_mut() {
        entries.insert(name.to_owned(), value);
    }
    schema
}

/// Returns a JSON Schema that accepts the values of `schema`, and any text with `${VAR}` in it.
fn or_variable(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "string", "pattern": "\\$\\{"}]})
}

/// Writes a duration in the largest unit that gives a whole number.
fn duration_text(duration: Duration) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let milliseconds = duration.as_millis();
    let unit =
        units.into_iter().find(|(length, _)| milliseconds >= *length && milliseconds.is_multiple_of(*length));
    let (length, unit) = unit.unwrap_or((1, "ms"));
    format!("{}{unit}", milliseconds / length)
}

/// Writes a size in the largest unit that gives a whole number.
fn size_text(bytes: u64) -> String {
    let units = [(MIB * KIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
    match units.into_iter().find(|(length, _)| bytes >= *length && bytes.is_multiple_of(*length)) {
        Some((length, unit)) => format!("{}{unit}", bytes / length),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::decode::parse_duration;

    #[test]
    fn defaults_are_written_in_the_largest_unit_and_read_back() {
        for (duration, text) in
            [(100, "100ms"), (4000, "4s"), (75_000, "75s"), (300_000, "5m"), (86_400_000, "1d")]
        {
            let duration = Duration::from_millis(duration);
            assert_eq!(duration_text(duration), text);
            assert_eq!(parse_duration(text), Some(duration));
        }
        for (size, text) in [(1000, "1000"), (8 * KIB, "8KiB"), (32 * MIB, "32MiB"), (MIB * KIB, "1GiB")] {
            assert_eq!(size_text(size), text);
        }
    }
}
