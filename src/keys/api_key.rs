//! A key in service: the fields that decide on requests, and whether the key is valid now.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use crate::config::{AgeAction, BudgetQuota, MaxAge, OutputCap, Priority, Quota};
use crate::keys::terms::{Secret, Terms};
use crate::keys::token::KeyHash;
use crate::model::ModelPatterns;
use crate::permission::{Permission, Permissions};

/// How far the clock of this host may be behind the clock by which the key's `created_at` was set.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_hours(24);

/// A key in service. The digest of its current secret is not a field: it is the index of the map of
/// keys.
///
/// The struct is small, because a store may have a million keys: the id and the name share one
/// allocation, and the fields that few keys have, or that many keys share, are in [`Terms`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiKey {
    /// The id, followed directly by the name.
    labels: Box<str>,
    id_length: u8,
    has_name: bool,
    pub(crate) disabled: bool,
    pub(crate) permissions: Permissions,
    created_at: Moment,
    expires_at: Moment,
    terms: Option<Arc<Terms>>,
}

/// An optional instant in microseconds since the Unix epoch. It takes only eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment(i64);

impl Moment {
    const NONE: i64 = i64::MAX;

    fn instant(self) -> Option<Timestamp> {
        // `Moment::NONE` is handled first: it is outside the range of `Timestamp`, so its
        // conversion would build an error value.
        if self.0 == Moment::NONE { None } else { Timestamp::from_microsecond(self.0).ok() }
    }
}

impl From<Option<Timestamp>> for Moment {
    fn from(instant: Option<Timestamp>) -> Self {
        Moment(instant.map_or(Moment::NONE, Timestamp::as_microsecond))
    }
}

/// The fields of a key that was just read from a store, and is not yet compared with the keys in
/// service.
#[derive(Clone, Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: Option<&'a str>,
    pub(crate) disabled: bool,
    pub(crate) permissions: Permissions,
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) terms: Option<Arc<Terms>>,
}

impl Draft<'_> {
    /// Whether all fields of `key` equal the fields of this draft.
    pub(crate) fn is(&self, key: &ApiKey) -> bool {
        self.id == key.id()
            && self.name == key.name()
            && self.disabled == key.disabled
            && self.permissions == key.permissions
            && Moment::from(self.created_at) == key.created_at
            && Moment::from(self.expires_at) == key.expires_at
            && self.terms == key.terms
    }
}

impl From<Draft<'_>> for ApiKey {
    fn from(draft: Draft<'_>) -> Self {
        let labels = [draft.id, draft.name.unwrap_or_default()].concat();
        ApiKey {
            labels: labels.into_boxed_str(),
            // The decoders limit ids to 68 bytes, so the length fits in a `u8`.
            id_length: u8::try_from(draft.id.len()).unwrap_or(u8::MAX),
            has_name: draft.name.is_some(),
            disabled: draft.disabled,
            permissions: draft.permissions,
            created_at: draft.created_at.into(),
            expires_at: draft.expires_at.into(),
            terms: draft.terms,
        }
    }
}

/// Whether a key is active, disabled, expired or not yet valid at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum State {
    Active,
    Disabled,
    Expired,
    NotYetValid,
}

impl State {
    pub(crate) fn of(
        is_disabled: bool,
        not_before: Option<Timestamp>,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        match () {
            () if is_disabled => State::Disabled,
            () if expires_at.is_some_and(|end| now >= end) => State::Expired,
            () if not_before.is_some_and(|start| now < start) => State::NotYetValid,
            () => State::Active,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Active => "active",
            State::Disabled => "disabled",
            State::Expired => "expired",
            State::NotYetValid => "not_yet_valid",
        }
    }

    /// Whether a key in this state can match a credential now or later.
    pub(crate) fn is_live(self) -> bool {
        matches!(self, State::Active | State::NotYetValid)
    }
}

/// The reason why a key that matched a credential is refused. The reason is logged. The client does
/// not get the reason, but it gets the time at which the key or its secret ended, if one of them
/// has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invalidity {
    Disabled,
    NotYetValid,
    OtherEnvironment,
    AddressNotAllowed,
    /// The configuration refuses keys older than a maximum age, and the age of this key is not
    /// known.
    AgeUnknown,
    Expired(Timestamp),
    /// The secret was rotated out, and its grace ended at this instant.
    RotatedOut(Timestamp),
    /// The key reached the maximum age of the configuration at this instant.
    TooOld(Timestamp),
}

