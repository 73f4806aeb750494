//! The texts that `bearward init` writes: the configuration, and what runs bearward. What the repository has for
//! operators in `deploy/` is taken from there, so that both stay the same.

use std::path::Path;

use super::answers::{DeploymentName, Namespace, Reached};
use crate::config::presets::Preset;
use crate::config::{Address, EndpointAddress};

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
    let token = format!(
        "  # With it, `bearward reload` works, and the page changes what it may.\n  token_file: {}\n",
        file("admin.token")
    );
    let state = format!(
        "\n# Budgets, and limits of an hour and more, survive a restart here.\nstate:\n  path: {STATE}\n"
    );
    format!(
        "# bearward's configuration. `bearward check` reports every fault of it, and `bearward schema` describes it. A
# change takes effect within a second, except for fields that need a restart, such as `listeners` and `admin`, which
# `bearward reload` names.
listeners:
  - address: {address}{tls}

# Probes, metrics and a status page, for every user of this machine, and for nobody else.
admin:
  address: 127.0.0.1:9090
{token}
# bearward keys create | list | rotate | revoke
keys:
  path: {keys}
{state}
# Let this server listen at 127.0.0.1, so that nobody goes around bearward. `bearward audit-upstream` tells whether
# somebody can.
upstreams:
  - name: model
    endpoints: [{upstream}]{host}

# What clients may ask for: {presets}, or routes of your own.
routes: {routes}
",
        address = quoted(reached.listens_at()),
        keys = file("keys.yaml"),
        state = if is_service { state } else { String::new() },
        token = if is_service { token } else { String::new() },
        presets = Preset::ALL.map(|(name, _)| name).join(", "),
        routes = routes.name(),
        upstream = quoted(&upstream.to_string()),
        host = host_for(routes, upstream),
    )
}

/// Returns the `host` of an upstream for a kind of server. On loopback, Ollama answers 403 to requests that name
/// another host than one of its machine's own.
fn host_for(routes: Preset, upstream: &EndpointAddress) -> &'static str {
    let is_local =
        upstream.authority().is_some_and(|authority| Address::Tcp(authority.to_owned()).is_local());
    if routes == Preset::Ollama && is_local { "\n    host: localhost" } else { "" }
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
    /// The name of the objects, and the beginning of those of the Secrets.
    pub(super) name: &'a str,
    pub(super) deployment: &'a DeploymentName,
    pub(super) namespace: Option<&'a Namespace>,
    pub(super) upstream: &'a EndpointAddress,
    pub(super) routes: Preset,
}

impl Manifest<'_> {
    /// Returns bearward's configuration.
    pub(super) fn configuration(&self) -> String {
        SIDECAR_CONFIG
            .replace(
                "[http://127.0.0.1:8000]",
                &format!("[{}]{}", quoted(&self.upstream.to_string()), host_for(self.routes, self.upstream)),
            )
            .replace("routes: llama-cpp", &format!("routes: {}", self.routes.name()))
    }

    /// Returns the objects beside a Deployment.
    pub(super) fn objects(&self) -> String {
        let config = self.configuration().lines().collect::<Vec<_>>().join("\n    ");
        let values = [
            ("@name@", self.name.to_owned()),
            ("@deployment@", self.deployment.as_str().to_owned()),
            (", namespace: @namespace@", self.of_namespace()),
            ("@config@", config),
        ];
        values.iter().fold(OBJECTS.to_owned(), |text, (mark, value)| text.replace(mark, value))
    }

    /// Returns what names the namespace in the metadata of an object.
    fn of_namespace(&self) -> String {
        self.namespace
            .map_or(String::new(), |namespace| format!(", namespace: {}", quoted(namespace.as_str())))
    }

    /// Returns the patch that puts bearward into the pods of the Deployment.
    pub(super) fn patch(&self) -> String {
        let name = self.name;
        let version = env!("CARGO_PKG_VERSION");
        let container = between(SIDECAR, "        - name: bearward\n", "      containers:\n")
            .replace("          # Your build of deploy/docker/Dockerfile; `images:` in kustomization.yaml says where it is.\n", "          # Your build of deploy/docker/Dockerfile, by its address in your registry.\n")
            .replace("          image: bearward\n", &format!("          image: bearward:{version}\n"))
            .replace(
                "          securityContext: &confined\n",
                "          securityContext:\n            runAsNonRoot: true\n            runAsUser: 65532\n            runAsGroup: 65532\n            seccompProfile: {type: RuntimeDefault}\n",
            );
        // Without a group that owns mounted Secrets, bearward reads them as others do; no other container mounts them.
        let volumes =
            between(SIDECAR, "      volumes:\n", "        - name: models\n").replace("0440", "0444");
        let volumes = ["keys", "tls", "admin"].iter().fold(volumes, |text, secret| {
            text.replace(&format!("secretName: bearward-{secret},"), &format!("secretName: {name}-{secret},"))
        });
        let volumes = volumes.replace("configMap: {name: bearward}", &format!("configMap: {{name: {name}}}"));
        let (container, volumes) = (own_names(&container), own_names(&volumes));
        format!(
            "# Puts bearward into the pods of a Deployment: by `kubectl patch`, or with
# `patches: [{{path: sidecar.patch.yaml, target: {{kind: Deployment, name: {deployment}}}}}]` in the kustomization
# that has the Deployment. Where manifests come from
# git (Argo CD, Flux), it belongs there: what is patched in the cluster alone is undone.
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {deployment}{namespace}}}
spec:
  template:
    metadata:
      labels: {{bearward: {deployment}}}
    spec:
      # A sidecar stops last: longer than the model server's own end, and limits.drain_timeout (30 s). If the
      # Deployment has a longer time, write that here.
      terminationGracePeriodSeconds: 90
      initContainers:
{container}{volumes}",
            deployment = quoted(self.deployment.as_str()),
            namespace = self.of_namespace(),
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
