use proptest::prelude::*;

use super::reading::{PathReading, fold};
use super::*;

fn one(text: &str) -> PathPattern {
    let mut patterns = PathPattern::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}"));
    assert_eq!(patterns.len(), 1, "{text}");
    patterns.pop().unwrap()
}

fn any(text: &str, path: &str) -> bool {
    PathPattern::parse(text).unwrap().iter().any(|pattern| pattern.matches(path))
}

#[test]
fn what_could_never_match_is_refused_with_the_right_spelling() {
    for (text, right) in [
        ("v1/models", "/v1/models"),
        ("/geheim-ü/**", "/geheim-%C3%BC/**"),
        ("/admin//**", "/admin/**"),
        ("/%7eroot/**", "/~root/**"),
        ("/%7Eroot/**", "/~root/**"),
        ("/a b/**", "/a%20b/**"),
        ("/a%3Ab", "/a:b"),
        ("/a%2cb", "/a,b"),
        ("/a%2ab", "/a[*]b"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%c3%bc", "/a%C3%BC"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/..", "/"),
        ("/a|b", "/a%7Cb"),
        ("/a\"b", "/a%22b"),
        ("/a#b", "/a%23b"),
        ("/a]b", "/a%5Db"),
        ("/a[b", "/a%5Bb"),
        ("/100%", "/100%25"),
        ("/a%zz", "/a%25zz"),
        ("//", "/"),
        ("/{a,b c}/**", "/b%20c/**"),
    ] {
        let fault = PathPattern::parse(text).unwrap_err();
        assert_eq!(fault.hint, Some(format!("{right} is meant?")), "{text}: {fault:?}");
        assert!(PathPattern::parse(right).is_ok(), "{right}");
    }
}

#[test]
fn what_has_no_right_spelling_is_refused_all_the_same() {
    for text in [
        "/a%00",
        "/a%0ab",
        "/a\u{7f}",
        "/a\\b",
        "/v1/models?limit=1",
        "/a**",
        "/**b/c",
        "/a/{b",
        "/users/{id}",
        "/{{a,b}}",
        "/{a,{b}}",
        "/{}",
        "/a/b}",
        "/a/}b{",
        "/[]",
        "/[!]",
        "/[z-a]",
        "/[a/b]",
        "/[ü]",
        "/[ ]",
        "/[a%20]",
        "",
        "/{a,b}{c,d}{e,f}{g,h}{i,j}{k,l}{m,n}{o,p}{q,r}",
    ] {
        let fault = PathPattern::parse(text);
        assert!(fault.is_err(), "{text}: {fault:?}");
    }
}

#[test]
fn nothing_but_two_stars_crosses_a_slash() {
    for (text, yes, no) in [
        ("/v1/[!b]x", &["/v1/ax", "/v1/%20x"][..], &["/v1/bx", "/v1//x", "/v1x", "/v1/x"][..]),
        ("/a[!b]c", &["/axc", "/a%2Fc"], &["/a/c", "/abc"]),
        ("/a[+-9]c", &["/a.c", "/a0c"], &["/a/c"]),
        ("/a?c", &["/abc", "/a%2Fc", "/a%20c"], &["/a/c", "/ac", "/a%202c"]),
        ("/a*c", &["/ac", "/abbc", "/a%20c"], &["/a/c", "/ab/c"]),
        ("/*", &["/", "/a"], &["/a/", "/a/b"]),
        ("/**", &["/", "/a", "/a/b/"], &[]),
        ("/a/**", &["/a/", "/a/b", "/a/b/c"], &["/a", "/ab"]),
        ("/a/**/b", &["/a/b", "/a/x/b", "/a/x/y/b", "/a/b/b"], &["/a/xb", "/b", "/a/b/"]),
        ("/**/a/**/b*/c", &["/a/b/c", "/x/a/y/bz/c"], &["/a/b", "/a/c"]),
        ("/{a,b/*}/c", &["/a/c", "/b/x/c"], &["/b/c", "/a,b/c"]),
        ("/{a{b,c},d}", &["/ab", "/ac", "/d"], &["/a", "/abd"]),
        ("/a[*]b", &["/a*b"], &["/axb"]),
        ("/a!b", &["/a!b"], &["/axb"]),
    ] {
        yes.iter().for_each(|path| assert!(any(text, path), "{text} {path}"));
        no.iter().for_each(|path| assert!(!any(text, path), "{text} {path}"));
    }
}

