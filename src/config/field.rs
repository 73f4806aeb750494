//! Fields of a section. Each field has a form. If a field may be left out, it also has a value for
//! this case.

use serde_json::Value;

use crate::config::decode::{Decoder, Fields};
use crate::config::form::{Form, with};
use crate::config::tree::Node;

/// A field of a section. The definition of the section gives the field's name and its
/// documentation.
pub(crate) trait Field {
    type Value;

    /// Decodes the field `name`, whether it is given or left out; `None` after a fault.
    fn decode(&self, d: &mut Decoder<'_>, fields: &mut Fields<'_>, name: &'static str)
    -> Option<Self::Value>;

    /// Adds the field's description to `fields`, the descriptions of a section's fields; `doc` is
    /// the field's doc comment.
    fn describe(&self, name: &'static str, doc: &str, fields: &mut Vec<Described>);
}

/// A field that may be left out.
pub(crate) trait MayBeLeftOut: Field {
    /// Returns the value of the field if it is left out.
    fn left_out(&self) -> Self::Value;
}

/// The description of a field in the JSON Schema and in docs/configuration.md.
pub(crate) struct Described {
    pub(crate) name: &'static str,
    pub(crate) is_required: bool,
    /// The JSON Schema of the field, with `description`, and with `default` if the field has one.
    pub(crate) schema: Value,
}

impl Described {
    fn new<T: 'static>(name: &'static str, doc: &str, form: &Form<T>, is_required: bool) -> Self {
        let schema = form.schema();
        let schema = match description(doc) {
            text if text.is_empty() => schema,
            text => with(schema, "description", text.into()),
        };
        Described { name, is_required, schema }
    }
}

/// Returns the first paragraph of a doc comment, as one line without the full stop.
pub(crate) fn description(doc: &str) -> String {
    let lines = doc.lines().map(str::trim).take_while(|line| !line.is_empty());
    let text = lines.collect::<Vec<_>>().join(" ");
    text.strip_suffix('.').unwrap_or(&text).to_owned()
}

/// A field that must be given.
pub(crate) struct Required<T>(Form<T>);

/// The default that the JSON Schema and the documentation show.
enum Shown {
    /// The text of the default; `None` if the field is a section, whose own fields show defaults.
    Text(Option<Value>),
    Nothing,
}

/// A field with a default.
pub(crate) struct WithDefault<T, V> {
    form: Form<T>,
    /// Converts the value in the file to the field's value.
    given: fn(T) -> V,
    default: Box<dyn Fn() -> V>,
    shown: Shown,
    /// Whether leaving the field out grants more access than any value of the field. If so, an
    /// empty value is a fault.
    narrows: bool,
}

impl<T: 'static> Form<T> {
    /// Makes a field that must be given.
    pub(crate) fn required(self) -> Required<T> {
        Required(self)
    }

    /// Makes a field whose value is `None` if it is left out.
    pub(crate) fn optional(self) -> WithDefault<T, Option<T>> {
        WithDefault {
            form: self,
            given: Some,
            default: Box::new(|| None),
            shown: Shown::Nothing,
            narrows: false,
        }
    }

    /// Makes a field with the default `default`.
    pub(crate) fn or(self, default: T) -> WithDefault<T, T>
    where
        T: Clone,
    {
        let shown = Shown::Text(self.written(&default));
        let default = Box::new(move || default.clone());
        WithDefault { form: self, given: std::convert::identity, default, shown, narrows: false }
    }

    /// Makes a field with the default of its type.
    pub(crate) fn or_default(self) -> WithDefault<T, T>
    where
        T: Clone + Default,
    {
        self.or(T::default())
    }
}

impl<T, V> WithDefault<T, V> {
    /// Marks a field that narrows access: leaving the field out grants more than any value of it.
    /// An empty value, such as `[]`, is a fault, and no default is shown.
    pub(crate) fn narrowing(self) -> Self {
        WithDefault { narrows: true, shown: Shown::Nothing, ..self }
    }
}

