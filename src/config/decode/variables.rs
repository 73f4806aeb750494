//! Environment variables in a configuration: their interpolation, and the masking of their values
//! in messages.

/// Looks up an environment variable.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces `${VAR}`, `${VAR:-default}` and `${VAR:?message}`; `$${` is a literal `${`.
pub(super) fn interpolate(text: &str, environment: Environment<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(literal) = before.strip_suffix('$') {
            out.push_str(literal);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some((expression, behind)) = after.split_once('}') else {
            return Err("`${` without its `}`".to_owned());
        };
        out.push_str(&resolve(expression, environment)?);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

fn resolve(expression: &str, environment: Environment<'_>) -> Result<String, String> {
    let (name, default, complaint) = match (expression.split_once(":-"), expression.split_once(":?")) {
        (Some((name, default)), _) => (name, Some(default), None),
        (None, Some((name, complaint))) => (name, None, Some(complaint)),
        (None, None) => (expression, None, None),
    };
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name {
        // The message shows only the variable's name, because the text after the name may be a
        // secret.
        let is_of_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
        let shown: String = name.chars().take_while(is_of_name).collect();
        return Err(format!("`${{{shown}…}}` is not a variable's name"));
    }
    // A variable inside another variable is refused: the default in `${VAR:-default}` ends at the
    // first `}`, so the text behind the inner variable would be added to the value.
    if expression.contains("${") {
        return Err(format!("`${{{name}…}}` holds another variable, which is not replaced"));
    }
    // As in a shell, `:-` and `:?` treat an empty variable as unset.
    let value = environment(name);
    match (value, default, complaint) {
        (Some(value), None, None) => Ok(value),
        (Some(value), _, _) if !value.is_empty() => Ok(value),
        (_, Some(default), _) => Ok(default.to_owned()),
        (_, None, Some(complaint)) => Err(format!("the environment variable {name} is not set: {complaint}")),
        (None, None, None) => Err(format!("the environment variable {name} is not set")),
    }
}

/// The minimum length, in bytes, of a variable's value that is masked everywhere in a message. A
/// shorter value is no secret, and may be part of another word by chance.
const LEAST_MASKED: usize = 8;

/// Returns a message in which the value of a variable is replaced by `written`, which is the text
/// in the file.
///
/// A short value is replaced only where it is alone between backticks: an empty value, for example,
/// is part of every text.
pub(super) fn masked(text: &str, value: &str, written: &str) -> String {
    match value.len() < LEAST_MASKED {
        true => text.replace(&format!("`{value}`"), &format!("`{written}`")),
        false => text.replace(value, written),
    }
}

/// Returns a message without user info: `http://user:password@host` becomes `http://…@host`.
pub(super) fn without_user_info(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let end = after.find(['/', ' ', '`', '"', '\'']).unwrap_or(after.len());
        let (authority, behind) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => out.extend(["…@", host]),
            None => out.push_str(authority),
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_as_in_a_shell() {
        let environment = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let ok = |text: &str| interpolate(text, &environment).unwrap();
        assert_eq!(ok("x${A}y${A}"), "x1y1");
        assert_eq!(ok("${B:-2}"), "2");
        assert_eq!(ok("${EMPTY:-2}${EMPTY}"), "2");
        assert_eq!(ok("$${A} $A"), "${A} $A");
        assert_eq!(
            interpolate("${B:?say it}", &environment).unwrap_err(),
            "the environment variable B is not set: say it"
        );
        assert!(interpolate("${B}", &environment).is_err());
        assert!(interpolate("${A", &environment).is_err());
        assert!(
            interpolate("${B:-${A}}", &environment).is_err()
                && interpolate("${B:-${A}", &environment).is_err()
        );
        assert_eq!(
            interpolate("${A=sk-secret}", &environment).unwrap_err(),
            "`${A…}` is not a variable's name"
        );
    }

    #[test]
    fn only_the_value_of_a_variable_is_masked() {
        let text = "`1` is not a duration (a number with its unit, as in 10s); 12345678 is shown";
        assert_eq!(masked(text, "", "${A:-}"), text);
        assert_eq!(masked(text, "1", "${A}"), text.replacen("`1`", "`${A}`", 1));
        assert_eq!(masked(text, "12345678", "${A}"), text.replace("12345678", "${A}"));
        assert_eq!(masked("`` is not a size", "", "${A:-}"), "`${A:-}` is not a size");
    }

    #[test]
    fn user_info_is_not_shown() {
        assert_eq!(without_user_info("`http://bob:pw@a:1/x` is no"), "`http://…@a:1/x` is no");
        assert_eq!(without_user_info("http://a:1, https://b"), "http://a:1, https://b");
    }
}
