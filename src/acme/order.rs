//! One order: from the account to a certificate, or from where an earlier process has left it.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationHandle, AuthorizationStatus, CertificateIdentifier, ChallengeHandle,
    ChallengeStatus, ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::certificate::Life;
use super::challenges::Question;
use super::fault::{Failure, shown};
use super::progress::{OpenOrder, Progress};
use super::storage::Storage;
use crate::config::{Acme, Challenge};

/// How long the authority may take to look at the challenges, and to sign.
const VALIDATION: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));
/// Greatest number of attempts that go on with the same order.
const MOST_ATTEMPTS: u32 = 5;
/// Greatest number of certificates of a chain, and its greatest length, PEM. A handshake takes no more.
const MOST_CERTIFICATES: usize = 10;
const LONGEST_CHAIN: usize = 48 * 1024;
/// How far in the future a certificate may begin: clocks differ.
const SKEW: SignedDuration = SignedDuration::from_hours(1);

/// What makes an answer to an authority known to all who may be asked.
pub(super) trait Answers {
    async fn publish(&self, question: Question, answer: &str) -> Result<(), Failure>;

    /// Waits until all who may be asked know what was published.
    async fn settle(&self);
}

/// One order for a certificate.
pub(super) struct Ordering<'o, A> {
    pub(super) acme: &'o Acme,
    pub(super) name: &'o str,
    pub(super) storage: &'o Storage,
    pub(super) account: &'o Account,
    pub(super) answers: &'o A,
    /// The certificate that is replaced, and its life.
    pub(super) replaced: Option<(CertificateDer<'static>, Life)>,
    pub(super) now: Timestamp,
}

/// A certificate that was issued.
pub(super) struct Issued {
    /// The chain and the private key, PEM.
    pub(super) chain: String,
    pub(super) key: Zeroizing<String>,
    pub(super) life: Life,
}

