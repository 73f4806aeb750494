//! Which file uses which: the paths of `use` declarations and of the code, resolved to the files of
//! a crate.
//!
//! Only product code counts: text before the first `#[cfg(test)]`, without comments and literals.

use std::collections::{BTreeMap, BTreeSet};

/// A module by its path below the crate's root, which is the empty path.
pub(super) type Module = Vec<String>;

/// For each file, the files that it uses, with the paths of what is used there.
pub(super) type Graph = BTreeMap<Module, BTreeMap<Module, BTreeSet<String>>>;

/// A name or a sign of Rust source text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Lexeme {
    Name(String),
    /// `::`
    Colons,
    Sign(char),
}

/// The modules of files, by their paths below `src/`.
pub(super) fn module_of(file: &str) -> Module {
    match file.trim_end_matches(".rs") {
        "lib" => Vec::new(),
        path => path.split('/').map(str::to_owned).collect(),
    }
}

/// The name of a module's file, without its ending.
pub(super) fn file_of(module: &Module) -> String {
    if module.is_empty() { "lib".to_owned() } else { module.join("/") }
}

/// The uses of files among each other. `files`: module and text.
pub(super) fn graph(files: &BTreeMap<Module, String>) -> Graph {
    let mut graph = Graph::new();
    for (module, text) in files {
        let used = graph.entry(module.clone()).or_default();
        for path in paths(text) {
            let Some(full) = absolute(module, &path, files) else { continue };
            let lengths = (0..=full.len()).rev();
            let prefixes = lengths.filter_map(|length| full.get(..length)).map(<[String]>::to_vec);
            let Some(target) = prefixes.into_iter().find(|prefix| files.contains_key(prefix)) else {
                continue;
            };
            if target != *module {
                used.entry(target).or_default().insert(full.join("::"));
            }
        }
    }
    graph
}

/// The path from the crate's root on, where it begins with `crate`, `self`, `super` or a child of
/// the module.
fn absolute(module: &Module, path: &[String], files: &BTreeMap<Module, String>) -> Option<Module> {
    let mut base = module.clone();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => (base, rest) = (Module::new(), path.get(1..)?),
        "self" => rest = path.get(1..)?,
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                base.pop()?;
                rest = rest.get(1..)?;
            }
        }
        first => {
            let child: Module = base.iter().cloned().chain([first.to_owned()]).collect();
            if !files.contains_key(&child) {
                return None;
            }
        }
    }
    base.extend(rest.iter().filter(|part| *part != "self").cloned());
    Some(base)
}

/// All paths of two and more parts in the product code of a text, those of `use` declarations among
/// them.
pub(super) fn paths(text: &str) -> Vec<Vec<String>> {
    let product = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lexemes = lexemes(product);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(lexeme) = lexemes.get(at) {
        let Lexeme::Name(name) = lexeme else {
            at += 1;
            continue;
        };
        // Not the `use<T>` of a type.
        if name == "use" && lexemes.get(at + 1) != Some(&Lexeme::Sign('<')) {
            at = use_tree(&lexemes, at + 1, &[], &mut found);
            continue;
        }
        let (path, after) = plain_path(&lexemes, at);
        // A visibility: `pub(in crate::net)`.
        let is_visibility = at > 0
            && lexemes.get(at - 1) == Some(&Lexeme::Name("in".to_owned()))
            && at > 1
            && lexemes.get(at - 2) == Some(&Lexeme::Sign('('));
        if path.len() > 1 && !is_visibility {
            found.push(path);
        }
        at = after;
    }
    found
}

/// Reads `a::b::c` from `at` on; yields it, and where it ends.
fn plain_path(lexemes: &[Lexeme], mut at: usize) -> (Vec<String>, usize) {
    let mut path = Vec::new();
    while let Some(Lexeme::Name(name)) = lexemes.get(at) {
        path.push(name.clone());
        at += 1;
        match (lexemes.get(at), lexemes.get(at + 1)) {
            (Some(Lexeme::Colons), Some(Lexeme::Name(_))) => at += 1,
            _ => break,
        }
    }
    (path, at)
}