#[test]
fn an_upstream_that_takes_paths_for_the_same_is_followed() {
    let matches = |reading: PathReading, text: &str, path: &str| {
        let path = if reading.ignore_case { fold(path) } else { path.to_owned() };
        reading.prepare(&one(text)).any(|pattern| pattern.matches(&path))
    };
    let case = PathReading { ignore_case: true, ..PathReading::EXACT };
    for (text, path) in [
        ("/admin/**", "/ADMIN/x"),
        ("/Admin/[A-C]x", "/aDMIN/bX"),
        ("/admin/[!A-C]x", "/admin/dx"),
        ("/admin/[!A-C]x", "/admin/ax"),
        ("/admin/[!a-c]x", "/admin/Bx"),
        ("/stra%C3%9Fe", "/STRA%E1%BA%9EE"),
        ("/%C3%89/**", "/%C3%A9/%FF"),
        ("/%FF%C3%89%C3/**", "/%FF%C3%A9%C3/x"),
        ("/ss/**", "/%C5%BFS/%FF"),
        ("/gr%C3%BC%C3%9F", "/GR%C3%9C%C3%9F"),
        ("/kelvin", "/%E2%84%AAELVIN"),
        ("/%2Fx", "/%2FX"),
    ] {
        assert!(matches(case, text, path), "{text} {path}");
        assert!(!matches(PathReading::EXACT, text, path) || text.contains('!'), "{text} {path}");
    }
    assert!(!matches(case, "/admin/[!a-cA-C]x", "/admin/Bx"), "neither case of it");
    let slash = PathReading { ignore_trailing_slash: true, ..PathReading::EXACT };
    for (text, path) in [("/admin/*", "/admin/x/"), ("/admin", "/admin/"), ("/admin/", "/admin"), ("/", "/")]
    {
        assert!(matches(slash, text, path), "{text} {path}");
    }
    assert!(!matches(slash, "/admin/*", "/admin/x/y"));
    let both = case.and(slash);
    for (text, path) in [
        ("/[A-C]x", "/AX/"),
        ("/[A-C]*", "/Bz/"),
        ("/[A-C]/**", "/A"),
        ("/Bb/**/", "/bb"),
        ("/a/**/**/*", "/A"),
    ] {
        assert!(matches(both, text, path), "{text} {path}");
    }
    assert_eq!(fold("/A%C3%9C%2f"), "/a%C3%BC%2f");
}

#[test]
fn patterns_are_compared() {
    for (wide, narrow) in [
        ("/v1/*", "/v1/x*"),
        ("/v1/**", "/v1/a/*"),
        ("/**", "/v1/**"),
        ("/a*c", "/ab*c"),
        ("/x", "/x"),
        ("/a?", "/a[bc]"),
        ("/[a-z]", "/b"),
        ("/[!a]", "/%20"),
    ] {
        assert!(one(wide).covers(&one(narrow)), "{wide} {narrow}");
    }
    for (wide, narrow) in [
        ("/v1/x*", "/v1/*"),
        ("/v1/*", "/v1/**"),
        ("/v1/*", "/v1/a/b"),
        ("/a", "/*"),
        ("/[ab]", "/?"),
        ("/[!a]", "/a"),
    ] {
        assert!(!one(wide).covers(&one(narrow)), "{wide} {narrow}");
    }
    for (wide, narrow) in [("/v1/*/info", "/v1/chat/*"), ("/v1/**", "/*/x"), ("/a*", "/*b"), ("/[ab]", "/a")]
    {
        assert!(one(wide).meets(&one(narrow)) && one(narrow).meets(&one(wide)), "{wide} {narrow}");
    }
    for (wide, narrow) in [("/v1/a/*", "/v1/b/*"), ("/v1/*", "/v1/a/b"), ("/a*", "/b*"), ("/[ab]", "/[cd]")] {
        assert!(!one(wide).meets(&one(narrow)) && !one(narrow).meets(&one(wide)), "{wide} {narrow}");
    }
}

