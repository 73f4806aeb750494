//! Finds the principal of a request: the holder of the key whose secret it presents, or of its token, or of the
//! client certificate of its connection.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use super::context::Context;
use super::credential::{self, Found, PresentedCredential};
use super::failed_attempts::{self, SharedAttempts};
use super::identified::{Identified, RefusedToken, by_certificate, by_token, is_for_issuers};
use super::principal::Principal;
use super::proof::Proof;
use super::settle::{Open, Provisional, settle};
use crate::config::Auth;
use crate::denial::{Code, Denial};
use crate::guard::client::Client;
use crate::identity::ClientCertificate;
use crate::key_cache::{LiveKey, Match};
use crate::keys::{Circumstances, Credential, Form, KeyHash};
use crate::observe::naming::Naming;

/// Reason why a credential was refused that was not even looked at.
const NOT_LOOKED_UP: &str = "not looked up, after too many failed attempts";

/// Reason why a credential was refused, for the log.
#[derive(Debug)]
struct Refusal {
    reason: &'static str,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason)
    }
}

impl std::error::Error for Refusal {}

/// The result of an authentication, for the log and for the decision.
#[derive(Debug)]
pub(crate) struct Authentication {
    /// How the log names the credential.
    pub(crate) naming: Naming,
    /// The key whose secret was presented, even if the key is not valid.
    pub(crate) owner: Option<Arc<LiveKey>>,
    /// Ids of the credentials that were sent beside the key's secret, match no key, and were not
    /// seen before.
    pub(crate) companions: Vec<String>,
    /// What is to be settled before the result holds.
    pub(super) open: Open,
}

/// The result of an authentication, and the principal if the key is valid, or the denial if not.
pub(crate) type Judged = (Authentication, Result<Principal, Denial>);

impl Provisional for Judged {
    fn is_valid(&self) -> bool {
        self.1.is_ok()
    }

    fn take_open(&mut self) -> Open {
        std::mem::take(&mut self.0.open)
    }

    fn companions(&mut self) -> Option<&mut Vec<String>> {
        Some(&mut self.0.companions)
    }
}

/// Authenticates a request by its headers.
///
/// Waits for the keys of a token's issuer, if they may be others by now, and counts failed attempts in all
/// replicas together, if limits are shared.
pub(crate) async fn authenticate(
    presented: (&HeaderMap, Option<&Arc<ClientCertificate>>),
    auth: &Auth,
    client: &Client,
    context: Context<'_>,
) -> Judged {
    let decide = |context: Context<'_>| authenticate_here(presented, auth, client, context);
    settle(decide(context), client, context, decide).await
}

/// Authenticates a request by its headers, and by the certificate of its connection if they have no credential,
/// as far as this process knows.
///
/// `auth`: the places where a credential may be. After too many wrong guesses, an address has to
/// wait. During that wait, a credential that could be guessed is not looked up, so that even a right
/// guess reveals nothing. A valid bearward token from the same address is still accepted, and so is a
/// valid token of an issuer.
pub(super) fn authenticate_here(
    (headers, certificate): (&HeaderMap, Option<&Arc<ClientCertificate>>),
    auth: &Auth,
    client: &Client,
    context: Context<'_>,
) -> Judged {
    let found = match (credential::find(headers, auth), certificate) {
        (Ok(found), _) => found,
        (Err(denial), Some(certificate))
            if denial.code() == Code::MissingApiKey && context.snapshot.identities.accept_certificates() =>
        {
            return judged_by_certificate(certificate, context);
        }
        (Err(denial), _) => return refused(Naming::Nothing, denial),
    };
    // Tokens need no key store.
    let is_token_alone = found.others.is_empty() && is_for_issuers(found.first.credential(), context);
    if !context.keys.availability.is_available() && !is_token_alone {
        return refused(Naming::Nothing, Denial::key_store_unavailable());
    }
    let lookup = Lookup { client, context, shared: Cell::default() };
    let matched = match found.others.is_empty() {
        true => lookup.find(found.first).map_err(|unmatched| Box::new(lookup.after_guess(unmatched))),
        false => lookup.find_one_of(found),
    };
    let (mut authentication, outcome) = match matched {
        Ok(matched) => matched.judged(client, context),
        Err(refused) => *refused,
    };
    authentication.open.shared = lookup.shared.get();
    (authentication, outcome)
}

