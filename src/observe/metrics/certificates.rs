//! Metrics of certificates.

use std::fmt::Error;

use jiff::Timestamp;

use super::sheet::{Sheet, counted, valued};

/// A certificate in service.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) listener: String,
    pub(crate) file: String,
    pub(crate) not_after: Timestamp,
}

/// A certificate that bearward gets from an authority.
#[derive(Clone, Debug)]
pub(crate) struct AcmeSample {
    /// The names, with commas between them.
    pub(crate) domains: String,
    pub(crate) issued: u64,
    pub(crate) failed: u64,
    /// Whether the last attempt failed.
    pub(crate) is_failing: bool,
}

/// Writes the metrics of all certificates.
pub(super) fn write(
    sheet: &mut Sheet<'_>,
    certificates: &[Certificate],
    acme: &[AcmeSample],
) -> Result<(), Error> {
    let help = "When a certificate ends, in seconds since 1970";
    let mut family = sheet.gauge("certificate_expiry_timestamp_seconds", help)?;
    for Certificate { listener, file, not_after } in certificates {
        let labels = [("listener", &**listener), ("file", &**file)];
        valued(&mut family, &labels, not_after.as_duration().as_secs_f64())?;
    }
    if acme.is_empty() {
        return Ok(());
    }
    let help = "Attempts to get a certificate from an authority, by outcome";
    let mut family = sheet.counter("acme_attempts", help)?;
    for AcmeSample { domains, issued, failed, .. } in acme {
        counted(&mut family, &[("domains", &**domains), ("outcome", "issued")], *issued)?;
        counted(&mut family, &[("domains", &**domains), ("outcome", "failed")], *failed)?;
    }
    let help = "Whether the last attempt to get a certificate failed; the status and the log say why";
    let mut family = sheet.gauge("acme_failing", help)?;
    for AcmeSample { domains, is_failing, .. } in acme {
        valued(&mut family, &[("domains", &**domains)], f64::from(u8::from(*is_failing)))?;
    }
    Ok(())
}
