//! Paths that servers read in different ways: which are refused, and when.
//!
//! What no route takes is refused at once, whoever asks. What some route takes is refused only once it is known who asks:
//! else a stranger could tell by 400 and 401 which routes there are.

use std::sync::Arc;

use http::Method;

use crate::config::{Access, Ambiguity, Limits};
use crate::denial::Denial;
use crate::guard::Target;
use crate::route::{Lookup, Route, RouteTable};

/// The route of a request, and those that servers may read its path as.
#[derive(Debug)]
pub(crate) struct Readings {
    pub(crate) lookup: Lookup,
    /// Empty for nearly every path, which has one reading.
    pub(crate) others: Vec<Arc<Route>>,
}

impl Readings {
    /// Looks up all readings of a request's path.
    ///
    /// # Errors
    ///
    /// 400 for what no route takes, and for a request without a host where a route that names hosts takes its method and path:
    /// upstream gets some Host all the same, and could take it for one that this route names.
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
        Ok(Readings { lookup, others })
    }

    /// Whether nobody is asked for a key.
    pub(crate) fn are_public(&self) -> bool {
        let is_public = |route: &Arc<Route>| route.access == Access::Public;
        matches!(&self.lookup, Lookup::Found(route) if is_public(route)) && self.others.iter().all(is_public)
    }

    /// The route that was found, with what bounds a request on any of the routes that servers may read its path as.
    ///
    /// # Errors
    ///
    /// No route was found: 421 where another host is meant, else 404.
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

    /// Refuses what the route does not take.
    ///
    /// # Errors
    ///
    /// 400, also where no route was found.
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
