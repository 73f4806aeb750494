//! `bearward healthcheck`: asks the admin listener whether bearward is alive or ready. Containers
//! without curl use this command as their health check.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::Method;

use super::client;
use super::config_path::config_path;
use super::failure::Failure;
use super::terminal::print;
use crate::config::{Address, Admin, Config};

#[derive(Debug, Args)]
pub(super) struct Healthcheck {
    /// The admin listener: HOST:PORT or unix:/PATH [default: the configuration's, else
    /// 127.0.0.1:9090]
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// The configuration that names the admin listener [default: $BEARWARD_CONFIG, ./bearward.yaml,
    /// /etc/bearward/config.yaml]
    #[arg(long, short, value_name = "FILE", conflicts_with = "admin")]
    config: Option<PathBuf>,
    /// Ask whether bearward is ready for requests (/readyz), not whether the process is alive
    /// (/livez)
    #[arg(long)]
    ready: bool,
    /// How long to wait for the answer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

impl Healthcheck {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let address = self.address()?;
        let path = if self.ready { "/readyz" } else { "/livez" };
        let answer = client::ask(&address, &Method::GET, path, None, Duration::from_secs(self.timeout))?;
        let status = answer.status();
        match status.is_success() {
            true => print(&format!("{path} {status}\n")),
            false => Err(Failure::Failed(format!(
                "{path} {status}: {}",
                String::from_utf8_lossy(answer.body()).trim()
            ))),
        }
    }

    fn address(&self) -> Result<Address, Failure> {
        if let Some(address) = &self.admin {
            return Ok(client::address(address));
        }
        let default = Admin::default().address;
        // A server that runs without a configuration has its admin listener at the default address.
        let path = match config_path(self.config.clone()) {
            Err(Failure::NoConfiguration) => return Ok(default),
            found => found?,
        };
        // A faulty configuration file does not make a running server unhealthy: the server keeps
        // the last good configuration.
        let address = match Config::load(&path) {
            Ok(config) => config.admin.map(|admin| admin.address),
            Err(_) => Config::admin_address_of(&path).unwrap_or(Some(default)),
        };
        match address {
            Some(address) => Ok(reachable(address)),
            None => {
                Err(Failure::Failed("the admin listener is off, and nothing else answers probes".to_owned()))
            }
        }
    }
}

/// Returns the address at which a command reaches the listener: a loopback address if the listener
/// is bound to all addresses. The loopback address is numeric, because a container built from
/// scratch can't look up names.
fn reachable(address: Address) -> Address {
    let Address::Tcp(text) = address else { return address };
    let loopback = [("0.0.0.0:", "127.0.0.1:"), ("[::]:", "[::1]:")];
    let reached = loopback.iter().find_map(|(all, one)| Some(format!("{one}{}", text.strip_prefix(all)?)));
    Address::Tcp(reached.unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_is_reached_by_number() {
        let reached = |text: &str| reachable(Address::Tcp(text.to_owned())).to_string();
        assert_eq!(reached("0.0.0.0:9090"), "127.0.0.1:9090");
        assert_eq!(reached("[::]:9090"), "[::1]:9090");
        assert_eq!(reached("10.0.0.0:9090"), "10.0.0.0:9090");
    }
}
