//! Parses patterns, and suggests the right spelling of a pattern that could never match.

use super::character::{self, Character, first_character, hex_pair, resolve, stands_raw};
use super::piece::{Piece, Segment};
use crate::pattern_fault::PatternFault;

/// Maximum number of alternatives of one pattern, more than anybody writes by hand.
const MOST_ALTERNATIVES: usize = 256;

fn fault(message: impl Into<String>, hint: Option<String>) -> PatternFault {
    PatternFault { message: message.into(), hint }
}

/// Expands a pattern with braces such as `{a,b}` into patterns without braces.
///
/// # Errors
///
/// Braces that do not match, too many alternatives, and braces around a single alternative: in
/// other programs `{id}` matches any segment, and here it would match only the text `id`.
pub(super) fn alternatives(text: &str) -> Result<Vec<String>, PatternFault> {
    let mut done = Vec::new();
    let mut waiting = vec![text.to_owned()];
    while let Some(text) = waiting.pop() {
        let Some((before, inner, behind)) = first_braces(&text)? else {
            done.push(text);
            continue;
        };
        let choices = split_top(inner);
        if choices.len() == 1 {
            let message = format!("`{{{inner}}}` has one alternative, and would be that text alone");
            return Err(fault(message, Some("`*` for any segment, or the text without braces".to_owned())));
        }
        // The order is reversed, so that the first alternative is expanded next.
        waiting.extend(choices.into_iter().rev().map(|choice| format!("{before}{choice}{behind}")));
        if done.len() + waiting.len() > MOST_ALTERNATIVES {
            return Err(fault(
                format!("more than {MOST_ALTERNATIVES} alternatives in braces"),
                Some("several patterns, or `*`".to_owned()),
            ));
        }
    }
    Ok(done)
}

/// Returns the text before, inside and after the first braces; `None` without braces.
fn first_braces(text: &str) -> Result<Option<(&str, &str, &str)>, PatternFault> {
    let unmatched = || {
        fault(
            format!("`{text}`: a brace without its other one"),
            Some("as in /v1/{chat,audio}/**".to_owned()),
        )
    };
    let Some(open) = text.find(['{', '}']) else { return Ok(None) };
    let mut depth = 0_usize;
    for (at, c) in text.char_indices().skip_while(|(at, _)| *at < open) {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.checked_sub(1).ok_or_else(unmatched)?,
            _ => continue,
        }
        if depth == 0 {
            let parts = (text.get(..open), text.get(open + 1..at), text.get(at + 1..));
            if let (Some(before), Some(inner), Some(behind)) = parts {
                return Ok(Some((before, inner, behind)));
            }
        }
    }
    Err(unmatched())
}

/// Splits the text inside braces at the commas that are outside inner braces and classes.
fn split_top(inner: &str) -> Vec<&str> {
    let (mut depth, mut is_class) = (0_usize, false);
    inner
        .split(move |c: char| {
            match c {
                '[' => is_class = true,
                ']' => is_class = false,
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0 && !is_class
        })
        .collect()
}

/// Parses a pattern without braces into its segments.
///
/// # Errors
///
/// A pattern that could match no canonical path; the hint is the spelling that can.
pub(super) fn segments(text: &str) -> Result<Vec<Segment>, PatternFault> {
    let Some(relative) = text.strip_prefix('/') else {
        return Err(fault(format!("`{text}`: a path begins with `/`"), Some(format!("/{text} is meant?"))));
    };
    if let Some(what) = impossible(text) {
        return Err(fault(format!("`{text}` never matches: {what}"), None));
    }
    let right = resolve(&respelled(text));
    if right != text {
        let is_pattern = segments(&right).is_ok();
        return Err(fault(
            format!("`{text}` never matches: it is not written as paths are when they are matched"),
            is_pattern.then(|| format!("{right} is meant?")),
        ));
    }
    relative.split('/').map(segment).collect()
}

/// Returns the reason why no path of a forwarded request can match the pattern; `None` if no such
/// reason is found.
fn impossible(text: &str) -> Option<&'static str> {
    let mut rest = text.as_bytes();
    while let Some((character, behind)) = first_character(rest) {
        match character {
            Character::Encoded(0..=0x1f | 0x7f) => {
                return Some("a path with an encoded control byte is refused");
            }
            Character::Raw(0..=0x1f | 0x7f) => return Some("a path has no control byte"),
            Character::Raw(b'\\') => return Some("a path with a backslash is refused"),
            // In the target of a request, the text after `?` is the query.
            Character::Raw(b'?') if behind.contains(&b'=') && !behind.contains(&b'/') => {
                return Some("a pattern is compared with the path alone, not with the query");
            }
            _ => {}
        }
        rest = behind;
    }
    None
}