/// Reads a tree of a `use` declaration from `at` on, below `prefix`; yields where it ends.
fn use_tree(lexemes: &[Lexeme], mut at: usize, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match lexemes.get(at) {
            Some(Lexeme::Name(name)) if name == "as" => at += 2,
            Some(Lexeme::Name(name)) => {
                path.push(name.clone());
                at += 1;
            }
            Some(Lexeme::Colons) => at += 1,
            // All of a module.
            Some(Lexeme::Sign('*')) => {
                path.push("*".to_owned());
                at += 1;
            }
            Some(Lexeme::Sign('{')) => {
                at += 1;
                while lexemes.get(at).is_some_and(|lexeme| *lexeme != Lexeme::Sign('}')) {
                    at = use_tree(lexemes, at, &path, found);
                    if lexemes.get(at) == Some(&Lexeme::Sign(',')) {
                        at += 1;
                    }
                }
                return at + 1;
            }
            _ => break,
        }
    }
    found.push(path);
    at
}

/// The names and signs of a text, without comments, literals and lifetimes.
fn lexemes(text: &str) -> Vec<Lexeme> {
    let characters: Vec<char> = text.chars().collect();
    let at = |index: usize| characters.get(index).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut found, mut i) = (Vec::new(), 0);
    while i < characters.len() {
        match (at(i), at(i + 1)) {
            ('/', '/') => {
                while i < characters.len() && at(i) != '\n' {
                    i += 1
                }
            }
            ('/', '*') => {
                while i < characters.len() && (at(i), at(i + 1)) != ('*', '/') {
                    i += 1
                }
                i += 2;
            }
            ('r', '"' | '#') if is_raw(&characters, i) => i = after_raw(&characters, i),
            ('"', _) => i = after_quoted(&characters, i),
            // A character, as in 'a' and '\n'; else a lifetime.
            ('\'', '\\') => {
                i += 3;
                while i < characters.len() && at(i) != '\'' {
                    i += 1
                }
                i += 1;
            }
            ('\'', _) => i += if at(i + 2) == '\'' { 3 } else { 1 },
            (':', ':') => {
                found.push(Lexeme::Colons);
                i += 2;
            }
            (c, _) if is_word(c) => {
                let begin = i;
                while is_word(at(i)) {
                    i += 1
                }
                found.push(Lexeme::Name(characters.iter().skip(begin).take(i - begin).collect()));
            }
            (c, _) => {
                if !c.is_whitespace() {
                    found.push(Lexeme::Sign(c));
                }
                i += 1;
            }
        }
    }
    found
}

fn is_raw(characters: &[char], begin: usize) -> bool {
    let rest = characters.iter().skip(begin + 1);
    rest.copied().find(|c| *c != '#') == Some('"')
}

