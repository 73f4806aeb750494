//! Keys: what one may do, and whether it is valid now.
//!
//! Read from a store ([`yaml`]) at the start, cached by digest ([`cache`]), judged by `gate`.

pub(crate) mod cache;
pub(crate) mod token;
pub(crate) mod yaml;

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use jiff::Timestamp;

use crate::config::Quota;
use crate::config::fault::{Fault, Faults};
pub(crate) use crate::permission::Permission;
pub(crate) use token::{Credential, KeyHash};

/// One key as its store describes it. Holds no secret; its digests are in [`KeyRecord::hashes`] alone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiKey {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) permissions: Vec<Permission>,
    pub(crate) environment: Option<String>,
    pub(crate) not_before: Option<Timestamp>,
    pub(crate) disabled: bool,
    pub(crate) rate_limits: Option<Vec<Quota>>,
    pub(crate) max_concurrent: Option<u32>,
    pub(crate) allow_from: Vec<IpNet>,
    pub(crate) routes: Option<Vec<String>>,
}

/// A secret that opens a key, and when it stops doing so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Secret {
    pub(crate) hash: KeyHash,
    pub(crate) expires_at: Option<Timestamp>,
}

/// A key together with all its live secrets: the current one and those rotated out.
#[derive(Clone, Debug)]
pub(crate) struct KeyRecord {
    pub(crate) key: ApiKey,
    pub(crate) secrets: Vec<Secret>,
}

/// Why a key that was found is refused; for the log, never for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invalidity {
    Disabled,
    NotYetValid,
    OtherEnvironment,
    AddressNotAllowed,
    Expired(Timestamp),
}

impl Invalidity {
    /// The reason's name in logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Invalidity::Disabled => "disabled",
            Invalidity::NotYetValid => "not_yet_valid",
            Invalidity::OtherEnvironment => "other_environment",
            Invalidity::AddressNotAllowed => "address_not_allowed",
            Invalidity::Expired(_) => "expired",
        }
    }
}

/// The circumstances that a key's validity is judged by.
pub(crate) struct Circumstances<'a> {
    pub(crate) now: Timestamp,
    /// The environment that the configuration demands.
    pub(crate) environment: Option<&'a str>,
    /// The client's address, where one is known.
    pub(crate) address: Option<IpAddr>,
}

impl ApiKey {
    /// Whether the key, opened by a secret that ends at `expires_at`, is valid.
    ///
    /// Expiry comes last: it alone is told to the caller, so it must not outrank a reason to say nothing.
    pub(crate) fn validity(
        &self,
        expires_at: Option<Timestamp>,
        circumstances: &Circumstances<'_>,
    ) -> Result<(), Invalidity> {
        if self.disabled {
            return Err(Invalidity::Disabled);
        }
        if self.not_before.is_some_and(|start| circumstances.now < start) {
            return Err(Invalidity::NotYetValid);
        }
        if circumstances.environment.is_some_and(|demanded| self.environment.as_deref() != Some(demanded)) {
            return Err(Invalidity::OtherEnvironment);
        }
        if !self.admits(circumstances.address) {
            return Err(Invalidity::AddressNotAllowed);
        }
        match expires_at {
            Some(end) if circumstances.now >= end => Err(Invalidity::Expired(end)),
            _ => Ok(()),
        }
    }

    /// Whether the key may be used from `address`. One that is narrowed is not usable from nowhere.
    fn admits(&self, address: Option<IpAddr>) -> bool {
        self.allow_from.is_empty()
            || address.is_some_and(|address| self.allow_from.iter().any(|network| network.contains(&address)))
    }

    /// Whether the key has `permission`; `admin` has all.
    pub(crate) fn has(&self, permission: Permission) -> bool {
        self.permissions.iter().any(|granted| *granted == permission || *granted == Permission::Admin)
    }

    /// The names of the key's permissions, in the order of its file.
    pub(crate) fn permission_names(&self) -> Vec<&'static str> {
        self.permissions.iter().map(|permission| permission.name()).collect()
    }
}

/// Where keys come from. Told apart here, and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// A YAML key file.
    Yaml(PathBuf),
}

impl Store {
    /// The store at `path`.
    pub(crate) fn at(path: &std::path::Path) -> Result<Self, Fault> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension {
            Some("yaml" | "yml") => Ok(Store::Yaml(path.to_owned())),
            _ => Err(Fault::of_file(path, "not a kind of key store that is known")
                .hint("a YAML key file's name ends in .yaml")),
        }
    }

    /// Reads the whole store, or says all that is wrong with it.
    pub(crate) fn load(&self) -> Result<Vec<KeyRecord>, Faults> {
        match self {
            Store::Yaml(path) => yaml::load(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ApiKey {
        ApiKey {
            id: "key_1".to_owned(),
            name: None,
            permissions: vec![Permission::Read],
            environment: Some("production".to_owned()),
            not_before: None,
            disabled: false,
            rate_limits: None,
            max_concurrent: None,
            allow_from: vec!["10.0.0.0/8".parse().unwrap()],
            routes: None,
        }
    }

    fn at(second: i64) -> Circumstances<'static> {
        Circumstances {
            now: Timestamp::from_second(second).unwrap(),
            environment: None,
            address: Some("10.1.2.3".parse().unwrap()),
        }
    }

    #[test]
    fn the_end_of_a_key_is_exclusive_and_its_start_inclusive() {
        let hundred = Timestamp::from_second(100).ok();
        let from_hundred = ApiKey { not_before: hundred, ..key() };
        assert_eq!(from_hundred.validity(None, &at(99)), Err(Invalidity::NotYetValid));
        assert_eq!(from_hundred.validity(None, &at(100)), Ok(()));
        assert_eq!(key().validity(hundred, &at(99)), Ok(()));
        assert_eq!(key().validity(hundred, &at(100)), Err(Invalidity::Expired(hundred.unwrap())));
    }

    #[test]
    fn an_expired_key_from_a_wrong_place_is_not_told_that_it_expired() {
        let elsewhere = Circumstances { address: Some("192.0.2.1".parse().unwrap()), ..at(200) };
        let expired = Timestamp::from_second(100).ok();
        assert_eq!(key().validity(expired, &elsewhere), Err(Invalidity::AddressNotAllowed));
        let nowhere = Circumstances { address: None, ..at(0) };
        assert_eq!(key().validity(None, &nowhere), Err(Invalidity::AddressNotAllowed));
    }

    #[test]
    fn a_demanded_environment_refuses_others_and_none() {
        let staging = Circumstances { environment: Some("staging"), ..at(0) };
        assert_eq!(key().validity(None, &staging), Err(Invalidity::OtherEnvironment));
        let unlabelled = ApiKey { environment: None, ..key() };
        assert_eq!(unlabelled.validity(None, &staging), Err(Invalidity::OtherEnvironment));
    }

    #[test]
    fn admin_implies_all_and_no_other_implies_any() {
        let admin = ApiKey { permissions: vec![Permission::Admin], ..key() };
        assert!(Permission::ALL.iter().all(|(_, permission)| admin.has(*permission)));
        let write = ApiKey { permissions: vec![Permission::Write], ..key() };
        assert!(write.has(Permission::Write) && !write.has(Permission::Read));
    }
}
