//! Reads the lists of keys of other programs, for `bearward keys import`.
//!
//! Keys with counterparts in bearward are imported, and all other keys are reported. A key is left
//! out if its list restricts the key in a way that bearward does not have: the imported key could
//! do more than the original.
//! Invariant: no message quotes from a list, except for the names of variables and fields.

mod agentgateway;
mod apisix;
pub(super) mod imported;
mod kong;
pub(super) mod limits;
mod litellm;
mod nginx;
mod parse;
mod plain;
mod tree;

use clap::ValueEnum;
use imported::ImportedKeys;
use parse::{parse, parse_once};

use crate::config::tree::Node;

/// A form that a list of keys may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// One token per line, with `#` comments: llama.cpp's --api-key-file
    Lines,
    /// NAME=token or NAME=token,token,…
    Env,
    /// The entries of nginx `map` blocks: "Bearer token" name;
    Nginx,
    /// A YAML or JSON list of objects with `key` or `token`, and `key_alias`, `rpm_limit`,
    /// `max_parallel_requests`, `expires`
    Litellm,
    /// Kong's declarative configuration: consumers with `keyauth_credentials`
    Kong,
    /// APISIX's standalone configuration or Admin API: consumers with the plugin `key-auth`
    Apisix,
    /// agentgateway's configuration: `apiKey` policies
    Agentgateway,
}

/// Options that apply to a whole list.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Options<'a> {
    /// Names of the variables of a `.env` file to import. If empty, variables with names such as
    /// `…_API_KEY` are imported.
    pub(super) variables: &'a [String],
    /// Whether `--routes` narrows the imported keys to named routes. If so, keys that the list
    /// allows for only one of several routes are imported, too.
    pub(super) names_routes: bool,
}

/// Returns the most likely form of a list, by its file name and its text.
pub(super) fn guess(file_name: &str, text: &str) -> Format {
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let is_assignment = |line: &str| {
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').unwrap_or_default();
        // The `=` at the end of a base32 or base64 text is no assignment.
        let has_value = !value.trim_start_matches('=').is_empty();
        has_value
            && !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let is_structure =
        |line: &str| line.starts_with(['{', '[', '-']) || line.ends_with(':') || line.contains(": ");
    match () {
        () if file_name == ".env" || file_name.ends_with(".env") || lines().all(is_assignment) => Format::Env,
        () if lines().any(|line| line.ends_with(';') || line.starts_with("map ")) => Format::Nginx,
        () if lines().next().is_some_and(is_structure) => parse(text).map_or(Format::Litellm, structured),
        () => Format::Lines,
    }
}

/// Returns the form of a YAML or JSON list.
fn structured(root: Node) -> Format {
    match () {
        () if kong::is_one(&root) => Format::Kong,
        () if apisix::is_one(&root) => Format::Apisix,
        () if agentgateway::is_one(&root) => Format::Agentgateway,
        () => Format::Litellm,
    }
}

/// Reads the keys of a list.
///
/// # Errors
///
/// The text does not have the form `format`.
pub(super) fn read(format: Format, text: &str, options: Options<'_>) -> Result<ImportedKeys, String> {
    match format {
        Format::Lines => Ok(plain::lines(text)),
        Format::Env => Ok(plain::env(text, options.variables)),
        Format::Nginx => nginx::read(text),
        Format::Litellm => litellm::read(&parse(text)?),
        Format::Kong => Ok(kong::read(&parse_once(text)?)),
        Format::Apisix => Ok(apisix::read(&parse_once(text)?)),
        Format::Agentgateway => Ok(agentgateway::read(&parse_once(text)?, options.names_routes)),
    }
}

#[cfg(test)]
mod tests;
