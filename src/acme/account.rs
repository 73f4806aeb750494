//! The account at an authority, which is kept in the storage.

use instant_acme::{Account, AccountCredentials, ExternalAccountKey, HttpClient, NewAccount};
use serde::{Deserialize, Serialize};

use super::fault::Failure;
use super::storage::Storage;
use crate::config::Acme;

/// An account, as it is stored.
#[derive(Deserialize, Serialize)]
struct StoredAccount {
    credentials: AccountCredentials,
    email: Option<String>,
}

/// Returns the account at the authority, if there is one.
pub(super) async fn known(
    acme: &Acme,
    storage: &Storage,
    http: &dyn Fn() -> Box<dyn HttpClient>,
) -> Result<Option<Account>, Failure> {
    let path = storage.account_file(acme);
    let Some(StoredAccount { credentials, email }) = storage.read(&path) else { return Ok(None) };
    let failed = |error| Failure::of("the authority's directory can't be read", &error, None);
    let account = Account::builder_with_http(http()).from_credentials(credentials).await.map_err(failed)?;
    if email != acme.email {
        change_email(&account, acme, storage).await?;
    }
    Ok(Some(account))
}

/// Makes an account at the authority. By naming an authority in its configuration, an operator agrees to its
/// terms. The caller has the lock of accounts, so that two certificates have one account.
pub(super) async fn make(
    acme: &Acme,
    storage: &Storage,
    http: &dyn Fn() -> Box<dyn HttpClient>,
) -> Result<Account, Failure> {
    let contact = acme.email.as_ref().map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let external = acme.external_account.as_ref();
    let external =
        external.map(|external| ExternalAccountKey::new(external.key_id.clone(), external.hmac_key.value()));
    let builder = Account::builder_with_http(http());
    let made = builder.create(&new, acme.directory.clone(), external.as_ref()).await;
    let (account, credentials) =
        made.map_err(|error| Failure::of("no account could be made at the authority", &error, None))?;
    let stored = StoredAccount { credentials, email: acme.email.clone() };
    let path = storage.account_file(acme);
    storage.write_json(&path, &stored).map_err(|error| Failure::of_storage(&error))?;
    tracing::info!(directory = acme.directory, "made an account at the certificate authority");
    Ok(account)
}

/// Tells the authority another address of mail. It is no reason to get no certificate if that fails.
async fn change_email(account: &Account, acme: &Acme, storage: &Storage) -> Result<(), Failure> {
    let contact = acme.email.as_ref().map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    if let Err(error) = account.update_contacts(&contact).await {
        tracing::warn!(%error, "the authority did not take the address of `acme.email`");
        return Ok(());
    }
    let path = storage.account_file(acme);
    let Some(stored) = storage.read::<StoredAccount>(&path) else { return Ok(()) };
    let stored = StoredAccount { email: acme.email.clone(), ..stored };
    storage.write_json(&path, &stored).map_err(|error| Failure::of_storage(&error))
}

/// Forgets an account that the authority does not know.
pub(super) fn forget(acme: &Acme, storage: &Storage) {
    let _not_there = std::fs::remove_file(storage.account_file(acme));
}
