//! The structure of the crate: imports run downwards, no files use each other, and example files
//! are valid.

mod uses;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers of rooms, top first. A room may use rooms of its own layer and below.
const FLOORS: &[&[&str]] = &[
    &["cli", "fuzzing", "main", "lib", "reference", "key_reference"],
    &["app"],
    &["worker", "admin"],
    &["reload"],
    &["net"],
    &["proxy"],
    &["forward"],
    &["gate"],
    &["snapshot", "hooks"],
    &["group", "route"],
    &["identity"],
    &["guard", "key_cache"],
    &["tokens"],
    &["acme"],
    &["shared", "state"],
    &["cors", "limit", "upstream"],
    &["observe", "pem"],
    // What a key is and where it is stored know neither a limit nor a log.
    &["key_store"],
    &["keys"],
    &["config", "denial"],
    &[
        "address",
        "ago",
        "alarm",
        "bom",
        "regular_file",
        "clock",
        "digest",
        "activity",
        "folding",
        "glob",
        "host_pattern",
        "journal",
        "json",
        "late_thread",
        "mask",
        "model",
        "path_pattern",
        "pattern_fault",
        "permission",
        "placeholder",
        "plural",
        "protocol",
        "random_id",
        "redis_address",
        "redis_link",
        "shell_word",
        "stamp",
        "system_authorities",
        "tap",
        "unreadable",
        "thread_supervisor",
        "web_origin",
        "token_report",
    ],
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    sources(&root().join("src"), &mut found);
    assert!(found.len() > 30, "{found:?}");
    found
}

#[test]
fn imports_run_downwards() {
    let floors: BTreeMap<&str, usize> = FLOORS
        .iter()
        .enumerate()
        .flat_map(|(floor, names)| names.iter().map(move |name| (*name, floor)))
        .collect();
    let mut looked_at = 0;
    for path in all_sources() {
        let within = path.strip_prefix(root().join("src")).unwrap();
        let module =
            within.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        let floor = floors.get(module).unwrap_or_else(|| panic!("{module} has no floor"));
        let text = fs::read_to_string(&path).unwrap();
        // Imports of tests do not count.
        let product = text.split("#[cfg(test)]").next().unwrap();
        for used in product.split("crate::").skip(1) {
            let name: String = used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let Some(below) = floors.get(name.as_str()) else { continue };
            looked_at += 1;
            assert!(below >= floor, "{}: crate::{name} is upstairs", path.display());
        }
    }
    assert!(looked_at > 60, "{looked_at}");
}

/// Rooms with circles of files, each with a reason. There are none.
const CIRCLES: &[(&str, &str)] = &[];

#[test]
fn no_circle_of_files() {
    let text = |path: &PathBuf| fs::read_to_string(path).unwrap();
    let name = |path: &PathBuf| path.strip_prefix(root().join("src")).unwrap().display().to_string();
    let files = all_sources();
    let files = files.iter().filter(|path| name(path) != "main.rs");
    let graph = uses::graph(&files.map(|path| (uses::module_of(&name(path)), text(path))).collect());
    assert!(graph.values().map(BTreeMap::len).sum::<usize>() > 500);
    let mut needed = BTreeSet::new();
    let mut unexpected = String::new();
    for circle in uses::circles(&graph) {
        let rooms: BTreeSet<Option<&String>> = circle.iter().map(|module| module.first()).collect();
        let exception =
            CIRCLES.iter().find(|(room, _)| rooms.iter().all(|of| of.is_some_and(|of| of == room)));
        match exception {
            Some((room, _)) => {
                needed.insert(*room);
            }
            None => unexpected.push_str(&format!("{}\n", uses::edges_of(&circle, &graph))),
        }
    }
    assert!(unexpected.is_empty(), "files that use each other:\n{unexpected}");
    for (room, reason) in CIRCLES {
        assert!(needed.contains(room), "{room} has no circle any more: {reason}");
    }
}

/// Rooms that may use hyper and h2: the others must not depend on the implementation of HTTP.
const USERS_OF_HYPER: [&str; 3] = ["fuzzing", "net", "upstream"];
#[test]
fn hyper_is_used_where_connections_are() {
    let mut users = Vec::new();
    for path in all_sources() {
        let name = path.strip_prefix(root().join("src")).unwrap().display().to_string();
        let room = name.split('/').next().unwrap().trim_end_matches(".rs");
        let used = uses::paths(&fs::read_to_string(&path).unwrap());
        let is_user = |path: &Vec<String>| ["hyper", "hyper_util", "h2"].contains(&path[0].as_str());
        if !USERS_OF_HYPER.contains(&room) && used.iter().any(is_user) {
            users.push(name);
        }
    }
    assert!(users.is_empty(), "{users:?}");
}

