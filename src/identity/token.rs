//! Verifies a token: its form, its issuer, its signature, its claims, and who its holder is.
//!
//! The order of the steps matters. What a token says of its issuer only selects a configured issuer, and with it
//! the keys that may have signed it. Nothing else in the token is used before its signature is verified. Its end
//! is checked last: a holder learns of the end, and of no other reason.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::compact::Compact;
use super::json::{Json, Object};
use super::jwks::NotVerified;
use super::reason::Reason;
use super::rules::{Rule, Rules, Trusted};
use super::source::Source;
use crate::keys::is_label;

/// How far the clocks of an issuer and of this host may differ.
pub(crate) const LEEWAY: SignedDuration = SignedDuration::from_secs(30);
/// The longest time until the end of a token. Kubernetes makes tokens of a year. One whose end is decades away is
/// as good as one without an end.
const LONGEST_LIFE: SignedDuration = SignedDuration::from_hours(2 * 366 * 24);
/// The most bytes of a name for a holder. A longer one is left out.
const LONGEST_NAME: usize = 256;

/// A token that identifies its holder.
#[derive(Debug)]
pub(super) struct Accepted<'r> {
    /// The number of the issuer in the rules.
    pub(super) issuer: u16,
    pub(super) rule: &'r Rule,
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) expires_at: Timestamp,
}

/// A token that identifies nobody.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    /// The id of the holder, if the issuer's signature is right.
    pub(crate) id: Option<String>,
    /// The subject of the token, if the issuer's signature is right.
    pub(crate) subject: Option<String>,
    /// When the token ended, if this is the reason.
    pub(crate) ended: Option<Timestamp>,
    /// The issuer whose keys may be others by now.
    pub(crate) keys_of: Option<Arc<Source>>,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Refused { reason, id: None, subject: None, ended: None, keys_of: None }
    }
}

/// Verifies a token by these rules.
///
/// # Errors
///
/// Why it identifies nobody.
pub(super) fn verified<'r>(token: &[u8], rules: &'r Rules, now: Timestamp) -> Result<Accepted<'r>, Refused> {
    let compact = Compact::of(token)?;
    let of_issuer = issuer_of(&compact, rules)?;
    check_signature(&compact, of_issuer.1)?;
    // From here on, the issuer has said it.
    judged(&compact.claims, of_issuer, rules, now)
}

/// Judges a token by these rules in all but its signature, which was right when the token was verified. For
/// requests in service while the issuer's keys are not known: nobody may be let in by this.
///
/// # Errors
///
/// Why it would identify nobody, whatever the keys are.
pub(super) fn judged_but_for_keys<'r>(
    token: &[u8],
    rules: &'r Rules,
    now: Timestamp,
) -> Result<Accepted<'r>, Refused> {
    let compact = Compact::of(token)?;
    let of_issuer = issuer_of(&compact, rules)?;
    judged(&compact.claims, of_issuer, rules, now)
}

fn check_signature(compact: &Compact<'_>, trusted: &Trusted) -> Result<(), Refused> {
    let other_keys = |reason| Refused { keys_of: Some(trusted.source.clone()), ..Refused::from(reason) };
    let keys =
        trusted.source.keys(trusted.issuer.max_stale).ok_or_else(|| other_keys(Reason::KeysUnknown))?;
    keys.verify(compact.signed, compact.algorithm, compact.key_id.as_deref()).map_err(|fault| match fault {
        NotVerified::KeyMissing => Reason::KeyIdMissing.into(),
        NotVerified::KeyUnknown => other_keys(Reason::KeyUnknown),
        NotVerified::Signature => Reason::SignatureInvalid.into(),
    })
}