impl Invalidity {
    /// Returns the reason's name in logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Invalidity::Disabled => "disabled",
            Invalidity::NotYetValid => "not_yet_valid",
            Invalidity::OtherEnvironment => "other_environment",
            Invalidity::AddressNotAllowed => "address_not_allowed",
            Invalidity::AgeUnknown => "age_unknown",
            Invalidity::Expired(_) => "expired",
            Invalidity::RotatedOut(_) => "rotated_out",
            Invalidity::TooOld(_) => "past_max_age",
        }
    }

    /// Returns when the key or its secret ended; `None` if the key is refused for another reason.
    pub(crate) fn end(self) -> Option<Timestamp> {
        match self {
            Invalidity::Expired(end) | Invalidity::RotatedOut(end) | Invalidity::TooOld(end) => Some(end),
            _ => None,
        }
    }
}

/// The circumstances on which a key's validity depends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Circumstances<'a> {
    pub(crate) now: Timestamp,
    /// The only environment whose keys the configuration accepts; `None` accepts all keys.
    pub(crate) environment: Option<&'a str>,
    /// The client's IP address, if it is known.
    pub(crate) address: Option<IpAddr>,
    /// The configured maximum age of a key, and whether an older key is refused or only logged.
    pub(crate) max_age: Option<MaxAge>,
}

impl ApiKey {
    /// Returns the key's public id.
    pub(crate) fn id(&self) -> &str {
        self.labels.get(..usize::from(self.id_length)).unwrap_or(&self.labels)
    }

    /// Returns the key's name, a label for people.
    pub(crate) fn name(&self) -> Option<&str> {
        self.labels.get(usize::from(self.id_length)..).filter(|_| self.has_name)
    }

    /// Returns when the key's current secret was made.
    pub(crate) fn created_at(&self) -> Option<Timestamp> {
        self.created_at.instant()
    }

