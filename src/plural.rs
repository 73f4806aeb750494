//! Writes a number with its noun, in the singular or the plural.

/// Returns a number and its noun, as in "1 key" and "2 keys".
pub(crate) fn plural(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_singular() {
        assert_eq!([0, 1, 2].map(|number| plural(number, "key", "keys")), ["0 keys", "1 key", "2 keys"]);
    }
}
