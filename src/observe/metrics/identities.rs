//! Metrics of issuers of tokens, and of the holders of tokens and certificates.

use std::fmt::Error;

use jiff::Timestamp;

use super::sheet::{Sheet, valued};

/// What is known of identities.
#[derive(Clone, Debug)]
pub(crate) struct IdentityFigures {
    pub(crate) issuers: Vec<IssuerSample>,
    /// The number of holders that are known.
    pub(crate) holders: usize,
    /// The number of tokens that are known as verified.
    pub(crate) tokens: usize,
}

/// An issuer of tokens.
#[derive(Clone, Debug)]
pub(crate) struct IssuerSample {
    pub(crate) issuer: String,
    /// The number of its keys that may be used now.
    pub(crate) keys: usize,
    /// When its keys were last confirmed.
    pub(crate) confirmed_at: Option<Timestamp>,
    /// Whether the last request for its keys failed.
    pub(crate) is_failing: bool,
}

#[cfg(test)]
impl IdentityFigures {
    /// Returns figures for a test of their metrics.
    pub(super) fn sample() -> Self {
        let issuer = IssuerSample {
            issuer: "https://a.example".to_owned(),
            keys: 2,
            confirmed_at: Some(Timestamp::UNIX_EPOCH),
            is_failing: true,
        };
        IdentityFigures { issuers: vec![issuer], holders: 3, tokens: 4 }
    }
}

/// Writes the metrics of identities, if there are any.
pub(super) fn write(sheet: &mut Sheet<'_>, figures: Option<&IdentityFigures>) -> Result<(), Error> {
    let Some(IdentityFigures { issuers, holders, tokens }) = figures else { return Ok(()) };
    sheet.level("identities", "Holders of tokens and certificates that are known", *holders as f64)?;
    sheet.level("tokens_verified", "Tokens of issuers that are known as verified", *tokens as f64)?;
    if issuers.is_empty() {
        return Ok(());
    }
    let mut family = sheet.gauge("issuer_keys", "Keys of an issuer of tokens that may be used")?;
    for IssuerSample { issuer, keys, .. } in issuers {
        valued(&mut family, &[("issuer", &**issuer)], *keys as f64)?;
    }
    let help = "When the keys of an issuer were last confirmed, in seconds since 1970";
    let mut family = sheet.gauge("issuer_keys_confirmed_timestamp_seconds", help)?;
    for IssuerSample { issuer, confirmed_at, .. } in issuers {
        if let Some(at) = confirmed_at {
            valued(&mut family, &[("issuer", &**issuer)], at.as_duration().as_secs_f64())?;
        }
    }
    let help = "Whether the last request for the keys of an issuer failed; the status and the log say why";
    let mut family = sheet.gauge("issuer_failing", help)?;
    for IssuerSample { issuer, is_failing, .. } in issuers {
        valued(&mut family, &[("issuer", &**issuer)], f64::from(u8::from(*is_failing)))?;
    }
    Ok(())
}
