//! Every answer that bearward itself makes.
//!
//! `answer` has the type and its forms, `messages` the text of each, `code` the public codes, and
//! `catalogue` what each code means and what to do about it.

mod answer;
pub(crate) mod catalogue;
mod code;
mod messages;

pub(crate) use answer::{AnswerForm, Denial};
pub(crate) use code::Code;