/// Judges the key that is assumed for a request without a credential, as if the request had
/// presented the current secret of the key.
pub(super) fn assume(hash: KeyHash, live: &Arc<LiveKey>, client: &Client, context: Context<'_>) -> Judged {
    let found = Match { key: live.clone(), rotated_out: None };
    let holder = Holder::OfKey { credential: None, hash, found };
    Matched { holder, companions: Vec::new() }.judged(client, context)
}

fn judged_by_certificate(certificate: &Arc<ClientCertificate>, context: Context<'_>) -> Judged {
    match by_certificate(certificate, context) {
        Ok(identified) => judged_identity(identified, Vec::new(), context),
        Err((naming, reason, denial)) => refused(naming, denial.caused_by(Refusal { reason: reason.name() })),
    }
}

fn judged_identity(identified: Identified, companions: Vec<String>, context: Context<'_>) -> Judged {
    let (live, naming, principal) = identified.judged(context);
    (Authentication { naming, owner: Some(live), companions, open: Open::default() }, principal)
}

/// Refuses a request that has neither a credential nor an assumed key.
pub(super) fn missing() -> Judged {
    refused(Naming::Nothing, Denial::missing_key("Authorization"))
}

fn refused(naming: Naming, denial: Denial) -> Judged {
    (Authentication { naming, owner: None, companions: Vec::new(), open: Open::default() }, Err(denial))
}

/// Looks up the credentials of one client's request among the keys.
struct Lookup<'a> {
    client: &'a Client,
    context: Context<'a>,
    shared: Cell<SharedAttempts>,
}

/// The holder of a credential.
enum Holder {
    /// The credential is the secret of a key, which may be invalid.
    OfKey {
        /// The credential; `None` if the key is assumed for a request without a credential.
        credential: Option<Credential>,
        hash: KeyHash,
        found: Match,
    },
    /// The credential is a valid token.
    OfToken(Identified),
}

/// A credential that has a holder.
struct Matched {
    holder: Holder,
    /// Ids of the request's other credentials that match no key and were not seen before.
    companions: Vec<String>,
}

/// A credential that matches no key.
struct Unmatched {
    credential: Credential,
    form: Form,
    reason: &'static str,
    /// Whether the credential counts as a guess, because it was looked up.
    is_guess: bool,
    /// How long the client's address has to wait; set if this wait is the reason why the credential
    /// was not looked up.
    wait: Option<Duration>,
    /// Why it identifies nobody, if it is a token.
    token: Option<Box<RefusedToken>>,
}

