//! Charges the limits of a granted request, all of them or none, and makes its permit.

use std::net::IpAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::context::Context;
use super::identity_judge::IdentityJudge;
use super::principal::Principal;
use super::revocation::{Judgement, Revocation};
use crate::clock::Clock;
use crate::denial::Denial;
use crate::identity::Identities;
use crate::key_cache::{KeyCache, LiveKey};
use crate::limit::{
    ConcurrencyPermit, Cost, Holder, InFlightPermit, KeyState, LimitStatus, Limiter, NotGranted,
    PublicInFlightPermit, Refused, Wait, Window,
};
use crate::route::Route;
use crate::snapshot::Snapshot;
use crate::tokens::Reservation;

/// A request that may use its route, before its limits are checked.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(super) principal: Option<Principal>,
    pub(super) route: Arc<Route>,
    /// Routes of the other ways in which a server may read the request's path; nearly always empty.
    pub(super) readings: Vec<Arc<Route>>,
    /// The permits of the request in flight, if it took them before its body was looked at.
    pub(super) in_flight: Option<InFlightPermits>,
}

/// A request that may be forwarded, after its limits were charged.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) permit: Permit,
    /// State of the limits after the request; `None` if no limit applies.
    pub(crate) limit_status: Option<LimitStatus>,
    /// The charge of the windows that count tokens; `None` if none applies.
    pub(crate) reservation: Option<Box<Reservation>>,
    /// The denial of a limit that only counts.
    pub(crate) would_refuse: Option<Denial>,
}

/// The right to forward one request. Until the permit is dropped, the request counts as in flight,
/// for the process and for the key.
#[derive(Debug)]
pub(crate) struct Permit {
    principal: Option<Principal>,
    route: Arc<Route>,
    readings: Vec<Arc<Route>>,
    _in_flight: InFlightPermits,
}

/// The permits of one request in flight: that of the process, and that of its key or of its client's
/// address. Dropping them gives them back.
#[derive(Debug)]
pub(crate) struct InFlightPermits {
    _of_process: InFlightPermit,
    _public: Option<PublicInFlightPermit>,
    _of_key: Option<ConcurrencyPermit>,
    _of_group: Option<ConcurrencyPermit>,
}

impl InFlightPermits {
    /// Takes the permit of the process alone.
    ///
    /// # Errors
    ///
    /// 503 if the process has too many requests in flight.
    pub(crate) fn of_process(context: Context<'_>) -> Result<Self, Denial> {
        let all = context.snapshot.limits.in_flight;
        let of_process = context.limiter.enter(all).map_err(Denial::too_many_in_flight)?;
        Ok(InFlightPermits { _of_process: of_process, _public: None, _of_key: None, _of_group: None })
    }

    /// Takes the permits, all of them or none. `address`: the address for which a request without a
    /// key is counted.
    ///
    /// # Errors
    ///
    /// 429 if the key has too many requests in flight, and 503 if the process has.
    pub(super) async fn take(
        principal: Option<&Principal>,
        address: Option<IpAddr>,
        context: Context<'_>,
    ) -> Result<Self, Denial> {
        let Context { snapshot, limiter, .. } = context;
        let all = snapshot.limits.in_flight;
        let of_process = limiter.enter(all).map_err(Denial::too_many_in_flight)?;
        let (mut public, mut of_key, mut of_group) = (None, None, None);
        match principal {
            None => public = Some(limiter.enter_public(address, all).map_err(Denial::too_many_in_flight)?),
            Some(principal) => {
                let live = principal.key();
                if let Some(limit) = live.key.max_concurrent().or(snapshot.default_max_concurrent) {
                    of_key = Some(enter(limiter, &live.limits(limiter).state, limit).await?);
                }
                if let Some((group, limit)) =
                    principal.group().and_then(|group| Some((group, group.max_concurrent?)))
                {
                    of_group = Some(enter(limiter, &group.state, limit).await?);
                }
            }
        }
        Ok(InFlightPermits { _of_process: of_process, _public: public, _of_key: of_key, _of_group: of_group })
    }
}