impl<A: Answers> Ordering<'_, A> {
    /// Gets a certificate. `progress` is written whenever it changes.
    pub(super) async fn run(&self, progress: &mut Progress) -> Result<Issued, Failure> {
        let (mut order, key) = self.open(progress).await?;
        if order.state().status == OrderStatus::Pending {
            self.validate(&mut order).await?;
            self.await_ready(&mut order).await?;
        }
        if order.state().status == OrderStatus::Ready {
            let request = request(&self.acme.domains, &key)?;
            let finalized = order.finalize_csr(&request).await;
            finalized.map_err(|error| Failure::of("the authority did not take the order", &error, None))?;
        }
        let chain = order.poll_certificate(&VALIDATION).await;
        let chain = chain
            .map_err(|error| Failure::of("the authority did not issue the certificate", &error, None))?;
        match self.check(&chain) {
            Ok(life) => Ok(Issued { chain, key, life }),
            Err(failure) => {
                // The same order would only give the same certificate.
                progress.order = None;
                self.write(progress)?;
                Err(failure)
            }
        }
    }

    /// Returns the order that an earlier attempt has left open, or a new one, with its private key.
    async fn open(&self, progress: &mut Progress) -> Result<(Order, Zeroizing<String>), Failure> {
        if let Some(open) = progress.order.take()
            && open.attempts < MOST_ATTEMPTS
        {
            match self.account.order(open.url.clone()).await {
                Ok(mut order) => {
                    if order.state().status != OrderStatus::Invalid {
                        let key = open.key.clone();
                        progress.order = Some(OpenOrder { attempts: open.attempts + 1, ..open });
                        self.write(progress)?;
                        return Ok((order, key));
                    }
                }
                Err(Error::Api(problem)) if Failure::is_gone(&problem) => {}
                Err(error) => return Err(Failure::of("the open order can't be read", &error, None)),
            }
        }
        let key = KeyPair::generate()
            .map_err(|error| Failure::here(format!("no private key could be made: {error}"), "report it"))?;
        let key = Zeroizing::new(key.serialize_pem());
        // Whoever can't note an order would order again and again.
        self.write(progress)?;
        let order = self.place(progress).await?;
        progress.order = Some(OpenOrder { url: order.url().to_owned(), key: key.clone(), attempts: 1 });
        self.write(progress)?;
        Ok((order, key))
    }

    async fn place(&self, progress: &mut Progress) -> Result<Order, Failure> {
        let identifiers: Vec<Identifier> = self.acme.domains.iter().cloned().map(Identifier::Dns).collect();
        let plain = || NewOrder::new(&identifiers);
        let failed = |error: Error| Failure::of("the authority refused the order", &error, None);
        let replaced = self.replaced.as_ref().filter(|_| !progress.omits_replaces);
        let replaced = replaced.and_then(|(leaf, _)| CertificateIdentifier::try_from(leaf).ok());
        let Some(replaced) = replaced else { return self.account.new_order(&plain()).await.map_err(failed) };
        match self.account.new_order(&plain().replaces(replaced)).await {
            Err(Error::Unsupported(_)) => self.account.new_order(&plain()).await.map_err(failed),
            // The certificate may be of another account. What is wrong beside that is refused again.
            Err(Error::Api(problem))
                if !Failure::is_rate_limit(&problem) && !Failure::is_of_nonce(&problem) =>
            {
                self.account.new_order(&plain()).await.map_err(failed)
            }
            Err(error) if error.to_string().starts_with("replaces field mismatch") => {
                // The authority has taken the order, whose URL is lost, and no note of the certificate.
                progress.omits_replaces = true;
                self.write(progress)?;
                Err(failed(error))
            }
            ordered => ordered.map_err(failed),
        }
    }

    fn write(&self, progress: &mut Progress) -> Result<(), Failure> {
        progress.noted_at = Some(self.now);
        self.storage.write_progress(self.name, progress).map_err(|error| Failure::of_storage(&error))
    }

    /// Makes the answers to the authority's questions known, and tells it that they are.
    async fn validate(&self, order: &mut Order) -> Result<(), Failure> {
        let failed = |error: Error| Failure::of("the authority's questions can't be read", &error, None);
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failed)?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let domain = shown(&authorization.identifier().to_string());
            let challenge = self.challenge(&mut authorization, &domain)?;
            let question = match self.acme.challenge {
                Challenge::TlsAlpn01 => Question::of_name(&domain),
                Challenge::Http01 => Question::of_token(&challenge.token),
            };
            let Some(question) = question else {
                let message = format!("the authority asks about {domain} in no way that can be answered");
                return Err(Failure::new(message, "check `acme.directory`"));
            };
            // Also if an earlier attempt has told the authority: its answers were withdrawn.
            self.answers.publish(question, challenge.key_authorization().as_str()).await?;
        }
        self.answers.settle().await;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failed)?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let domain = shown(&authorization.identifier().to_string());
            let mut challenge = self.challenge(&mut authorization, &domain)?;
            if challenge.status == ChallengeStatus::Pending {
                let told = challenge.set_ready().await;
                told.map_err(|error| Failure::of(&format!("{domain} was not validated"), &error, None))?;
            }
        }
        Ok(())
    }

    /// Returns the challenge of the configured kind.
    fn challenge<'a>(
        &self,
        authorization: &'a mut AuthorizationHandle<'a>,
        domain: &str,
    ) -> Result<ChallengeHandle<'a>, Failure> {
        let wanted = match self.acme.challenge {
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Challenge::Http01 => ChallengeType::Http01,
        };
        authorization.challenge(wanted).ok_or_else(|| {
            let message = format!("the authority does not offer {} for {domain}", self.acme.challenge.name());
            Failure::new(message, "choose the other `acme.challenge`")
        })
    }

    async fn await_ready(&self, order: &mut Order) -> Result<(), Failure> {
        match order.poll_ready(&VALIDATION).await {
            Ok(OrderStatus::Invalid) => Err(self.refusal(order).await),
            Ok(_) => Ok(()),
            // The order itself has failed, or only the question for it.
            Err(Error::Api(_)) if order.state().error.is_some() => Err(self.refusal(order).await),
            Err(error) => Err(Failure::of("the names were not validated", &error, None)),
        }
    }

    /// Returns why an order is invalid: which name could not be validated, and how.
    async fn refusal(&self, order: &mut Order) -> Failure {
        let of_order = order.state().error.clone();
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            if authorization.refresh().await.is_err() {
                break;
            }
            let failed = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref());
            if let Some(problem) = failed {
                let domain = shown(&authorization.identifier().to_string());
                return Failure::of_problem(&format!("{domain} was not validated"), problem);
            }
        }
        match of_order {
            Some(problem) => Failure::of_problem("the order has failed", &problem),
            None => Failure::new("the order has failed, and the authority does not say why", "wait"),
        }
    }

    /// Checks that what was issued is of more use than what is in service. That it belongs to the key is
    /// checked when it is written.
    fn check(&self, chain: &str) -> Result<Life, Failure> {
        let refused = |why: &str| {
            let message = format!("the authority has issued a certificate that {why}");
            Err(Failure::new(message, "check `acme.directory`, and the clocks of both machines"))
        };
        // Clients refuse a chain with one bad certificate in it, and one that is too long.
        let lives = CertificateDer::pem_slice_iter(chain.as_bytes()).take(MOST_CERTIFICATES + 1);
        let lives: Option<Vec<Life>> = lives.map(|certificate| Life::of(&certificate.ok()?)).collect();
        let Some(life) = lives.as_ref().and_then(|lives| lives.first()) else {
            return refused("can't be read");
        };
        if lives.as_ref().is_some_and(|lives| lives.len() > MOST_CERTIFICATES) || chain.len() > LONGEST_CHAIN
        {
            return refused("has too long a chain");
        }
        let latest_begin = self.now.checked_add(SKEW).unwrap_or(self.now);
        match () {
            () if life.covers(&self.acme.domains) < self.acme.domains.len() => {
                refused("is not for all names")
            }
            () if life.has_ended(self.now) => refused("has ended already"),
            () if life.not_before > latest_begin => refused("begins in the future"),
            // Not by its end: an authority may issue shorter lives than before.
            () if self.replaced.as_ref().is_some_and(|(_, old)| life.not_before < old.not_before) => {
                refused("is older than the one that it replaces")
            }
            () => Ok(life.clone()),
        }
    }
}

/// Makes the request for a certificate (PKCS #10, DER).
fn request(domains: &[String], key: &str) -> Result<Vec<u8>, Failure> {
    let made = KeyPair::from_pem(key).and_then(|key| {
        let mut params = CertificateParams::new(domains.to_vec())?;
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(&key)
    });
    match made {
        Ok(request) => Ok(request.der().to_vec()),
        Err(error) => Err(Failure::new(
            format!("no request for a certificate could be made: {error}"),
            "check the names",
        )),
    }
}