impl Lookup<'_> {
    fn find(&self, presented: PresentedCredential) -> Result<Matched, Unmatched> {
        let credential = match presented {
            PresentedCredential::Word(credential) => credential,
            PresentedCredential::Malformed(credential) => {
                let (form, reason) = (Form::Foreign, "malformed");
                return Err(Unmatched { credential, form, reason, is_guess: false, wait: None, token: None });
            }
        };
        if is_for_issuers(&credential, self.context) {
            return self.find_holder(credential);
        }
        let form = credential.form();
        if form != Form::Token
            && let Some(wait) = self.wait()
        {
            let reason = NOT_LOOKED_UP;
            return Err(Unmatched {
                credential,
                form,
                reason,
                is_guess: false,
                wait: Some(wait),
                token: None,
            });
        }
        match self.context.keys.lookup_as(form, &credential) {
            Ok((hash, found)) => {
                let is_doubtful =
                    form != Form::Token && failed_attempts::is_doubtful(self.client, self.context);
                self.shared.set(SharedAttempts { is_doubtful, ..self.shared.get() });
                let holder = Holder::OfKey { credential: Some(credential), hash, found };
                Ok(Matched { holder, companions: Vec::new() })
            }
            Err(reason) => {
                let reason = reason.name();
                Err(Unmatched { credential, form, reason, is_guess: true, wait: None, token: None })
            }
        }
    }

    /// Finds the holder of a token. A token that may be valid with other keys of its issuer is no guess yet.
    fn find_holder(&self, token: Credential) -> Result<Matched, Unmatched> {
        let wait = self.wait();
        match by_token(token, wait.is_some(), self.context) {
            Ok(identified) => Ok(Matched { holder: Holder::OfToken(identified), companions: Vec::new() }),
            Err((credential, None)) => {
                let (form, reason) = (Form::Foreign, NOT_LOOKED_UP);
                Err(Unmatched { credential, form, reason, is_guess: false, wait, token: None })
            }
            Err((credential, Some(token))) => {
                let reason = token.refused.reason;
                let is_guess = reason.is_guess() && token.awaited.is_none();
                let (form, reason) = (Form::Foreign, reason.name());
                Err(Unmatched { credential, form, reason, is_guess, wait: None, token: Some(token) })
            }
        }
    }

    /// Finds the one of several credentials that matches a key. If no credential matches, each
    /// credential that was looked up counts as a guess. If two credentials match, the request is
    /// refused as ambiguous.
    fn find_one_of(&self, found: Found) -> Result<Matched, Box<Judged>> {
        let (mut matched, mut unmatched) = (None, Vec::new());
        for presented in std::iter::once(found.first).chain(found.others) {
            match self.find(presented) {
                Ok(one) if matched.is_none() => matched = Some(one),
                Ok(_) => {
                    return Err(Box::new(refused(
                        Naming::Nothing,
                        Denial::bad_request("Two different keys"),
                    )));
                }
                Err(one) => unmatched.push(one),
            }
        }
        if let Some(matched) = matched {
            return Ok(Matched { companions: self.count_companions(unmatched), ..matched });
        }
        let waits = |one: &Unmatched| one.token.as_ref().is_some_and(|token| token.awaited.is_some());
        if let Some(index) = unmatched.iter().position(waits) {
            // The token may prove to be valid. The others are guesses beside it, and they were looked up.
            let (mut authentication, outcome) = self.after_guess(unmatched.swap_remove(index));
            authentication.companions = self.count_companions(unmatched);
            return Err(Box::new((authentication, outcome)));
        }
        if self.context.has_waited {
            // What was counted before the wait does not count again.
            unmatched.iter_mut().for_each(|one| one.is_guess = one.is_guess && self.is_new(one));
        }
        let mut refusals: Vec<_> = unmatched.into_iter().map(|one| self.after_guess(one)).collect();
        let is_limited = |(_, outcome): &Judged| matches!(outcome, Err(denial) if denial.code() == Code::TooManyFailedAttempts);
        let answered = refusals.iter().position(is_limited).unwrap_or_default();
        Err(Box::new(refusals.swap_remove(answered)))
    }

    /// Counts as guesses the credentials that were sent beside a key's secret, match no key, and
    /// were not seen before. Bearward tokens are not counted, because they can't be guessed.
    /// Returns the ids of the counted credentials.
    fn count_companions(&self, unmatched: Vec<Unmatched>) -> Vec<String> {
        let is_new = |one: &Unmatched| one.is_guess && one.form != Form::Token && self.is_new(one);
        let ids = &self.context.snapshot.ids;
        let is_counted = |one: &Unmatched| {
            let is_new = is_new(one);
            if is_new {
                // The request is accepted even if the address now has to wait, because its key is valid.
                let _wait_of_the_next = self.count_guess();
            }
            is_new
        };
        unmatched.into_iter().filter(is_counted).map(|one| ids.key_id(&one.credential)).collect()
    }

    fn is_new(&self, unmatched: &Unmatched) -> bool {
        failed_attempts::is_new_companion(&unmatched.credential, self.context)
    }

    /// Counts a guess in this process, and notes that it is to be counted in all replicas together.
    fn count_guess(&self) -> Result<(), Duration> {
        // Guesses that come while the server is asked are counted here at once.
        failed_attempts::count(self.client, self.context)?;
        if self.context.limiter.is_shared() {
            let shared = self.shared.get();
            self.shared.set(SharedAttempts { guesses: shared.guesses.saturating_add(1), ..shared });
        }
        Ok(())
    }

    fn wait(&self) -> Option<Duration> {
        failed_attempts::wait_of(self.client, self.context.snapshot, self.context.limiter)
    }

    /// Refuses a credential that matches no key, and counts it as a guess if it was looked up. The
    /// secret of a key that is not valid does not count as a guess.
    fn after_guess(&self, unmatched: Unmatched) -> Judged {
        let Unmatched { credential, form, reason, is_guess, wait, token } = unmatched;
        let (naming, denial) = match &token {
            Some(token) => token.denial(&credential, self.context),
            None => {
                let id = self.context.snapshot.ids.key_id(&credential);
                let denial = Denial::invalid_key(&id);
                let naming = match form {
                    // The key id in this token proves nothing, because anybody can make a token that
                    // contains the id of a key.
                    Form::Token => Naming::Claimed(id.into()),
                    Form::Mistyped | Form::Foreign => Naming::Unknown(id.into()),
                };
                (naming, denial)
            }
        };
        let denial = denial.caused_by(Refusal { reason });
        let wait = match is_guess {
            true => self.count_guess().err(),
            false => wait,
        };
        let denial = match wait {
            Some(wait) => Denial::too_many_failed_attempts(wait).instead_of(denial),
            None => denial,
        };
        let (mut authentication, outcome) = refused(naming, denial);
        authentication.open.awaited = token.and_then(|token| token.awaited);
        (authentication, outcome)
    }
}

