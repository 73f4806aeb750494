//! Finds routes that match requests of other routes. `check` warns of these routes.

use std::sync::Arc;

use http::Method;

use super::compiled::Route;
use super::table::RouteTable;
use crate::config::{Access, OutputCap};
use crate::path_pattern::PathPattern;
use crate::permission::Permission;

/// A route that loses requests to another route, or may lose requests to it. Each variant names
/// both routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shadow<'a> {
    /// `route` loses all of its requests, because `by` precedes it and matches all of them.
    Whole { route: &'a str, by: &'a str },
    /// `route` loses some of its requests to the public route `by`, which precedes it. These
    /// requests then need no key.
    PublicPart { route: &'a str, by: &'a str },
    /// `route` loses no request that it matches. However, the later route `by` requires less or
    /// allows more, and many servers read some paths of `by` as paths of `route`. `how` names the
    /// spelling of such paths.
    Lookalike { route: &'a str, by: &'a str, upstream: &'a str, how: &'static str },
    /// `route` loses no request that it matches. However, `by` requires less and leads to the same
    /// paths of the upstream, because one of the two routes strips a prefix.
    SecondDoor { route: &'a str, by: &'a str, upstream: &'a str },
}

impl RouteTable {
    /// Returns all routes that lose requests to other routes, or may lose them.
    pub(crate) fn shadows(&self) -> impl Iterator<Item = Shadow<'_>> {
        self.routes.iter().enumerate().flat_map(|(index, route)| {
            let before = self.shadow_before(index, route);
            // If a route loses all of its requests to an earlier route, later routes can't match
            // any of them.
            let behind = match before {
                Some(Shadow::Whole { .. }) => Vec::new(),
                _ => self.lookalikes(index, route),
            };
            before.into_iter().chain(behind).chain(self.second_door(route))
        })
    }

    /// Returns the routes that anybody can use without a key: the public ones, without those to which an earlier
    /// route leaves no request.
    pub(crate) fn open_routes(&self) -> impl Iterator<Item = &Route> {
        let public = self.routes.iter().enumerate().filter(|(_, route)| route.access == Access::Public);
        public.filter(|(index, route)| self.covering(*index, route).is_none()).map(|(_, route)| &**route)
    }

    /// Finds the route before the one at `index` that takes all of its requests.
    fn covering(&self, index: usize, route: &Route) -> Option<&Route> {
        self.routes.iter().take(index).find(|earlier| earlier.covers(route)).map(|earlier| &**earlier)
    }

    /// Finds a route that requires less than `route`, and leads to the same paths of the same
    /// upstream.
    fn second_door<'t>(&'t self, route: &'t Route) -> Option<Shadow<'t>> {
        let own = route.upstream_paths();
        let leads_there = |by: &Route| {
            by.strip_prefix != route.strip_prefix
                && rank(by.access) < rank(route.access)
                && Arc::ptr_eq(&by.upstream, &route.upstream)
                && by.shares_requests(route)
                && by.upstream_paths().iter().any(|theirs| own.iter().any(|own| own.meets(theirs)))
        };
        let by = self.routes.iter().find(|by| leads_there(by))?;
        Some(Shadow::SecondDoor { route: &route.name, by: &by.name, upstream: &route.upstream.name })
    }

    fn shadow_before<'t>(&'t self, index: usize, route: &'t Route) -> Option<Shadow<'t>> {
        if let Some(by) = self.covering(index, route) {
            return Some(Shadow::Whole { route: &route.name, by: &by.name });
        }
        let is_open = |earlier: &&Arc<Route>| earlier.access == Access::Public && earlier.meets(route);
        let by = self.routes.iter().take(index).find(is_open).filter(|_| route.access != Access::Public)?;
        Some(Shadow::PublicPart { route: &route.name, by: &by.name })
    }

    /// Finds later routes of the same upstream that require less, and match the paths of `route` in
    /// another spelling. Returns none if the configuration defines how the upstream reads paths.
    fn lookalikes<'t>(&'t self, index: usize, route: &'t Route) -> Vec<Shadow<'t>> {
        if route.upstream.paths.reading.is_some() {
            return Vec::new();
        }
        let mut found: Vec<Shadow<'t>> = Vec::new();
        for (how, spelled) in route.written.iter().flat_map(PathPattern::lookalikes) {
            if found
                .iter()
                .any(|shadow| matches!(shadow, Shadow::Lookalike { how: known, .. } if *known == how))
            {
                continue;
            }
            let is_taken_before = |by: usize| {
                let mut before =
                    std::iter::once(route).chain(self.routes.iter().take(by).map(|earlier| &**earlier));
                before.any(|earlier| !earlier.asks_less_than(route) && earlier.takes_all(route, &spelled))
            };
            let asks_less = |by: &Route| {
                by.asks_less_than(route)
                    && Arc::ptr_eq(&by.upstream, &route.upstream)
                    && by.shares_requests(route)
                    && by.paths.iter().any(|path| path.meets(&spelled))
            };
            let mut behind = self.routes.iter().enumerate().skip(index + 1);
            if let Some((_, by)) = behind.find(|(place, by)| asks_less(by) && !is_taken_before(*place)) {
                let upstream = &route.upstream.name;
                found.push(Shadow::Lookalike { route: &route.name, by: &by.name, upstream, how });
            }
        }
        found
    }
}

