//! Parses lists in YAML or JSON.

use std::path::Path;

use super::tree;
use crate::config::tree::{Node, Quoting};

/// YAML or JSON. The message quotes nothing.
pub(super) fn parse(text: &str) -> Result<Node, String> {
    match crate::config::tree::parse(Path::new("list"), text, Quoting::Never) {
        Ok(Some(root)) => Ok(root),
        Ok(None) => Err("it is empty".to_owned()),
        Err(fault) => Err(format!("line {}: {}", fault.at.line, fault.message)),
    }
}

/// As [`parse`], for files in which terms may be anywhere: it refuses duplicate fields.
pub(super) fn parse_once(text: &str) -> Result<Node, String> {
    let root = parse(text)?;
    match tree::twice(&root) {
        Some(line) => Err(duplicate(line)),
        None => Ok(root),
    }
}

pub(super) fn duplicate(line: usize) -> String {
    format!("line {line}: a field appears twice, and programs differ in which one counts")
}