/// Returns the pattern with each literal character in its canonical form. Classes stay as they are.
fn respelled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_bytes();
    let mut is_class = false;
    while let Some((character, behind)) = first_character(rest) {
        rest = behind;
        match character {
            Character::Raw(b'[') if !is_class && behind.contains(&b']') => {
                is_class = true;
                out.push('[');
            }
            Character::Raw(b']') if is_class => {
                is_class = false;
                out.push(']');
            }
            Character::Raw(byte) if is_class && byte.is_ascii() => out.push(char::from(byte)),
            Character::Raw(byte @ (b'/' | b'?' | b';')) => out.push(char::from(byte)),
            // A canonical path has `*` unencoded; in a pattern, `[*]` stands for this character.
            Character::Encoded(b'*') => out.push_str("[*]"),
            Character::Raw(byte) | Character::Encoded(byte) => character::push(&mut out, byte),
        }
    }
    out
}

fn segment(text: &str) -> Result<Segment, PatternFault> {
    if text == "**" {
        return Ok(Segment::Any);
    }
    if text.contains("**") {
        return Err(fault(
            format!("`{text}`: `**` stands for whole segments, and alone between slashes"),
            Some("`*` within a segment, `/**` for all that lies under one".to_owned()),
        ));
    }
    let mut pieces = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((character, behind)) = first_character(rest) {
        rest = behind;
        pieces.push(match character {
            Character::Raw(b'*') => Piece::Star,
            Character::Raw(b'?') => Piece::One,
            Character::Raw(b'[') => {
                let (piece, behind) = class(behind)?;
                rest = behind;
                piece
            }
            literal => Piece::Literal(literal),
        });
    }
    Ok(Segment::Text(pieces))
}

/// Parses a class from the text after its `[`. Returns the class, and the text after its `]`.
fn class(text: &[u8]) -> Result<(Piece, &[u8]), PatternFault> {
    let hint = || Some("as in [a-z0-9], or [!a-z] for any other character".to_owned());
    let (is_negated, text) = match text {
        [b'!' | b'^', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let Some(end) = text.iter().position(|byte| *byte == b']').filter(|end| *end > 0) else {
        return Err(fault("a class `[…]` within a segment is empty, or has no end", hint()));
    };
    let (mut members, mut inner) = (0_u128, text.get(..end).unwrap_or_default());
    while let [first, rest @ ..] = inner {
        let (last, behind) = match rest {
            [b'-', last, behind @ ..] => (last, behind),
            _ => (first, rest),
        };
        inner = behind;
        let is_member = |byte: &u8| stands_raw(*byte) || *byte == b';';
        if let Some(bad) = [first, last].into_iter().find(|byte| !is_member(byte)) {
            let bad = char::from(*bad);
            return Err(fault(
                format!(
                    "a class `[…]` has no `{bad}`: it stands for one character of a segment that is not encoded"
                ),
                hint(),
            ));
        }
        if first > last {
            return Err(fault("a class `[…]` with a range that ends before it begins", hint()));
        }
        members |= (*first..=*last).filter(is_member).fold(0, |all, byte| all | 1 << byte);
    }
    Ok((Piece::Class { members, is_negated }, text.get(end + 1..).unwrap_or_default()))
}

/// Returns the text of a pattern, with `fold` applied to everything outside of classes.
pub(super) fn outside_classes(text: &str, fold: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('[') {
        out.push_str(&fold(before));
        out.push('[');
        let (class, behind) = behind.split_once(']').unwrap_or((behind, ""));
        out.push_str(class);
        out.push(']');
        rest = behind;
    }
    out.push_str(&fold(rest));
    out
}

/// Returns the percent-decoded bytes of a path.
pub(super) fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => hex_pair(bytes.next(), bytes.next()).unwrap_or(b'%'),
            _ => byte,
        });
    }
    out
}

/// Returns the members of a class for folded paths. The folded class includes a letter if the class
/// includes it in either case. A negated class excludes a letter only if it excludes both cases.
pub(super) fn folded_members(members: u128, is_negated: bool) -> u128 {
    let has = |byte: u8| character::is_member(members, byte);
    (b'a'..=b'z').fold(members, |all, lower| {
        let (small, capital) = (has(lower), has(lower.to_ascii_uppercase()));
        match if is_negated { small && capital } else { small || capital } {
            true => all | 1 << lower,
            false => all & !(1 << lower),
        }
    })
}
