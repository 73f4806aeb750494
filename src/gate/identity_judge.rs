//! Judges tokens and certificates of requests in service again, by the rules and keys that are in service then.

use std::sync::Arc;

use jiff::Timestamp;

use super::ended::Ended;
use super::proof::PresentedToken;
use crate::identity::{ClientCertificate, Identities, LEEWAY, Reason, Refused};
use crate::key_cache::LiveKey;

/// Judges tokens and certificates again.
#[derive(Clone)]
pub(super) struct IdentityJudge {
    pub(super) identities: Arc<Identities>,
}

impl IdentityJudge {
    /// Returns the holder of a token, and when the token ends. The holder is `None` if it can't be told now, since
    /// the issuer's keys are not known: that is no reason to end what was let in.
    ///
    /// # Errors
    ///
    /// Why the request has to end.
    pub(super) fn of_token(
        &self,
        presented: &PresentedToken,
        now: Timestamp,
    ) -> Result<(Option<Arc<LiveKey>>, Timestamp), Ended> {
        let PresentedToken { token, hash, expires_at } = presented;
        let rules = self.identities.in_service();
        let known = self.identities.known_holder(hash, &rules, now);
        let judged = known.unwrap_or_else(|| self.identities.verify((token, hash), &rules, now));
        match judged {
            Ok((live, expires_at)) => Ok((Some(live), expires_at + LEEWAY)),
            Err(Refused { reason: Reason::KeysUnknown | Reason::NoRoom, .. }) => match *expires_at + LEEWAY {
                end if now >= end => Err(Ended::Expired(*expires_at)),
                end => Ok((None, end)),
            },
            Err(Refused { ended, .. }) => Err(ended.map_or(Ended::Revoked, Ended::Expired)),
        }
    }

    /// Returns the holder of a certificate, and when the certificate ends.
    ///
    /// # Errors
    ///
    /// Why the request has to end.
    pub(super) fn of_certificate(
        &self,
        certificate: &ClientCertificate,
        now: Timestamp,
    ) -> Result<(Option<Arc<LiveKey>>, Timestamp), Ended> {
        let rules = self.identities.in_service();
        match self.identities.holder_of(certificate, &rules, now) {
            Ok(live) => Ok((Some(live), certificate.ends())),
            Err((_, Reason::NoRoom)) => Ok((None, certificate.ends())),
            Err((_, Reason::CertificateExpired)) => Err(Ended::Expired(certificate.ends())),
            Err(_) => Err(Ended::Revoked),
        }
    }
}
