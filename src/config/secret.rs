//! Secrets that are read from environment variables and files.

use zeroize::Zeroizing;

use crate::config::decode::Decoder;
use crate::config::field::Flattened;
use crate::config::files::ReadFile;
use crate::config::form::text;
use crate::config::section::{fields_of, section};
use crate::config::tree::Node;
use crate::{regular_file, unreadable};

/// A secret that was read when the configuration was loaded.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretValue {
    value: Zeroizing<String>,
    /// The file that the secret was read from, so that a reload notices a change of the file.
    pub(crate) file: Option<ReadFile>,
}

impl SecretValue {
    /// Makes a secret that was given to a command.
    pub(crate) fn given(text: String) -> Self {
        SecretValue { value: Zeroizing::new(text), file: None }
    }

    pub(crate) fn value(&self) -> &[u8] {
        self.value.as_bytes()
    }

    pub(super) fn text(&self) -> &str {
        &self.value
    }

    /// Returns the secret without white space around it.
    pub(super) fn trimmed(self) -> Self {
        SecretValue { value: Zeroizing::new(self.value.trim().to_owned()), ..self }
    }
}

impl std::fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretValue").field("file", &self.file).finish_non_exhaustive()
    }
}

section! {
    /// A secret in an environment variable or in a file.
    #[derive(Clone, Debug)]
    struct SecretSource in "a secret" {
        /// The name of the environment variable that contains the secret.
        env: Option<SecretValue> = text(in_variable).optional();
        /// The path of the file that contains the secret.
        file: Option<SecretValue> = text(in_file).optional();
    }
}

/// Returns the fields `env` and `file`, exactly one of which must be given; `what` is the name of
/// the secret in faults.
pub(super) fn env_or_file(what: &'static str) -> Flattened<SecretValue> {
    fields_of::<SecretSource>().then(move |d, node, source| match (source.env, source.file) {
        (Some(secret), None) | (None, Some(secret)) => Some(secret),
        _ => {
            d.fault(node.at, format!("{what} needs one of `env` and `file`"));
            None
        }
    })
}

fn in_variable(d: &mut Decoder<'_>, node: &Node) -> Option<SecretValue> {
    let name = d.word(node)?;
    let Some(value) = d.variable(&name) else {
        let message = format!("the environment variable {name} is not set");
        return d.hinted(node.at, message, "set it where bearward is started, or name a `file`");
    };
    Some(SecretValue { value: Zeroizing::new(value), file: None })
}

fn in_file(d: &mut Decoder<'_>, node: &Node) -> Option<SecretValue> {
    let path = d.secret_path(node)?;
    match regular_file::read_text(&path) {
        Ok(value) => {
            let file = Some(ReadFile::new(&path, &value));
            Some(SecretValue { value: Zeroizing::new(String::clone(&value)), file })
        }
        Err(error) => {
            let message = format!("{} can't be read: {error}", path.display());
            match unreadable::advice(&path, &error) {
                Some(advice) => d.hinted(node.at, message, advice),
                None => {
                    d.fault(node.at, message);
                    None
                }
            }
        }
    }
}
