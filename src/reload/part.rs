//! The parts that are read from files.

/// A part that is reloaded by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The configuration, and the files that it takes credentials and upstreams' certificates from.
    Config,
    Keys,
    /// The listeners' certificates.
    Certificates,
}

impl Part {
    pub(crate) const ALL: [Part; 3] = [Part::Config, Part::Keys, Part::Certificates];

    /// The name in logs, metrics and answers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::Config => "config",
            Part::Keys => "keys",
            Part::Certificates => "certificates",
        }
    }
}
