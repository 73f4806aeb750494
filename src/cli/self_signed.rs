//! Certificates that commands make, to begin with.

use super::failure::Failure;

/// A certificate and its private key, in PEM.
pub(super) struct SelfSigned {
    pub(super) certificate: String,
    pub(super) private_key: String,
}

impl SelfSigned {
    /// Makes a certificate for these names and addresses, signed by its own key.
    pub(super) fn new(names: Vec<String>) -> Result<Self, Failure> {
        let made = rcgen::generate_simple_self_signed(names)
            .map_err(|error| Failure::Failed(format!("can't make a certificate: {error}")))?;
        Ok(SelfSigned { certificate: made.cert.pem(), private_key: made.signing_key.serialize_pem() })
    }
}
