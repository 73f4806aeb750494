//! `admin`: the admin listener.

use std::path::PathBuf;

use serde_json::json;

use crate::config::address::Address;
use crate::config::decode::Decoder;
use crate::config::fault::Position;
use crate::config::field::{Described, Field, Flattened};
use crate::config::form::{Form, boolean, list_of, off_or, path, text};
use crate::config::host::exact_host;
use crate::config::listener::own_address;
use crate::config::section::{nested, section};
use crate::config::tree::Node;

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admin {
    pub(crate) address: Address,
    /// The file of the token for changes, and off loopback for everything but the probes.
    pub(crate) token_file: Option<PathBuf>,
    /// The host names of the listener, beside addresses and `localhost`; in lower case, without a port.
    pub(crate) hosts: Vec<String>,
    /// Whether readiness needs, for each upstream, an endpoint that can be connected to.
    pub(crate) ready_with_upstreams: bool,
}

impl Default for Admin {
    fn default() -> Self {
        Written::default().at(Address::Tcp(DEFAULT_ADDRESS.to_owned()))
    }
}

const DEFAULT_ADDRESS: &str = "127.0.0.1:9090";

section! {
    /// Probes, metrics, the admin API and the status page.
    #[derive(Clone, Debug)]
    struct Written: Default in "admin" {
        /// host:port, or unix:/path.
        address: WrittenAddress = address().or(WrittenAddress::LeftOut);
        /// A file with the token for changes, and off loopback for everything but the probes.
        token_file: Option<PathBuf> = path().optional();
        /// Host names of the listener, beside addresses and localhost; requests for others are refused.
        hosts: Vec<String> = list_of(text(exact_host).shown()).or_default();
        /// Whether readiness needs, for each upstream, an endpoint that can be connected to.
        ready_with_upstreams: bool = boolean().or(false);
    }
}

#[derive(Clone, Debug)]
enum WrittenAddress {
    LeftOut,
    Off,
    At(Address),
}

fn address() -> Form<WrittenAddress> {
    let made = |_: &mut Decoder<'_>, _: &Node, address: Option<Address>| {
        Some(address.map_or(WrittenAddress::Off, WrittenAddress::At))
    };
    off_or(text(own_address)).then(made).written_as(|_| json!(DEFAULT_ADDRESS))
}

impl Written {
    fn at(self, address: Address) -> Admin {
        let Written { address: _, token_file, hosts, ready_with_upstreams } = self;
        Admin { address, token_file, hosts, ready_with_upstreams }
    }
}

/// The listener of a section; `None` where the section turns it off.
fn admin(d: &mut Decoder<'_>, written: Written) -> Option<Admin> {
    let address = match written.address.clone() {
        WrittenAddress::LeftOut => default_address(d),
        WrittenAddress::Off => return None,
        WrittenAddress::At(address) => address,
    };
    Some(written.at(address))
}

/// The field `admin`, which is a listener where it is left out, and `None` where it is off.
pub(super) fn field() -> Flattened<Option<Admin>> {
    const NAME: &str = "admin";
    let form = || off_or(nested::<Written>()).optional();
    Flattened::new(
        move |d, fields| {
            let written = form().decode(d, fields, NAME)?;
            let written = written.unwrap_or_else(|| Some(Written::default()));
            Some(written.and_then(|written| admin(d, written)))
        },
        move |fields: &mut Vec<Described>| {
            form().describe(NAME, "The admin listener; off turns it off", fields);
        },
    )
}

/// The default address, which no listener may have.
fn default_address(d: &mut Decoder<'_>) -> Address {
    let default = Admin::default().address;
    if let Some((address, at)) = d.context.listening.iter().find(|(own, _)| own.overlaps(&default)) {
        let message = format!("`{address}` is the address of the admin listener, unless `admin` has another");
        let at = *at;
        d.fault(at, message).hint = Some("another port, `admin: {address: …}` or `admin: off`".to_owned());
    }
    d.context.listening.push((default.clone(), Position::default()));
    default
}
