//! Formats numbers and times for the status page.

use std::borrow::Borrow;

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

/// Formats a time, given in seconds, with the unit that fits its size: s, ms or µs.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        0.0 => "0".to_owned(),
        ..0.001 => format!("{} µs", (seconds * 1e6).round()),
        ..1.0 => format!("{} ms", (seconds * 1e4).round() / 10.0),
        _ => format!("{seconds:.1} s"),
    }
}