/// A comparison that tried every combination for the stars of both patterns would not end within a
/// lifetime.
#[test]
fn a_comparison_ends_however_many_stars_there_are() {
    let wide = [format!("{}/z", "/**/a".repeat(60)), format!("/{}z", "*a".repeat(60))];
    let narrow = ["/a".repeat(200), format!("/{}", "a".repeat(200))];
    for (wide, narrow) in wide.iter().zip(&narrow) {
        let (same, narrow) = (one(&wide.replace('z', "y")), one(narrow));
        let wide = one(wide);
        assert!(!wide.covers(&narrow) && !wide.meets(&narrow) && !narrow.meets(&wide));
        assert!(wide.covers(&wide) && !wide.covers(&same) && !wide.meets(&same) && !same.meets(&wide));
    }
}

#[test]
fn a_pattern_begins_with_what_all_its_paths_begin_with() {
    for (text, expected) in
        [("/v1/**", "/v1/"), ("/v1/m*", "/v1/"), ("/**", "/"), ("/a/b?c/d", "/a/"), ("/a/[b]", "/a/")]
    {
        assert_eq!(one(text).beginning(), expected);
    }
}

/// Returns all spellings of `path` that an upstream treats as the same path.
fn spellings(path: &str, reading: PathReading) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut rest = path;
    while !rest.is_empty() {
        let length =
            ["%C3%", "%"].iter().position(|start| rest.starts_with(start)).map_or(1, |at| [6, 3][at]);
        let (character, behind) = rest.split_at(length);
        rest = behind;
        let others = match character {
            "%C3%89" | "%C3%A9" => vec!["%C3%89".to_owned(), "%C3%A9".to_owned()],
            _ if character.starts_with('%') => vec![character.to_owned()],
            _ => vec![character.to_ascii_lowercase(), character.to_ascii_uppercase()],
        };
        let others = if reading.ignore_case { others } else { vec![character.to_owned()] };
        all = all.iter().flat_map(|before| others.iter().map(move |c| format!("{before}{c}"))).collect();
        all.dedup();
    }
    if reading.ignore_trailing_slash {
        let other = |path: &String| match path.strip_suffix('/') {
            Some(shorter) => shorter.to_owned(),
            None => format!("{path}/"),
        };
        let others: Vec<String> = all.iter().map(other).collect();
        all.extend(others);
    }
    all
}

/// A second, slow implementation of matching: it compares the text of a pattern, and tries every
/// way in which a star may match.
mod slow {
    pub(super) fn matches(pattern: &str, path: &str) -> bool {
        let split = |text: &str| text[1..].split('/').map(str::to_owned).collect::<Vec<_>>();
        segments(&split(pattern), &split(path))
    }

    fn segments(pattern: &[String], path: &[String]) -> bool {
        match pattern {
            [] => path.is_empty(),
            [last] if last == "**" => !path.is_empty(),
            [first, rest @ ..] if first == "**" => (0..=path.len()).any(|from| segments(rest, &path[from..])),
            [first, rest @ ..] => {
                path.split_first().is_some_and(|(own, behind)| text(first, own) && segments(rest, behind))
            }
        }
    }

    fn text(pattern: &str, own: &str) -> bool {
        let length = |text: &str| if text.starts_with('%') { 3 } else { 1 };
        let Some(first) = pattern.chars().next() else { return own.is_empty() };
        if first == '*' {
            return text(&pattern[1..], own) || (!own.is_empty() && text(pattern, &own[length(own)..]));
        }
        if own.is_empty() {
            return false;
        }
        let (character, behind) = own.split_at(length(own));
        let (takes, rest) = match first {
            '?' => (true, &pattern[1..]),
            '[' => {
                let (class, rest) = pattern[1..].split_once(']').unwrap();
                let members = class.trim_start_matches('!').replace("A-B", "AB");
                (members.contains(character) != class.starts_with('!'), rest)
            }
            _ => (pattern.starts_with(character), &pattern[length(pattern)..]),
        };
        takes && text(rest, behind)
    }
}

