//! Charts of the last five minutes, as SVG that needs no script.
//!
//! The plot of a chart is as many units wide as it has slots, and 100 units high; the page stretches
//! it. Each slot has the text that the page shows while the pointer is on it.

use std::time::Duration;

use super::figures::{plain, seconds, short};
use crate::observe::history::STEP;
use crate::observe::key_history::KEY_STEP;

/// The time that a chart spans.
const SPAN: Duration = Duration::from_secs(300);
const MINUTES: usize = 5;
/// The greatest numbers of scales, between two powers of ten. Half of each is a short number, too.
const TOPS: [f64; 4] = [1.0, 2.0, 4.0, 10.0];

/// One chart: a figure, and its values in the last five minutes.
pub(super) struct Chart {
    /// The chart's name within its page.
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    /// The present value.
    pub(super) figure: String,
    pub(super) unit: &'static str,
    /// The labels of the scale, from top to bottom.
    pub(super) scale: [String; 3],
    pub(super) slots: usize,
    /// The paths of the curves, as the attribute `d` in SVG. The first one is behind the others.
    pub(super) curves: Vec<Curve>,
    /// The value of each slot, as a text with its unit and its age. Slots before the first value
    /// are left out.
    pub(super) values: Vec<String>,
    /// The values of each minute, oldest first: the average, or the greatest one if averages make
    /// no sense.
    pub(super) minutes: Vec<String>,
    /// The chart in words.
    pub(super) summary: String,
}

/// A curve with the area below it.
pub(super) struct Curve {
    /// The number of the curve's colour.
    pub(super) colour: usize,
    pub(super) path: String,
}

/// What a chart shows, and how its values are written.
#[derive(Clone, Copy)]
pub(super) struct Measure {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    /// The unit behind a value under the pointer.
    pub(super) suffix: &'static str,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Rate,
    /// A number of things at a moment.
    Level,
    /// A time in seconds.
    Time,
}

/// The interval between two values of a chart.
#[derive(Clone, Copy)]
pub(super) enum Step {
    OfTrend,
    OfKey,
}

impl Step {
    fn duration(self) -> Duration {
        match self {
            Step::OfTrend => STEP,
            Step::OfKey => KEY_STEP,
        }
    }

    fn slots(self) -> usize {
        usize::try_from(SPAN.as_secs() / self.duration().as_secs()).unwrap_or(1)
    }
}

impl Measure {
    fn written(self, number: f64) -> String {
        match self.kind {
            Kind::Time => seconds(number),
            Kind::Rate | Kind::Level => plain(number),
        }
    }

    fn label(self, number: f64) -> String {
        match self.kind {
            Kind::Time => seconds(number),
            Kind::Rate | Kind::Level => short(number),
        }
    }

    /// Draws one curve through `numbers`, the last of which is the newest.
    pub(super) fn chart(self, figure: String, numbers: &[f64], step: Step) -> Chart {
        let texts = numbers.iter().map(|number| format!("{}{}", self.written(*number), self.suffix));
        self.drawn(figure, numbers, &[numbers.to_vec()], texts.collect(), step)
    }

    /// Draws several series on top of each other. `texts`: what is shown of each sum beside its
    /// value.
    pub(super) fn stacked(self, series: &[Vec<f64>], texts: &[String], step: Step) -> Chart {
        let mut sums: Vec<f64> = vec![0.0; texts.len()];
        let mut layers = Vec::new();
        for numbers in series {
            sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
            layers.push(sums.clone());
        }
        let written = sums.iter().zip(texts).map(|(sum, text)| {
            let separator = if text.is_empty() { "" } else { ": " };
            format!("{}{}{separator}{text}", self.written(*sum), self.suffix)
        });
        let figure = self.written(sums.last().copied().unwrap_or(0.0));
        self.drawn(figure, &sums, &layers, written.collect(), step)
    }

    fn drawn(
        self,
        figure: String,
        numbers: &[f64],
        layers: &[Vec<f64>],
        texts: Vec<String>,
        step: Step,
    ) -> Chart {
        let most = numbers.iter().copied().fold(0.0, f64::max);
        let least = numbers.iter().copied().reduce(f64::min).unwrap_or(0.0);
        let top = self.top(most);
        let slots = step.slots();
        let begin = slots.saturating_sub(numbers.len());
        let curves = layers.iter().enumerate().rev();
        let curves = curves.map(|(colour, layer)| Curve { colour, path: path(layer, top, begin) });
        let count = texts.len();
        let age = |index: usize| ago(step.duration() * u32::try_from(count - 1 - index).unwrap_or(u32::MAX));
        let values =
            texts.iter().enumerate().map(|(index, text)| format!("{text}, {}", age(index))).collect();
        let of = if self.unit.is_empty() { String::new() } else { format!(" {}", self.unit) };
        Chart {
            id: self.id,
            name: self.name,
            summary: format!(
                "{}{of} in the last five minutes: now {figure}, least {}, most {}, on a scale from 0 to {}",
                self.name,
                self.written(least),
                self.written(most),
                self.label(top)
            ),
            figure,
            unit: self.unit,
            scale: [self.label(top), self.label(top / 2.0), "0".to_owned()],
            slots,
            curves: curves.collect(),
            values,
            minutes: self.minutes(numbers, slots),
        }
    }

    /// Returns the greatest number of the scale for values up to `most`.
    fn top(self, most: f64) -> f64 {
        // Half of the top of a scale of whole numbers is a whole number.
        let least = if self.kind == Kind::Level { 2.0 } else { f64::MIN_POSITIVE };
        if most <= 0.0 {
            return least.max(if self.kind == Kind::Time { 0.001 } else { 1.0 });
        }
        let power = 10f64.powf(most.log10().floor());
        let tops = TOPS.iter().map(|top| top * power);
        // A rounding error of the power must not make the scale ten times too large.
        tops.into_iter().find(|top| *top * (1.0 + 1e-9) >= most).unwrap_or(most).max(least)
    }

