//! One order: from the account to a certificate, or from where an earlier process has left it.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeStatus, ChallengeType, Error, Identifier,
    NewOrder, Order, OrderStatus, RetryPolicy,
};
use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
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

/// What an order needs from outside.
pub(super) trait Answers {
    /// Makes the answer to a question known to all who may be asked.
    async fn publish(&self, question: Question, answer: &str) -> Result<(), Failure>;
}

/// An order for a certificate.
pub(super) struct Ordering<'o, A> {
    pub(super) acme: &'o Acme,
    pub(super) name: &'o str,
    pub(super) storage: &'o Storage,
    pub(super) account: &'o Account,
    pub(super) answers: &'o A,
    pub(super) provider: &'o CryptoProvider,
    /// The certificate that is replaced.
    pub(super) replaced: Option<CertificateDer<'static>>,
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
        self.validate(&mut order).await?;
        if matches!(order.state().status, OrderStatus::Pending | OrderStatus::Ready) {
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
        let life = self.check(&chain, &key)?;
        Ok(Issued { chain, key, life })
    }

    /// Returns the order that an earlier process has left open, or a new one, with its private key.
    async fn open(&self, progress: &mut Progress) -> Result<(Order, Zeroizing<String>), Failure> {
        if let Some(OpenOrder { url, key }) = progress.order.clone() {
            match self.account.order(url).await {
                Ok(mut order) => {
                    if order.state().status != OrderStatus::Invalid {
                        return Ok((order, key));
                    }
                }
                // The authority knows it no more.
                Err(Error::Api(_)) => {}
                Err(error) => return Err(Failure::of("the open order can't be read", &error, None)),
            }
            progress.order = None;
        }
        let key = KeyPair::generate().map_err(|error| {
            Failure::new(format!("no private key could be made: {error}"), "is there randomness?")
        })?;
        let key = Zeroizing::new(key.serialize_pem());
        // Whoever can't note an order would order again and again.
        self.write(progress)?;
        let order = self.place(progress).await?;
        progress.order = Some(OpenOrder { url: order.url().to_owned(), key: key.clone() });
        self.write(progress)?;
        Ok((order, key))
    }

    async fn place(&self, progress: &mut Progress) -> Result<Order, Failure> {
        let identifiers: Vec<Identifier> = self.acme.domains.iter().cloned().map(Identifier::Dns).collect();
        let plain = || NewOrder::new(&identifiers);
        let failed = |error: Error| Failure::of("the authority refused the order", &error, None);
        let replaced = self.replaced.as_ref().filter(|_| !progress.omits_replaces);
        let replaced = replaced.and_then(|leaf| CertificateIdentifier::try_from(leaf).ok());
        let Some(replaced) = replaced else { return self.account.new_order(&plain()).await.map_err(failed) };
        match self.account.new_order(&plain().replaces(replaced)).await {
            Err(Error::Unsupported(_)) => self.account.new_order(&plain()).await.map_err(failed),
            Err(error @ Error::Other(_)) => {
                // The authority may have taken the order, and not what it replaces. The next attempt does
                // without that.
                progress.omits_replaces = true;
                Err(failed(error))
            }
            ordered => ordered.map_err(failed),
        }
    }

    fn write(&self, progress: &Progress) -> Result<(), Failure> {
        self.storage.write_progress(self.name, progress).map_err(|error| Failure::of_storage(&error))
    }

    /// Makes the answers to the authority's questions known, and tells it that they are.
    async fn validate(&self, order: &mut Order) -> Result<(), Failure> {
        let failed = |error: Error| Failure::of("the authority's questions can't be read", &error, None);
        let wanted = match self.acme.challenge {
            Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Challenge::Http01 => ChallengeType::Http01,
        };
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failed)?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let domain = shown(&authorization.identifier().to_string());
            let Some(mut challenge) = authorization.challenge(wanted.clone()) else {
                let name = self.acme.challenge.name();
                let message = format!("the authority does not offer {name} for {domain}");
                return Err(Failure::new(message, "choose the other `acme.challenge`"));
            };
            if challenge.status != ChallengeStatus::Pending {
                // An earlier process has told the authority; the answer is still known.
                continue;
            }
            let question = match self.acme.challenge {
                Challenge::TlsAlpn01 => Question::of_name(&domain),
                Challenge::Http01 => Question::of_token(&challenge.token),
            };
            let Some(question) = question else {
                let message = format!("the authority asks about {domain} in no way that can be answered");
                return Err(Failure::new(message, "check `acme.directory`"));
            };
            self.answers.publish(question, challenge.key_authorization().as_str()).await?;
            challenge
                .set_ready()
                .await
                .map_err(|error| Failure::of(&format!("{domain} was not validated"), &error, None))?;
        }
        Ok(())
    }

    async fn await_ready(&self, order: &mut Order) -> Result<(), Failure> {
        match order.poll_ready(&VALIDATION).await {
            Ok(OrderStatus::Invalid) | Err(Error::Api(_)) => Err(self.refusal(order).await),
            Ok(_) => Ok(()),
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

    /// Checks what was issued: no certificate may take the place of one in service that is of less use.
    fn check(&self, chain: &str, key: &str) -> Result<Life, Failure> {
        let refused = |why: &str| {
            let message = format!("the authority has issued a certificate that {why}");
            Failure::new(message, "check `acme.directory`")
        };
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
        let certificates = certificates.map_err(|_| refused("can't be read"))?;
        let leaf = certificates.first().ok_or_else(|| refused("is not there"))?;
        let life = Life::of(leaf).ok_or_else(|| refused("can't be read"))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| refused("has no key"))?;
        let key = self.provider.key_provider.load_private_key(key).map_err(|_| refused("has no key"))?;
        let matches = CertifiedKey::new(certificates.clone(), key).keys_match();
        matches.map_err(|_| refused("is not for the key"))?;
        if life.covers(&self.acme.domains) < self.acme.domains.len() {
            return Err(refused("is not for all names"));
        }
        if !life.is_valid(Timestamp::now()) {
            return Err(refused("has ended already"));
        }
        Ok(life)
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
