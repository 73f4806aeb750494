//! JSON documents that arrive in pieces: a strict scanner for requests, and a search for members of
//! answers.
//!
//! Neither keeps a document in memory, however long it is.

mod find;
mod scanner;
mod text;
mod utf8;

pub(crate) use find::{Finder, Member, Sought};
pub(crate) use scanner::{Kind, Literal, Scanner, Visitor};
pub(crate) use text::Text;
