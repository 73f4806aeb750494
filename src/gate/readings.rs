//! Paths that servers read in different ways: which of these paths are refused, and at which step.
//!
//! A path with an ambiguous part that no route accepts is refused at once. If any route accepts the
//! ambiguous part, the path is refused only after authentication, because an earlier refusal would
//! let a client without a key learn from 400 and 401 which routes exist.

use std::sync::Arc;

use http::Method;
use smallvec::SmallVec;

use crate::config::{Access, Ambiguity, Limits};
use crate::denial::Denial;
use crate::guard::Target;
use crate::route::{Lookup, Route, RouteTable};

/// The route of a request's path as bearward reads the path, and the routes of the other ways in
/// which a server may read the path.
#[derive(Debug)]
pub(crate) struct Readings {
    pub(crate) lookup: Lookup,
    /// The routes of the other ways in which a server may read the path. Nearly every path can be
    /// read in only one way, so this list is usually empty.
    pub(crate) others: Vec<Arc<Route>>,
    /// The routes of the path that the request's model selects from, in their order; empty if the
    /// path has one route, whatever the model is.
    pub(crate) by_model: SmallVec<[Arc<Route>; 2]>,
}

impl Readings {
    /// Looks up the routes of a path, for every way in which servers may read the path.
    ///
    /// # Errors
    ///
    /// 400 for an ambiguous part that no route accepts. Also 400 for a request without a host, if a
    /// route that names hosts matches its method and path: bearward always sends some Host to the
    /// upstream, which might then serve the request as if it named the host of that route.
    pub(crate) fn of(routes: &RouteTable, target: &Target, method: &Method) -> Result<Self, Denial> {
        let Target { ambiguities, .. } = target;
        if target.authority.is_none() && routes.go_by_host(method, target.path()) {
            return Err(Denial::bad_request("The Host header is missing"));
        }
        if let Some(refused) = ambiguities.iter().find(|ambiguity| !routes.accepts_somewhere(**ambiguity)) {
            return Err(refusal(*refused));
        }
        let lookup = routes.find(target.host(), method, target.path());
        let others = match ambiguities.as_slice() {
            [] if !routes.reads_semicolons(target.path()) => Vec::new(),
            ambiguities => routes.other_readings(target.host(), method, target.path(), ambiguities),
        };
        let by_model = match &lookup {
            Lookup::Found(route) if route.model.models.is_some() => {
                routes.find_by_model(target.host(), method, target.path())
            }
            _ => SmallVec::new(),
        };
        match by_model.is_empty() || others.is_empty() {
            true => Ok(Readings { lookup, others, by_model }),
            false => Err(Denial::bad_request("The path can be read in two ways")),
        }
    }

    /// Whether the path has a public route in every way in which servers may read it, so that no
    /// key is needed.
    pub(crate) fn are_public(&self) -> bool {
        let is_public = |route: &Arc<Route>| route.access == Access::Public;
        matches!(&self.lookup, Lookup::Found(route) if is_public(route))
            && self.others.iter().all(is_public)
            && self.by_model.iter().all(is_public)
    }

    /// Returns the route of the path. If a server may read the path in another way that has another
    /// route, the returned route also has the limits of that other route.
    ///
    /// # Errors
    ///
    /// 421 if all routes name other hosts, 404 if no route matches.
    pub(crate) fn route(
        &self,
        target: &Target,
        method: &Method,
        limits: &Limits,
    ) -> Result<Arc<Route>, Denial> {
        let route = match &self.lookup {
            Lookup::Found(route) => route,
            Lookup::OtherHost => return Err(Denial::misdirected(target.host())),
            Lookup::None => return Err(Denial::route_not_found(method.as_str(), target.path())),
        };
        match self.others.iter().all(|other| Arc::ptr_eq(other, route)) {
            true => Ok(route.clone()),
            false => Ok(Arc::new(route.bounded_by(&self.others, limits))),
        }
    }

    /// Refuses ambiguous parts of the path that the path's route does not accept.
    ///
    /// # Errors
    ///
    /// 400 if the route does not accept an ambiguous part of the path, or if the path has an
    /// ambiguous part and no route.
    pub(crate) fn refuse_ambiguities(&self, ambiguities: &[Ambiguity]) -> Result<(), Denial> {
        let is_accepted = |ambiguity: &Ambiguity| match &self.lookup {
            Lookup::Found(route) => route.accepts(*ambiguity),
            Lookup::None | Lookup::OtherHost => false,
        };
        match ambiguities.iter().find(|ambiguity| !is_accepted(ambiguity)) {
            None => Ok(()),
            Some(ambiguity) => Err(refusal(*ambiguity)),
        }
    }
}

fn refusal(ambiguity: Ambiguity) -> Denial {
    Denial::bad_part("The path can be read in two ways", "found", ambiguity.text())
}
