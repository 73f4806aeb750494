//! Finds placeholders in place of secrets: templates that nobody has filled in, and syntax of other
//! files.
//!
//! The text of a template is in a repository: if it were accepted as a key, everybody who can read
//! the repository could use it. Weak keys are not judged here. This module checks every secret that
//! is given as plain text: stores of plain tokens, imports, `keys hash`, the admin token,
//! credentials for upstreams, the secret of key ids.
//!
//! Invariant: a result never contains a part of the checked text.

/// The reason why a text is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placeholder {
    /// The message of a fault of a configuration in which a secret is still a placeholder.
    pub(crate) what: &'static str,
    /// The hint of this fault.
    pub(crate) hint: &'static str,
    /// The position in the text, in bytes, of the sign that the text is no secret.
    pub(crate) offset: usize,
}

/// A sign that a text is no secret: returns the sign's position in the text, in bytes.
type Sign = fn(&str) -> Option<usize>;

const RENDER: &str = "render the template first: a key is the secret itself";
const IN_PLACE: &str = "put the secret in its place";
const BARE: &str = "write the secret alone, without what stands around it";
const REFERENCE: &str = "write the secret itself: references are not looked up";

/// Signs of templates, and of the text that a template without a value leaves behind. Each sign has
/// a message and a hint. No secret of any kind has such a form. The first sign that matches is
/// reported.
const TEMPLATES: [(Sign, &str, &str); 15] = [
    (|text| text.find("${"), "a variable in `${…}`, not its value", RENDER),
    (
        |text| text.find("{{").or_else(|| text.find("}}")),
        "a template in `{{…}}`, not what it stands for",
        RENDER,
    ),
    (|text| text.find("<%"), "a template in `<%…%>`, not what it stands for", RENDER),
    (|text| marked(text, "%(", ")s"), "a variable in `%(…)s`, not its value", RENDER),
    (|text| marked(text, "%{", "}"), "a variable in `%{…}`, not its value", RENDER),
    (|text| marked(text, "#{", "}"), "a variable in `#{…}`, not its value", RENDER),
    (
        |text| enclosed(text, '%', '%').filter(|_| is_name(text.trim_matches('%'))),
        "a variable in `%…%`, not its value",
        RENDER,
    ),
    (
        |text| enclosed(text, '@', '@').filter(|_| is_name(text.trim_matches('@'))),
        "a variable in `@…@`, not its value",
        RENDER,
    ),
    (between_underscores, "a variable in `__…__`, not its value", RENDER),
    (variable, "a variable with `$`, not its value", RENDER),
    (
        |text| enclosed(text, '{', '}').filter(|_| is_name(text.trim_matches(['{', '}']))),
        "a placeholder in `{…}`",
        IN_PLACE,
    ),
    (angle_brackets, "a placeholder in `<…>`", IN_PLACE),
    (alias, "an alias or an anchor of YAML, not its value", RENDER),
    (nothing, "what is left of a template that had no value", RENDER),
    (reference, "a reference to a secret, not the secret", REFERENCE),
];

/// Signs of texts that are no token, but may be the value of a header.
const OTHERS: [(Sign, &str, &str); 7] = [
    (
        password_hash,
        "the hash of a password, as in an htpasswd file",
        "the secret itself is needed; the hash of it opens nothing",
    ),
    (
        key_hash,
        "a hash, not a token",
        "a store of tokens holds the tokens themselves; keys.yaml holds hashes",
    ),
    (quotes, "a value in quotes", BARE),
    (assignment, "`NAME=value`, not a value alone", BARE),
    (header, "a header's value, not a token", BARE),
    (structure, "a piece of another kind of file", "one token a line"),
    (filler, FILLER, IN_PLACE),
];

const FILLER: &str = "a placeholder's usual text";

impl Placeholder {
    /// Whether the placeholder is a word that somebody could have chosen as a weak secret, such as
    /// `changeme`.
    pub(crate) fn is_word(self) -> bool {
        self.what == FILLER
    }
}

/// Returns why `text` (a line or a value, trimmed) is clearly no secret; `None` if it may be one.
///
/// ```text
/// ${API_KEY}   {{ .Values.key }}   %KEY%   $KEY   <your-api-key>   "sk-quoted"   API_KEY=sk-1   Bearer sk-1
/// ann:$apr1$…  sha256:…            os.environ/KEY   op://vault/key  sk-xxxxxxxx   changeme
/// __API_KEY__  @@KEY@@             %(key)s          *alias          null          undefined
/// ```
pub(crate) fn find(text: &str) -> Option<Placeholder> {
    first_of(TEMPLATES.iter().chain(&OTHERS), text)
}

