//! Certificates that commands make, to begin with.

use jiff::ToSpan;
use jiff::civil::Date;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

use super::failure::Failure;
use super::values;

/// How long a certificate is valid, in days. Some clients take none that is valid for longer than 398 days.
const LIFETIME: i64 = 365;

/// A certificate and its private key, in PEM.
pub(super) struct SelfSigned {
    pub(super) certificate: String,
    pub(super) private_key: String,
    /// The names and addresses that it is for.
    names: Vec<String>,
    /// The last day on which it is valid in every zone.
    valid_until: Date,
}

impl SelfSigned {
    /// Makes a certificate for these names and addresses, signed by its own key.
    ///
    /// # Errors
    ///
    /// A name can't be in a certificate, or there is no randomness.
    pub(super) fn new(names: Vec<String>) -> Result<Self, Failure> {
        let failed = |error: rcgen::Error| Failure::Failed(format!("can't make a certificate: {error}"));
        let today = values::now().to_zoned(jiff::tz::TimeZone::UTC).date();
        // Clocks of clients may be behind.
        let (first, last) = (today.saturating_sub(1.day()), today.saturating_add(LIFETIME.days()));
        let mut params = CertificateParams::new(names.clone()).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "bearward, signed by itself");
        let midnight = |day: Date| {
            rcgen::date_time_ymd(day.year().into(), day.month().unsigned_abs(), day.day().unsigned_abs())
        };
        (params.not_before, params.not_after) = (midnight(first), midnight(last));
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        let valid_until = last.saturating_sub(1.day());
        Ok(SelfSigned { certificate, private_key: key.serialize_pem(), names, valid_until })
    }

    /// Returns what whoever got it has to know.
    pub(super) fn described(&self) -> String {
        format!(
            "tls.crt is signed by itself, for {}, and valid until {}: clients need it (curl --cacert), or put a certificate \
             of your authority in its place",
            self.names.join(", "),
            self.valid_until
        )
    }
}
