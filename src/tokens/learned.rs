//! What earlier answers of each model have shown: how many tokens its input has for each byte, and
//! how many tokens its output has.

use dashmap::DashMap;

/// Tokens for each byte of text, before a model has answered.
pub(super) const FIRST_RATIO: f64 = 0.25;

/// Least and most tokens for each byte of text that are learned. A text that a server ignores, or a
/// template around it, must not spoil the estimates for other requests.
const RATIOS: std::ops::RangeInclusive<f64> = 1.0 / 16.0..=1.0;

/// Output tokens of a request that declares no number, before a model has answered.
const FIRST_OUTPUT: u32 = 1024;

/// Number of models that are remembered. If there are more, another one is forgotten.
const MOST_MODELS: usize = 1000;

/// Shortest text, in bytes, from which the ratio is learned. Templates add tokens to a short text.
const SHORTEST_TEXT: u64 = 64;

/// Share of the newest answer in the ratio.
const SHARE: f64 = 0.1;

/// Number of outputs after which the older ones count half.
const OUTPUTS: u32 = 256;

/// Number of buckets for each doubling of an output.
const PER_DOUBLING: f64 = 4.0;

/// What was learned of all models, by the name of the upstream and of the model.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    models: DashMap<String, Model>,
}

/// What was learned of one model.
#[derive(Debug)]
struct Model {
    ratio: f64,
    /// Number of outputs by their size: bucket n has the outputs of up to `2^(n/4)` tokens.
    outputs: [u32; 128],
    total: u32,
}

impl Default for Model {
    fn default() -> Self {
        Model { ratio: FIRST_RATIO, outputs: [0; 128], total: 0 }
    }
}

impl Learned {
    /// Returns the number of tokens for each byte of text.
    pub(super) fn ratio(&self, model: &str) -> f64 {
        self.models.get(model).map_or(FIRST_RATIO, |model| model.ratio)
    }

    /// Returns the number of output tokens that 95 % of the model's lately answered requests did
    /// not exceed.
    pub(super) fn usual_output(&self, model: &str) -> u32 {
        self.models.get(model).map_or(FIRST_OUTPUT, |model| model.percentile())
    }

    /// Learns from the counts that a model's server reported. `text_bytes`: the size of the input's
    /// text; `None` if the input was more than text.
    pub(super) fn learn(&self, model: &str, text_bytes: Option<u64>, input: u64, output: u64) {
        if !self.models.contains_key(model) {
            if self.models.len() >= MOST_MODELS {
                let any = self.models.iter().next().map(|entry| entry.key().clone());
                any.and_then(|any| self.models.remove(&any));
            }
            self.models.insert(model.to_owned(), Model::default());
        }
        let Some(mut model) = self.models.get_mut(model) else { return };
        if let Some(bytes) = text_bytes.filter(|bytes| *bytes >= SHORTEST_TEXT && input > 0) {
            let ratio = (input as f64 / bytes as f64).clamp(*RATIOS.start(), *RATIOS.end());
            model.ratio += SHARE * (ratio - model.ratio);
        }
        model.note_output(output);
    }
}

impl Model {
    fn note_output(&mut self, output: u64) {
        let bucket = ((output.max(1) as f64).log2() * PER_DOUBLING).ceil() as usize;
        let last = self.outputs.len() - 1;
        if let Some(count) = self.outputs.get_mut(bucket.min(last)) {
            *count += 1;
        }
        self.total += 1;
        if self.total > OUTPUTS {
            self.outputs.iter_mut().for_each(|count| *count /= 2);
            self.total = self.outputs.iter().sum();
        }
    }

    fn percentile(&self) -> u32 {
        if self.total == 0 {
            return FIRST_OUTPUT;
        }
        let wanted = self.total - self.total / 20;
        let mut seen = 0;
        let bucket = self.outputs.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        let bucket = bucket.unwrap_or(self.outputs.len() - 1);
        // The conversion saturates.
        (bucket as f64 / PER_DOUBLING).exp2().ceil() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_and_the_usual_output_follow_the_answers() {
        let learned = Learned::default();
        assert_eq!((learned.ratio("m"), learned.usual_output("m")), (0.25, 1024));
        for _ in 0..200 {
            learned.learn("m", Some(1000), 500, 100);
        }
        assert!((0.49..0.51).contains(&learned.ratio("m")));
        assert!((100..=120).contains(&learned.usual_output("m")), "{}", learned.usual_output("m"));
        for _ in 0..20 {
            learned.learn("m", None, 7, 4000);
        }
        assert!((0.49..0.51).contains(&learned.ratio("m")), "media do not change the ratio of text");
        assert!((4000..=4800).contains(&learned.usual_output("m")));
        assert_eq!(learned.usual_output("other"), 1024);
    }

    #[test]
    fn the_number_of_models_is_bounded() {
        let learned = Learned::default();
        (0..3 * MOST_MODELS).for_each(|n| learned.learn(&n.to_string(), Some(100), 25, 10));
        assert_eq!(learned.models.len(), MOST_MODELS);
    }
}
