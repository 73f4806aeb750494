//! `bearward check`: reports every fault of configuration, keys and certificates, and starts
//! nothing.

mod probe;
mod without_key;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::config_path::config_path;
use super::failure::Failure;
use super::issuers;
use super::terminal::{print, say};
use crate::app::Prepared;
use crate::clock::Clock;
use crate::config::Config;
use crate::config::fault::{Fault, Faults};
use crate::identity::ShownSource;
use crate::observe::shown;
use crate::plural::plural;
use crate::reload::unreadable_by_group;
use crate::shared::{self, Missing};
use probe::Finding;

#[derive(Debug, Args)]
pub(super) struct Check {
    /// The configuration [default: $BEARWARD_CONFIG, ./bearward.yaml, /etc/bearward/config.yaml]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
    /// Also send each upstream requests whose bodies contain a harmless request, and report whether
    /// the upstream acts on the contained request: a connection to such an upstream must not be
    /// reused
    #[arg(long)]
    probe: bool,
}

impl Check {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let path = config_path(self.config)?;
        match prepared(&path) {
            Ok((prepared, store)) => {
                let issuers = issuers::asked(&prepared)?;
                let (secrets, mut warnings) = (prepared.secrets(), prepared.alarms);
                warnings.extend(prepared.warnings);
                warnings.extend(issuers.iter().flat_map(warnings_of));
                let probed = self.probe.then(|| probe::findings(&prepared.snapshot.upstreams)).transpose()?;
                let findings = probed.as_deref().unwrap_or_default();
                warnings.extend(findings.iter().filter_map(Finding::warning));
                let routes = &prepared.snapshot.routes;
                let mut report = json!({
                    "ok": true, "secrets": secrets, "faults": [], "warnings": warnings,
                    "without_key": without_key::json(routes),
                });
                if let Some(fields) = report.as_object_mut().filter(|_| !issuers.is_empty()) {
                    let shown = |source: &ShownSource| json!({"issuer": source.issuer, "keys": source.keys, "kinds": source.kinds});
                    fields.insert("issuers".to_owned(), issuers.iter().map(shown).collect());
                }
                if let Some(fields) = report.as_object_mut().filter(|_| self.probe) {
                    fields.insert("probes".to_owned(), findings.iter().map(Finding::json).collect());
                }
                match self.json {
                    true => print(&format!("{report}\n")),
                    false => {
                        let known = issuers.iter().filter(|source| source.fault.is_none());
                        known.for_each(|source| {
                            say(&format!("the issuer {} has these keys: {}", source.issuer, source.kinds))
                        });
                        findings
                            .iter()
                            .filter(|finding| finding.warning().is_none())
                            .for_each(|finding| say(&finding.line()));
                        warnings.iter().for_each(|warning| say(&format!("bearward: warning: {warning}")));
                        say(&format!("without a key: {}", without_key::text(routes)));
                        let secrets = plural(secrets, "secret", "secrets");
                        let store = store.display();
                        say(&format!("{}: no faults; the keys have {secrets}, in {store}", path.display()));
                        Ok(())
                    }
                }
            }
            Err(faults) => {
                if self.json {
                    print(&format!(
                        "{}\n",
                        json!({"ok": false, "faults": faults.as_json().collect::<Vec<_>>()})
                    ))?;
                }
                Err(Failure::InConfig(faults, path))
            }
        }
    }
}

/// Reads all files. For root, who can read each of them, the warnings also tell of those that a service can't read.
/// Reads everything that a configuration names. Returns it with the path of the key store.
fn prepared(path: &Path) -> Result<(Prepared, PathBuf), Faults> {
    let config = Config::load(path)?;
    let mut prepared = Prepared::of(&config, &Clock::system())?;
    if rustix::process::geteuid().is_root() {
        prepared.warnings.extend(unreadable_by_group(&config));
    }
    let faults = prepared.faults_of_keys();
    if !faults.0.is_empty() {
        return Err(faults);
    }
    prepared.warnings.extend(shared_warnings(&prepared)?);
    Ok((prepared, config.keys.path.path().to_owned()))
}

/// Returns warnings about an issuer that has no keys, or keys that are of no use.
fn warnings_of(source: &ShownSource) -> Vec<String> {
    let ShownSource { issuer, keys, unusable, fault, .. } = source;
    let unusable = unusable.iter().map(|why| format!("the issuer {issuer}: {}", shown::visible(why)));
    let mut warnings: Vec<String> = unusable.collect();
    match (fault, keys) {
        (Some((fault, _)), _) => {
            warnings.push(format!("the keys of the issuer {issuer} can't be had: {}", shown::visible(fault)))
        }
        (None, Some(0)) => {
            warnings.push(format!("the issuer {issuer} has no usable key, so none of its tokens is accepted"))
        }
        (None, _) => {}
    }
    warnings
}

/// Connects to the server for shared limits, if there is one. Returns a warning if it can't be reached.
///
/// # Errors
///
/// The server refuses what shared limits need.
fn shared_warnings(prepared: &Prepared) -> Result<Option<String>, Faults> {
    let Some(settings) = prepared.shared_settings() else { return Ok(None) };
    let fault = |message: String| Fault::of_file(Path::new("shared.redis"), message);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Faults(vec![fault(error.to_string())]))?;
    match runtime.block_on(shared::check(&settings)) {
        Ok(()) => Ok(None),
        Err(Missing::Connection(trouble)) => Ok(Some(format!("shared: {trouble}"))),
        Err(Missing::Permissions(troubles)) => {
            let needed = shared::COMMANDS.iter().map(|command| format!("+{command}")).collect::<Vec<_>>();
            let prefix = &settings.prefix;
            let hint = format!("the user needs {} on ~{prefix}:* ~{{{prefix}:*", needed.join(" "));
            Err(Faults(troubles.into_iter().map(|trouble| fault(trouble).hint(hint.clone())).collect()))
        }
    }
}