#[test]
fn no_file_grows_past_what_one_can_read() {
    for path in all_sources() {
        let text = fs::read_to_string(&path).unwrap();
        let product = text.split("#[cfg(test)]").next().unwrap();
        let lines = product.lines().count();
        assert!(lines <= 480, "{} has {lines} lines", path.display());
    }
}

/// A thread that is started elsewhere could end unseen; threads of a scope are joined by it.
#[test]
fn threads_are_started_in_one_place() {
    let started = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let product = text.split("#[cfg(test)]").next().unwrap();
        ["thread::spawn", "thread::Builder"].iter().any(|start| product.contains(start))
    };
    let all: Vec<PathBuf> = all_sources().into_iter().filter(started).collect();
    assert_eq!(all, [root().join("src/thread_supervisor.rs")]);
}

/// A file that is opened in another way may be a pipe, and its reader waits for ever: the reload,
/// too. Commands read files that their user names, also by `Config::load`: there a pipe is meant.
#[test]
fn files_that_a_configuration_names_are_opened_in_one_place() {
    let opened = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let product = text.split("#[cfg(test)]").next().unwrap();
        // A directory is opened to sync its entries.
        let product = product.replace("File::open(directory)", "");
        ["File::open(", ".read(true)", "fs::read(", "fs::read_to_string("]
            .iter()
            .any(|open| product.contains(open))
    };
    let others = [
        "src/cli/",
        "src/fuzzing",
        "src/journal/tests",
        "src/observe/log/",
        "src/reference.rs",
        "src/key_reference.rs",
    ]
    .map(|other| root().join(other).display().to_string());
    let is_other = |path: &PathBuf| others.iter().any(|other| path.display().to_string().starts_with(other));
    let found = all_sources().into_iter().filter(|path| !is_other(path) && opened(path));
    let all: BTreeSet<PathBuf> = found.collect();
    let expected = [
        "src/config/document.rs",
        "src/journal/disk.rs",
        "src/key_store/edit/lock.rs",
        "src/key_store/id_secret.rs",
        "src/regular_file.rs",
    ];
    assert_eq!(all, BTreeSet::from(expected.map(|path| root().join(path))));
}

#[test]
fn the_example_configuration_is_valid_and_shows_the_defaults() {
    let path = root().join("config.example.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let as_it_is =
        bearward::Config::parse(&path, &text, &|_| None).unwrap_or_else(|faults| panic!("{faults}"));
    // With every commented-out line, instead of the lines that they replace.
    let whole: String = text
        .lines()
        .filter(|line| {
            let replaced = ["rate_limits: []", "routes: openai", "endpoints: [http://127.0.0.1:8000]"];
            !replaced.contains(&line.trim_start()) && !line.trim_start().starts_with("path: keys.yaml")
        })
        .map(|line| {
            let indentation = line.len() - line.trim_start().len();
            match line.trim_start().strip_prefix("#- ") {
                Some(field) => format!("{}{field}\n", &line[..indentation]),
                None => format!("{line}\n"),
            }
        })
        .collect();
    let environment = |name: &str| match name {
        "PORT" => Some("8443".to_owned()),
        "UPSTREAM_KEY" => Some("secret".to_owned()),
        "REDIS_PASSWORD" => Some("secret".to_owned()),
        "ID_SECRET" => Some("0123456789abcdef0123456789abcdef".to_owned()),
        _ => None,
    };
    bearward::Config::parse(&path, &whole, &environment).unwrap_or_else(|faults| panic!("{faults}"));
    // The file shows the defaults: an empty configuration means the same.
    let least = "listeners: [{address: 127.0.0.1:8080}]\nupstreams: [{name: model, endpoints: [http://127.0.0.1:8000]}]\nkeys: {path: keys.yaml}\n";
    let least = bearward::Config::parse(&path, least, &|_| None).unwrap();
    assert_eq!(format!("{as_it_is:#?}"), format!("{least:#?}"));
}