proptest! {
    /// A path in its canonical form is a pattern that matches this same path.
    #[test]
    fn a_plain_pattern_matches_itself(path in "(/([a-zA-Z0-9._~!$&'()+,;=:@-]|%(20|C3|2F|5B|7C)){1,8}){1,4}/?") {
        prop_assume!(!path.split('/').any(|segment| matches!(segment, "." | "..")));
        prop_assert!(one(&path).matches(&path), "{}", path);
    }

    /// If the parser refuses a pattern and hints at another spelling, the parser accepts that
    /// spelling.
    #[test]
    fn a_hint_is_a_pattern(text in "/?[a-b/.%*\\[\\]?ü{},~ 0-9!-]{0,12}") {
        if let Err(PatternFault { hint: Some(hint), .. }) = PathPattern::parse(&text)
            && let Some(right) = hint.strip_suffix(" is meant?")
            && !text.contains(['{', '}'])
            && text.starts_with('/')
        {
            prop_assert!(PathPattern::parse(right).is_ok(), "{} {}", text, right);
        }
    }

    /// The results of comparing two patterns hold for every path.
    #[test]
    fn a_comparison_holds_for_every_path(
        first in "/(([ab]|\\*|\\?|\\[!a\\]){1,2}/){0,2}(([ab]|\\*){1,2}|\\*\\*)",
        other in "/(([ab]|\\*|\\?|\\[ab\\]){1,2}/){0,2}(([ab]|\\*){1,2}|\\*\\*)",
        path in "/([ab]{1,2}/){0,3}[ab]{1,2}",
    ) {
        let (first, other) = (one(&first), one(&other));
        prop_assert!(!(first.covers(&other) && other.matches(&path)) || first.matches(&path));
        prop_assert!(!(first.matches(&path) && other.matches(&path)) || first.meets(&other));
    }

    /// A prepared pattern matches a path if and only if the original pattern matches some spelling
    /// of that path which the upstream treats as the same.
    #[test]
    fn a_reading_takes_every_spelling_of_a_path_and_no_other(
        segments in prop::collection::vec(
            prop_oneof![
                1 => Just("**".to_owned()),
                5 => prop::collection::vec(
                    prop::sample::select(
                        "a b A B 1 * ? [ab] [A-B] [!A] [!ab] [!aA] %20 %C3%89 %C3%A9 %FF".split(' ').collect::<Vec<_>>(),
                    ),
                    1..4,
                )
                .prop_map(|pieces| pieces.concat().replace("**", "*").replace("**", "*")),
            ],
            1..4,
        ),
        ends_with_slash in (proptest::bool::ANY, proptest::bool::ANY),
        path in prop::collection::vec(
            prop::collection::vec(
                prop::sample::select("a b A B 1 %20 %C3%89 %C3%A9 %FF".split(' ').collect::<Vec<_>>()),
                1..4,
            ),
            1..4,
        ),
        ignore_case in proptest::bool::ANY,
        ignore_trailing_slash in proptest::bool::ANY,
    ) {
        let slash = |is_there: bool| if is_there { "/" } else { "" };
        let text = format!("/{}{}", segments.join("/"), slash(ends_with_slash.0));
        let path: Vec<String> = path.into_iter().map(|characters| characters.concat()).collect();
        let path = format!("/{}{}", path.join("/"), slash(ends_with_slash.1));
        let reading = PathReading { ignore_case, ignore_trailing_slash };
        let folded = if ignore_case { fold(&path) } else { path.clone() };
        let takes = reading.prepare(&one(&text)).any(|pattern| pattern.matches(&folded));
        let slowly = spellings(&path, reading).iter().any(|spelling| slow::matches(&text, spelling));
        prop_assert_eq!(takes, slowly, "{} {} {:?}", text, path, reading);
    }

    /// Patterns that the library `globset` also accepts match the same paths in `globset`.
    #[test]
    fn another_library_matches_alike(
        text in "/(([ab]|\\*|\\?|\\[ab\\]){0,3}/){0,3}(([ab]|\\*){0,3}|\\*\\*)",
        path in "/([ab]{1,2}/){0,3}[ab]{0,2}",
    ) {
        let Ok(patterns) = PathPattern::parse(&text) else { return Ok(()) };
        let glob = globset::GlobBuilder::new(&text).literal_separator(true).backslash_escape(false).build().unwrap();
        prop_assert_eq!(patterns[0].matches(&path), glob.compile_matcher().is_match(&path), "{} {}", text, path);
    }
}
