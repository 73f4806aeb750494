//! Parsers of files to trees, in which every node has its position.
//!
//! serde stops at its first fault, and loses positions and the text of scalars (`1e5` becomes a
//! float). For this reason `decode` decodes configurations and key files from these trees.
//! Invariant: the depth of a tree, and the number of nodes that its aliases add, are bounded.

mod json;
mod node;
mod yaml;

pub(crate) use json::from_json;
pub(crate) use node::{Key, Kind, Node, Quoting};
pub(crate) use yaml::parse;
