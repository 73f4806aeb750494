//! How many tokens a request may need, before it is forwarded.

use super::learned::{FIRST_RATIO, Learned};
use crate::limit::Cost;
use crate::model::{Declared, Spellings};

/// The size of a request's input, as far as its body was read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InputSize {
    /// Bytes of text.
    pub(crate) text_bytes: u64,
    /// Tokens that the input has as numbers.
    pub(crate) token_ids: u64,
    /// Number of images, recordings and other files.
    pub(crate) media: u64,
    /// Whether all of the input was read: the body, and nothing else.
    pub(crate) is_whole: bool,
}

impl InputSize {
    /// Returns the size of an input. `unread`: the bytes of the body behind the part that was read.
    /// They count as the rest of a file if the part ends within a file, and as text otherwise.
    pub(crate) fn of(declared: &Declared, unread: u64, is_whole: bool) -> Self {
        let is_in_media = declared.is_in_media();
        InputSize {
            text_bytes: declared.text_bytes() + if is_in_media { 0 } else { unread },
            token_ids: declared.token_ids(),
            media: declared.media + u64::from(is_in_media),
            is_whole: is_whole && !declared.has_more_input,
        }
    }
}

/// The tokens that a request may need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Estimate {
    pub(crate) input: u32,
    /// The input by the ratio with which every model begins, if that is less.
    pub(crate) least_input: u32,
    pub(crate) output: u32,
    /// The part of the output that the request asks for; the rest is a guess.
    pub(crate) declared_output: u32,
}

impl Estimate {
    /// Estimates the tokens of a request. `spellings`: the names under which
    /// its server reads the number of output tokens; `model`: the name
    /// under which the model's answers are remembered; `media_tokens`: the tokens of a file; `cap`:
    /// the most output tokens that the request may ask for.
    pub(crate) fn new(
        size: InputSize,
        declared: &Declared,
        spellings: Spellings,
        learned: &Learned,
        model: &str,
        media_tokens: u32,
        cap: Option<u32>,
    ) -> Self {
        let text = (size.text_bytes as f64 * learned.ratio(model)).ceil() as u64;
        let media = size.media.saturating_mul(u64::from(media_tokens));
        let others = media.saturating_add(size.token_ids);
        let input = text.saturating_add(others);
        let least = (size.text_bytes as f64 * FIRST_RATIO).ceil() as u64;
        let least_input = input.min(least.saturating_add(others));
        let times = declared.multiplier();
        let declared_output = declared.greatest_output().unwrap_or(0).saturating_mul(times);
        let output = match declared.declares_output(spellings) {
            true => declared_output,
            // A number in a spelling that the server ignores is no bound.
            false => declared_output.max(u64::from(learned.usual_output(model))),
        };
        let cap = cap.map_or(u64::MAX, u64::from);
        Estimate {
            input: saturated(input),
            least_input: saturated(least_input),
            output: saturated(output.min(cap)),
            declared_output: saturated(declared_output.min(cap)),
        }
    }

    /// Returns the cost to reserve.
    pub(crate) fn cost(self) -> Cost {
        Cost {
            may_be_taken_back: false,
            input_tokens: self.input,
            least_input_tokens: self.least_input,
            output_tokens: self.output,
            declared_output_tokens: self.declared_output,
            ..Cost::REQUEST
        }
    }
}

pub(super) fn saturated(tokens: u64) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