impl<T: 'static> Field for Required<T> {
    type Value = T;

    fn decode(&self, d: &mut Decoder<'_>, fields: &mut Fields<'_>, name: &'static str) -> Option<T> {
        d.required(fields, name, |d, node| self.0.decode(d, node))
    }

    fn describe(&self, name: &'static str, doc: &str, fields: &mut Vec<Described>) {
        fields.push(Described::new(name, doc, &self.0, true));
    }
}

impl<T: 'static, V> Field for WithDefault<T, V> {
    type Value = V;

    fn decode(&self, d: &mut Decoder<'_>, fields: &mut Fields<'_>, name: &'static str) -> Option<V> {
        let before = d.faults.len();
        let decode = |d: &mut Decoder<'_>, node: &Node| self.form.decode(d, node);
        let value = match self.narrows {
            true => d.narrowing(fields, name, decode),
            false => d.optional(fields, name, decode),
        };
        match value {
            Some(value) => Some((self.given)(value)),
            // The default must not replace a faulty value.
            None => (d.faults.len() == before).then(|| self.left_out()),
        }
    }

    fn describe(&self, name: &'static str, doc: &str, fields: &mut Vec<Described>) {
        let mut field = Described::new(name, doc, &self.form, false);
        match &self.shown {
            Shown::Text(Some(default)) => field.schema = with(field.schema, "default", default.clone()),
            Shown::Text(None) => {
                let is_section = field.schema.to_string().contains("\"properties\"");
                debug_assert!(
                    is_section,
                    "the default of `{name}` has no text: `.shown()`, `.written_as(…)`"
                );
            }
            Shown::Nothing => {}
        }
        if self.narrows && field.schema.get("items").is_some() {
            field.schema = with(field.schema, "minItems", 1.into());
        }
        fields.push(field);
    }
}

impl<T: 'static, V> MayBeLeftOut for WithDefault<T, V> {
    fn left_out(&self) -> V {
        (self.default)()
    }
}

type DecodeFields<T> = dyn Fn(&mut Decoder<'_>, &mut Fields<'_>) -> Option<T>;
type DescribeFields = dyn Fn(&mut Vec<Described>);

/// A value that is made from several fields of a section, or from no field.
pub(crate) struct Flattened<T> {
    decode: Box<DecodeFields<T>>,
    describe: Box<DescribeFields>,
}

impl<T: 'static> Flattened<T> {
    pub(crate) fn new(
        decode: impl Fn(&mut Decoder<'_>, &mut Fields<'_>) -> Option<T> + 'static,
        describe: impl Fn(&mut Vec<Described>) + 'static,
    ) -> Self {
        Flattened { decode: Box::new(decode), describe: Box::new(describe) }
    }

    /// Converts this value to another type by the function `make`. The node that `make` gets is the
    /// whole map.
    pub(crate) fn then<U: 'static>(
        self,
        make: impl Fn(&mut Decoder<'_>, &Node, T) -> Option<U> + 'static,
    ) -> Flattened<U> {
        let Flattened { decode, describe } = self;
        let decode = move |d: &mut Decoder<'_>, fields: &mut Fields<'_>| {
            let value = decode(d, fields)?;
            make(d, fields.node, value)
        };
        Flattened { decode: Box::new(decode), describe }
    }
}

/// Makes a field that a file can't set. The field's value is the default of its type.
pub(crate) fn not_in_files<T: Default + 'static>() -> Flattened<T> {
    Flattened::new(|_, _| Some(T::default()), |_| ())
}

impl<T> Field for Flattened<T> {
    type Value = T;

    fn decode(&self, d: &mut Decoder<'_>, fields: &mut Fields<'_>, _: &'static str) -> Option<T> {
        (self.decode)(d, fields)
    }

    fn describe(&self, _: &'static str, _: &str, fields: &mut Vec<Described>) {
        (self.describe)(fields);
    }
}

impl<T: Default> MayBeLeftOut for Flattened<T> {
    fn left_out(&self) -> T {
        T::default()
    }
}
