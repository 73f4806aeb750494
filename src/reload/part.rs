//! The parts of the state that are reloaded from files.

/// A part of the state. Each part is reloaded independently of the other parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The configuration, and the files with credentials and upstreams' certificates that it names.
    Config,
    Keys,
    /// The listeners' certificates.
    Certificates,
    /// The files of denied tokens, and of issuers' keys.
    Identities,
}

impl Part {
    pub(crate) const ALL: [Part; 4] = [Part::Config, Part::Keys, Part::Certificates, Part::Identities];

    /// Returns the part's name in logs, metrics and answers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::Config => "config",
            Part::Keys => "keys",
            Part::Certificates => "certificates",
            Part::Identities => "identities",
        }
    }
}