/// Takes one of the `limit` permits of a key or a group.
async fn enter(limiter: &Limiter, state: &Arc<KeyState>, limit: u32) -> Result<ConcurrencyPermit, Denial> {
    let permit = limiter.enter_key(state, limit).await;
    let permit = permit.map_err(|_unavailable| Denial::limiter_unavailable())?;
    permit.ok_or_else(|| Denial::concurrency(limit))
}

impl Grant {
    pub(crate) fn route(&self) -> &Arc<Route> {
        &self.route
    }

    pub(crate) fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// Whether a limit of the request's key or of its route counts tokens.
    pub(crate) fn has_token_limit(&self, context: Context<'_>) -> bool {
        counts_tokens(self.principal.as_ref(), &self.route, context)
    }

    /// Checks that the key may open a tunnel, such as a WebSocket.
    ///
    /// # Errors
    ///
    /// 400 if the key has a cap on output, which could not be held in the tunnel, or if the upstream is told
    /// the class of each request: a message in the tunnel could claim another one.
    pub(crate) fn check_tunnel(&self) -> Result<(), Denial> {
        if self.route.upstream.tells_priority.is_some() && !self.route.model.models_free {
            return Err(Denial::unclear_priority());
        }
        let mut caps = self.principal.iter().flat_map(Principal::output_caps).flatten();
        match caps.next().filter(|_| !self.route.model.models_free) {
            Some(cap) => Err(Denial::output_hidden(&self.route.name, cap.max_output_tokens)),
            None => Ok(()),
        }
    }

    /// Checks whether limits of which nothing is used let the request in. Nothing is charged.
    ///
    /// # Errors
    ///
    /// 400 if no wait would let the request in.
    pub(crate) fn check_unused(&self, cost: Cost, context: Context<'_>) -> Result<(), Denial> {
        let Some(principal) = &self.principal else { return Ok(()) };
        let of_key = key_holder(principal.key(), context.limiter, context.snapshot, Some(&self.route));
        let of_group = principal.group().map(|group| group.holder());
        for holder in std::iter::once(of_key).chain(of_group) {
            let unused = Arc::default();
            let holder = Holder { state: &unused, ..holder };
            context.limiter.charge(&holder, None, cost).map_err(refusal)?;
        }
        Ok(())
    }

    /// Returns the windows that grant a request of this cost only when they are full, and go into debt,
    /// because the cost is more than their burst.
    pub(crate) fn overdrawn(&self, cost: Cost, context: Context<'_>) -> Vec<Arc<Window>> {
        let holders = self.principal.iter().flat_map(|principal| holders_of(principal, &self.route, context));
        let windows = holders.flat_map(|holder| holder.windows().cloned().collect::<Vec<_>>());
        let is_overdrawn = |window: &Arc<Window>| {
            let quota = window.quota();
            quota.is_enforced && cost.of(quota.unit) > quota.burst
        };
        windows.filter(is_overdrawn).collect()
    }