impl Matched {
    /// Judges whether the key is valid at this time, in this environment and from this address. A token was
    /// judged when its holder was found.
    fn judged(self, client: &Client, context: Context<'_>) -> Judged {
        let Matched { holder, companions } = self;
        let (credential, hash, found) = match holder {
            Holder::OfKey { credential, hash, found } => (credential, hash, found),
            Holder::OfToken(identified) => return judged_identity(identified, companions, context),
        };
        let Context { snapshot, now, .. } = context;
        let circumstances = Circumstances {
            now,
            environment: snapshot.environment.as_deref(),
            address: client.address,
            max_age: snapshot.max_age,
        };
        let key_id = found.key.headers().key_id.clone();
        let invalidity = match found.key.key.validity(found.rotated_out, &circumstances) {
            Ok(()) => {
                let owner = Some(found.key.clone());
                let proof = Proof::Key { hash, is_rotated_out: found.rotated_out.is_some() };
                let principal = Principal::new(found.key, proof, &snapshot.groups);
                let naming = Naming::Key(key_id);
                // A reload refuses a configuration without the group of a key in service.
                let principal = principal.ok_or_else(Denial::key_store_unavailable);
                return (Authentication { naming, owner, companions, open: Open::default() }, principal);
            }
            Err(invalidity) => invalidity,
        };
        // The answer names the credential by an id like that of a credential that matches no key.
        // Any other id would reveal that the credential belongs to a key.
        let named = match &credential {
            Some(credential) => snapshot.ids.key_id(credential),
            None => found.key.key.id().to_owned(),
        };
        let denial = match invalidity.end() {
            Some(end) => Denial::expired_key(end),
            None => Denial::invalid_key(&named),
        };
        let denial = denial.caused_by(Refusal { reason: invalidity.name() });
        let naming = match named == found.key.key.id() {
            true => Naming::Key(key_id),
            false => Naming::KeyBy(Box::new((key_id, named))),
        };
        (Authentication { naming, owner: Some(found.key), companions, open: Open::default() }, Err(denial))
    }
}
