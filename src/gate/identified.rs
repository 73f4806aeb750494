//! Finds the holder of a token or of a client certificate.

use std::sync::Arc;

use http::HeaderValue;

use super::context::Context;
use super::principal::Principal;
use super::proof::{PresentedToken, Proof};
use crate::denial::Denial;
use crate::identity::{Awaited, ClientCertificate, Reason, Refused, is_token};
use crate::key_cache::LiveKey;
use crate::keys::Credential;
use crate::observe::naming::Naming;

/// Whether a credential is a token, and not a key: it has two dots, and tokens are accepted.
pub(super) fn is_for_issuers(credential: &Credential, context: Context<'_>) -> bool {
    context.snapshot.identities.accept_tokens() && is_token(credential.as_bytes())
}

/// The holder of a token or certificate, and what shows it.
#[derive(Debug)]
pub(super) struct Identified {
    live: Arc<LiveKey>,
    proof: Proof,
}

/// A token that identifies nobody.
#[derive(Debug)]
pub(super) struct RefusedToken {
    pub(super) refused: Refused,
    /// What ends when other keys of the issuer may be there.
    pub(super) awaited: Option<Awaited>,
}

/// Finds the holder of a token. `is_blocked`: the client's address has used up its failed attempts. Of the tokens
/// of such addresses that are not known, few are verified.
///
/// # Errors
///
/// The token again, and why it identifies nobody; `None` if it was not verified.
pub(super) fn by_token(
    token: Credential,
    is_blocked: bool,
    context: Context<'_>,
) -> Result<Identified, (Credential, Option<Box<RefusedToken>>)> {
    let (rules, identities, now) = (&context.snapshot.identities, context.identities, context.now);
    let hash = token.hash();
    let known = identities.known_holder(&hash, rules, now);
    let judged = match known {
        Some(known) => known,
        None if is_blocked && !identities.may_verify_for_blocked() => return Err((token, None)),
        None => identities.verify((&token, &hash), rules, now),
    };
    match judged {
        Ok((live, expires_at)) => {
            let presented = PresentedToken { token, hash, expires_at };
            Ok(Identified { live, proof: Proof::Token(Arc::new(presented)) })
        }
        Err(refused) => {
            let keys = refused.keys_of.as_ref().filter(|_| !context.has_waited);
            let awaited = keys.and_then(|keys| keys.ask());
            Err((token, Some(Box::new(RefusedToken { refused, awaited }))))
        }
    }
}

/// Finds the holder of the certificate of a connection.
///
/// # Errors
///
/// How the log names the certificate, the reason, and the answer.
pub(super) fn by_certificate(
    certificate: &Arc<ClientCertificate>,
    context: Context<'_>,
) -> Result<Identified, (Naming, Reason, Denial)> {
    let snapshot = context.snapshot;
    match context.identities.holder_of(certificate, &snapshot.identities, context.now) {
        Ok(live) => Ok(Identified { live, proof: Proof::Certificate(certificate.clone()) }),
        Err((id, reason)) => {
            let denial = match reason {
                Reason::CertificateExpired => Denial::expired_key(certificate.ends()),
                Reason::NoRoom => Denial::limiter_unavailable(),
                _ => Denial::invalid_key(&id),
            };
            Err((Naming::Unknown(id.into()), reason, denial))
        }
    }
}

impl Identified {
    /// Returns the key in service of the holder, how the log names it, and the principal.
    pub(super) fn judged(self, context: Context<'_>) -> (Arc<LiveKey>, Naming, Result<Principal, Denial>) {
        let Identified { live, proof } = self;
        let named = (live.headers().key_id.clone(), live.key.name().map(str::to_owned));
        let naming = Naming::Holder(Box::new(named));
        let principal = Principal::new(live.clone(), proof, &context.snapshot.groups);
        // The configuration is refused if it lacks the group of an identity.
        (live, naming, principal.ok_or_else(Denial::key_store_unavailable))
    }
}

impl RefusedToken {
    /// Returns how logs name the token, and the answer.
    pub(super) fn denial(&self, token: &Credential, context: Context<'_>) -> (Naming, Denial) {
        let Refused { reason, id, subject, ended, .. } = &self.refused;
        let of_holder = id.as_ref().and_then(|id| HeaderValue::from_str(id).ok());
        let id = id.clone().unwrap_or_else(|| context.snapshot.ids.key_id(token));
        let denial = match (reason, ended) {
            (Reason::KeysUnknown, _) => Denial::key_store_unavailable(),
            (Reason::NoRoom, _) => Denial::limiter_unavailable(),
            (_, Some(ended)) => Denial::expired_key(*ended),
            _ => Denial::invalid_key(&id),
        };
        let naming = match of_holder {
            Some(of_holder) => Naming::Holder(Box::new((of_holder, subject.clone()))),
            None => Naming::Unknown(id.into()),
        };
        (naming, denial)
    }
}
