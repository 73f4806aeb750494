//! Bounds of the lists on a page, which keep the page small.

use askama::Template;

use crate::denial::Denial;

/// Maximum size of a page in bytes, before compression.
pub(super) const MAX_PAGE: usize = 60 * 1024 - 1;

/// Maximum numbers of entries that a page shows. The admin API returns all entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) keys: usize,
    /// Kinds of refusals.
    pub(super) refusals: usize,
    /// Rows of any other list.
    pub(super) rows: usize,
}

impl Bounds {
    pub(super) const FIRST: Bounds = Bounds { keys: 25, refusals: 40, rows: 25 };

    /// Returns smaller bounds; `None` if these are the smallest. At least one key is shown, so that
    /// the link to the next keys leads on.
    fn smaller(self) -> Option<Self> {
        let part = |number: usize| number * 2 / 3;
        let smaller =
            Bounds { keys: part(self.keys).max(1), refusals: part(self.refusals), rows: part(self.rows) };
        (smaller != self).then_some(smaller)
    }
}

/// A page with bounded lists.
pub(super) trait Bounded: Template {
    fn bound(&mut self, bounds: Bounds);
}

/// Renders a page with as many entries as fit into [`MAX_PAGE`].
///
/// # Errors
///
/// 500 if the page can't be rendered.
pub(super) fn fitting(page: &mut impl Bounded) -> Result<String, Denial> {
    let mut bounds = Bounds::FIRST;
    loop {
        page.bound(bounds);
        let html = page.render().map_err(|error| Denial::internal().caused_by(error.to_string()))?;
        match bounds.smaller() {
            Some(smaller) if html.len() > MAX_PAGE => bounds = smaller,
            _ => return Ok(html),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Template)]
    #[template(
        source = "{% for text in texts.iter().take(*bounds.rows) %}{{ text }}{% endfor %}",
        ext = "txt"
    )]
    struct Texts {
        texts: Vec<String>,
        bounds: Bounds,
    }

    impl Bounded for Texts {
        fn bound(&mut self, bounds: Bounds) {
            self.bounds = bounds;
        }
    }

    #[test]
    fn a_page_has_as_many_entries_as_fit() {
        for (size, expected) in [(10, 25), (3000, 16), (30_000, 2), (100_000, 0)] {
            let mut page = Texts { texts: vec!["x".repeat(size); 100], bounds: Bounds::FIRST };
            assert_eq!(fitting(&mut page).unwrap().len(), size * expected);
        }
        assert_eq!(Bounds { keys: 1, refusals: 0, rows: 0 }.smaller(), None);
    }
}
