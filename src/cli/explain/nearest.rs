//! The routes that nearly match a request, for a request that no route matches.

use http::Method;

use crate::app::Prepared;
use crate::route::Route;

/// The most routes that are named because their path is similar.
const MOST: usize = 3;

/// Names the routes that match all but the method or the host; without any, those whose path is most similar.
pub(super) fn near(prepared: &Prepared, host: &str, method: &Method, path: &str) -> String {
    let routes = prepared.snapshot.routes.routes();
    let compared = routes.map(|route| (route, route.compared(host, method, path)));
    let near: Vec<String> = compared
        .filter_map(|(route, compared)| match compared {
            [true, false, true] => {
                Some(format!("{} matches the path, for other methods ({})", route.name, route.methods_text()))
            }
            [false, true, true] => Some(format!("{} matches the path, for other hosts", route.name)),
            _ => None,
        })
        .collect();
    if !near.is_empty() {
        return near.join("; ");
    }
    let similar = similar(prepared.snapshot.routes.routes().map(|route| &**route), path);
    match similar.is_empty() {
        true => "none matches the path".to_owned(),
        false => format!("none matches the path; the nearest: {}", similar.join("; ")),
    }
}

/// Returns the routes with the most similar paths, each as `NAME (METHODS PATH)`.
fn similar<'r>(routes: impl Iterator<Item = &'r Route>, path: &str) -> Vec<String> {
    let paths = routes.flat_map(|route| route.written_paths().map(move |pattern| (route, pattern)));
    let mut found: Vec<(usize, &Route, &str)> = paths
        .filter_map(|(route, pattern)| {
            let distance = strsim::damerau_levenshtein(&filled(pattern, path), path);
            (distance <= path.len() / 3).then_some((distance, route, pattern))
        })
        .collect();
    found.sort_by_key(|(distance, ..)| *distance);
    let shown = found.into_iter().take(MOST);
    shown.map(|(_, route, pattern)| format!("{} ({} {pattern})", route.name, route.methods_text())).collect()
}

/// Returns a pattern with each segment that has a wildcard or an alternative replaced by the segment that `path` has
/// there. `**` stands for the rest of the path.
fn filled(pattern: &str, path: &str) -> String {
    let mut of_path = path.split('/');
    let mut filled = Vec::new();
    for segment in pattern.split('/') {
        if segment == "**" {
            filled.extend(of_path);
            break;
        }
        let given = of_path.next();
        let is_literal = !segment.contains(['*', '?', '[', '{']);
        filled.push(if is_literal { segment } else { given.unwrap_or(segment) });
    }
    filled.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_of_a_pattern_are_as_near_as_can_be() {
        for (pattern, path, expected) in [
            ("/v1/chat/completions", "/v1/chat/completion", "/v1/chat/completions"),
            ("/v1/models/*", "/v1/model/a", "/v1/models/a"),
            ("/v1/files/**", "/v1/file/a/b", "/v1/files/a/b"),
            ("/v1/*/x", "/v1", "/v1/*/x"),
        ] {
            assert_eq!(filled(pattern, path), expected, "{pattern}");
        }
    }
}
