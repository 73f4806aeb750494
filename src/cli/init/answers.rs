//! What `bearward init` needs to know: from arguments, else from questions, else by default.

use std::io::{BufRead, IsTerminal, Write};
use std::net::SocketAddr;

use clap::ValueEnum;

use crate::cli::failure::Failure;
use crate::config::{Address, EndpointAddress};

/// How bearward will run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Place {
    /// By hand, in the directory of its files
    Here,
    /// As a service of systemd
    Systemd,
    /// In the pod of the model server
    Kubernetes,
}

/// Where clients reach bearward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// At an address of this machine.
    At(String),
    /// By a name in the DNS of the internet, for which bearward gets a certificate.
    ByName(String),
}

impl Reached {
    /// Parses an IP address or `localhost` with a port, or a domain.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let is_of_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_label =
            |label: &str| !label.is_empty() && !label.starts_with('-') && label.bytes().all(is_of_label);
        let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
        let is_domain =
            text.contains('.') && text.split('.').all(is_label) && !text.split('.').all(is_number);
        if is_domain {
            return Ok(Reached::ByName(text.to_owned()));
        }
        // A socket of systemd has no name.
        let numbers = text.replace("localhost:", "127.0.0.1:");
        match numbers.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(Reached::At(numbers)),
            _ => Err("an address as in 127.0.0.1:8080 or 0.0.0.0:8443, or a domain as in api.example.com"
                .to_owned()),
        }
    }

    /// The address to listen at.
    pub(super) fn listens_at(&self) -> &str {
        match self {
            Reached::At(address) => address,
            Reached::ByName(_) => "0.0.0.0:443",
        }
    }

    /// Whether only this machine can connect.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Reached::At(address) => Address::Tcp(address.clone()).is_local(),
            Reached::ByName(_) => false,
        }
    }
}

/// The name of a Deployment (RFC 1123, section 2.1), short enough for `bearward-NAME` to be a Service's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeploymentName(String);

impl DeploymentName {
    const LONGEST: usize = 54;

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.len() <= Self::LONGEST && text.split('.').all(is_label) {
            true => Ok(DeploymentName(text.to_owned())),
            false => Err(format!(
                "the name of a Deployment: lower-case letters, digits, `-` and `.`, at most {} of them",
                Self::LONGEST
            )),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a namespace in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Namespace(String);

impl Namespace {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match is_label(text) {
            true => Ok(Namespace(text.to_owned())),
            false => Err("the name of a namespace: lower-case letters, digits and `-`".to_owned()),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_filled = !text.is_empty() && text.len() <= 63;
    is_filled && text.bytes().all(is_plain) && !text.starts_with('-') && !text.ends_with('-')
}

/// Asks the questions whose answers no argument gives.
pub(super) struct Questions {
    /// Whether somebody can answer.
    is_asking: bool,
}

impl Questions {
    pub(super) fn new() -> Self {
        let is_asking = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        Questions { is_asking }
    }

    /// Returns what was given, else the answer to a question, else the default.
    fn answer<T>(
        &self,
        given: Option<T>,
        question: &str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Failure> {
        if let Some(given) = given {
            return Ok(given);
        }
        loop {
            let answer = match self.is_asking {
                true => ask(&format!("{question} [{default}] "))?,
                false => String::new(),
            };
            let answer = if answer.is_empty() { default } else { &answer };
            match parse(answer) {
                Ok(parsed) => return Ok(parsed),
                Err(needed) if self.is_asking => say(&format!("`{answer}`: {needed}\n"))?,
                Err(needed) => return Err(Failure::Usage(needed)),
            }
        }
    }

    pub(super) fn place(&self, given: Option<Place>) -> Result<Place, Failure> {
        self.answer(given, "How will bearward run: here, systemd or kubernetes?", "here", |text| {
            Place::from_str(text, true)
        })
    }

    pub(super) fn upstream(&self, given: Option<EndpointAddress>) -> Result<EndpointAddress, Failure> {
        let question = "The URL of the model server, as bearward reaches it?";
        self.answer(given, question, "http://127.0.0.1:8000", EndpointAddress::parse)
    }

    pub(super) fn reached(&self, given: Option<Reached>) -> Result<Reached, Failure> {
        let question = "Where do clients reach bearward: an address, or a domain?";
        self.answer(given, question, "127.0.0.1:8080", Reached::parse)
    }

    pub(super) fn deployment(&self, given: Option<DeploymentName>) -> Result<DeploymentName, Failure> {
        let question = "The name of the model server's Deployment?";
        if given.is_none() && !self.is_asking {
            return Err(Failure::Usage(
                "--for kubernetes needs --deployment NAME, that of the model server".to_owned(),
            ));
        }
        self.answer(given, question, "model", DeploymentName::parse)
    }
}

fn say(text: &str) -> Result<(), Failure> {
    let mut err = std::io::stderr().lock();
    Ok(err.write_all(text.as_bytes()).and_then(|()| err.flush())?)
}

fn ask(question: &str) -> Result<String, Failure> {
    say(question)?;
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line)? {
        0 => Err(Failure::Failed("no answer; nothing was written".to_owned())),
        _ => Ok(line.trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_a_domain_are_told_apart() {
        let at = |text: &str| Ok(Reached::At(text.to_owned()));
        assert_eq!(Reached::parse("127.0.0.1:8080"), at("127.0.0.1:8080"));
        assert_eq!(Reached::parse("[::]:8443"), at("[::]:8443"));
        assert_eq!(Reached::parse("localhost:80"), at("127.0.0.1:80"));
        assert_eq!(Reached::parse("api.example.com"), Ok(Reached::ByName("api.example.com".to_owned())));
        for none in
            ["", "8080", "127.0.0.1", "::1", "localhost", "a.example:x", "127.0.0.1:0", "127.0.0.1:99999"]
        {
            assert!(Reached::parse(none).is_err(), "{none}");
        }
        assert!(Reached::parse("127.0.0.1:1").unwrap().is_local());
        assert!(!Reached::parse("0.0.0.0:1").unwrap().is_local());
        assert!(!Reached::parse("localhost.example").unwrap().is_local());
    }

    #[test]
    fn the_name_of_a_deployment_can_be_written_into_a_manifest() {
        for name in ["llama-3", "qwen2.5", "123", &"a".repeat(54)] {
            assert!(DeploymentName::parse(name).is_ok(), "{name}");
        }
        for none in ["", "-a", "a-", "A", "a b", "a\nb: c", "a..b", ".a", "models/a", &"a".repeat(55)] {
            assert!(DeploymentName::parse(none).is_err(), "{none}");
        }
        assert!(Namespace::parse("models").is_ok() && Namespace::parse("a.b").is_err());
    }
}
