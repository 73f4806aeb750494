//! A prefix index of routes. It finds the first of many routes that may match a path, without
//! comparing each route.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::compiled::Route;

/// Smallest number of patterns for which an index is made. With fewer patterns, comparing each one
/// is as fast.
const WORTHWHILE: usize = 16;

/// The positions of routes in the route table, by the text with which the routes' paths begin.
#[derive(Debug)]
pub(super) struct PathIndex {
    /// Positions of the routes that have a pattern without a wildcard. The key is the path of the
    /// pattern.
    exact: HashMap<Box<str>, Vec<usize>, RandomState>,
    /// Positions of the routes that have any other pattern. The key is the text with which all
    /// paths that match the pattern begin, up to the last slash of this text.
    under: HashMap<Box<str>, Vec<usize>, RandomState>,
    /// Length of the longest key in `under`, in bytes. Longer beginnings of a path are not looked
    /// up, however many slashes the path has.
    longest: usize,
}

impl PathIndex {
    /// Makes an index of these routes; `None` if they have few patterns.
    pub(super) fn of(routes: &[Arc<Route>]) -> Option<Self> {
        let patterns: usize = routes.iter().map(|route| route.written.len()).sum();
        (patterns >= WORTHWHILE).then(|| Self::all(routes))
    }

    fn all(routes: &[Arc<Route>]) -> Self {
        let mut index = PathIndex { exact: HashMap::default(), under: HashMap::default(), longest: 0 };
        for (place, route) in routes.iter().enumerate() {
            for pattern in &route.paths {
                let places = match pattern.exact() {
                    // A route that ignores case compares its pattern with the folded path, but the
                    // index is searched by the unfolded path. Such a route is stored under the
                    // empty text, so that it is found for every path.
                    _ if route.reading.ignore_case => index.under.entry("".into()).or_default(),
                    Some(path) => index.exact.entry(path.into()).or_default(),
                    None => {
                        let beginning = pattern.beginning();
                        index.longest = index.longest.max(beginning.len());
                        index.under.entry(beginning.into()).or_default()
                    }
                };
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
        }
        index
    }

    /// Returns the lowest position for which `takes` returns true, among the routes that the index
    /// finds for this path. All other routes can't match the path.
    pub(super) fn first(&self, path: &str, takes: impl Fn(usize) -> bool) -> Option<usize> {
        let within = path.as_bytes().iter().take(self.longest).enumerate();
        let slashes = within.filter(|(_, byte)| **byte == b'/').map(|(at, _)| at + 1);
        let beginnings = std::iter::once(0).chain(slashes).filter_map(|length| path.get(..length));
        let under = beginnings.filter_map(|beginning| self.under.get(beginning));
        let filed = self.exact.get(path).into_iter().chain(under);
        // Each list of positions is in the order of the routes, so the first match in a list is the
        // match with the lowest position.
        filed.filter_map(|places| places.iter().copied().find(|place| takes(*place))).min()
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::prelude::*;

    use super::super::compiled::AskedPath;
    use super::super::table::tests::table;
    use super::*;

    #[test]
    fn few_routes_have_none_and_many_do() {
        let routes = |count: usize| {
            let routes = (0..count).map(|n| format!("{{name: r{n}, paths: [/a{n}/**], public: true}}"));
            table(&format!("[{}]", routes.collect::<Vec<_>>().join(", ")))
        };
        assert!(routes(WORTHWHILE - 1).index.is_none());
        assert!(routes(WORTHWHILE).index.is_some());
    }

    proptest! {
        /// For any routes, the index finds the same route as a comparison of each one.
        #[test]
        fn it_finds_the_same_route_as_a_comparison_of_each(
            globs in prop::collection::vec(
                prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "**", "a*", "?", "{a,b}"]), 1..4),
                1..12,
            ),
            methods in prop::collection::vec(prop::sample::select(vec!["", "methods: [GET], ", "methods: [POST], "]), 12),
            paths in prop::collection::vec(prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", ""]), 1..5), 8),
        ) {
            let routes = globs.iter().zip(&methods).enumerate().map(|(n, (segments, methods))| {
                format!("{{name: r{n}, paths: ['/{}'], {methods}public: true}}", segments.join("/"))
            });
            let asking = table(&format!("[{}]", routes.collect::<Vec<_>>().join(", ")));
            let index = PathIndex::all(&asking.routes);
            for segments in paths {
                let path = format!("/{}", segments.join("/"));
                for method in [Method::GET, Method::HEAD, Method::POST] {
                    let takes = |place: usize| asking.routes[place].matches("h", &method, &AskedPath::new(&path));
                    prop_assert_eq!(index.first(&path, takes), (0..globs.len()).find(|place| takes(*place)));
                }
            }
        }
    }
}
