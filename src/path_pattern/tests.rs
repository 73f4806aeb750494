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
        ("/gr%C3%BC%C3%9F", "/GR%C3%9C%C3%9F"),
        ("/kelvin", "/%E2%84%AAELVIN"),
        ("/%2Fx", "/%2FX"),
    ] {
        assert!(matches(case, text, path), "{text} {path}");
        assert!(!matches(PathReading::EXACT, text, path) || text.contains('!'), "{text} {path}");
    }
    assert!(!matches(case, "/admin/[!a-c]x", "/admin/Bx"), "neither case of it");
    let slash = PathReading { ignore_trailing_slash: true, ..PathReading::EXACT };
    for (text, path) in [("/admin/*", "/admin/x/"), ("/admin", "/admin/"), ("/admin/", "/admin"), ("/", "/")]
    {
        assert!(matches(slash, text, path), "{text} {path}");
    }
    assert!(!matches(slash, "/admin/*", "/admin/x/y"));
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

#[test]
fn a_pattern_begins_with_what_all_its_paths_begin_with() {
    for (text, expected) in
        [("/v1/**", "/v1/"), ("/v1/m*", "/v1/"), ("/**", "/"), ("/a/b?c/d", "/a/"), ("/a/[b]", "/a/")]
    {
        assert_eq!(one(text).beginning(), expected);
    }
}

proptest! {
    /// A path in its canonical form is a pattern that matches it.
    #[test]
    fn a_plain_pattern_matches_itself(path in "(/([a-zA-Z0-9._~!$&'()+,;=:@-]|%(20|C3|2F|5B|7C)){1,8}){1,4}/?") {
        prop_assume!(!path.split('/').any(|segment| matches!(segment, "." | "..")));
        prop_assert!(one(&path).matches(&path), "{}", path);
    }

    /// What is refused with a spelling is accepted in that spelling.
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

    /// What is said of two patterns holds for every path.
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

    /// Patterns that another library reads alike match alike.
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
