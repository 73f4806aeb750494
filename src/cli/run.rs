//! `bearward run`: runs the proxy until a signal stops it.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::config_path::config_path;
use super::failure::Failure;
use super::signals::stop_signal;
use crate::app::{App, Surroundings};
use crate::clock::Clock;
use crate::config::Config;
use crate::hooks::Hooks;
use crate::net;
use crate::net::inherited::Inherited;
use crate::observe::trace::export;
use crate::observe::{Logs, log};
use crate::reload::Handle;

#[derive(Debug, Args)]
pub(super) struct Run {
    /// The configuration [default: $BEARWARD_CONFIG, ./bearward.yaml, /etc/bearward/config.yaml]
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["upstream", "keys", "listen", "admin", "routes"])]
    config: Option<PathBuf>,
    /// Run without a configuration, in front of this server: http://HOST:PORT or unix:/PATH
    #[arg(long, value_name = "URL", requires = "keys")]
    upstream: Option<String>,
    /// The key store (only with --upstream)
    #[arg(long, value_name = "PATH", requires = "upstream")]
    keys: Option<PathBuf>,
    /// Accept a key store that is a list of tokens in plaintext (only with --upstream)
    #[arg(long, requires = "upstream")]
    allow_plaintext: bool,
    /// The address to listen at (only with --upstream) [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", requires = "upstream")]
    listen: Option<String>,
    /// The address of the admin listener, or `off` (only with --upstream) [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS", requires = "upstream")]
    admin: Option<String>,
    /// A built-in set of routes (only with --upstream): openai, vllm, sglang, llama-cpp, ollama, tgi, triton,
    /// any [default: openai]
    #[arg(long, value_name = "NAME", requires = "upstream")]
    routes: Option<String>,
}

impl Run {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let config = self.configuration()?;
        let (logs, _flushed_at_the_end) = log::start(&config.log)
            .map_err(|(target, error)| Failure::Failed(format!("can't log to {target}: {error}")))?;
        let (logs, _sent_at_the_end) = match &config.traces {
            Some(traces) => {
                let (tracer, guard) = export::start(traces, &logs.threads, net::client::post)?;
                (logs.traced_by(tracer), Some(guard))
            }
            None => (logs, None),
        };
        report_panics();
        keep_memory_private();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let finished = runtime.block_on(async {
            let surroundings = Surroundings { logs, inherited: Inherited::from_environment()? };
            let hooks = Hooks::from_environment();
            let app = App::bind_within(&config, Clock::system(), hooks, surroundings)?;
            reload_on_hangup(app.reload_handle())?;
            reopen_on_signal(app.logs())?;
            let stop = stop_signal()?;
            Ok::<bool, Failure>(app.run(stop).await?)
        })?;
        // The exit does not wait for threads that still block.
        runtime.shutdown_background();
        if finished {
            Ok(())
        } else {
            Err(Failure::Failed("requests were cut at the drain timeout".to_owned()))
        }
    }

    fn configuration(self) -> Result<Config, Failure> {
        let (Some(upstream), Some(keys)) = (self.upstream, self.keys) else {
            let path = config_path(self.config)?;
            return Config::load(&path).map_err(|faults| Failure::InConfig(faults, path));
        };
        let listen = self.listen.unwrap_or_else(|| "127.0.0.1:8080".to_owned());
        // The flags become a JSON document, which is valid YAML, so they are parsed and checked
        // like a configuration file.
        let source = json!({
            "listeners": [{"address": listen}],
            "upstreams": [{"name": "upstream", "endpoints": [upstream]}],
            "keys": {"path": keys, "allow_plaintext": self.allow_plaintext},
            "admin": {"address": self.admin.as_deref().unwrap_or("127.0.0.1:9090")},
            "routes": self.routes.as_deref().unwrap_or("openai"),
        });
        Ok(Config::parse(Path::new("command line"), &source.to_string(), &|_| None)?)
    }
}

/// Starts a task that reloads what has changed at each SIGHUP, and logs the outcome.
fn reload_on_hangup(reload: Handle) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            if let Some(report) = reload.reload().await {
                report.log("SIGHUP");
            }
        }
    });
    Ok(())
}

/// Starts a task that reopens the log files at each SIGUSR1, which logrotate sends.
fn reopen_on_signal(logs: Logs) -> std::io::Result<()> {
    let mut asked = signal(SignalKind::user_defined1())?;
    tokio::spawn(async move {
        while asked.recv().await.is_some() {
            logs.reopen();
        }
    });
    Ok(())
}

/// Prevents core dumps of this process, and access of debuggers of other users to its memory. The
/// memory contains the private keys of certificates, and requests with their tokens.
fn keep_memory_private() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core dumps could not be turned off");
    }
}

/// Writes panics to the log like other errors. The message of a panic comes from the code, and
/// never contains a caller's input.
fn report_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, message, "a panic");
    }));
}