    /// Charges the limits, all of them or none, and makes the permit. `address`: the address for
    /// which a request without a key is counted.
    ///
    /// If this future is dropped while it waits, nothing is charged: the drop returns the permits, all
    /// windows are charged in one last step, and what a server grants to a request that has left is
    /// given back.
    ///
    /// # Errors
    ///
    /// 429, or 503 if the whole process has no room for the request. Nothing was charged in these
    /// cases.
    pub(crate) async fn admit(
        self,
        cost: Cost,
        address: Option<IpAddr>,
        context: Context<'_>,
    ) -> Result<Admitted, Denial> {
        let Grant { principal, route, readings, in_flight } = self;
        let Context { snapshot, limiter, .. } = context;
        let in_flight = match in_flight {
            Some(in_flight) => in_flight,
            None => InFlightPermits::take(principal.as_ref(), address, context).await?,
        };
        let (mut limit_status, mut reservation, mut would_refuse) = (None, None, None);
        if let Some(principal) = &principal {
            let of_key = key_holder(principal.key(), limiter, snapshot, Some(&route));
            let of_group = principal.group().map(|group| group.holder());
            if of_key.has_limits() || of_group.as_ref().is_some_and(Holder::has_limits) {
                let charged = limiter.charge_shared(&of_key, of_group.as_ref(), cost).await;
                let charged = charged.map_err(|not_granted| match not_granted {
                    NotGranted::Refused(refused) => refusal(refused),
                    NotGranted::Unavailable => Denial::limiter_unavailable(),
                })?;
                limit_status = Some(charged.status);
                would_refuse = charged.would_refuse.map(refusal);
                if !charged.debits.is_empty() {
                    reservation = Some(Box::new(Reservation { debits: charged.debits, cost }));
                }
            }
        }
        let permit = Permit { principal, route, readings, _in_flight: in_flight };
        Ok(Admitted { permit, limit_status, reservation, would_refuse })
    }
}

fn refusal(refused: Refused) -> Denial {
    let (window, wait) = match refused {
        Refused::Window { window, wait } => (window, wait),
        Refused::Budget { budget, resets_at, wait } => {
            return Denial::budget_exceeded(budget.policy(), budget.amount(), resets_at, wait);
        }
    };
    let (name, quota) = (window.name(), window.quota());
    match wait {
        Wait::For(retry_after) => Denial::rate_limited(name, quota.amount, quota.per, retry_after),
        Wait::Forever(estimated) => Denial::tokens_exceed_limit(name, quota.amount, estimated),
    }
}

/// Returns the state of a principal's limits, for the answer to a request that was not charged.
pub(crate) fn limit_status(
    principal: &Principal,
    route: Option<&Arc<Route>>,
    context: Context<'_>,
) -> Option<LimitStatus> {
    let of_key = key_holder(principal.key(), context.limiter, context.snapshot, route);
    let of_group = principal.group().map(|group| group.holder());
    let holders = std::iter::once(of_key).chain(of_group).filter(Holder::has_limits);
    let statuses = holders.map(|holder| context.limiter.status(&holder));
    statuses.reduce(LimitStatus::and)
}

/// Returns the key of a principal, and its group, as holders of limits.
pub(crate) fn holders<'a>(
    principal: &'a Principal,
    context: Context<'a>,
) -> impl Iterator<Item = Holder<'a>> {
    let of_key = key_holder(principal.key(), context.limiter, context.snapshot, None);
    std::iter::once(of_key).chain(principal.group().map(|group| group.holder()))
}

/// Returns the key of a principal, with the limits of a route, and its group, as holders of limits.
pub(super) fn holders_of<'a>(
    principal: &'a Principal,
    route: &'a Arc<Route>,
    context: Context<'a>,
) -> impl Iterator<Item = Holder<'a>> {
    let of_key = key_holder(principal.key(), context.limiter, context.snapshot, Some(route));
    std::iter::once(of_key).chain(principal.group().map(|group| group.holder()))
}

/// Whether a window of the key, or one of the route, counts tokens.
pub(super) fn counts_tokens(principal: Option<&Principal>, route: &Arc<Route>, context: Context<'_>) -> bool {
    let Some(principal) = principal else { return false };
    holders_of(principal, route, context).any(|holder| holder.counts_tokens())
}

/// Returns a key as the holder of its own limits (or the default ones) and the route's.
pub(super) fn key_holder<'a>(
    live: &'a LiveKey,
    limiter: &Limiter,
    snapshot: &'a Snapshot,
    route: Option<&'a Arc<Route>>,
) -> Holder<'a> {
    let limits = live.limits(limiter);
    let own = limits.windows.as_deref().unwrap_or(&snapshot.default_windows);
    Holder {
        state: &limits.state,
        windows: [own, route.map(|route| route.windows.as_slice()).unwrap_or_default()],
        budgets: &limits.budgets,
    }
}

