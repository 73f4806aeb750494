//! Files as trees in which every node has its position.
//!
//! serde stops at its first fault, and loses positions and the text of scalars (`1e5` becomes a
//! float). Configurations and key files are therefore decoded from this tree, by `decode`.
//! Invariant: a tree is bounded, in its depth and in what its aliases expand to.

mod json;
mod node;
mod yaml;

pub(crate) use json::from_json;
pub(crate) use node::{Key, Kind, Node, Quoting};
pub(crate) use yaml::parse;
