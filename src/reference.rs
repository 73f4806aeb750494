//! Generates `docs/configuration.md`, `docs/errors.md` and `docs/routes.md`, and checks that
//! config.example.yaml has every field.
//!
//! `UPDATE_EXPECTED=1 cargo test reference` writes the pages. Without the variable, the test
//! compares them with the code.

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

/// The width of prose, in columns.
const COLUMNS: usize = 100;

/// Returns a page with its prose wrapped at [`COLUMNS`]. Headings, tables, code and comments are
/// not changed.
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

/// Returns `text` as the cell of a Markdown table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// The tables of the configuration's fields, one for each section.
#[derive(Default)]
struct Tables<'a> {
    /// The sections that have no table yet, each with its path, its description and its schema.
    sections: Vec<(String, String, &'a Value)>,
}

impl<'a> Tables<'a> {
    fn table(&mut self, path: &str, section: &'a Value) -> String {
        let mut table = "| field | description | form | default |\n|---|---|---|---|\n".to_owned();
        for (name, schema) in fields(section) {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            let default = match (is_required(section, name), schema.get("default")) {
                (true, _) => "required".to_owned(),
                (false, Some(default)) => format!("`{}`", inline(default)),
                (false, None) => String::new(),
            };
            let form = self.form(&path, schema);
            let description = description(schema);
            assert!(!description.is_empty(), "{path} has no doc comment");
            let cells = [&description, &form, &default].map(|text| cell(text));
            let _infallible = writeln!(table, "| `{name}` | {} |", cells.join(" | "));
        }
        table
    }

    /// Returns the form of a value in words. A section is added to `sections`, and gets a table
    /// later.
    fn form(&mut self, path: &str, schema: &'a Value) -> String {
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            let words = values.iter().filter_map(Value::as_str);
            return words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        }
        if let Some(forms) = schema.get("anyOf").and_then(Value::as_array) {
            let is_variable = |form: &&Value| form.get("pattern").is_some_and(|pattern| pattern == "\\$\\{");
            let forms: Vec<String> = forms
                .iter()
                .filter(|form| !is_variable(form))
                .map(|form| self.form(path, form))
                .filter(|form| !form.is_empty())
                .collect();
            return match forms.as_slice() {
                [number, other] if number == "a number" && other.starts_with("a ") => other.clone(),
                _ => forms.join(", or "),
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
            (_, Some(pattern)) if pattern.contains("B?") => "a size".to_owned(),
            // Digits, and a suffix.
            (_, Some(pattern)) if pattern.starts_with("^[0-9]+[k") => "a number, as in 100k".to_owned(),
            _ => "text".to_owned(),
        }
    }
}

/// Returns the fields of a section: their names and their schemas.
fn fields(section: &Value) -> impl Iterator<Item = (&String, &Value)> {
    section.get("properties").and_then(Value::as_object).into_iter().flatten()
}

fn is_required(section: &Value, name: &str) -> bool {
    let required = section.get("required").and_then(Value::as_array);
    required.into_iter().flatten().any(|required| required == name)
}

/// Returns the description of a value. If the value has no description, returns the description of
/// its items, or else of the first of its forms that has a description.
fn description(schema: &Value) -> String {
    let of = |schema: &Value| schema.get("description").and_then(Value::as_str).map(str::to_owned);
    let of_forms = || schema.get("anyOf").and_then(Value::as_array)?.iter().find_map(of);
    of(schema).or_else(|| schema.get("items").and_then(of)).or_else(of_forms).unwrap_or_default()
}

/// Writes a value as YAML in one line.
fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Returns the anchor of a heading on GitHub and other forges: lower case, without punctuation.
fn anchor(heading: &str) -> String {
    heading
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == '_' || *c == '-')
        .collect::<String>()
        .to_lowercase()
}

fn configuration() -> String {
    let schema = schema::of_config();
    let mut tables = Tables::default();
    let mut page = format!(
        "# Configuration\n\n{WRITTEN}\nThis page lists all fields of the configuration. \
         [config.example.yaml](../config.example.yaml) shows each field with a comment, and editors \
         use [config.schema.json](../config.schema.json). \
         Durations are written as `250ms`, `10s`, `5m`, `90d`, sizes as `32MiB`. `${{VAR}}`, \
         `${{VAR:-default}}` and `${{VAR:?message}}` work in every value. A relative path begins at the directory of the configuration file \
         (as the file was given: a symbolic link is not followed), and not at the working directory; in a configuration that \
         comes through a pipe or `/dev/stdin`, it begins at the working directory, as paths on the command line \
         do. A configuration with \
         an unknown field is refused, and the message names the most similar known field. `bearward check` reports all faults at \
         once.\n\n"
    );
    page.push_str(&tables.table("", &schema));
    while !tables.sections.is_empty() {
        let (path, description, section) = tables.sections.remove(0);
        let table = tables.table(&path, section);
        let _infallible = write!(page, "\n## {path}\n\n{description}.\n\n{table}");
    }
    page
}