impl Permit {
    pub(crate) fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    /// Makes the permit for a part of the request, which is sent to another upstream. `in_flight`: its place in
    /// flight, of the process; for the key, the request itself counts.
    pub(crate) fn for_part(&self, route: Arc<Route>, in_flight: InFlightPermits) -> Permit {
        Permit { principal: self.principal.clone(), route, readings: Vec::new(), _in_flight: in_flight }
    }

    /// Returns two waiters for the end of the request's key: one for the task that reads the
    /// answer, and one for a separate task. `None` if the configuration lets requests outlast their
    /// key. For a request without a key, the waiters always wait for the end of the request's time.
    pub(crate) fn revocations(
        &self,
        keys: (&Arc<KeyCache>, &Arc<Identities>),
        clock: &Clock,
        address: Option<IpAddr>,
        snapshot: &Snapshot,
    ) -> Option<(Revocation, Revocation)> {
        let first = self.revocation(keys, clock, address, snapshot)?;
        Some((first, self.revocation(keys, clock, address, snapshot)?))
    }

    fn revocation(
        &self,
        keys: (&Arc<KeyCache>, &Arc<Identities>),
        clock: &Clock,
        address: Option<IpAddr>,
        snapshot: &Snapshot,
    ) -> Option<Revocation> {
        match self.principal {
            None => Some(Revocation::after(snapshot.limits.public.total)),
            Some(_) if !snapshot.cut_open_streams => None,
            Some(_) => self.judgement(keys, clock, address, snapshot).map(Revocation::new),
        }
    }

    /// Returns what judges the request again by its key, after it has waited; `None` for a request without a
    /// key.
    pub(crate) fn judgement(
        &self,
        (keys, identities): (&Arc<KeyCache>, &Arc<Identities>),
        clock: &Clock,
        address: Option<IpAddr>,
        snapshot: &Snapshot,
    ) -> Option<Judgement> {
        let principal = self.principal.as_ref()?;
        let routes: SmallVec<_> = self.readings.iter().chain([&self.route]).cloned().collect();
        Some(Judgement {
            keys: keys.clone(),
            clock: clock.clone(),
            proof: principal.proof().clone(),
            identities: IdentityJudge { identities: identities.clone() },
            address,
            environment: snapshot.environment.clone(),
            max_age: snapshot.max_age,
            routes,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http::Request;

    use super::*;
    use crate::fuzzing::connection::{KEY, gateway};
    use crate::gate::{Head, Identity, decide_here};
    use crate::guard::client::Client;
    use crate::model::Named;

    #[test]
    fn an_admission_that_is_dropped_takes_nothing_and_a_permit_gives_back_its_places_alone() {
        let gateway = gateway();
        let snapshot = gateway.snapshot.load();
        let context = gateway.context(&snapshot, gateway.clock.wall());
        let request =
            Request::get("/v1/models").header("host", "a").header("authorization", format!("Bearer {KEY}"));
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let client = Client::of_peer(None);
        let head =
            Head { parts: &parts, client: &client, is_plain: true, identity: Identity::Presented(None) };
        let verdict = || decide_here(&head, context).outcome.unwrap();
        let grant = || verdict().grant(&Named::Absent, "GET", "/v1/models").unwrap();
        let principal = grant().principal.unwrap();
        let state = &principal.key().limits(&gateway.limiter).state;
        let charged =
            |admitted: &Admitted| admitted.limit_status.as_ref().map(|status| format!("{status:?}"));
        drop(grant().admit(Cost::REQUEST, None, context));
        assert_eq!(state.in_flight(), 0);

        let admitted = grant().admit(Cost::REQUEST, None, context).now_or_never().unwrap().unwrap();
        assert_eq!(state.in_flight(), 1);
        // The state was taken at the instant of the charge: one request is used, not two.
        let remaining = format!("remaining: {}", 400_000_000 - 1);
        assert!(charged(&admitted).is_some_and(|status| status.contains(&remaining)));
        drop(admitted);
        assert_eq!(state.in_flight(), 0);
    }
}
