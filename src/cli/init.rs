//! `bearward init`: writes a configuration, a first key, and what runs bearward: a unit of systemd, or manifests of
//! Kubernetes.

mod answers;
mod files;
mod texts;

use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::model_server;
use super::self_signed::SelfSigned;
use super::terminal::{print, say};
use super::values;
use crate::config::presets::Preset;
use crate::config::{Config, EndpointAddress};
use crate::key_store::edit;
use crate::keys::token::Token;
use crate::keys::{KeyRecord, Permission};
use crate::net::server_client::ServerClient;
use answers::{DeploymentName, Place, Questions, Reached};
use files::NewFiles;
use texts::Manifest;

/// The directory of a service.
const SERVICE_DIRECTORY: &str = "/etc/bearward";
/// Directories that the unit of systemd can't see.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];
/// The program, for a service, if it runs from a directory that a service can't see.
const SERVICE_BINARY: &str = "/usr/local/bin/bearward";

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
    /// With --for kubernetes: the Deployment of the model server; asked if it is not given [default: model]
    #[arg(long, value_name = "NAME", value_parser = DeploymentName::parse, conflicts_with = "listen")]
    deployment: Option<DeploymentName>,
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
                self.for_kubernetes(&deployment, &upstream, &key)?
            }
            Place::Here | Place::Systemd => {
                if self.deployment.is_some() {
                    return Err(Failure::Usage("--deployment needs --for kubernetes".to_owned()));
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
        if is_service && !is_plain(&directory) {
            let message =
                format!("{}: a unit needs a path of letters, digits, `-`, `_` and `.`", directory.display());
            return Err(Failure::Usage(message));
        }
        if is_service && is_hidden(&directory) {
            return Err(Failure::Usage(format!(
                "{}: a service can't see this directory; --into another one",
                directory.display()
            )));
        }
        let routes = routes(self.routes, upstream)?;
        let config_name = if is_service { "config.yaml" } else { "bearward.yaml" };
        let mode = if is_service { 0o640 } else { 0o600 };
        let mut files = NewFiles::within(&directory);
        let config = texts::configuration((upstream, routes), reached, &directory, is_service);
        // What can't be a configuration, such as a host that no authority certifies, is told now.
        Config::parse(Path::new("init"), &config, &|_| None)?;
        files.add(config_name, config, 0o644);
        files.add("keys.yaml", edit::yaml_text(std::slice::from_ref(&key.record)), mode);
        let has_certificate = matches!(reached, Reached::At(_)) && !reached.is_local();
        if has_certificate {
            let tls = SelfSigned::new(names(reached))?;
            files.add("tls.crt", tls.certificate, 0o644);
            files.add("tls.key", tls.private_key, mode);
        }
        if !is_service {
            let of_config = directory.join(config_name);
            return Ok((files, steps_here(&of_config, &curl(reached, &directory))));
        }
        let binary = std::env::current_exe()?;
        let installs = (is_hidden(&binary) || !is_plain(&binary)).then(|| binary.clone());
        let binary = if installs.is_some() { SERVICE_BINARY.into() } else { binary };
        let mut owned = files.paths();
        // A directory that is there already may hold files of others.
        owned.extend((!directory.exists()).then(|| directory.display().to_string()));
        files.add("bearward.service", texts::unit(&directory, &binary), 0o644);
        if is_privileged(reached) {
            files.add("bearward.socket", texts::socket(&directory, reached), 0o644);
        }
        let service = Service { directory: &directory, owned, installs: installs.as_deref() };
        let steps = service.steps(is_privileged(reached), &curl(reached, &directory));
        Ok((files, steps))
    }

    /// Returns the files for a sidecar, and what to do next.
    fn for_kubernetes(
        &self,
        deployment: &DeploymentName,
        upstream: &EndpointAddress,
        key: &FirstKey,
    ) -> Result<(NewFiles, Vec<String>), Failure> {
        let service = ["bearward", "localhost"].map(str::to_owned).to_vec();
        let (tls, admin_token) = (SelfSigned::new(service)?, Token::generate());
        let admin_token = admin_token.map_err(|error| Failure::Failed(format!("no randomness: {error}")))?;
        let manifest = Manifest {
            deployment,
            upstream,
            // The server in the pod can't be asked from here.
            routes: self.routes.unwrap_or(Preset::OpenAi),
            key: &edit::one_key_text(&key.record),
            admin_token: admin_token.reveal(),
            tls: &tls,
        };
        let mut files = NewFiles::within(self.into.as_deref().unwrap_or(Path::new("")));
        files.add("kubernetes.yaml", manifest.objects(), 0o600);
        files.add("sidecar.patch.yaml", manifest.patch(), 0o644);
        let name = deployment.as_str();
        let steps = [
            "bearward: next, with the secret in KEY, the model server at 127.0.0.1 in its pod, and an image of deploy/docker/Dockerfile:".to_owned(),
            "  (probes of the model server by httpGet no longer reach it: use exec, or bearward's)".to_owned(),
            "  kubectl apply -f kubernetes.yaml".to_owned(),
            format!("  kubectl patch deployment {name} --patch-file sidecar.patch.yaml"),
            format!("  kubectl rollout status deployment {name}"),
            "  kubectl port-forward service/bearward 8443:443 &".to_owned(),
            "  curl -k https://localhost:8443/v1/models -H \"Authorization: Bearer $KEY\"".to_owned(),
        ];
        Ok((files, steps.to_vec()))
    }
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
            say(&format!("bearward: {upstream} could not be asked what it is ({error}): `routes: openai`"));
            Preset::OpenAi
        }
    })
}

