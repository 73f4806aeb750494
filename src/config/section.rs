//! Sections of the configuration. Each field of a section is described only once, by [`section!`].
//!
//! [`section!`] reads a struct in which each field has a form, and a default if it may be left out.
//! The macro generates the struct, its `Default`, its decoder, its part of the JSON Schema and its
//! table in docs/configuration.md. A test compares config.example.yaml with the sections. A new
//! field needs a line in its section and a line in config.example.yaml:
//!
//! ```ignore
//! section! {
//!     /// Limits of one client.                      // the section's description
//!     #[derive(Clone, Debug)]
//!     pub(crate) struct Limits: Default in "limits" { // its name in faults
//!         /// The longest time for the head of a request.
//!         header_timeout: Duration = duration().or(Duration::from_secs(10));
//!         /// Connections at once.
//!         connections: Option<usize> = number(1).optional();
//!         /// Whether names with `_` are refused.
//!         refuses_underscores as "underscores_in_headers": bool = one_of(&UNDERSCORES).or(false);
//!     }
//! }
//! ```
//!
//! - The first paragraph of a doc comment is the description. A field without a doc comment has the
//!   description of its form.
//! - `: Default` is for sections in which each field may be left out.
//! - Forms are in `form.rs`: `.checked(…)` adds a check, `.then(…)` converts the value to another
//!   type.
//! - Fields are in `field.rs`: `.required()`, `.optional()`, `.or(default)` and `.or_default()`.
//!   `.narrowing()` follows one of these if leaving the field out widens access.
//! - [`nested`] is the form of a section inside another section. [`fields_of`] adds the fields of
//!   one section to another section, for a value that is made from several fields.

use serde_json::{Value, json};

use crate::config::decode::{Decoder, Fields};
use crate::config::field::{Described, Flattened, description};
use crate::config::form::Form;
use crate::config::tree::Node;

/// A section of the configuration. [`section!`] implements this trait.
pub(crate) trait Section: Sized + 'static {
    /// The name of the section in faults.
    const NAME: &'static str;
    /// The doc comment of the section.
    const DOC: &'static str;

    /// Decodes all fields of the section. Returns `None` after a fault in any field.
    fn decode_fields(d: &mut Decoder<'_>, fields: &mut Fields<'_>) -> Option<Self>;

    fn describe(fields: &mut Vec<Described>);
}

macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        #[derive($($derive:ident),+)]
        $vis:vis struct $section:ident: Default in $name:literal { $($fields:tt)* }
    ) => {
        section! {
            $(#[doc = $doc])+
            #[derive($($derive),+)]
            $vis struct $section in $name { $($fields)* }
        }
        section! { @default $section $($fields)* }
    };
    (
        $(#[doc = $doc:literal])+
        #[derive($($derive:ident),+)]
        $vis:vis struct $section:ident in $name:literal {
            $(
                $(#[doc = $field_doc:literal])*
                $field:ident $(as $written:literal)?: $type:ty = $described:expr;
            )*
        }
    ) => {
        $(#[doc = $doc])+
        #[derive($($derive),+)]
        $vis struct $section {
            $($(#[doc = $field_doc])* pub(crate) $field: $type,)*
        }

        impl $crate::config::section::Section for $section {
            const NAME: &'static str = $name;
            const DOC: &'static str = concat!($($doc, "\n"),+);

            fn decode_fields(
                d: &mut $crate::config::decode::Decoder<'_>,
                fields: &mut $crate::config::decode::Fields<'_>,
            ) -> Option<Self> {
                struct Decoded {
                    $($field: Option<$type>,)*
                }
                // All fields are decoded before the first `?`, so that one run reports all faults.
                let decoded = Decoded {
                    $(
                        $field: $crate::config::field::Field::decode(
                            &$described,
                            d,
                            fields,
                            section!(@name $field $($written)?),
                        ),
                    )*
                };
                Some($section { $($field: decoded.$field?,)* })
            }

            fn describe(fields: &mut Vec<$crate::config::field::Described>) {
                $(
                    $crate::config::section::describe_field::<$type, _>(
                        &$described,
                        section!(@name $field $($written)?),
                        concat!($($field_doc, "\n"),*),
                        fields,
                    );
                )*
            }
        }
    };
    (
        @default $section:ident
        $(
            $(#[doc = $field_doc:literal])*
            $field:ident $(as $written:literal)?: $type:ty = $described:expr;
        )*
    ) => {
        impl Default for $section {
            fn default() -> Self {
                $section { $($field: $crate::config::field::MayBeLeftOut::left_out(&$described),)* }
            }
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $written:literal) => { $written };
}
pub(crate) use section;

/// Adds the description of a field to `fields`. Callers name `T`, the type of the field's value,
/// because the compiler can't infer the type: the field is not decoded here.
pub(crate) fn describe_field<T, F: crate::config::field::Field<Value = T>>(
    field: &F,
    name: &'static str,
    doc: &str,
    fields: &mut Vec<Described>,
) {
    field.describe(name, doc, fields);
}

/// Returns the form of a section inside another section.
pub(crate) fn nested<S: Section>() -> Form<S> {
    Form::new(decode::<S>, schema_of::<S>)
}

/// Returns the fields of a section as fields of another section.
pub(crate) fn fields_of<S: Section>() -> Flattened<S> {
    Flattened::new(S::decode_fields, S::describe)
}

/// Decodes a section. Returns `None` after a fault in any of the section's fields.
pub(crate) fn decode<S: Section>(d: &mut Decoder<'_>, node: &Node) -> Option<S> {
    let mut fields = d.fields(node, S::NAME)?;
    let section = S::decode_fields(d, &mut fields);
    d.done(fields);
    section
}

/// Returns the JSON Schema of a section.
pub(crate) fn schema_of<S: Section>() -> Value {
    let mut fields = Vec::new();
    S::describe(&mut fields);
    let required: Vec<&str> =
        fields.iter().filter(|field| field.is_required).map(|field| field.name).collect();
    let properties: serde_json::Map<String, Value> =
        fields.iter().map(|field| (field.name.to_owned(), field.schema.clone())).collect();
    json!({
        "type": "object",
        "description": description(S::DOC),
        "required": required,
        "additionalProperties": false,
        "properties": properties,
    })
}