/// Returns why a header's value is clearly no secret, as [`find`] does for tokens. The value may
/// begin with a scheme, and a weak secret is accepted.
///
/// ```text
/// ${API_KEY}   Bearer ${API_KEY}   Bearer <your-api-key>   Bearer null   "sk-quoted"
/// ```
pub(crate) fn find_in_header(value: &str) -> Option<Placeholder> {
    let at = value.rfind(' ').map_or(0, |space| space + 1);
    let bare = value.get(at..).unwrap_or_default();
    let in_bare = || {
        let found = first_of(TEMPLATES.iter(), bare)?;
        Some(Placeholder { offset: at + found.offset, ..found })
    };
    let in_quotes = || {
        let quoted = ['"', '\'', '`'].into_iter().find_map(|quote| enclosed(bare, quote, quote))?;
        Some(Placeholder { what: "a value in quotes", hint: BARE, offset: at + quoted })
    };
    first_of(TEMPLATES.iter(), value).or_else(in_bare).or_else(in_quotes)
}

fn first_of<'s>(
    mut signs: impl Iterator<Item = &'s (Sign, &'static str, &'static str)>,
    text: &str,
) -> Option<Placeholder> {
    signs.find_map(|(sign, what, hint)| Some(Placeholder { what, hint, offset: sign(text)? }))
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn starts_with(text: &str, start: &str) -> bool {
    text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}

/// Recognizes a text whose first character is `open` and whose last one is `close`.
fn enclosed(text: &str, open: char, close: char) -> Option<usize> {
    let inner = text.strip_prefix(open)?.strip_suffix(close)?;
    (!inner.is_empty()).then_some(0)
}

/// Returns the position of a name between the marks `open` and `close`, anywhere in the text.
fn marked(text: &str, open: &str, close: &str) -> Option<usize> {
    let (before, behind) = text.split_once(open)?;
    let (name, _) = behind.split_once(close)?;
    let is_name = !name.is_empty() && name.bytes().all(is_of_label);
    is_name.then_some(before.len())
}

fn is_of_label(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

/// Recognizes `__NAME__`.
fn between_underscores(text: &str) -> Option<usize> {
    let name = text.strip_prefix("__")?.strip_suffix("__")?;
    is_name(name).then_some(0)
}

/// Recognizes `*name` and `&name`, which have a meaning only in YAML.
fn alias(text: &str) -> Option<usize> {
    // Maximum length of an alias: names that people choose are short, and a longer text may be a
    // secret that begins with `*` or `&`.
    const LONGEST: usize = 32;
    let name = text.strip_prefix(['*', '&'])?;
    let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.len() <= LONGEST
        && name.bytes().all(is_of_label);
    is_name.then_some(0)
}

/// Recognizes words that programs write for a missing value, such as `null`, and the text that is
/// left beside a missing value, such as `Bearer`.
fn nothing(text: &str) -> Option<usize> {
    const WORDS: [&str; 9] = ["null", "undefined", "none", "nil", "nan", "~", "bearer", "basic", "sk-"];
    let word = text.strip_prefix('(').and_then(|word| word.strip_suffix(')')).unwrap_or(text);
    WORDS.iter().any(|known| word.eq_ignore_ascii_case(known)).then_some(0)
}

/// Recognizes `$NAME` as the whole text, and `$(command)` at any position.
fn variable(text: &str) -> Option<usize> {
    let at = text.find("$(").or_else(|| Some(0).filter(|_| text.starts_with('$')))?;
    let behind = text.get(at + 1..)?;
    (behind.starts_with('(') || is_name(behind)).then_some(at)
}

/// Recognizes the hash of a password, with or without a user: `user:$apr1$…`, `user:{SHA}…`
/// (crypt(5), htpasswd).
fn password_hash(text: &str) -> Option<usize> {
    const MARKS: [&str; 12] = [
        "$apr1$", "$1$", "$2a$", "$2b$", "$2y$", "$5$", "$6$", "$y$", "$argon2", "{SHA}", "{SSHA}", "{CRYPT}",
    ];
    let at = text.find(':').map_or(0, |colon| colon + 1);
    let starts_at =
        |at: usize| MARKS.iter().any(|mark| text.get(at..).is_some_and(|rest| starts_with(rest, mark)));
    [at, 0].into_iter().find(|at| starts_at(*at))
}

/// Recognizes `sha256:` and 64 hex digits, the form of a key in other stores.
fn key_hash(text: &str) -> Option<usize> {
    let digest = text.strip_prefix("sha256:")?;
    (digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(0)
}

fn angle_brackets(text: &str) -> Option<usize> {
    let open = text.find('<')?;
    text.get(open..)?.contains('>').then_some(open)
}

fn quotes(text: &str) -> Option<usize> {
    let is_quote = |c: char| matches!(c, '"' | '\'' | '`');
    match text.starts_with(is_quote) {
        true => Some(0),
        false => text.char_indices().last().filter(|(_, last)| is_quote(*last)).map(|(at, _)| at),
    }
}

/// Recognizes `NAME=value`, with or without `export`. The padding `=` of base64 does not count as a
/// value.
fn assignment(text: &str) -> Option<usize> {
    let (name, value) = text.split_once('=')?;
    let name = name.trim_end();
    let name = name.strip_prefix("export ").or_else(|| name.strip_prefix("set ")).unwrap_or(name);
    (is_name(name.trim_start()) && !value.trim_start_matches('=').is_empty()).then_some(0)
}

/// Recognizes references that other programs look up: LiteLLM, 1Password, Vault, cloud secret
/// managers, SOPS.
fn reference(text: &str) -> Option<usize> {
    const STARTS: [&str; 8] =
        ["os.environ/", "op://", "vault:", "arn:aws:", "ENC[", "@Microsoft.KeyVault(", "env://", "secret://"];
    STARTS.iter().any(|start| starts_with(text, start)).then_some(0)
}

fn header(text: &str) -> Option<usize> {
    ["bearer ", "basic ", "authorization:", "x-api-key:"]
        .iter()
        .any(|start| starts_with(text, start))
        .then_some(0)
}

/// Recognizes lines of JSON, YAML and PEM files, each of which would be read as a token.
fn structure(text: &str) -> Option<usize> {
    let is_name_of_field = || text.strip_suffix(':').is_some_and(is_name);
    let is_mark = || text.len() > 1 && text.bytes().all(|byte| byte == b'-' || byte == b'.');
    let starts = text.starts_with(['{', '}', '[', ']']) || text.starts_with("-----BEGIN");
    (starts || is_name_of_field() || is_mark()).then_some(0)
}

/// Recognizes words that documentation shows in place of a key.
fn filler(text: &str) -> Option<usize> {
    const USUAL: [&str; 15] = [
        "changeme",
        "replaceme",
        "yourapikey",
        "yourapikeyhere",
        "yourkeyhere",
        "yoursecretkey",
        "insertyourkeyhere",
        "placeholder",
        "redacted",
        "masked",
        "yourtoken",
        "yourtokenhere",
        "todo",
        "tbd",
        "fixme",
    ];
    let folded: String =
        text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let core = folded.strip_prefix("sk").unwrap_or(&folded);
    let is_usual = USUAL.contains(&core) || USUAL.contains(&folded.as_str());
    // Masked keys are, for example, `sk-xxxxxxxx`, `sk-****` and `sk-...`.
    let last = text.rsplit('-').next().unwrap_or_default();
    let is_masked =
        last.len() > 2 && ["x", "X", "*", "."].iter().any(|mark| last.replace(mark, "").is_empty());
    (is_usual || is_masked).then_some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_is_found(text: &str, at: usize, what: &str) {
        let found = find(text).unwrap_or_else(|| panic!("{text} is taken for a secret"));
        assert_eq!(found.offset, at, "{text}");
        assert!(found.what.contains(what), "{text}: {}", found.what);
    }

    #[test]
    fn what_is_clearly_no_secret_is_found_with_its_place() {
        for (text, at, what) in [
            ("${API_KEY}", 0, "`${…}`"),
            ("Bearer ${OLLAMA_KEY}", 7, "`${…}`"),
            ("sk-${KEY:-none}", 3, "`${…}`"),
            ("{{ .Values.key }}", 0, "`{{…}}`"),
            ("{{API_KEY}}", 0, "`{{…}}`"),
            ("<%= ENV['KEY'] %>", 0, "`<%…%>`"),
            ("%API_KEY%", 0, "`%…%`"),
            ("$API_KEY", 0, "`$`"),
            ("$(cat key)", 0, "`$`"),
            ("ann:$apr1$gxq1$Oz4M", 4, "htpasswd"),
            ("ann:$2y$05$abcdefghijklmnopqrstuv", 4, "htpasswd"),
            ("ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", 4, "htpasswd"),
            ("$2b$12$abcdefghijklmnopqrstuv", 0, "htpasswd"),
            ("sha256:0000000000000000000000000000000000000000000000000000000000000001", 0, "a hash"),
            ("<your-api-key>", 0, "`<…>`"),
            ("sk-<your-key>", 3, "`<…>`"),
            ("\"sk-quoted\"", 0, "quotes"),
            ("'sk-quoted'", 0, "quotes"),
            ("sk-half\"", 7, "quotes"),
            ("API_KEY=sk-1", 0, "NAME=value"),
            ("export api_key = sk-1", 0, "NAME=value"),
            ("os.environ/OPENAI_API_KEY", 0, "reference"),
            ("op://vault/item/key", 0, "reference"),
            ("vault:secret/data/key#value", 0, "reference"),
            ("ENC[AES256_GCM]", 0, "reference"),
            ("Bearer sk-1", 0, "header"),
            ("x-api-key: sk-1", 0, "header"),
            ("{\"id\":\"key_a\"}", 0, "another kind of file"),
            ("[YOUR_API_KEY]", 0, "another kind of file"),
            ("keys:", 0, "another kind of file"),
        ] {
            assert_is_found(text, at, what);
        }
    }

    #[test]
    fn what_templates_leave_is_found_with_its_place() {
        for (text, at, what) in [
            ("__API_KEY__", 0, "`__…__`"),
            ("@@KEY@@", 0, "`@…@`"),
            ("@KEY@", 0, "`@…@`"),
            ("%(key)s", 0, "`%(…)s`"),
            ("sk-%{key}", 3, "`%{…}`"),
            ("#{API.KEY}#", 0, "`#{…}`"),
            ("{KEY}", 0, "`{…}`"),
            ("*alias", 0, "YAML"),
            ("&anchor", 0, "YAML"),
            ("null", 0, "no value"),
            ("NULL", 0, "no value"),
            ("(null)", 0, "no value"),
            ("undefined", 0, "no value"),
            ("None", 0, "no value"),
            ("none", 0, "no value"),
            ("nil", 0, "no value"),
            ("NaN", 0, "no value"),
            ("~", 0, "no value"),
            ("Bearer", 0, "no value"),
            ("sk-", 0, "no value"),
            ("REDACTED", 0, "usual text"),
            ("***redacted***", 0, "usual text"),
            ("---", 0, "another kind of file"),
            ("-----BEGIN", 0, "another kind of file"),
            ("changeme", 0, "usual"),
            ("CHANGE_ME", 0, "usual"),
            ("your-api-key-here", 0, "usual"),
            ("sk-your-api-key", 0, "usual"),
            ("sk-xxxxxxxxxxxx", 0, "usual"),
            ("sk-****", 0, "usual"),
            ("sk-...", 0, "usual"),
        ] {
            assert_is_found(text, at, what);
        }
    }

    #[test]
    fn a_headers_value_may_have_a_scheme_and_be_weak() {
        for (value, at) in [
            ("${KEY}", 0),
            ("Bearer ${KEY}", 7),
            ("Bearer $KEY", 7),
            ("Bearer __KEY__", 7),
            ("Bearer <your-key>", 7),
            ("Bearer undefined", 7),
            ("Bearer", 0),
            ("null", 0),
            ("\"quoted\"", 0),
            ("Bearer 'quoted'", 7),
            ("op://vault/key", 0),
        ] {
            assert_eq!(find_in_header(value).map(|found| found.offset), Some(at), "{value}");
        }
        for value in [
            "changeme",
            "sk-xxxxxxxx",
            "Bearer sk-1",
            "Basic dTpw",
            "session=abc",
            "Digest username=\"x\", realm=\"y\"",
            "a$b",
        ] {
            assert_eq!(find_in_header(value), None, "{value}");
        }
    }

    #[test]
    fn weak_and_odd_keys_are_keys() {
        for text in [
            "secret",
            "test",
            "1",
            "sk-1234567890abcdef",
            "bwk_4f9Zk2Qx7B_00000000000000000000000000000000000000",
            "QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            "abcd=",
            "user:password",
            "id.secret",
            "a$b",
            "pa$$word",
            "100%",
            "50%-off-50%",
            "hf_xx",
            "sk-proj-abc_DEF-123",
            "gsk_xxx1",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "eyJhbGciOiJIUzI1NiJ9.e30.ZRrHA1JJJW8opsbCGfG_HACGpVUMN_a9IV7pAx_Zmeo",
            "a<b",
            "key-changeme-2026",
            "null-and-void",
            "nonesuch",
            "a__b__",
            "__9f8e7d6c__",
            "*9Kd2",
            "&Kq8ZxR3vN1mT5wB7yC2pL9sD4fG6hJ0aE",
            "50%{",
            "a@b@c",
        ] {
            assert_eq!(find(text), None, "{text}");
        }
    }
}