    fn minutes(self, numbers: &[f64], slots: usize) -> Vec<String> {
        let of_minute = slots / MINUTES;
        let missing = slots.saturating_sub(numbers.len());
        let minute = |minute: usize| {
            let from = (minute * of_minute).saturating_sub(missing);
            let to = ((minute + 1) * of_minute).saturating_sub(missing);
            let part = numbers.get(from..to).unwrap_or_default();
            match (part.len(), self.kind) {
                (0, _) => "–".to_owned(),
                (length, Kind::Rate) => self.written(part.iter().sum::<f64>() / length as f64),
                _ => self.written(part.iter().copied().fold(0.0, f64::max)),
            }
        };
        (0..MINUTES).map(minute).collect()
    }
}

/// Returns a curve with one step for each number. The outline has no line at the bottom.
fn path(numbers: &[f64], top: f64, begin: usize) -> String {
    let mut path = format!("M{begin} 100");
    let (mut height, mut width) = (f64::NAN, 0);
    for number in numbers {
        let next = (100.0 - number / top * 100.0).round().clamp(0.0, 100.0);
        if next != height {
            if width > 0 {
                path.push_str(&format!("h{width}"));
            }
            path.push_str(&format!("V{next}"));
            (height, width) = (next, 0);
        }
        width += 1;
    }
    if width > 0 {
        path.push_str(&format!("h{width}V100"));
    }
    path
}

fn ago(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0 => "now".to_owned(),
        _ => format!("{}:{:02} ago", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: Measure =
        Measure { id: "requests", name: "Requests", unit: "a second", suffix: "/s", kind: Kind::Rate };
    const IN_FLIGHT: Measure =
        Measure { id: "in-flight", name: "In flight", unit: "", suffix: "", kind: Kind::Level };
    const ADDED: Measure = Measure { id: "added", name: "Added", unit: "", suffix: "", kind: Kind::Time };

    #[test]
    fn a_scale_ends_at_a_round_number_above_all_values() {
        let tops = [0.3, 1.0, 1.1, 3.0, 4.0, 4.1, 10.0, 99.0, 100.0, 302.0].map(|most| REQUESTS.top(most));
        assert_eq!(tops, [0.4, 1.0, 2.0, 4.0, 4.0, 10.0, 10.0, 100.0, 100.0, 400.0]);
        assert_eq!([0.0, 1.0, 3.0].map(|most| IN_FLIGHT.top(most)), [2.0, 2.0, 4.0]);
        for exponent in -6..12 {
            let power = 10f64.powi(exponent);
            let ratio = ADDED.top(power) / power;
            assert!((0.999..1.001).contains(&ratio), "{power}: {ratio}");
        }
        let chart = REQUESTS.chart("3".to_owned(), &[1.0, 302.0, 3.0], Step::OfTrend);
        assert_eq!(chart.scale, ["400", "200", "0"]);
        assert_eq!(ADDED.chart(String::new(), &[0.000_025], Step::OfTrend).scale, ["40 µs", "20 µs", "0"]);
        assert_eq!(ADDED.chart(String::new(), &[], Step::OfTrend).scale, ["1 ms", "500 µs", "0"]);
    }

    #[test]
    fn each_value_has_a_step_and_a_text_with_unit_and_age() {
        let chart = REQUESTS.chart("50".to_owned(), &[100.0, 100.0, 0.0, 50.0], Step::OfTrend);
        assert_eq!(chart.curves[0].path, "M56 100V0h2V100h1V50h1V100");
        assert_eq!(chart.values, ["100/s, 0:15 ago", "100/s, 0:10 ago", "0/s, 0:05 ago", "50/s, now"]);
        assert_eq!(
            chart.summary,
            "Requests a second in the last five minutes: now 50, least 0, most 100, on a scale from 0 to 100"
        );
        let whole = REQUESTS.chart(String::new(), &[1.0; 60], Step::OfTrend);
        assert_eq!(whole.curves[0].path, "M0 100V0h60V100");
        assert_eq!(whole.values[0], "1/s, 4:55 ago");
        assert_eq!(REQUESTS.chart(String::new(), &[], Step::OfKey).curves[0].path, "M30 100");
    }

    #[test]
    fn series_are_stacked_and_the_sum_is_behind() {
        let series = [vec![1.0, 2.0], vec![3.0, 0.0]];
        let texts = ["1 A, 3 B".to_owned(), String::new()];
        let chart = REQUESTS.stacked(&series, &texts, Step::OfKey);
        let paths: Vec<(usize, &str)> =
            chart.curves.iter().map(|curve| (curve.colour, &*curve.path)).collect();
        assert_eq!(paths, [(1, "M28 100V0h1V50h1V100"), (0, "M28 100V75h1V50h1V100")]);
        assert_eq!(chart.values, ["4/s: 1 A, 3 B, 0:10 ago", "2/s, now"]);
    }

    #[test]
    fn a_minute_is_an_average_of_rates_and_the_most_of_levels() {
        let numbers: Vec<f64> = (0..18).map(f64::from).collect();
        let of = |measure: Measure| measure.chart(String::new(), &numbers, Step::OfTrend).minutes;
        assert_eq!(of(REQUESTS), ["–", "–", "–", "2.5", "12"]);
        assert_eq!(of(IN_FLIGHT), ["–", "–", "–", "5", "17"]);
    }
}