fn is_hidden(path: &Path) -> bool {
    HIDDEN.iter().any(|hidden| path.starts_with(hidden))
}

/// Whether only a socket of systemd may listen at the port.
fn is_privileged(reached: &Reached) -> bool {
    let port = reached.listens_at().rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    port.is_some_and(|port| port < 1024)
}

/// Returns the names and addresses by which clients on the network may know this machine.
fn names(reached: &Reached) -> Vec<String> {
    let host = reached.listens_at().rsplit_once(':').map_or("", |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let mut names: Vec<String> =
        ["localhost", "127.0.0.1", "::1", own.trim(), host].map(str::to_owned).to_vec();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| !name.is_empty() && name != "0.0.0.0" && name != "::" && seen.insert(name.clone()));
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
            let ca = directory.join("tls.crt");
            format!("curl --cacert {} https://localhost:{port}/v1/models {header}", ca.display())
        }
    }
}

fn steps_here(config: &Path, curl: &str) -> Vec<String> {
    let named = if config == Path::new("bearward.yaml") {
        String::new()
    } else {
        format!(" --config {}", config.display())
    };
    vec![
        "bearward: next, with the secret in KEY:".to_owned(),
        format!("  bearward check{named}"),
        format!("  bearward run{named}"),
        format!("  {curl}"),
    ]
}

/// What the steps for a service are about.
struct Service<'a> {
    directory: &'a Path,
    /// The files that the service reads, and their directory if it is new.
    owned: Vec<String>,
    /// The program, if a service can't see it where it is.
    installs: Option<&'a Path>,
}

impl Service<'_> {
    fn steps(&self, has_socket: bool, curl: &str) -> Vec<String> {
        let Service { directory, owned, installs } = self;
        let mut steps = vec!["bearward: next, as root, with the secret in KEY:".to_owned()];
        if let Some(binary) = installs {
            steps.push(format!("  install -m 0755 {} {SERVICE_BINARY}", binary.display()));
        }
        let units = if has_socket { "bearward.socket bearward.service" } else { "bearward.service" };
        let of_directory = units.split(' ').map(|unit| directory.join(unit).display().to_string());
        steps.extend([
            "  useradd --system --no-create-home --shell /usr/sbin/nologin bearward".to_owned(),
            format!("  chown root:bearward {}", owned.join(" ")),
            format!("  mv {} /etc/systemd/system/", of_directory.collect::<Vec<_>>().join(" ")),
            "  systemctl daemon-reload".to_owned(),
            format!("  systemctl enable --now {units}"),
            format!("  {curl}"),
        ]);
        steps
    }
}

/// Whether a path can be written into a unit and into a shell's command as it is.
fn is_plain(path: &Path) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./".contains(byte);
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().all(is_plain) && !path.components().any(|part| part == std::path::Component::ParentDir)
}
