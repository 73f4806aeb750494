//! `bearward check`: reports every fault of configuration, keys and certificates, and starts
//! nothing.

mod probe;

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::config_path::config_path;
use super::failure::Failure;
use super::terminal::{print, say};
use crate::app::Prepared;
use crate::clock::Clock;
use crate::config::Config;
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
        let prepared = Config::load(&path).and_then(|config| Prepared::of(&config, &Clock::system()));
        let prepared = prepared.and_then(|prepared| match prepared.refused.0.is_empty() {
            true => Ok(prepared),
            false => Err(prepared.refused),
        });
        match prepared {
            Ok(prepared) => {
                let (secrets, mut warnings) = (prepared.secrets(), prepared.warnings);
                let probed = self.probe.then(|| probe::findings(&prepared.snapshot.upstreams)).transpose()?;
                let findings = probed.as_deref().unwrap_or_default();
                warnings.extend(findings.iter().filter_map(Finding::warning));
                let mut report = json!({"ok": true, "secrets": secrets, "faults": [], "warnings": warnings});
                if let Some(fields) = report.as_object_mut().filter(|_| self.probe) {
                    fields.insert("probes".to_owned(), findings.iter().map(Finding::json).collect());
                }
                match self.json {
                    true => print(&format!("{report}\n")),
                    false => {
                        findings
                            .iter()
                            .filter(|finding| finding.warning().is_none())
                            .for_each(|finding| say(&finding.line()));
                        warnings.iter().for_each(|warning| say(&format!("bearward: warning: {warning}")));
                        say(&format!("{}: no faults; the keys have {secrets} secrets", path.display()));
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
