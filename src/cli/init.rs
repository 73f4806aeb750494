//! `bearward init`: writes a configuration, a first key, and what runs bearward: a unit of systemd, or manifests of
//! Kubernetes.

mod addresses;
mod answers;
mod files;
mod kubernetes;
mod service;
mod texts;

use std::path::{Path, PathBuf};

use clap::Args;
use rustix::process::geteuid;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::model_server;
use super::self_signed::SelfSigned;
use super::terminal::{print, say};
use super::values;
use crate::config::presets::Preset;
use crate::config::{Config, EndpointAddress};
use crate::key_store::{edit, id_secret};
use crate::keys::token::Token;
use crate::keys::{KeyRecord, Permission};
use crate::net::server_client::ServerClient;
use crate::shell_word::shell_word;
use answers::{DeploymentName, Namespace, Place, Questions, Reached};
use files::NewFiles;
use kubernetes::Sidecar;
use service::{Service, is_hidden, is_plain};

/// The directory of a service.
const SERVICE_DIRECTORY: &str = "/etc/bearward";
/// How long the first key is valid.
const LIFETIME: &str = "90d";

#[derive(Debug, Args)]
pub(super) struct Init {
    /// How bearward will run; asked if it is not given [default: here]
    #[arg(long = "for", value_name = "PLACE")]
    place: Option<Place>,
    /// The model server; asked if it is not given [default: http://127.0.0.1:8000]
    #[arg(long, value_name = "URL", value_parser = EndpointAddress::parse)]
    upstream: Option<EndpointAddress>,
    /// Where clients reach bearward, an address or a domain; asked if it is not given [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", value_parser = Reached::parse)]
    listen: Option<Reached>,
    /// With --for kubernetes: the Deployment of the model server; asked if it is not given
    #[arg(long, value_name = "NAME", value_parser = DeploymentName::parse, conflicts_with = "listen")]
    deployment: Option<DeploymentName>,
    /// With --for kubernetes: the namespace of the Deployment [default: that of kubectl]
    #[arg(long, value_name = "NAME", value_parser = Namespace::parse, conflicts_with = "listen")]
    namespace: Option<Namespace>,
    /// What clients may ask for: openai, vllm, llama-cpp, ollama, triton, sglang, tgi, any [default: by what the
    /// model server tells of itself, else openai]
    #[arg(long, value_name = "NAME", value_parser = values::preset)]
    routes: Option<Preset>,
    /// The directory for the files [default: the working directory; with --for systemd: /etc/bearward]
    #[arg(long, value_name = "DIRECTORY")]
    into: Option<PathBuf>,
}

/// The first key.
struct FirstKey {
    token: Token,
    record: KeyRecord,
}

impl FirstKey {
    fn new() -> Result<Self, Failure> {
        let token = Token::generate().map_err(|error| Failure::Failed(format!("no randomness: {error}")))?;
        let permissions = [Permission::Read].into_iter().collect();
        let mut record = KeyRecord::new(token.key_id(), token.hash(), permissions);
        record.created_at = Some(values::now());
        record.expires_at = Some(values::ahead("--for", LIFETIME)?);
        record.name = Some("first".to_owned());
        Ok(FirstKey { token, record })
    }
}

