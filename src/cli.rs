//! Parses the command line and runs the command.
//!
//! Exit codes: 0 success, 1 failure, 2 wrong usage, 78 faults in files
//! (`EX_UNAVAILABLE` and `EX_CONFIG` of sysexits).

mod audit_upstream;
mod check;
mod client;
mod config_path;
mod demo;
mod explain;
mod failure;
mod healthcheck;
mod init;
mod issuers;
mod keys;
#[cfg(feature = "completions")]
mod manual;
mod model_server;
mod reload;
mod run;
mod self_signed;
mod shown;
mod signals;
mod terminal;
mod usage;
mod usage_source;
mod values;

use std::ffi::OsStr;
use std::process::ExitCode;

#[cfg(feature = "completions")]
use clap::CommandFactory;
use clap::{Parser, Subcommand};

use crate::config::schema;
use crate::keys::Credential;
use failure::{Failure, NO_CONFIGURATION};
use terminal::{print, say};

const EX_CONFIG: u8 = 78;

/// A reverse-proxy authentication sidecar: TLS, Bearer keys, permissions and rate limits in front
/// of a server that lacks them.
#[derive(Debug, Parser)]
#[command(name = "bearward", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy, with a configuration or with --upstream and --keys alone
    Run(run::Run),
    /// Show the main features with an embedded model server, throw-away keys and a throw-away certificate
    Demo(demo::Demo),
    /// Write a configuration, a first key, and the unit or the manifests that run bearward
    Init(init::Init),
    /// Report every fault of configuration, keys and certificates, and start nothing
    Check(check::Check),
    /// Ask a model server without a key, and say what stands open to those who go around bearward
    AuditUpstream(audit_upstream::AuditUpstream),
    /// Make keys, and hashes of keys
    Keys(keys::Keys),
    /// Make a running bearward read its files again, and print the outcome
    Reload(reload::Reload),
    /// Show which route, permission and limits apply to a request, and why; or what an error code
    /// means
    Explain(explain::Explain),
    /// Show what keys have used: requests and tokens, by key, group, model and day
    Usage(usage::Usage),
    /// Print the JSON Schema of the configuration, for editors
    Schema,
    /// Ask a running bearward's probe, for containers without curl
    Healthcheck(healthcheck::Healthcheck),
    /// Print the completions of a shell: bearward completions bash >
    /// /etc/bash_completion.d/bearward
    #[cfg(feature = "completions")]
    Completions(manual::Completions),
    /// Print the manual page: bearward man | man -l -
    #[cfg(feature = "completions")]
    Man,
    /// Print the version
    Version,
}

/// Parses the arguments and runs the command.
pub fn main() -> ExitCode {
    if std::env::args_os().any(|argument| holds_token(&argument)) {
        let message = "a token in the arguments is seen by everybody on this machine: rotate its key, and give tokens on \
                       standard input";
        return complain(message, 2);
    }
    // clap ends the process itself for `--help` (exit code 0) and for wrong usage (exit code 2).
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Run(run) => run.execute(),
        Command::Demo(demo) => demo.execute(),
        Command::Init(init) => init.execute(),
        Command::Check(check) => check.execute(),
        Command::AuditUpstream(audit) => audit.execute(),
        Command::Keys(keys) => keys.execute(),
        Command::Reload(reload) => reload.execute(),
        Command::Explain(explain) => explain.execute(),
        Command::Usage(usage) => usage.execute(),
        Command::Schema => print(&format!("{:#}\n", schema::of_config())),
        Command::Healthcheck(healthcheck) => healthcheck.execute(),
        #[cfg(feature = "completions")]
        Command::Completions(completions) => completions.print(Arguments::command()),
        #[cfg(feature = "completions")]
        Command::Man => manual::print_page(Arguments::command()),
        Command::Version => print(&format!("bearward {}\n", env!("CARGO_PKG_VERSION"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Failed(message)) => complain(&message, 1),
        Err(Failure::Usage(message)) => complain(&message, 2),
        Err(Failure::NoConfiguration) => complain(NO_CONFIGURATION, EX_CONFIG),
        Err(Failure::Faults(faults)) => complain(&faults.to_string(), EX_CONFIG),
        Err(Failure::InConfig(faults, config)) => complain(&shown::faults(&faults, &config), EX_CONFIG),
    }
}

/// Whether a command-line argument is a whole bearward token, or ends with one. Such a command ends
/// with an error, and the message does not quote the argument.
fn holds_token(argument: &OsStr) -> bool {
    let bytes = argument.as_encoded_bytes();
    let last_word = bytes.rsplit(|byte| matches!(byte, b'=' | b' ')).next().unwrap_or_default();
    Credential::new(last_word).token_id().is_some()
}

fn complain(message: &str, code: u8) -> ExitCode {
    for line in message.lines() {
        say(&format!("bearward: {line}"));
    }
    ExitCode::from(code)
}
