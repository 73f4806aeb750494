//! What `bearward init` writes for a sidecar in Kubernetes, and what to do next.

use std::path::Path;

use super::answers::{DeploymentName, Namespace};
use super::files::NewFiles;
use super::texts::Manifest;
use crate::cli::failure::Failure;
use crate::cli::self_signed::SelfSigned;
use crate::cli::terminal::say;
use crate::config::presets::Preset;
use crate::config::{Address, Config, EndpointAddress};
use crate::key_store::edit;
use crate::keys::KeyRecord;
use crate::keys::token::Token;
use crate::shell_word::shell_word;

/// The sidecar of a Deployment.
pub(super) struct Sidecar<'a> {
    pub(super) deployment: &'a DeploymentName,
    pub(super) namespace: Option<&'a Namespace>,
    pub(super) upstream: &'a EndpointAddress,
    /// The routes that were asked for.
    pub(super) routes: Option<Preset>,
    /// The directory of the files.
    pub(super) into: &'a Path,
}

impl Sidecar<'_> {
    /// Returns the files, and what to do next.
    pub(super) fn made(&self, key: &KeyRecord) -> Result<(NewFiles, Vec<String>), Failure> {
        let (name, upstream) = (self.name(), self.local_upstream()?);
        let routes = self.routes.unwrap_or_else(|| {
            say("bearward: the routes are those of `openai`, as the server can't be asked from here; \
                 --routes vllm, llama-cpp, … names its kind");
            Preset::OpenAi
        });
        let manifest = Manifest {
            name: &name,
            deployment: self.deployment,
            namespace: self.namespace,
            upstream,
            routes,
        };
        // What can't be a configuration, such as bearward's own port as the upstream, is told now.
        Config::parse(Path::new("init"), &manifest.configuration(), &|_| None)?;
        let tls = SelfSigned::new(self.host_names(&name))?;
        let admin_token =
            Token::generate().map_err(|error| Failure::Failed(format!("no randomness: {error}")))?;
        let mut files = NewFiles::within(self.into);
        files.add("kubernetes.yaml", manifest.objects(), 0o644);
        files.add("sidecar.patch.yaml", manifest.patch(), 0o644);
        files.add("keys/first.yaml", edit::one_key_text(key), 0o600);
        files.add("admin/token", admin_token.reveal().to_owned(), 0o600);
        let adds = "--namespace adds the name by which other namespaces know it";
        let of_certificate = match self.namespace {
            Some(_) => format!("bearward: {}", tls.described()),
            None => format!("bearward: {}; {adds}", tls.described()),
        };
        files.add("tls/tls.crt", tls.certificate, 0o644);
        files.add("tls/tls.key", tls.private_key, 0o600);
        let steps = std::iter::once(of_certificate).chain(self.steps(&name, routes)).collect();
        Ok((files, steps))
    }

    /// The name of the objects: it begins with a letter, as that of a Service has to, and has no dot. `qwen2.5` has
    /// another one than `qwen2-5`, which may be in the same namespace.
    fn name(&self) -> String {
        format!("bearward-{}", self.deployment.as_str().replace('.', "--"))
    }

    /// Returns the upstream, which is in the same pod: elsewhere, others would reach it, too.
    fn local_upstream(&self) -> Result<&EndpointAddress, Failure> {
        let Some(authority) = self.upstream.authority() else {
            return Err(Failure::Usage(
                "a unix socket needs a volume that both containers mount: write the patch by deploy/kubernetes/sidecar"
                    .to_owned(),
            ));
        };
        if Address::Tcp(authority.to_owned()).is_local() {
            return Ok(self.upstream);
        }
        Err(Failure::Usage(format!(
            "{}: a sidecar's upstream is in the same pod, as http://127.0.0.1:8000 is; for servers in other pods, see \
             deploy/kubernetes/gateway",
            self.upstream
        )))
    }

    /// Returns the names by which clients know the Service, and `localhost` for a forwarded port.
    fn host_names(&self, name: &str) -> Vec<String> {
        let of_namespace = self.namespace.map(|namespace| {
            let full = format!("{name}.{}", namespace.as_str());
            [full.clone(), format!("{full}.svc"), format!("{full}.svc.cluster.local")]
        });
        [name.to_owned(), "localhost".to_owned()]
            .into_iter()
            .chain(of_namespace.into_iter().flatten())
            .collect()
    }

    fn steps(&self, name: &str, routes: Preset) -> Vec<String> {
        let deployment = self.deployment.as_str();
        let kubectl = match self.namespace {
            Some(namespace) => format!("kubectl -n {}", namespace.as_str()),
            None => "kubectl".to_owned(),
        };
        let at = |file: &str| shell_word(&self.into.join(file));
        let keys = format!("create secret generic {name}-keys --from-file={}", at("keys"));
        let health = format!("{}{}", self.upstream, path_of_health(routes));
        vec![
            format!("bearward: in the Deployment {deployment} itself, and applied together with the patch below:"),
            "  - the model server listens at 127.0.0.1, so nobody goes around bearward; Services that lead to its port lead \
             nowhere then"
                .to_owned(),
            format!("  - all its probes are `exec`, as in [curl, -sf, {health:?}]: httpGet no longer reaches it"),
            "bearward: then, with an image of deploy/docker/Dockerfile, whose address sidecar.patch.yaml names:".to_owned(),
            format!("  {kubectl} {keys}"),
            format!("  {kubectl} create secret tls {name}-tls --cert={} --key={}", at("tls/tls.crt"), at("tls/tls.key")),
            format!("  {kubectl} create secret generic {name}-admin --from-file={}", at("admin")),
            format!("  {kubectl} apply -f {}", at("kubernetes.yaml")),
            format!("  {kubectl} patch deployment {deployment} --patch-file {}", at("sidecar.patch.yaml")),
            format!("  {kubectl} rollout status deployment {deployment}"),
            "bearward: and, with the secret of the key in KEY:".to_owned(),
            format!("  {kubectl} port-forward service/{name} 8443:443 &"),
            format!(
                "  curl --cacert {} https://localhost:8443/v1/models -H \"Authorization: Bearer $KEY\"",
                at("tls/tls.crt")
            ),
            "bearward: after each `bearward keys create | rotate | revoke … --keys` of that directory:".to_owned(),
            format!("  {kubectl} {keys} --dry-run=client -o yaml | {kubectl} replace -f -"),
            format!("bearward: {}, {} and {} don't belong in a repository", at("keys"), at("tls"), at("admin")),
        ]
    }
}

/// Returns the path at which a kind of server tells that it is healthy.
fn path_of_health(routes: Preset) -> &'static str {
    match routes {
        Preset::Ollama => "/",
        Preset::Triton => "/v2/health/ready",
        _ => "/health",
    }
}
