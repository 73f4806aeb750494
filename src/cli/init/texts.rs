//! The texts that `bearward init` writes: the configuration, and what runs bearward. What the repository has for
//! operators in `deploy/` is taken from there, so that both stay the same.

use std::path::Path;

use super::answers::{DeploymentName, Reached};
use crate::cli::self_signed::SelfSigned;
use crate::config::EndpointAddress;
use crate::config::presets::Preset;

const UNIT: &str = include_str!("../../../deploy/systemd/bearward.service");
const SOCKET: &str = include_str!("../../../deploy/systemd/bearward.socket");
const SIDECAR: &str = include_str!("../../../deploy/kubernetes/sidecar/deployment.yaml");
const SIDECAR_CONFIG: &str = include_str!("../../../deploy/kubernetes/sidecar/config.yaml");

const OBJECTS: &str = include_str!("objects.yaml");

/// The place of a service's state.
const STATE: &str = "/var/lib/bearward/state";

/// Returns the configuration of a process on a machine. `directory`: the place of its files, as the configuration
/// names it; empty for the working directory. `is_service`: whether systemd runs it.
pub(super) fn configuration(
    (upstream, routes): (&EndpointAddress, Preset),
    reached: &Reached,
    directory: &Path,
    is_service: bool,
) -> String {
    let file = |name: &str| quoted(&directory.join(name).display().to_string());
    let tls = match reached {
        Reached::ByName(domain) if is_service => {
            format!("\n    tls: {{acme: {{domains: [{}]}}}}", quoted(domain))
        }
        Reached::ByName(domain) => {
            format!("\n    tls: {{acme: {{domains: [{}], storage: {}}}}}", quoted(domain), file("acme"))
        }
        Reached::At(_) if reached.is_local() => String::new(),
        Reached::At(_) => {
            format!("\n    tls: {{certificate: {}, private_key: {}}}", file("tls.crt"), file("tls.key"))
        }
    };
    let state = format!(
        "\n# Budgets, and limits of an hour and more, survive a restart here.\nstate:\n  path: {STATE}\n"
    );
    format!(
        "# bearward's configuration. `bearward check` reports every fault of it, `bearward schema` describes it, and a
# change takes effect within a second.
listeners:
  - address: {address}{tls}

# Probes, metrics and a status page, for this machine alone.
admin:
  address: 127.0.0.1:9090

# bearward keys create | list | rotate | revoke
keys:
  path: {keys}
{state}
# Let this server listen at 127.0.0.1, so that nobody goes around bearward. `bearward audit-upstream` tells whether
# somebody can.
upstreams:
  - name: model
    endpoints: [{upstream}]

# What clients may ask for: {presets}, or routes of your own.
routes: {routes}
",
        address = quoted(reached.listens_at()),
        keys = file("keys.yaml"),
        state = if is_service { state } else { String::new() },
        presets = Preset::ALL.map(|(name, _)| name).join(", "),
        routes = routes.name(),
        upstream = quoted(&upstream.to_string()),
    )
}

/// Returns a text as YAML in double quotes, which JSON's are too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns the unit of a service with its files in `directory`. `binary`: the program.
pub(super) fn unit(directory: &Path, binary: &Path) -> String {
    let text = UNIT.replace("/usr/bin/bearward", &binary.display().to_string());
    text.replace("/etc/bearward", &directory.display().to_string())
}

/// Returns the unit of the socket of a service.
pub(super) fn socket(directory: &Path, reached: &Reached) -> String {
    let text = SOCKET.replace("127.0.0.1:8080", reached.listens_at());
    text.replace("/etc/bearward", &directory.display().to_string())
}

/// What a manifest has of its own.
pub(super) struct Manifest<'a> {
    pub(super) deployment: &'a DeploymentName,
    pub(super) upstream: &'a EndpointAddress,
    pub(super) routes: Preset,
    /// The entry of the first key, as a file of a directory of keys.
    pub(super) key: &'a str,
    pub(super) admin_token: &'a str,
    pub(super) tls: &'a SelfSigned,
}

impl Manifest<'_> {
    /// Returns the objects beside a Deployment.
    pub(super) fn objects(&self) -> String {
        let upstream = self.upstream.to_string();
        let config = SIDECAR_CONFIG
            .replace("http://127.0.0.1:8000", &quoted(&upstream))
            .replace("routes: llama-cpp", &format!("routes: {}", self.routes.name()));
        let block = |text: &str| text.lines().collect::<Vec<_>>().join("\n    ");
        let values = [
            ("@name@", self.deployment.as_str().to_owned()),
            ("@config@", block(&config)),
            ("@key@", block(self.key)),
            ("@token@", self.admin_token.to_owned()),
            ("@certificate@", block(&self.tls.certificate)),
            ("@private_key@", block(&self.tls.private_key)),
        ];
        values.iter().fold(OBJECTS.to_owned(), |text, (mark, value)| text.replace(mark, value))
    }

    /// Returns the patch that puts bearward into the pods of the Deployment.
    pub(super) fn patch(&self) -> String {
        let name = self.deployment.as_str();
        let version = env!("CARGO_PKG_VERSION");
        let container = between(SIDECAR, "        - name: bearward\n", "      containers:\n")
            .replace("          # Your build of deploy/docker/Dockerfile; `images:` in kustomization.yaml says where it is.\n", "          # Your build of deploy/docker/Dockerfile.\n")
            .replace("          image: bearward\n", &format!("          image: bearward:{version}\n"))
            .replace(
                "          securityContext: &confined\n",
                "          securityContext:\n            runAsNonRoot: true\n            runAsUser: 65532\n            runAsGroup: 65532\n",
            );
        // Without a group that owns mounted Secrets, bearward reads them as others do; no other container mounts them.
        let volumes =
            between(SIDECAR, "      volumes:\n", "        - name: models\n").replace("0440", "0444");
        let (container, volumes) = (own_names(&container), own_names(&volumes));
        format!(
            "# Puts bearward into the pods of the Deployment {name}:
#   kubectl patch deployment {name} --patch-file sidecar.patch.yaml
spec:
  template:
    metadata:
      labels: {{bearward: {name}}}
    spec:
      # A sidecar stops last: longer than the model server's own end, and limits.drain_timeout (30 s).
      terminationGracePeriodSeconds: 90
      initContainers:
{container}{volumes}"
        )
    }
}

/// Returns a part of a pod in which volumes and ports have names that no other container of the pod has.
fn own_names(part: &str) -> String {
    let of_volumes =
        ["config", "keys", "tls", "admin", "state"].iter().fold(part.to_owned(), |text, name| {
            let in_map = text.replace(
                &format!("{{name: {name}, mountPath"),
                &format!("{{name: bearward-{name}, mountPath"),
            );
            in_map
                .replace(&format!("        - name: {name}\n"), &format!("        - name: bearward-{name}\n"))
        });
    let of_ports = ["https", "admin"].iter().fold(of_volumes, |text, name| {
        text.replace(
            &format!("{{name: {name}, containerPort"),
            &format!("{{name: bearward-{name}, containerPort"),
        )
    });
    of_ports.replace("port: admin}", "port: bearward-admin}")
}

/// Returns the lines from `first` on, up to `end`.
fn between<'t>(text: &'t str, first: &str, end: &str) -> &'t str {
    let start = text.find(first).unwrap_or_default();
    let rest = text.get(start..).unwrap_or_default();
    rest.get(..rest.find(end).unwrap_or(rest.len())).unwrap_or_default()
}
