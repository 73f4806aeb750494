//! The parts of the documentation that are written by the code: `docs/configuration.md`, `docs/errors.md` and
//! `docs/routes.md`.
//!
//! `UPDATE_EXPECTED=1 cargo test reference` writes them anew; without it they must be as they would be written.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::presets::{self, Preset};
use crate::config::{Access, schema};
use crate::denial::{Code, catalogue};

const WRITTEN: &str = "<!-- Written by the code: `UPDATE_EXPECTED=1 cargo test reference`. -->\n";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The columns of a line of prose.
const COLUMNS: usize = 100;

/// Prose in lines of [`COLUMNS`]: headings, tables, code and comments stay as they are.
fn wrapped(page: &str) -> String {
    let mut out = String::with_capacity(page.len());
    let mut is_code = false;
    for line in page.split_inclusive('\n') {
        is_code ^= line.starts_with("```");
        if is_code || line.starts_with(['#', '|', '<']) {
            out.push_str(line);
            continue;
        }
        let indent = if line.starts_with("- ") { "  " } else { "" };
        let mut column = 0;
        for word in line.trim_end().split(' ') {
            let length = word.chars().count();
            if column > 0 && column + 1 + length > COLUMNS {
                out.push('\n');
                out.push_str(indent);
                column = indent.len();
            } else if column > 0 {
                out.push(' ');
                column += 1;
            }
            out.push_str(word);
            column += length;
        }
        out.push('\n');
    }
    out
}

/// A cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// The fields of one section of the configuration, and those of the sections in it.
struct Fields<'a> {
    example: &'a Value,
    /// Sections that are yet to be told: their place, what they are, and their schema.
    sections: Vec<(String, String, &'a Value)>,
}

impl<'a> Fields<'a> {
    fn table(&mut self, place: &str, section: &'a Value) -> String {
        let mut table = "| field | what | form | default |\n|---|---|---|---|\n".to_owned();
        let required: Vec<&str> = texts(section.get("required"));
        let Some(properties) = section.get("properties").and_then(Value::as_object) else {
            panic!("{place}")
        };
        for (name, schema) in properties {
            let path = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
            let default = match (required.contains(&name.as_str()), schema.get("default")) {
                (true, _) => "required".to_owned(),
                (false, Some(default)) => format!("`{}`", inline(default)),
                (false, None) => self.shown(&path).map(|value| format!("`{value}`")).unwrap_or_default(),
            };
            let form = self.form(&path, schema);
            let what = description(schema);
            assert!(!what.is_empty(), "{path} says nothing of itself");
            let _infallible =
                writeln!(table, "| `{name}` | {} | {} | {} |", cell(&what), cell(&form), cell(&default));
        }
        table
    }

    /// The value that config.example.yaml has there: a test holds it equal to the default.
    fn shown(&self, path: &str) -> Option<String> {
        let pointer = format!("/{}", path.replace("[]", ".0").replace('.', "/"));
        match self.example.pointer(&pointer)? {
            Value::Object(_) => None,
            Value::Array(items) if items.iter().any(Value::is_object) => None,
            value => Some(inline(value)),
        }
    }

    /// How a value is written; a section is told by itself.
    fn form(&mut self, path: &str, schema: &'a Value) -> String {
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            let words = values.iter().filter_map(Value::as_str);
            return words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        }
        if let Some(forms) = schema.get("anyOf").and_then(Value::as_array) {
            let is_variable = |form: &&Value| form.get("pattern").is_some_and(|pattern| pattern == "\\$\\{");
            let told: Vec<String> = forms
                .iter()
                .filter(|form| !is_variable(form))
                .map(|form| self.form(path, form))
                .filter(|form| !form.is_empty())
                .collect();
            return match told.as_slice() {
                [number, size] if number == "a number" && size == "a size" => "a size".to_owned(),
                _ => told.join(", or "),
            };
        }
        if schema.get("properties").is_some() {
            self.sections.push((path.to_owned(), description(schema), schema));
            return format!("[section](#{})", anchor(path));
        }
        if let Some(items) = schema.get("items") {
            return format!("a list of {}", self.form(&format!("{path}[]"), items));
        }
        match (schema.get("type").and_then(Value::as_str), schema.get("pattern").and_then(Value::as_str)) {
            (Some("boolean"), _) => "`true`, `false`".to_owned(),
            (Some("integer" | "number"), _) => "a number".to_owned(),
            (_, Some(pattern)) if pattern.contains("a-z") => "a duration".to_owned(),
            (_, Some(_)) => "a size".to_owned(),
            _ => "text".to_owned(),
        }
    }
}

fn texts(list: Option<&Value>) -> Vec<&str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What a value is, or what its items or its forms are.
fn description(schema: &Value) -> String {
    let of = |schema: &Value| schema.get("description").and_then(Value::as_str).map(str::to_owned);
    let of_forms = || schema.get("anyOf").and_then(Value::as_array)?.iter().find_map(of);
    of(schema).or_else(|| schema.get("items").and_then(of)).or_else(of_forms).unwrap_or_default()
}

