//! Patterns in which `*` stands for any characters: for the names of models, and for what tokens and
//! certificates say of their holders.

/// Whether `glob` matches the whole `text`. `*` matches any characters, `/` too, and none.
pub(crate) fn matches(glob: &str, text: &str, ignores_case: bool) -> bool {
    let same = |a: u8, b: u8| if ignores_case { a.eq_ignore_ascii_case(&b) } else { a == b };
    let (glob, text) = (glob.as_bytes(), text.as_bytes());
    // Position in both, and where to resume after the last `*` with one more byte under it.
    let (mut at, mut of, mut star) = (0, 0, None);
    while let Some(byte) = text.get(of) {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at + 1, of));
                at += 1;
            }
            Some(known) if same(*known, *byte) => (at, of) = (at + 1, of + 1),
            _ => match &mut star {
                Some((after, under)) => {
                    *under += 1;
                    (at, of) = (*after, *under);
                }
                None => return false,
            },
        }
    }
    glob.get(at..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}
