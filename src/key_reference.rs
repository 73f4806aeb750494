//! Writes the documentation of a key's fields: the table in docs/keys.md, and the schemas `Key` and
//! `NewKey` of `admin/openapi.json`.
//!
//! `UPDATE_EXPECTED=1 cargo test key_reference` writes both files. Without `UPDATE_EXPECTED`, the
//! test fails if a file differs from what would be written.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::config::Priority;
use crate::keys::Permission;
use crate::keys::field::{Field, Form, Presence, SetBy, Shown};
use crate::keys::fields::FIELDS;

/// A regular expression for text without control characters, and without white space at its ends.
const LABEL: &str = "^[^\\s\\u0000-\\u001F\\u007F-\\u009F]([^\\u0000-\\u001F\\u007F-\\u009F]*[^\\s\\u0000-\\u001F\\u007F-\\u009F])?$";

fn permissions() -> Vec<&'static str> {
    Permission::ALL.iter().map(|(name, _)| *name).collect()
}

/// Returns the schema of a field in a request that creates a key.
fn wanted(field: &Field) -> Value {
    let mut schema = match field.form {
        Form::Name | Form::Label => json!({"type": "string", "minLength": 1, "pattern": LABEL}),
        Form::Group => json!({"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}),
        Form::Permissions => json!({"type": "array", "minItems": 1, "items": {"enum": permissions()}}),
        Form::Instant => json!({"type": "string", "format": "date-time"}),
        Form::Flag => json!({"type": "boolean"}),
        Form::Count => json!({"type": "integer", "minimum": 1, "maximum": u32::MAX}),
        Form::RateLimits => json!({"oneOf": [
            {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/NewQuota"}},
            {"const": "none"},
        ]}),
        Form::Budgets => {
            json!({"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/NewBudget"}})
        }
        Form::Networks => {
            json!({"type": "array", "minItems": 1, "items": {"type": "string", "format": "ipv4"}})
        }
        Form::Words | Form::Models => {
            json!({"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}})
        }
        Form::OutputCap => json!({"$ref": "#/components/schemas/OutputCap"}),
        Form::Priority => json!({"enum": Priority::ALL.map(Priority::name)}),
        Form::Pairs => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        Form::KeyId | Form::Hash | Form::Secrets => panic!("{}: no caller may set it", field.name),
    };
    schema["description"] = json!(field.about);
    schema
}

/// Returns the schema of a field as the admin API shows it.
fn shown(field: &Field) -> Value {
    let or_null = |kind: &str| match field.presence {
        Presence::Required => json!(kind),
        _ => json!([kind, "null"]),
    };
    let mut schema = match field.form {
        Form::KeyId | Form::Name | Form::Label | Form::Group => json!({"type": or_null("string")}),
        Form::Permissions => json!({"type": "array", "items": {"enum": permissions()}}),
        Form::Instant => json!({"type": or_null("string"), "format": "date-time"}),
        Form::Flag => json!({"type": "boolean"}),
        Form::Count => json!({"type": or_null("integer"), "minimum": 1}),
        Form::Networks => json!({"type": "array", "items": {"type": "string"}}),
        Form::Words | Form::Models => json!({"type": or_null("array"), "items": {"type": "string"}}),
        Form::OutputCap => json!({"type": or_null("object"), "properties": {
            "max_output_tokens": {"type": "integer", "minimum": 1}, "on_excess": {"enum": ["refuse", "lower"]},
        }}),
        Form::Priority => {
            json!({"enum": Priority::ALL.map(|class| Some(class.name())).iter().chain([&None]).collect::<Vec<_>>()})
        }
        Form::Pairs => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        Form::Hash | Form::Secrets | Form::RateLimits | Form::Budgets => {
            panic!("{}: it is not shown as it is", field.name)
        }
    };
    schema["description"] = json!(field.about);
    schema
}

/// A schema of the OpenAPI document. The properties that are fields of a key are generated, and all
/// other properties stay unchanged.
struct Schema<'a> {
    before: &'a str,
    required: Vec<String>,
    properties: Vec<(String, String)>,
    after: &'a str,
}

const REQUIRED: &str = "        \"required\": [\n";
const PROPERTIES: &str = "        \"properties\": {\n";
const MIDDLE: &str = "        ],\n        \"additionalProperties\": false,\n";
const INDENTATION: &str = "          ";

impl<'a> Schema<'a> {
    fn find(document: &'a str, name: &str) -> Self {
        let start = document.find(&format!("\n      \"{name}\": {{\n")).unwrap();
        let list = start + document[start..].find(REQUIRED).unwrap() + REQUIRED.len();
        let list_end = list + document[list..].find(MIDDLE).unwrap();
        let map = list_end + MIDDLE.len() + PROPERTIES.len();
        assert!(document[..map].ends_with(PROPERTIES), "{name} has another form");
        let map_end = map + document[map..].find("\n        }").unwrap() + 1;
        let required = document[list..list_end].lines().map(|line| line.trim().trim_end_matches(','));
        let mut properties: Vec<(String, String)> = Vec::new();
        for line in document[map..map_end].lines() {
            match line.strip_prefix(&format!("{INDENTATION}\"")).and_then(|line| line.split_once("\": {")) {
                Some((name, _)) => properties.push((name.to_owned(), line.to_owned())),
                None => write!(properties.last_mut().unwrap().1, "\n{line}").unwrap(),
            }
        }
        for (_, text) in &mut properties {
            *text = text.trim_end_matches(',').to_owned();
        }
        Schema {
            before: &document[..list],
            required: required.map(|name| name.trim_matches('"').to_owned()).collect(),
            properties,
            after: &document[map_end..],
        }
    }

    /// Replaces the properties that are fields of a key by generated properties, and moves all
    /// other properties behind the generated properties.
    fn take(&mut self, fields: &[&Field], required: &[&str], schema: fn(&Field) -> Value) {
        let is_field = |name: &str| FIELDS.iter().any(|field| field.name == name);
        self.required.retain(|name| !is_field(name));
        self.properties.retain(|(name, _)| !is_field(name));
        self.required.splice(0..0, required.iter().map(|name| (*name).to_owned()));
        let property = |field: &&Field| {
            let schema = serde_json::to_string_pretty(&schema(field)).unwrap();
            let schema = schema.replace('\n', &format!("\n{INDENTATION}"));
            (field.name.to_owned(), format!("{INDENTATION}\"{}\": {schema}", field.name))
        };
        self.properties.splice(0..0, fields.iter().map(property));
    }

    fn written(&self) -> String {
        let Schema { before, required, properties, after } = self;
        let required: Vec<String> = required.iter().map(|name| format!("{INDENTATION}\"{name}\"")).collect();
        let properties: Vec<&str> = properties.iter().map(|(_, text)| text.as_str()).collect();
        let (required, properties) = (required.join(",\n"), properties.join(",\n"));
        format!("{before}{required}\n{MIDDLE}{PROPERTIES}{properties}\n{after}")
    }
}

fn openapi(document: &str) -> String {
    let fields: Vec<&Field> = FIELDS.iter().filter(|field| field.shown == Shown::ByApi).collect();
    let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
    let mut key = Schema::find(document, "Key");
    key.take(&fields, &names, shown);
    let document = key.written();
    let fields: Vec<&Field> = FIELDS.iter().filter(|field| field.set_by != SetBy::Bearward).collect();
    let required = fields.iter().filter(|field| field.presence == Presence::Required);
    let required: Vec<&str> = required.map(|field| field.name).collect();
    let mut new_key = Schema::find(&document, "NewKey");
    new_key.take(&fields, &required, wanted);
    new_key.written()
}

const BEGIN: &str = "<!-- Written by the code: `UPDATE_EXPECTED=1 cargo test key_reference`. -->\n";
const END: &str = "<!-- End of what the code has written. -->\n";

fn form(form: Form) -> &'static str {
    match form {
        Form::KeyId => "`key_…`",
        Form::Name | Form::Label => "text",
        Form::Group => "the name of a group",
        Form::Hash => "`sha256:…`",
        Form::Secrets => "a list of `{hash, expires_at}`",
        Form::Permissions => "a list",
        Form::Instant => "a time with its zone",
        Form::Flag => "`true`, `false`",
        Form::Count => "a number",
        Form::RateLimits => {
            "a list of `{requests, per, burst}`, with `tokens`, `input_tokens` or `output_tokens` in place of `requests`, or `none`"
        }
        Form::Budgets => {
            "a list of `{tokens, every, zone}`, with `requests`, `input_tokens` or `output_tokens` in place of `tokens`; `every`: `day`, `week` or `month`"
        }
        Form::Networks => "a list of networks",
        Form::Words => "a list of names",
        Form::Models => "a list of patterns",
        Form::OutputCap => "`{max_output_tokens, on_excess}`",
        Form::Priority => "`interactive`, `standard` or `batch`",
        Form::Pairs => "a map of names to text",
    }
}

fn table() -> String {
    let mut table = "| field | value | what it is | without it |\n|---|---|---|---|\n".to_owned();
    for field in FIELDS {
        let default = match field.presence {
            Presence::Required => "refused",
            _ => field.default,
        };
        let (name, value, about) = (field.name, form(field.form), field.about);
        writeln!(table, "| `{name}` | {value} | {about} | {default} |").unwrap();
    }
    table
}

/// Returns the text of docs/keys.md with a new table.
fn page(page: &str) -> String {
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    [before, BEGIN, "\n", &table(), "\n", END, after].concat()
}

fn holds(path: &str, written: impl Fn(&str) -> String) {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let kept = std::fs::read_to_string(&path).unwrap();
    let written = written(&kept);
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&path, &written).unwrap();
        return;
    }
    let command = "`UPDATE_EXPECTED=1 cargo test key_reference` writes it anew";
    assert!(kept == written, "{}: {command}", path.display());
}

#[test]
fn the_documents_say_of_each_field_what_its_description_says() {
    holds("docs/keys.md", page);
    holds("src/admin/openapi.json", openapi);
}

#[test]
fn each_field_has_one_description() {
    for (index, field) in FIELDS.iter().enumerate() {
        assert!(FIELDS[..index].iter().all(|earlier| earlier.name != field.name), "{}", field.name);
        assert_eq!(field.default.is_empty(), field.presence == Presence::Required, "{}", field.name);
        assert!(!field.about.ends_with('.'), "{}", field.name);
    }
}