fn errors() -> String {
    let mut page = format!(
        "# Errors\n\n{WRITTEN}\nEach error from bearward itself has this form, and an \
         `x-request-id` that is also in the logs. Codes are stable. `bearward explain CODE` prints \
         an entry. gRPC callers get the status in the third column.\n\n\
         ```json\n{{\"success\": false, \"error\": {{\"code\": \"…\", \"message\": \"…\", \"details\": {{…}}}}}}\n```\n\n\
         | code | HTTP | gRPC |\n|---|---|---|\n"
    );
    for code in Code::ALL {
        let (name, status, grpc) = (code.name(), code.status().as_u16(), code.grpc());
        let _infallible = writeln!(page, "| [`{name}`](#{}) | {status} | {grpc} |", anchor(name));
    }
    for code in Code::ALL {
        let catalogue::Entry { meaning, caller, operator } = catalogue::entry(*code);
        let _infallible =
            write!(page, "\n## {}\n\n{meaning}\n\n- Caller: {caller}\n- Operator: {operator}\n", code.name());
    }
    page
}

fn routes() -> String {
    let mut page = format!(
        "# Built-in routes\n\n{WRITTEN}\n`routes: NAME` selects one of these sets. The first \
         route that matches wins. A path that no route lists is answered with 404 and reaches no \
         upstream. In a path, `*` matches within one segment and `**` matches across segments. HEAD is allowed where \
         GET is. A path with a slash at its end is decided as the path without it, and forwarded \
         unchanged. In a list of routes, an item `{{preset: NAME}}` inserts the set NAME.\n\n\
         To close what needs nothing, put a route of your own before the set, and let the upstream's routes ignore a \
         slash at the end, as those of the set do:\n\n\
         ```yaml\n\
         upstreams: [{{name: model, endpoints: [\"http://127.0.0.1:8000\"], paths: {{ignore_trailing_slash: true}}}}]\n\
         routes:\n  - {{name: closed, paths: [/health, /ping], permission: read}}\n  - preset: vllm\n\
         ```\n\n\
         Two sets have more rules. In `vllm`, the name of a model in a path may contain `%2F`, which vLLM \
         decodes to a slash. In `llama-cpp`, `X-Conversation-Id` is removed: llama-server continues to \
         generate for such a request when its client has left.\n\n\
         The column `model` names the place in which a request on the route has its model \
         (`model_in`). Of all other members of a body, a route sees nothing. With some model \
         servers, the body of a request can unload a model, or have the request forwarded to another \
         host (Ollama's `keep_alive: 0` and `:cloud` models). Each key that may generate may do this, \
         too.\n\n\
         The sets of model servers follow vLLM 0.33, SGLang 0.5.23, TGI 3.3.6, llama.cpp of August \
         2026, Ollama 0.33 and Triton 2.73.\n"
    );
    for (name, preset) in Preset::ALL {
        let _infallible = write!(
            page,
            "\n## {name}\n\n| route | needs | methods | model | paths |\n|---|---|---|---|---|\n"
        );
        for route in presets::routes(preset) {
            let needs = match route.access {
                Access::Public => "nothing".to_owned(),
                Access::Needs(permission) => format!("`{}`", permission.name()),
            };
            let methods = match &route.requests.methods {
                None => "all".to_owned(),
                Some(methods) => methods.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            };
            let paths =
                route.requests.paths.iter().map(|path| format!("`{path}`")).collect::<Vec<_>>().join(" ");
            let model = route.model.place.name();
            let _infallible =
                writeln!(page, "| `{}` | {needs} | {methods} | {model} | {paths} |", route.name);
        }
    }
    page
}

fn check(path: &Path, written: &str) {
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(path, written).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == written, "{}: `UPDATE_EXPECTED=1 cargo test reference` writes it anew", path.display());
}

