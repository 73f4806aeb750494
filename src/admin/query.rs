//! The query of a request to the API.

use crate::denial::Denial;

/// Returns the names and values of a query, as they were sent. A parameter without a value has an empty
/// one.
///
/// # Errors
///
/// 400 for a name that appears twice.
pub(super) fn parameters(query: Option<&str>) -> Result<Vec<(&str, &str)>, Denial> {
    let mut parameters: Vec<(&str, &str)> = Vec::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if parameters.iter().any(|(earlier, _)| *earlier == name) {
            return Err(Denial::bad_content("A parameter appears twice"));
        }
        parameters.push((name, value));
    }
    Ok(parameters)
}
