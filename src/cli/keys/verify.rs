//! `bearward keys verify`: reports whether a server would accept a token.

use std::net::IpAddr;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;

use super::secret::read_token;
use super::store_argument::StoreArgument;
use crate::cli::failure::Failure;
use crate::cli::terminal::print;
use crate::key_cache::{KeyCache, Match, NoMatch};
use crate::key_store::Reading;
use crate::key_store::Store;
use crate::keys::{Circumstances, Credential, Invalidity};

#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    store: StoreArgument,
    /// The IP address that the token would be sent from [default: an address from which the key may
    /// be used]
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let (config, path) = (self.store.configuration()?, self.store.path()?);
        let credential = Credential::new(read_token("verify")?.as_bytes());
        let nothing = KeyCache::default();
        let ids = self.store.ids()?;
        let set = Store::at(&self.store.place()?)?.load(Reading::first(&nothing, &ids))?;
        let found = match KeyCache::from(&set).lookup(&credential) {
            Ok((_, found)) => found,
            Err(no_match) => {
                let message = match no_match {
                    NoMatch::Mistyped => {
                        "a bearward token with a wrong length or checksum: characters are lost, added or changed"
                            .to_owned()
                    }
                    NoMatch::Unknown => format!("no key of {} matches it", path.display()),
                };
                return self.report(ids.key_id(&credential), Some((no_match.name(), message)), None);
            }
        };
        let keys = config.as_ref().map(|config| &config.keys);
        let key = &found.key.key;
        let circumstances = Circumstances {
            now: Timestamp::now(),
            environment: keys.and_then(|keys| keys.environment.as_deref()),
            address: self.from.or_else(|| key.allowed_address()),
            max_age: keys.and_then(|keys| keys.max_age),
        };
        let refusal = key.validity(found.rotated_out, &circumstances).err();
        let refusal = refusal.map(|invalidity| (invalidity.name(), message(invalidity)));
        self.report(key.id().to_owned(), refusal, Some(&found))
    }

    fn report(
        &self,
        id: String,
        refusal: Option<(&'static str, String)>,
        found: Option<&Match>,
    ) -> Result<(), Failure> {
        let key = found.map(|found| &found.key.key);
        let name = key.and_then(|key| key.name());
        if self.json {
            let outcome = json!({
                "key_id": id,
                "name": name,
                "let_in": refusal.is_none(),
                "reason": refusal.as_ref().map(|(reason, _)| reason),
                "message": refusal.as_ref().map(|(_, message)| message),
                "permissions": key.map(|key| key.permissions.names()),
                "rotated_out_at": found.and_then(|found| found.rotated_out).map(|end| end.to_string()),
            });
            print(&format!("{outcome}\n"))?;
        }
        let label = name.map(|name| format!("{id} ({name})")).unwrap_or(id);
        match refusal {
            Some((_, message)) => Err(Failure::Failed(format!("{label} would be refused: {message}"))),
            None if self.json => Ok(()),
            None => {
                let permissions = key.map(|key| key.permissions.names().join(", ")).unwrap_or_default();
                let mut text = format!("{label} would be accepted; it may {permissions}\n");
                if let Some(end) = found.and_then(|found| found.rotated_out) {
                    text.push_str(&format!("with an old secret, which ends at {end}\n"));
                }
                print(&text)
            }
        }
    }
}

fn message(invalidity: Invalidity) -> String {
    match invalidity {
        Invalidity::Disabled => "it is turned off".to_owned(),
        Invalidity::NotYetValid => "it is not valid yet".to_owned(),
        Invalidity::OtherEnvironment => "the configuration demands another environment".to_owned(),
        Invalidity::AddressNotAllowed => "it may not be used from this address".to_owned(),
        Invalidity::AgeUnknown => {
            "it has no created_at in the past, and keys past keys.max_age are refused".to_owned()
        }
        Invalidity::Expired(end) => format!("it expired at {end}"),
        Invalidity::RotatedOut(end) => {
            format!("this secret was rotated out, and its grace ended at {end}")
        }
        Invalidity::TooOld(end) => format!("it is past keys.max_age since {end}"),
    }
}