impl Init {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let questions = Questions::new();
        let place = questions.place(self.place)?;
        let upstream = questions.upstream(self.upstream.clone())?;
        let key = FirstKey::new()?;
        let (files, steps) = match place {
            Place::Kubernetes => {
                if self.listen.is_some() {
                    let message =
                        "--listen is of no use with --for kubernetes: a Service leads to bearward".to_owned();
                    return Err(Failure::Usage(message));
                }
                let deployment = questions.deployment(self.deployment.clone())?;
                let sidecar = Sidecar {
                    deployment: &deployment,
                    namespace: self.namespace.as_ref(),
                    upstream: &upstream,
                    routes: self.routes,
                    into: self.into.as_deref().unwrap_or(Path::new("")),
                };
                sidecar.made(&key.record)?
            }
            Place::Here | Place::Systemd => {
                if self.deployment.is_some() || self.namespace.is_some() {
                    return Err(Failure::Usage(
                        "--deployment and --namespace need --for kubernetes".to_owned(),
                    ));
                }
                let reached = questions.reached(self.listen.clone())?;
                self.for_a_machine(place, &reached, &upstream, &key)?
            }
        };
        files.write()?;
        say(&format!("bearward: wrote {}", files.names()));
        say(&format!(
            "bearward: the key {} (first) may read and generate, for {LIFETIME}; its secret is shown this once",
            key.record.id
        ));
        print(&Zeroizing::new(format!("{}\n", key.token.reveal())))?;
        steps.iter().for_each(|step| say(step));
        Ok(())
    }

    /// Returns the files for a process on a machine, and what to do next.
    fn for_a_machine(
        &self,
        place: Place,
        reached: &Reached,
        upstream: &EndpointAddress,
        key: &FirstKey,
    ) -> Result<(NewFiles, Vec<String>), Failure> {
        let is_service = place == Place::Systemd;
        let default = if is_service { SERVICE_DIRECTORY } else { "" };
        let directory = self.into.clone().unwrap_or_else(|| default.into());
        // Elsewhere than in the working directory, the configuration names its files by whole paths.
        let directory = match self.into {
            Some(_) => std::path::absolute(&directory)?,
            None => directory,
        };
        if is_service {
            check_for_a_service(&directory)?;
        }
        let routes = routes(self.routes, upstream)?;
        let config_name = if is_service { "config.yaml" } else { "bearward.yaml" };
        // Before root gives the files to the service's group, the group of another caller reads nothing.
        let mode = if is_service && geteuid().is_root() { 0o640 } else { 0o600 };
        let mut files = NewFiles::within(&directory);
        let config = texts::configuration((upstream, routes), reached, &directory, is_service);
        // What can't be a configuration, such as a host that no authority certifies, is told now.
        Config::parse(Path::new("init"), &config, &|_| None)?;
        files.add(config_name, config, 0o644);
        files.add("keys.yaml", edit::yaml_text(std::slice::from_ref(&key.record)), mode);
        let has_certificate = matches!(reached, Reached::At(_)) && !reached.is_local();
        let certificate = has_certificate.then(|| SelfSigned::new(names(reached))).transpose()?;
        let mut notes: Vec<String> = about_certificate(reached, certificate.as_ref()).into_iter().collect();
        if let Some(tls) = certificate {
            files.add("tls.crt", tls.certificate, 0o644);
            files.add("tls.key", tls.private_key, mode);
        }
        if !is_service {
            let of_config = directory.join(config_name);
            notes.extend(steps_here(&of_config, &curl(reached, &directory)));
            return Ok((files, notes));
        }
        let no_randomness =
            |error: &dyn std::fmt::Display| Failure::Failed(format!("no randomness: {error}"));
        let admin_token = Token::generate().map_err(|error| no_randomness(&error))?;
        files.add("admin.token", admin_token.reveal().to_owned(), mode);
        // The service can't write here, so it can't make the secret of key ids itself.
        let secret = id_secret::hex().map_err(|error| no_randomness(&error))?;
        files.add(id_secret::FILE_NAME, format!("{}\n", *secret), mode);
        let binary = std::env::current_exe()?;
        let installs = (is_hidden(&binary) || !is_plain(&binary)).then(|| binary.clone());
        let binary = if installs.is_some() { service::BINARY.into() } else { binary };
        let mut owned = files.paths();
        // A directory that is there already may hold files of others.
        owned.extend((!directory.exists()).then(|| directory.display().to_string()));
        files.add("bearward.service", texts::unit(&directory, &binary), 0o644);
        if is_privileged(reached) {
            files.add("bearward.socket", texts::socket(&directory, reached), 0o644);
        }
        let has_socket = is_privileged(reached);
        let service = Service { directory: &directory, owned, installs: installs.as_deref(), has_socket };
        notes.extend(service.steps(&curl(reached, &directory)));
        Ok((files, notes))
    }
}

