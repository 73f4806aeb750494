//! `admin`: the admin listener.

use std::path::PathBuf;

use serde_json::json;

use crate::config::address::Address;
use crate::config::decode::Decoder;
use crate::config::fault::Position;
use crate::config::field::{Described, Field, Flattened};
use crate::config::form::{Form, boolean, is_off, list_of, off_or, secret_path, text};
use crate::config::host::exact_host;
use crate::config::listener::own_address;
use crate::config::section::{nested, section};
use crate::config::tree::Node;

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admin {
    pub(crate) address: Address,
    /// The file of the admin token. Changes need the admin token or a key with the permission
    /// `admin`. If the listener is not on loopback, every request except probes needs one of these
    /// credentials.
    pub(crate) token_file: Option<PathBuf>,
    /// Host names that requests to the admin listener may have, in lower case, without a port.
    /// Addresses and `localhost` are always accepted.
    pub(crate) hosts: Vec<String>,
    /// Whether /readyz needs, in each upstream, an endpoint that accepts connections.
    pub(crate) ready_with_upstreams: bool,
}

impl Default for Admin {
    fn default() -> Self {
        Written::default().at(Address::Tcp(DEFAULT_ADDRESS.to_owned()))
    }
}

const DEFAULT_ADDRESS: &str = "127.0.0.1:9090";

section! {
    /// The admin listener: probes, metrics, the admin API and the status page.
    #[derive(Clone, Debug)]
    struct Written: Default in "admin" {
        /// The address of the admin listener: host:port, or unix:/path.
        address: WrittenAddress = address().or(WrittenAddress::LeftOut);
        /// The file of the admin token. Changes need this token or a key with the permission
        /// `admin`. On an address other than loopback, every request except probes needs one of
        /// them.
        token_file: Option<PathBuf> = secret_path().optional();
        /// Host names that requests to the admin listener may have, in addition to addresses and
        /// localhost. A request with any other Host is refused.
        hosts: Vec<String> = list_of(text(exact_host).shown()).or_default();
        /// Whether /readyz needs, in each upstream, an endpoint that accepts connections.
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

/// Returns the admin listener that the section `admin` describes; `None` if its address is `off`.
fn admin(d: &mut Decoder<'_>, written: Written) -> Option<Admin> {
    let address = match written.address.clone() {
        WrittenAddress::LeftOut => default_address(d),
        WrittenAddress::Off => return None,
        WrittenAddress::At(address) => address,
    };
    Some(written.at(address))
}

/// Returns the field `admin`. If the field is left out, its value is the default admin listener. If
/// the field is `off`, its value is `None`.
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

/// Decodes only the address of the admin listener in a configuration. Returns `None` if the address
/// is faulty, and `Some(None)` if the admin listener is off.
pub(super) fn address_in(d: &mut Decoder<'_>, configuration: &Node) -> Option<Option<Address>> {
    let default = Some(Admin::default().address);
    let Some(section) = configuration.field("admin") else { return Some(default) };
    if is_off(section) {
        return Some(None);
    }
    let Some(node) = section.field("address") else { return Some(default) };
    Some(match address().decode(d, node)? {
        WrittenAddress::LeftOut => default,
        WrittenAddress::Off => None,
        WrittenAddress::At(address) => Some(address),
    })
}

/// Returns the default address of the admin listener. Reports a fault if the address of one of
/// `listeners` overlaps it.
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