/// Where the raw string that begins here ends.
fn after_raw(characters: &[char], begin: usize) -> usize {
    let hashes = characters.iter().skip(begin + 1).take_while(|c| **c == '#').count();
    let mut i = begin + hashes + 2;
    while i < characters.len() {
        let closing = characters.iter().skip(i + 1).take(hashes).filter(|c| **c == '#').count();
        if characters.get(i) == Some(&'"') && closing == hashes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    i
}

/// Where the string that begins here ends.
fn after_quoted(characters: &[char], begin: usize) -> usize {
    let mut i = begin + 1;
    while let Some(c) = characters.get(i) {
        match c {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    i
}

/// The circles of a graph: its strongly connected components of two and more files (Tarjan, 1972).
pub(super) fn circles(graph: &Graph) -> Vec<BTreeSet<Module>> {
    let mut search = Search { graph, states: BTreeMap::new(), stack: Vec::new(), found: Vec::new() };
    for module in graph.keys() {
        if !search.states.contains_key(module) {
            search.visit(module);
        }
    }
    search.found
}

struct Search<'g> {
    graph: &'g Graph,
    /// For each module that was visited: its number, the lowest number that it reaches, whether it
    /// is on the stack.
    states: BTreeMap<&'g Module, (usize, usize, bool)>,
    stack: Vec<&'g Module>,
    found: Vec<BTreeSet<Module>>,
}

impl<'g> Search<'g> {
    /// Visits a module and all that it reaches; yields the lowest number that it reaches.
    fn visit(&mut self, module: &'g Module) -> usize {
        let number = self.states.len();
        let mut lowest = number;
        self.states.insert(module, (number, lowest, true));
        self.stack.push(module);
        let graph = self.graph;
        for used in graph.get(module).into_iter().flat_map(BTreeMap::keys) {
            lowest = match self.states.get(used) {
                None => lowest.min(self.visit(used)),
                Some((known, _, true)) => lowest.min(*known),
                Some(_) => lowest,
            };
        }
        self.states.insert(module, (number, lowest, true));
        if lowest == number {
            let mut circle = BTreeSet::new();
            while let Some(top) = self.stack.pop() {
                if let Some(state) = self.states.get_mut(top) {
                    state.2 = false;
                }
                circle.insert(top.clone());
                if top == module {
                    break;
                }
            }
            if circle.len() > 1 {
                self.found.push(circle);
            }
        }
        lowest
    }
}

/// The uses within a circle, a line each.
pub(super) fn edges_of(circle: &BTreeSet<Module>, graph: &Graph) -> String {
    let mut lines = String::new();
    for (file, uses) in graph.iter().filter(|(file, _)| circle.contains(*file)) {
        for (used, items) in uses.iter().filter(|(used, _)| circle.contains(*used)) {
            let items = items.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            lines.push_str(&format!("  {} uses {}: {items}\n", file_of(file), file_of(used)));
        }
    }
    lines
}

fn of_texts(texts: &[(&str, &str)]) -> Graph {
    graph(&texts.iter().map(|(file, text)| (module_of(file), (*text).to_owned())).collect())
}

fn names(circles: &[BTreeSet<Module>]) -> Vec<Vec<String>> {
    circles.iter().map(|circle| circle.iter().map(file_of).collect()).collect()
}

#[test]
fn a_circle_is_found_whatever_form_its_uses_have() {
    for (parent, child) in [
        ("use child::Part;", "use super::Whole;"),
        ("fn f() { child::part() }", "use super::{other, Whole as Other};"),
        ("use self::child::Part;", "fn f(_: crate::room::Whole) {}"),
        ("use crate::{clock, room::{child::{self, Part}}};", "use crate::room::{self, Whole};"),
        ("pub(crate) use child::*;", "use super::*;"),
        ("impl child::Part {}", "fn f() -> super::super::room::Whole { todo }"),
    ] {
        let graph = of_texts(&[
            ("lib.rs", "mod room;"),
            ("room.rs", parent),
            ("room/child.rs", child),
            ("clock.rs", ""),
        ]);
        assert_eq!(names(&circles(&graph)), [["room", "room/child"]], "{parent} {child}");
    }
}

#[test]
fn a_circle_of_three_files_names_what_is_used() {
    let graph = of_texts(&[
        ("a.rs", "use crate::b::One;"),
        ("b.rs", "use crate::c::Two;"),
        ("c.rs", "fn f() { crate::a::three() }"),
        ("d.rs", "use crate::a::A; use crate::c::C;"),
    ]);
    let found = circles(&graph);
    assert_eq!(names(&found), [["a", "b", "c"]]);
    let edges = "  a uses b: b::One\n  b uses c: c::Two\n  c uses a: a::three\n";
    assert_eq!(edges_of(&found[0], &graph), edges);
}

#[test]
fn what_is_no_use_makes_no_circle() {
    for child in [
        "// super::Whole\n/* use super::Whole; */",
        "fn f() { g(\"super::Whole \\\" super::Whole\", 'x', '\\'', r#\"super::\"Whole\"#) }",
        "pub(in crate::room) fn f<'a>(_: &'a str) {}",
        "fn f() {}\n#[cfg(test)]\nmod tests { use super::super::Whole; }",
        "use super::leaf::Leaf;",
        "use other::super_name; fn f() { child::f() }",
    ] {
        let graph =
            of_texts(&[("room.rs", "use child::Part;"), ("room/child.rs", child), ("room/leaf.rs", "")]);
        assert_eq!(names(&circles(&graph)), Vec::<Vec<String>>::new(), "{child}");
    }
}
