//! Decodes a tree field by field, and continues after a fault, so that one run reports all faults.
//!
//! The decoder is used for configurations and for key files. A function that decodes one value has
//! the type `fn(&mut Decoder, &Node) -> Option<T>`, and returns `None` after it reported a fault.

mod context;
mod decoder;
mod values;
mod variables;

pub(crate) use context::KnownUpstream;
pub(crate) use decoder::{Decoder, Fields};
pub(crate) use values::parse_duration;
pub(crate) use variables::Environment;
