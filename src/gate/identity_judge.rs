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
    /// Returns the holder of a token, and when the token ends. If the issuer's keys are not known now, that is no
    /// reason to end what was let in, but everything else is.
    ///
    /// # Errors
    ///
    /// Why the request has to end.
    pub(super) fn of_token(
        &self,
        presented: &PresentedToken,
        now: Timestamp,
    ) -> Result<(Arc<LiveKey>, Timestamp), Ended> {
        let PresentedToken { token, hash, .. } = presented;
        let rules = self.identities.in_service();
        let known = self.identities.known_holder(hash, &rules, now);
        let judged = known.unwrap_or_else(|| self.identities.verify((token, hash), &rules, now));
        let judged = match judged {
            Err(Refused { reason: Reason::KeysUnknown | Reason::NoRoom, .. }) => {
                self.identities.judge_token_again(token, &rules, now)
            }
            judged => judged,
        };
        match judged {
            Ok((live, expires_at)) => Ok((live, expires_at + LEEWAY)),
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
    ) -> Result<(Arc<LiveKey>, Timestamp), Ended> {
        let rules = self.identities.in_service();
        let judged = match self.identities.holder_of(certificate, &rules, now) {
            Err((_, Reason::NoRoom)) => self.identities.judge_certificate_again(certificate, &rules, now),
            judged => judged.map_err(|(_id, reason)| reason),
        };
        match judged {
            Ok(live) => Ok((live, certificate.ends())),
            Err(Reason::CertificateExpired) => Err(Ended::Expired(certificate.ends())),
            Err(_) => Err(Ended::Revoked),
        }
    }
}