    /// Returns when the key expires; `None` if it never expires.
    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        self.expires_at.instant()
    }

    /// Whether the key has the very terms `terms`, which it may share with others.
    pub(crate) fn shares_terms(&self, terms: &Arc<Terms>) -> bool {
        self.terms.as_ref().is_some_and(|own| Arc::ptr_eq(own, terms))
    }

    /// Returns the key's terms; `None` if all of them have their defaults.
    pub(crate) fn terms(&self) -> Option<&Terms> {
        self.terms.as_deref()
    }

    pub(crate) fn environment(&self) -> Option<&str> {
        self.terms.as_ref()?.environment.as_deref()
    }

    /// Returns the name of the key's group.
    pub(crate) fn group(&self) -> Option<&str> {
        self.terms.as_ref()?.group.as_deref()
    }

    /// Returns the key's own rate limits; `None` if the configuration's defaults apply.
    pub(crate) fn rate_limits(&self) -> Option<&[Quota]> {
        self.terms.as_ref()?.rate_limits.as_deref()
    }

    pub(crate) fn budgets(&self) -> &[BudgetQuota] {
        self.terms.as_ref().and_then(|terms| terms.budgets.as_deref()).unwrap_or_default()
    }

    pub(crate) fn max_concurrent(&self) -> Option<u32> {
        self.terms.as_ref()?.max_concurrent
    }

    /// Returns the names of the routes that the key may use; `None` if it may use all routes.
    pub(crate) fn routes(&self) -> Option<&[String]> {
        self.terms.as_ref()?.routes.as_deref()
    }

    /// Returns the models that the key may use; `None` if it may use all models.
    pub(crate) fn models(&self) -> Option<&ModelPatterns> {
        self.terms.as_ref()?.models.as_ref()
    }

    /// Returns how much output a request of the key may ask for; `None` for any number.
    pub(crate) fn output_cap(&self) -> Option<OutputCap> {
        self.terms.as_ref()?.request
    }

    /// Returns the class of the key's requests in a queue; `None` if the key has none of its own.
    pub(crate) fn priority(&self) -> Option<Priority> {
        self.terms.as_ref()?.priority
    }

    /// Returns the share of the key within its class; `None` if the key has none of its own.
    pub(crate) fn weight(&self) -> Option<u32> {
        self.terms.as_ref()?.weight
    }

    pub(crate) fn not_before(&self) -> Option<Timestamp> {
        self.terms.as_ref()?.not_before
    }

    /// Returns the networks that the key may be used from; empty if it may be used from everywhere.
    pub(crate) fn allow_from(&self) -> &[IpNet] {
        self.terms.as_ref().map(|terms| terms.allow_from.as_slice()).unwrap_or_default()
    }

    pub(crate) fn state(&self, now: Timestamp) -> State {
        State::of(self.disabled, self.not_before(), self.expires_at(), now)
    }

    /// Returns the key's secrets that were rotated out, each with the end of its grace.
    pub(crate) fn previous(&self) -> &[Secret] {
        self.terms.as_ref().map(|terms| terms.previous.as_slice()).unwrap_or_default()
    }

    /// Returns when the grace of the secret with this digest ends; `None` for the current secret.
    pub(crate) fn rotated_out(&self, hash: &KeyHash) -> Option<Timestamp> {
        self.previous().iter().find(|secret| secret.hash == *hash).map(|secret| secret.expires_at)
    }

    /// Checks whether the key is valid. `rotated_out` is the end of the presented secret's grace,
    /// or `None` if the presented secret is the current one.
    ///
    /// The ends (expiry, grace, maximum age) are checked last. The client is informed of an end but
    /// of no other reason, so an end must not hide another reason.
    pub(crate) fn validity(
        &self,
        rotated_out: Option<Timestamp>,
        circumstances: &Circumstances<'_>,
    ) -> Result<(), Invalidity> {
        let Circumstances { now, environment, address, max_age } = *circumstances;
        let not_before = self.terms.as_ref().and_then(|terms| terms.not_before);
        if self.disabled {
            return Err(Invalidity::Disabled);
        }
        if not_before.is_some_and(|start| now < start) {
            return Err(Invalidity::NotYetValid);
        }
        if environment.is_some_and(|demanded| self.environment() != Some(demanded)) {
            return Err(Invalidity::OtherEnvironment);
        }
        if !self.admits(address) {
            return Err(Invalidity::AddressNotAllowed);
        }
        // A rotated-out secret is older than the current secret, so the age of the current secret
        // is enough for this check.
        let refused_age = max_age.filter(|max_age| max_age.action == AgeAction::Refuse);
        if let Some(max_age) = refused_age {
            let end = self.end_of_age(max_age.age).filter(|_| !self.is_made_later(now));
            let end = end.ok_or(Invalidity::AgeUnknown)?;
            if now >= end {
                return Err(Invalidity::TooOld(end));
            }
        }
        match (self.expires_at.instant(), rotated_out) {
            (Some(end), _) if now >= end => Err(Invalidity::Expired(end)),
            (_, Some(end)) if now >= end => Err(Invalidity::RotatedOut(end)),
            _ => Ok(()),
        }
    }

    /// Returns when a secret that is valid now ends: when the key expires, when the grace ends or
    /// when the maximum age is reached, whichever is first.
    pub(crate) fn next_end(
        &self,
        rotated_out: Option<Timestamp>,
        max_age: Option<MaxAge>,
    ) -> Option<Timestamp> {
        let refused_age = max_age.filter(|max_age| max_age.action == AgeAction::Refuse);
        let end_of_age = refused_age.and_then(|max_age| self.end_of_age(max_age.age));
        [self.expires_at(), rotated_out, end_of_age].into_iter().flatten().min()
    }

    /// Returns when the current secret reaches `age`; `None` if the date of the secret is not
    /// known.
    pub(crate) fn end_of_age(&self, age: Duration) -> Option<Timestamp> {
        self.created_at().map(|created| created.checked_add(age).unwrap_or(Timestamp::MAX))
    }

    /// Whether the key's date of creation is so far after `now` that a difference between two
    /// clocks can't explain it. The age of such a key can't be computed.
    pub(crate) fn is_made_later(&self, now: Timestamp) -> bool {
        self.created_at().is_some_and(|created| created.duration_since(now) > CLOCKS_DIFFER)
    }

    /// Returns an address that the key may be used from; `None` if the key may be used from
    /// everywhere.
    pub(crate) fn allowed_address(&self) -> Option<IpAddr> {
        self.allow_from().first().map(IpNet::addr)
    }

    /// Whether the key may be used from `address`. A key that is limited to networks may not be
    /// used from an unknown address.
    fn admits(&self, address: Option<IpAddr>) -> bool {
        let networks = self.allow_from();
        networks.is_empty()
            || address.is_some_and(|address| networks.iter().any(|network| network.contains(&address)))
    }

    /// Whether the key has `permission`. The permission `admin` implies all others.
    pub(crate) fn has(&self, permission: Permission) -> bool {
        self.permissions.grant(permission)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Draft<'static> {
        Draft {
            id: "key_1",
            name: None,
            disabled: false,
            permissions: Permissions::from_iter([Permission::Read]),
            created_at: None,
            expires_at: None,
            terms: None,
        }
    }

    fn with(terms: Terms) -> ApiKey {
        Draft { terms: Some(Arc::new(terms)), ..key() }.into()
    }

    fn second(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(second).ok()
    }

    fn at(now: i64) -> Circumstances<'static> {
        let now = second(now).unwrap();
        Circumstances { now, environment: None, address: Some("10.1.2.3".parse().unwrap()), max_age: None }
    }

    #[test]
    fn the_end_of_a_key_is_exclusive_and_its_start_inclusive() {
        let from_hundred = with(Terms { not_before: second(100), ..Terms::default() });
        assert_eq!(from_hundred.validity(None, &at(99)), Err(Invalidity::NotYetValid));
        assert_eq!(from_hundred.validity(None, &at(100)), Ok(()));
        let until_hundred = ApiKey::from(Draft { expires_at: second(100), ..key() });
        assert_eq!(until_hundred.validity(None, &at(99)), Ok(()));
        assert_eq!(until_hundred.validity(None, &at(100)), Err(Invalidity::Expired(second(100).unwrap())));
    }

    #[test]
    fn a_rotated_out_secret_ends_with_its_grace_or_with_the_key() {
        let until_hundred = ApiKey::from(Draft { expires_at: second(100), ..key() });
        let old = |end: i64, now: i64| until_hundred.validity(second(end), &at(now));
        assert_eq!(old(50, 49), Ok(()));
        assert_eq!(old(50, 50), Err(Invalidity::RotatedOut(second(50).unwrap())));
        assert_eq!(old(500, 100), Err(Invalidity::Expired(second(100).unwrap())));
    }

    #[test]
    fn an_age_is_refused_only_where_the_configuration_refuses_it() {
        let made = ApiKey::from(Draft { created_at: second(100), ..key() });
        let judged = |key: &ApiKey, action, now| {
            let max_age = Some(MaxAge { age: Duration::from_secs(10), action });
            key.validity(None, &Circumstances { max_age, ..at(now) })
        };
        assert_eq!(judged(&made, AgeAction::Refuse, 109), Ok(()));
        assert_eq!(judged(&made, AgeAction::Refuse, 110), Err(Invalidity::TooOld(second(110).unwrap())));
        assert_eq!(judged(&made, AgeAction::Warn, 110), Ok(()));
        // A clock that jumped back makes a key younger, and the key stays valid.
        assert_eq!(judged(&made, AgeAction::Refuse, 50), Ok(()));
        // The age of a key whose date is far in the future is not known.
        let later = ApiKey::from(Draft { created_at: second(100_000), ..key() });
        assert_eq!(judged(&later, AgeAction::Refuse, 50), Err(Invalidity::AgeUnknown));
        assert_eq!(judged(&later, AgeAction::Warn, 50), Ok(()));
        assert_eq!(judged(&key().into(), AgeAction::Refuse, 0), Err(Invalidity::AgeUnknown));
        assert_eq!(judged(&key().into(), AgeAction::Warn, 0), Ok(()));
    }

    #[test]
    fn an_expired_key_from_a_wrong_address_is_refused_for_the_address() {
        let terms = Terms { allow_from: vec!["10.0.0.0/8".parse().unwrap()], ..Terms::default() };
        let narrowed: ApiKey =
            Draft { expires_at: second(100), terms: Some(Arc::new(terms)), ..key() }.into();
        let elsewhere = Circumstances { address: Some("192.0.2.1".parse().unwrap()), ..at(200) };
        assert_eq!(narrowed.validity(None, &elsewhere), Err(Invalidity::AddressNotAllowed));
        let nowhere = Circumstances { address: None, ..at(0) };
        assert_eq!(narrowed.validity(None, &nowhere), Err(Invalidity::AddressNotAllowed));
    }

    #[test]
    fn a_demanded_environment_refuses_others_and_none() {
        let staging = Circumstances { environment: Some("staging"), ..at(0) };
        let production = with(Terms { environment: Some("production".to_owned()), ..Terms::default() });
        assert_eq!(production.validity(None, &staging), Err(Invalidity::OtherEnvironment));
        assert_eq!(ApiKey::from(key()).validity(None, &staging), Err(Invalidity::OtherEnvironment));
    }

    #[test]
    fn admin_implies_all_and_no_other_implies_any() {
        let may = |granted| ApiKey::from(Draft { permissions: Permissions::from_iter([granted]), ..key() });
        assert!(Permission::ALL.iter().all(|(_, permission)| may(Permission::Admin).has(*permission)));
        let write = may(Permission::Write);
        assert!(write.has(Permission::Write) && !write.has(Permission::Read));
    }

    #[test]
    fn a_key_is_small_and_returns_its_labels() {
        assert!(size_of::<ApiKey>() <= 56, "a million of them: {}", size_of::<ApiKey>());
        let named = ApiKey::from(Draft { name: Some("überall"), ..key() });
        assert_eq!((named.id(), named.name()), ("key_1", Some("überall")));
        let unnamed = ApiKey::from(key());
        assert_eq!((unnamed.id(), unnamed.name()), ("key_1", None));
        assert!(key().is(&unnamed) && !key().is(&named));
    }
}