/// As one would write it in YAML.
fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// The anchor that forges give to a heading: punctuation goes, and letters are small.
fn anchor(heading: &str) -> String {
    heading
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == '_' || *c == '-')
        .collect::<String>()
        .to_lowercase()
}

fn configuration() -> String {
    let schema = schema::of_config();
    let example = std::fs::read_to_string(root().join("config.example.yaml")).unwrap();
    let example: Value = serde_yaml::from_str(&example).unwrap();
    let mut fields = Fields { example: &example, sections: Vec::new() };
    let mut page = format!(
        "# Configuration\n\n{WRITTEN}\nEvery field. [config.example.yaml](../config.example.yaml) has them with their comments, \
         and [config.schema.json](../config.schema.json) is for editors. Durations are written as `250ms`, `10s`, `5m`, `90d`, \
         sizes as `32MiB`; `${{VAR}}`, `${{VAR:-default}}` and `${{VAR:?message}}` work in every value. Unknown fields are refused, \
         with the nearest one that there is. `bearward check` says all faults at once.\n\n"
    );
    page.push_str(&fields.table("", &schema));
    while !fields.sections.is_empty() {
        let (place, what, section) = fields.sections.remove(0);
        let table = fields.table(&place, section);
        let _infallible = write!(page, "\n## {place}\n\n{what}.\n\n{table}");
    }
    page
}

fn errors() -> String {
    let mut page = format!(
        "# Errors\n\n{WRITTEN}\nEvery answer of bearward's own has this shape, and carries an `x-request-id` that the logs have, \
         too. Codes are stable. `bearward explain CODE` prints an entry; gRPC callers get the status in the third column.\n\n\
         ```json\n{{\"success\": false, \"error\": {{\"code\": \"…\", \"message\": \"…\", \"details\": {{…}}}}}}\n```\n\n\
         | code | HTTP | gRPC |\n|---|---|---|\n"
    );
    for code in Code::ALL {
        let (name, status, grpc) = (code.name(), code.status().as_u16(), code.grpc());
        let _infallible = writeln!(page, "| [`{name}`](#{}) | {status} | {grpc} |", anchor(name));
    }
    for code in Code::ALL {
        let catalogue::Entry { meaning, caller, operator } = catalogue::entry(*code);
        let _infallible = write!(
            page,
            "\n## {}\n\n{meaning}\n\n- Whoever calls: {caller}\n- Whoever runs the server: {operator}\n",
            code.name()
        );
    }
    page
}

fn routes() -> String {
    let mut page = format!(
        "# Built-in routes\n\n{WRITTEN}\n`routes: NAME` takes one of these sets. The first route that matches wins, and what none \
         lists is 404 and reaches no upstream. `*` stays within a segment of the path, `**` does not; HEAD goes where GET goes. \
         A path with a slash at its end is decided as the one without it, and forwarded as it came. An item `{{preset: NAME}}` in a list of \
         routes stands for a set at that place.\n\n\
         Two sets know more of their servers. In `vllm`, the name of a model may hold `%2F`, which vLLM reads as a slash. In `llama-cpp`, \
         `X-Conversation-Id` is removed: llama-server goes on generating for such a request when its client has left.\n\n\
         A route sees a method and a path, and no body. Where a model server loads, unloads or forwards by what a body says \
         (Ollama's `keep_alive: 0` and `:cloud` models, llama.cpp's router mode), whoever may generate may do that, too.\n\n\
         The sets of model servers have been read off vLLM 0.33, llama.cpp of October 2026, Ollama of August 2026 and Triton 2.73.\n"
    );
    for (name, preset) in Preset::ALL {
        let _infallible =
            write!(page, "\n## {name}\n\n| route | needs | methods | paths |\n|---|---|---|---|\n");
        for route in presets::routes(preset) {
            let needs = match route.access {
                Access::Public => "nothing".to_owned(),
                Access::Needs(permission) => format!("`{}`", permission.name()),
            };
            let methods = match &route.methods {
                None => "all".to_owned(),
                Some(methods) => methods.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            };
            let paths = route.paths.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(" ");
            let _infallible = writeln!(page, "| `{}` | {needs} | {methods} | {paths} |", route.name);
        }
    }
    page
}

fn holds(path: &Path, written: &str) {
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(path, written).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == written, "{}: `UPDATE_EXPECTED=1 cargo test reference` writes it anew", path.display());
}

#[test]
fn the_reference_is_what_the_code_says() {
    holds(&root().join("docs/configuration.md"), &wrapped(&configuration()));
    holds(&root().join("docs/errors.md"), &wrapped(&errors()));
    holds(&root().join("docs/routes.md"), &wrapped(&routes()));
}