/// Returns how much a route requires; a greater number requires more.
fn rank(access: Access) -> u8 {
    match access {
        Access::Public => 0,
        Access::Needs(Permission::Read) => 1,
        Access::Needs(Permission::Write | Permission::Webhook) => 2,
        Access::Needs(Permission::Admin) => 3,
    }
}

impl Route {
    /// Returns the patterns of the route's paths as upstream receives them.
    fn upstream_paths(&self) -> Vec<PathPattern> {
        let Some(prefix) = &self.strip_prefix else { return self.written.clone() };
        let stripped =
            self.written.iter().filter_map(|path| match path.as_str().strip_prefix(prefix.as_str())? {
                "" => Some("/"),
                rest => rest.starts_with('/').then_some(rest),
            });
        stripped.filter_map(|rest| PathPattern::parse(rest).ok()).flatten().collect()
    }

    /// Whether this route admits a client, or allows a request, that the other route refuses.
    fn asks_less_than(&self, other: &Route) -> bool {
        let quotas = |route: &'_ Route| route.windows.iter().map(|window| window.quota()).collect::<Vec<_>>();
        let is_larger = |most: u64| self.max_body.is_none_or(|own| own > most);
        let is_open_to_others = rank(self.access) == rank(other.access) && self.access != other.access;
        let (model, of_other) = (&self.model, &other.model);
        let has_larger_cap =
            |cap: OutputCap| model.request.is_none_or(|own| own.max_output_tokens > cap.max_output_tokens);
        rank(self.access) < rank(other.access)
            || of_other.request.is_some_and(has_larger_cap)
            || (model.models_free && !of_other.models_free)
            || (other.uses_tokens(&Method::POST) && !self.uses_tokens(&Method::POST))
            || is_open_to_others
            || !quotas(other).iter().all(|quota| quotas(self).contains(quota))
            || other.max_body.is_some_and(is_larger)
            || !other.removes.iter().all(|name| self.removes.contains(name))
    }

    /// Whether this route matches all requests of the other route, if the other route's paths are
    /// written in the spelling `spelled`.
    fn takes_all(&self, other: &Route, spelled: &PathPattern) -> bool {
        self.model.models.is_none()
            && self.covers_methods_and_hosts(other)
            && self.paths.iter().any(|own| own.covers(spelled))
    }

    /// Whether this route matches all requests that the later route `other` matches. Returns true
    /// only if this is certain.
    fn covers(&self, other: &Route) -> bool {
        // A route with `models` leaves requests for all other models to later routes.
        if self.model.models.is_some() {
            return false;
        }
        let is_covered = |path: &PathPattern| self.paths.iter().any(|own| own.covers(path));
        self.covers_methods_and_hosts(other) && other.written.iter().all(is_covered)
    }

    fn covers_methods_and_hosts(&self, other: &Route) -> bool {
        let covers_methods = match (&self.methods, &other.methods) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(_), Some(theirs)) => theirs.iter().all(|method| self.matches_method(method)),
        };
        let covers_hosts = match (&self.hosts, &other.hosts) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ours), Some(theirs)) => theirs.iter().all(|host| ours.iter().any(|own| own.covers(host))),
        };
        covers_methods && covers_hosts
    }

    /// Whether some request could match both routes.
    fn meets(&self, other: &Route) -> bool {
        let meet = |path: &PathPattern| self.paths.iter().any(|own| own.meets(path));
        self.shares_requests(other) && other.written.iter().any(meet)
    }

    /// Whether some combination of method and host matches both routes.
    fn shares_requests(&self, other: &Route) -> bool {
        let share_methods = match (&self.methods, &other.methods) {
            (Some(ours), Some(theirs)) => {
                theirs.iter().any(|method| self.matches_method(method))
                    || ours.iter().any(|method| other.matches_method(method))
            }
            _ => true,
        };
        let share_hosts = match (&self.hosts, &other.hosts) {
            (Some(ours), Some(theirs)) => {
                ours.iter().any(|own| theirs.iter().any(|host| own.covers(host) || host.covers(own)))
            }
            _ => true,
        };
        share_methods && share_hosts
    }
}
