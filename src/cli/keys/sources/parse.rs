//! Parses lists that are YAML or JSON.

use std::path::Path;

use super::tree;
use crate::config::tree::{Node, Quoting};

/// Parses YAML or JSON. The error message quotes nothing of the text.
pub(super) fn parse(text: &str) -> Result<Node, String> {
    match crate::config::tree::parse(Path::new("list"), text, Quoting::Never) {
        Ok(Some(root)) => Ok(root),
        Ok(None) => Err("it is empty".to_owned()),
        Err(fault) => Err(format!("line {}: {}", fault.at.line, fault.message)),
    }
}

/// Parses YAML or JSON as [`parse`] does, and refuses duplicate fields at any depth. It is for
/// files in which any field may restrict a key.
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
