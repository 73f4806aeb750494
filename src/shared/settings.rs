//! What the configuration says of the shared limits.

use std::path::Path;

use zeroize::Zeroizing;

use crate::config::fault::{Fault, Faults};
use crate::config::{Shared, WhenUnavailable};
use crate::redis_link::{Certificates, Server};
use crate::regular_file;

/// What the configuration says of the shared limits.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) server: Server,
    /// The beginning of the names of all keys in the server.
    pub(crate) prefix: String,
    /// Number of replicas that a replica assumes which has never reached the server.
    pub(crate) assumed: Option<u32>,
    pub(crate) when_unavailable: WhenUnavailable,
}

impl Settings {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    ///
    /// A file with a certificate can't be read, or is none; `tls` for a server without TLS.
    pub(crate) fn of(shared: &Shared) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let mut read = |path: &Path| match regular_file::read_text(path) {
            Ok(text) => Some(text.as_bytes().to_vec()),
            Err(error) => {
                faults.push(Fault::unreadable(path, "the file", &error));
                None
            }
        };
        let ca = shared.tls.ca.as_deref().and_then(&mut read);
        let client = shared.tls.client.as_ref();
        let client = client.and_then(|pair| Some((read(&pair.certificate)?, read(&pair.private_key)?)));
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
        let certificates = Certificates { ca, client };
        let checked = certificates.check(&shared.redis);
        checked.map_err(|what| Faults::from(Fault::of_file(Path::new("shared.tls"), what)))?;
        let password = shared.password.as_ref();
        let password =
            password.map(|password| Zeroizing::new(String::from_utf8_lossy(password.value()).into_owned()));
        let server = Server {
            address: shared.redis.clone(),
            password,
            certificates,
            timeout: shared.timeout,
            has_long_answers: false,
        };
        let Shared { prefix, replicas, when_unavailable, .. } = shared;
        Ok(Settings {
            server,
            prefix: prefix.clone(),
            assumed: *replicas,
            when_unavailable: *when_unavailable,
        })
    }
}