/// Returns what is to be known of the listener's certificate.
fn about_certificate(reached: &Reached, made: Option<&SelfSigned>) -> Option<String> {
    match (reached, made) {
        (Reached::ByName(domain), _) => Some(format!(
            "bearward: the certificate comes from Let's Encrypt a few seconds after the start, and to use it is to agree to its \
             terms (https://letsencrypt.org/repository): {domain} has to lead to this machine, and port 443 to be open"
        )),
        (Reached::At(_), Some(tls)) => Some(format!("bearward: {}", tls.described())),
        (Reached::At(_), None) => None,
    }
}

/// Checks that a unit can name a directory, and that its service can see it.
fn check_for_a_service(directory: &Path) -> Result<(), Failure> {
    let fault = if !is_plain(directory) {
        "a unit needs a path of letters, digits, `-`, `_` and `.`"
    } else if is_hidden(directory) {
        "a service can't see this directory; --into another one"
    } else {
        return Ok(());
    };
    Err(Failure::Usage(format!("{}: {fault}", directory.display())))
}

/// Returns the routes that were given, or those of the kind of server that listens at a URL.
fn routes(given: Option<Preset>, upstream: &EndpointAddress) -> Result<Preset, Failure> {
    let (None, EndpointAddress::Http(_) | EndpointAddress::Https(_)) = (given, upstream) else {
        return Ok(given.unwrap_or(Preset::OpenAi));
    };
    let client = ServerClient::new(&upstream.to_string(), None)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(match runtime.block_on(model_server::identify(&client)) {
        Ok(server) => {
            let preset = server.preset.unwrap_or(Preset::OpenAi);
            say(&format!("bearward: {upstream} answers; its routes are those of `{}`", preset.name()));
            preset
        }
        Err(error) => {
            say(&format!(
                "bearward: {upstream} can't be asked what it is ({error}), so the routes are those of `openai`; if it is \
                 another kind of server, set `routes` in the configuration: {}",
                Preset::ALL.map(|(name, _)| name).join(", ")
            ));
            Preset::OpenAi
        }
    })
}

/// Whether only a socket of systemd may listen at the port.
fn is_privileged(reached: &Reached) -> bool {
    let port = reached.listens_at().rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    port.is_some_and(|port| port < 1024)
}

/// Returns the host of the address to listen at.
fn host(reached: &Reached) -> &str {
    let host = reached.listens_at().rsplit_once(':').map_or("", |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Whether a listener at the host takes the connections to every address of this machine.
fn is_any(host: &str) -> bool {
    matches!(host, "0.0.0.0" | "::")
}

/// Returns the names and addresses by which clients on the network may know this machine.
fn names(reached: &Reached) -> Vec<String> {
    let host = host(reached);
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1", own.trim()].map(str::to_owned).to_vec();
    match is_any(host) {
        true => names.extend(addresses::of_this_machine()),
        false => names.push(host.to_owned()),
    }
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| !name.is_empty() && seen.insert(name.clone()));
    names
}

/// Returns a command that asks for the models.
fn curl(reached: &Reached, directory: &Path) -> String {
    let header = "-H \"Authorization: Bearer $KEY\"";
    match reached {
        Reached::ByName(domain) => format!("curl https://{domain}/v1/models {header}"),
        Reached::At(address) if reached.is_local() => format!("curl http://{address}/v1/models {header}"),
        Reached::At(address) => {
            let port = address.rsplit_once(':').map_or("", |(_, port)| port);
            let at = if is_any(host(reached)) { format!("localhost:{port}") } else { address.clone() };
            let ca = directory.join("tls.crt");
            format!("curl --cacert {} https://{at}/v1/models {header}", shell_word(&ca))
        }
    }
}

fn steps_here(config: &Path, curl: &str) -> Vec<String> {
    let named = if config == Path::new("bearward.yaml") {
        String::new()
    } else {
        format!(" --config {}", shell_word(config))
    };
    vec![
        "bearward: next, with the secret in KEY:".to_owned(),
        format!("  bearward check{named}"),
        format!("  bearward run{named}      # then, in another terminal:"),
        format!("  {curl}"),
    ]
}
