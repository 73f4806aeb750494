//! Every answer that bearward itself makes.
//!
//! `answer` defines the type of an answer and its forms, `messages` the text of each answer, `code`
//! the public codes, and `catalogue` what each code means and what to do about it.

mod answer;
pub(crate) mod catalogue;
mod code;
mod messages;

pub(crate) use answer::{AnswerForm, Denial};
pub(crate) use code::Code;
