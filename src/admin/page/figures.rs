//! Formats numbers and times for the status page.

use std::borrow::Borrow;

use jiff::Timestamp;

use crate::ago::ahead_or_ago;

/// Formats a number with commas between thousands.
pub(super) fn count(number: impl Borrow<u64>) -> String {
    let digits = number.borrow().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a number with at most one decimal.
pub(super) fn plain(number: f64) -> String {
    let tenths = (number * 10.0).round() / 10.0;
    match tenths {
        ..10.0 if tenths.fract() != 0.0 => format!("{tenths:.1}"),
        _ => count(number.round() as u64),
    }
}

/// Formats a number in few characters, such as `40k`.
pub(super) fn short(number: f64) -> String {
    match number {
        1e9.. => format!("{}G", plain(number / 1e9)),
        1e6.. => format!("{}M", plain(number / 1e6)),
        1e4.. => format!("{}k", plain(number / 1e3)),
        _ => plain(number),
    }
}

/// Formats a time, given in seconds, with the unit that fits its size: s, ms or µs.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        0.0 => "0".to_owned(),
        ..0.001 => format!("{} µs", (seconds * 1e6).round()),
        ..1.0 => format!("{} ms", (seconds * 1e4).round() / 10.0),
        _ => format!("{} s", (seconds * 10.0).round() / 10.0),
    }
}

/// Formats how far a time is from now; an empty text without a time.
pub(super) fn ago(at: Option<&Timestamp>) -> String {
    at.map(|at| ahead_or_ago(Timestamp::now(), *at)).unwrap_or_default()
}

/// Returns at most `most` characters of a text, with a mark if more were cut.
pub(super) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_exact_enough() {
        assert_eq!([0.0, 0.04, 0.05, 4.0, 9.96, 1234.5].map(plain), ["0", "0", "0.1", "4", "10", "1,235"]);
        assert_eq!([9999.0, 10_000.0, 2.5e6, 4e9].map(short), ["9,999", "10k", "2.5M", "4G"]);
        assert_eq!([0.0, 0.000_04, 0.02, 2.0, 2.54].map(seconds), ["0", "40 µs", "20 ms", "2 s", "2.5 s"]);
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(shortened("äöüß", 3), "äöü…");
    }
}