#[test]
fn the_reference_follows_from_the_code() {
    check(&root().join("docs/configuration.md"), &wrapped(&configuration()));
    check(&root().join("docs/errors.md"), &wrapped(&errors()));
    check(&root().join("docs/routes.md"), &wrapped(&routes()));
}

#[test]
fn the_readme_names_every_error_code() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for code in Code::ALL {
        assert!(readme.contains(&format!("`{}`", code.name())), "{}", code.name());
    }
}

/// The content of config.example.yaml, parsed twice: as it is, and with the commented-out fields.
struct Example {
    text: String,
    /// The values in the lines that are not commented out.
    shown: Value,
    /// The values after `#- ` is removed from each line. The lines in `REPLACED` are left out,
    /// because commented-out lines give the same fields.
    whole: Value,
}

impl Example {
    fn read() -> Self {
        const REPLACED: [&str; 3] =
            ["rate_limits: []", "routes: openai", "endpoints: [http://127.0.0.1:8000]"];
        let text = std::fs::read_to_string(root().join("config.example.yaml")).unwrap();
        let kept = text.lines().filter(|line| {
            let line = line.trim_start();
            !REPLACED.contains(&line) && !line.starts_with("path: keys.yaml")
        });
        let whole: Vec<String> = kept.map(|line| line.replacen("#- ", "", 1)).collect();
        let shown = serde_yaml::from_str(&text).unwrap();
        let whole = serde_yaml::from_str(&whole.join("\n")).unwrap();
        Example { text, shown, whole }
    }

    /// Adds to `missing` the lines that the example lacks, for a section and the sections inside
    /// it.
    fn missing(&self, path: &[String], section: &Value, missing: &mut Vec<String>) {
        for (name, schema) in fields(section) {
            let path = [path, std::slice::from_ref(name)].concat();
            // The example shows one of several alternative fields, and a comment names the other
            // fields.
            let has_comment = self.text.contains(&format!("`{name}: "));
            let is_missing = values(&self.whole, &path).is_empty() && !has_comment;
            // A section that is not commented out must show all of its defaults.
            let is_shown = !values(&self.shown, &path[..path.len() - 1]).is_empty();
            let default = schema.get("default").filter(|_| is_shown).map(inline);
            let shown: Vec<String> = values(&self.shown, &path).into_iter().map(inline).collect();
            if is_missing || default.is_some_and(|default| shown != [default]) {
                missing.push(line(&path, schema));
            }
            for (below, section) in sections(schema) {
                self.missing(&[path.as_slice(), &below].concat(), section, missing);
            }
        }
    }
}

/// The step of a path that means all items of a list.
const ITEMS: &str = "[]";

/// Returns all values at a path.
fn values<'v>(value: &'v Value, path: &[String]) -> Vec<&'v Value> {
    let Some((first, rest)) = path.split_first() else { return vec![value] };
    let below: Vec<&Value> = match value {
        Value::Array(items) if first == ITEMS => items.iter().collect(),
        value => value.get(first).into_iter().collect(),
    };
    below.into_iter().flat_map(|value| values(value, rest)).collect()
}

/// Returns the sections among the forms of a value and among the forms of its items, each with its
/// path relative to the value.
fn sections(schema: &Value) -> Vec<(Vec<String>, &Value)> {
    if schema.get("properties").is_some() {
        return vec![(Vec::new(), schema)];
    }
    let forms = schema.get("anyOf").and_then(Value::as_array).into_iter().flatten().flat_map(sections);
    let items = schema.get("items").into_iter().flat_map(sections);
    let items = items.map(|(path, section)| ([vec![ITEMS.to_owned()], path].concat(), section));
    forms.chain(items).collect()
}

/// Returns the line of config.example.yaml for a field.
fn line(path: &[String], schema: &Value) -> String {
    let (name, indent) = (path.last().unwrap(), "  ".repeat(path.len() - 1));
    let field = match schema.get("default") {
        Some(default) => format!("{indent}{name}: {}", inline(default)),
        None => format!("{indent}#- {name}: …"),
    };
    format!("{}:\n{field:40}# {}", path.join("."), description(schema))
}

#[test]
fn the_example_configuration_has_every_field_with_its_default() {
    let mut missing = Vec::new();
    Example::read().missing(&[], &schema::of_config(), &mut missing);
    assert!(missing.is_empty(), "config.example.yaml needs these lines:\n{}", missing.join("\n"));
}