/// Judges what an issuer has said of a holder.
fn judged<'r>(
    claims: &Object,
    (number, trusted): (u16, &'r Trusted),
    rules: &'r Rules,
    now: Timestamp,
) -> Result<Accepted<'r>, Refused> {
    let subject = claims.text("sub").ok().flatten().filter(|subject| !subject.is_empty());
    let subject = subject.ok_or(Reason::SubjectMissing)?;
    let id = rules.id_of("jwt_", &[&trusted.issuer.issuer, subject]);
    let shown = || Some(subject).filter(|subject| is_name(subject)).map(str::to_owned);
    let named = |reason: Reason, id: &str| Refused {
        id: Some(id.to_owned()),
        subject: shown(),
        ..Refused::from(reason)
    };
    let expires_at = check_times(claims, now).map_err(|reason| named(reason, &id))?;
    check_audience(claims, trusted).map_err(|reason| named(reason, &id))?;
    let token_id = claims.text("jti").map_err(|()| named(Reason::IdMalformed, &id))?;
    if rules.denied.load().refuse(token_id, subject) {
        return Err(named(Reason::Denied, &id));
    }
    let rule = trusted.rules.iter().find(|rule| rule.holds_for(claims));
    let rule = rule.ok_or_else(|| named(Reason::NoIdentity, &id))?;
    if now >= expires_at + LEEWAY {
        return Err(Refused { ended: Some(expires_at), ..named(Reason::Expired, &id) });
    }
    Ok(Accepted { issuer: number, rule, id, name: name_of(claims, trusted), expires_at })
}

/// Returns the configured issuer that a token names, with its number, if it accepts the token's algorithm.
fn issuer_of<'r>(compact: &Compact<'_>, rules: &'r Rules) -> Result<(u16, &'r Trusted), Reason> {
    let named = compact.claims.text("iss").ok().flatten().ok_or(Reason::IssuerMissing)?;
    let mut issuers = (0..).zip(&rules.issuers);
    let found = issuers.find(|(_, trusted)| trusted.issuer.issuer == named).ok_or(Reason::IssuerUnknown)?;
    if found.1.accepts(compact.algorithm) { Ok(found) } else { Err(Reason::AlgorithmNotAccepted) }
}

/// Returns when the token ends. Its end may be past.
fn check_times(claims: &Object, now: Timestamp) -> Result<Timestamp, Reason> {
    let instant = |name: &str| claims.get(name).map(instant).transpose();
    let (expires_at, not_before, issued_at) = (instant("exp")?, instant("nbf")?, instant("iat")?);
    let expires_at = expires_at.ok_or(Reason::ExpiryMissing)?;
    if expires_at.duration_since(now) > LONGEST_LIFE {
        return Err(Reason::ExpiryTooFar);
    }
    if not_before.is_some_and(|start| start.duration_since(now) > LEEWAY) {
        return Err(Reason::NotYetValid);
    }
    if issued_at.is_some_and(|issued| issued.duration_since(now) > LEEWAY) {
        return Err(Reason::IssuedInFuture);
    }
    Ok(expires_at)
}

/// Reads a NumericDate (RFC 7519, section 2): seconds since 1970, with or without a fraction.
fn instant(value: &Json) -> Result<Timestamp, Reason> {
    // A year in this range has room for the leeway.
    const SECONDS: std::ops::Range<i64> = -62_000_000_000..250_000_000_000;
    let seconds = match value {
        Json::Whole(seconds) => *seconds,
        #[allow(
            clippy::cast_possible_truncation,
            reason = "`as` keeps to the range of i64, and is checked below"
        )]
        Json::Number(seconds) => seconds.floor() as i64,
        _ => return Err(Reason::TimesMalformed),
    };
    let in_range = SECONDS.contains(&seconds).then(|| Timestamp::from_second(seconds).ok()).flatten();
    in_range.ok_or(Reason::TimesMalformed)
}

/// Checks that the token is for one of the audiences. `aud` is a text, or a list of texts (RFC 7519, section
/// 4.1.3).
fn check_audience(claims: &Object, trusted: &Trusted) -> Result<(), Reason> {
    let is_ours = |audience: &Json| match audience {
        Json::Text(audience) => trusted.issuer.audience.contains(audience),
        _ => false,
    };
    let is_for_us = match claims.get("aud") {
        None | Some(Json::Null) => return Err(Reason::AudienceMissing),
        Some(Json::List(audiences)) => {
            audiences.iter().all(|audience| matches!(audience, Json::Text(_)))
                && audiences.iter().any(is_ours)
        }
        Some(audience) => is_ours(audience),
    };
    if is_for_us { Ok(()) } else { Err(Reason::AudienceOther) }
}

/// Returns the name of the holder; `None` if the claim has none that can be the value of a header.
fn name_of(claims: &Object, trusted: &Trusted) -> Option<String> {
    let name = trusted.name.find(claims)?.shown()?;
    is_name(&name).then(|| name.into_owned())
}

/// Whether a text can name a holder in logs and headers.
fn is_name(text: &str) -> bool {
    text.len() <= LONGEST_NAME && is_label(text)
}
