//! Advice about a listener whose socket can't be bound.

use std::io;

use super::start_error::StartError;
use crate::config::Address;

/// Makes the error of a listener that can't be bound, with what to do about it. `doing`: the step that failed.
pub(super) fn while_listening<T>(
    doing: impl FnOnce() -> String,
    address: &Address,
    result: io::Result<T>,
) -> Result<T, StartError> {
    result.map_err(|error| {
        let error = match advice(address, error.kind()) {
            Some(advice) => io::Error::new(error.kind(), format!("{error}; {advice}")),
            None => error,
        };
        StartError::System { doing: doing(), error }
    })
}

fn advice(address: &Address, error: io::ErrorKind) -> Option<String> {
    let port = match address {
        Address::Tcp(text) => text.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()),
        Address::Unix(_) => None,
    };
    Some(match (address, error) {
        (Address::Tcp(text), io::ErrorKind::PermissionDenied) if port.is_some_and(|port| port < 1024) => {
            format!(
                "only root binds a port below 1024: let systemd hand down the socket (a socket unit with `ListenStream={text}`), \
                 give the service the capability CAP_NET_BIND_SERVICE, or take a port above 1023"
            )
        }
        (Address::Unix(path), io::ErrorKind::PermissionDenied) => {
            let directory = path.parent().unwrap_or(path);
            format!("this user can't make a socket in {}", directory.display())
        }
        (Address::Tcp(_), io::ErrorKind::AddrInUse) => match port {
            Some(port) => {
                format!("another program listens there; as root, `ss -ltnp sport = :{port}` names it")
            }
            None => "another program listens there; as root, `ss -ltnp` names it".to_owned(),
        },
        (Address::Unix(_), io::ErrorKind::AddrInUse) => {
            "another program listens there; as root, `ss -lxp` names it".to_owned()
        }
        (Address::Tcp(_), io::ErrorKind::AddrNotAvailable) => {
            "no interface of this machine has this address; `ip address` lists them".to_owned()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_cant_be_bound_is_told_with_what_to_do() {
        let told = |address: &str, kind: io::ErrorKind| {
            let address = Address::Tcp(address.to_owned());
            let doing = || format!("can't listen on {address}");
            while_listening(doing, &address, Err::<(), _>(kind.into())).unwrap_err().to_string()
        };
        let of_port = told("0.0.0.0:443", io::ErrorKind::PermissionDenied);
        assert!(of_port.starts_with("can't listen on 0.0.0.0:443: permission denied; "), "{of_port}");
        assert!(of_port.contains("ListenStream=0.0.0.0:443`") && of_port.contains("CAP_NET_BIND_SERVICE"));
        assert!(!told("0.0.0.0:8443", io::ErrorKind::PermissionDenied).contains("ListenStream"));
        assert!(told("[::1]:80", io::ErrorKind::AddrInUse).contains("`ss -ltnp sport = :80`"));
        assert!(told("10.9.8.7:80", io::ErrorKind::AddrNotAvailable).contains("no interface"));
        let unix = Address::Unix("/run/a/b.sock".into());
        assert!(advice(&unix, io::ErrorKind::PermissionDenied).unwrap().ends_with("in /run/a"));
        assert!(advice(&unix, io::ErrorKind::AddrInUse).unwrap().contains("ss -lxp"));
        assert_eq!(advice(&unix, io::ErrorKind::NotFound), None);
    }
}
