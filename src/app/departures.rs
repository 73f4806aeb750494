//! Forgets removed keys, routes and upstreams an hour after their removal: their series in metrics,
//! their usage, and the state of their limits. Without this, a process that is never restarted
//! would keep the state of every name that ever existed.
//!
//! A name that comes back within an hour continues with its old state. A name that comes back later
//! begins at zero, which Prometheus treats as a counter reset.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::observe::tally::Gone;
use crate::proxy::Gateway;

/// Time for which the metrics of a route, upstream or key that was removed are kept. It is several
/// times the slowest scrape interval, so that a scrape still sees the last requests.
const KEPT: Duration = Duration::from_secs(3600);
/// How long metrics keep the series of a rate limit policy after the policy last refused a request.
/// The time is the same whether or not a limit still refers to the policy.
const POLICY_KEPT: Duration = Duration::from_secs(24 * 3600);
/// How often bearward looks for removed names.
const LOOK: Duration = Duration::from_secs(60);

/// The name of a key, a route or an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Named {
    Key(String),
    Route(Arc<str>),
    Upstream(Arc<str>),
}

/// Removed names, and when each removal was noticed.
#[derive(Debug, Default)]
pub(super) struct Departures(HashMap<Named, Instant>);

/// Looks for removed names until the process ends.
pub(super) async fn run(gateway: Arc<Gateway>) {
    let mut departures = Departures::default();
    loop {
        tokio::time::sleep(LOOK).await;
        let gateway = gateway.clone();
        // Comparing a million keys takes long. The comparison runs on a blocking thread, so that
        // requests do not wait for it.
        let looked = tokio::task::spawn_blocking(move || {
            departures.check(&gateway, Instant::now());
            departures
        });
        departures = looked.await.unwrap_or_default();
    }
}

impl Departures {
    fn check(&mut self, gateway: &Gateway, now: Instant) {
        let left = left(gateway);
        self.0.retain(|named, _| left.contains(named));
        left.into_iter().for_each(|named| {
            self.0.entry(named).or_insert(now);
        });
        let mut gone = Gone::default();
        for (named, _) in self.0.iter().filter(|(_, since)| now >= **since + KEPT) {
            match named {
                Named::Route(route) => gone.routes.extend([route.clone()]),
                Named::Upstream(upstream) => gone.upstreams.extend([upstream.clone()]),
                Named::Key(id) => {
                    // A key is not forgotten while a part of its quota is used, because forgetting
                    // the key would give that part back. Such a key is checked again later.
                    if gateway.limiter.forget(id) {
                        gone.keys.extend(gateway.usage.forget(id));
                    }
                }
            }
        }
        gateway.limiter.forget_unused_windows();
        gateway.observers.forget(gone, now.checked_sub(POLICY_KEPT));
    }
}

/// Returns the names that still have a state, such as usage or series in metrics, but are no longer
/// configured.
fn left(gateway: &Gateway) -> HashSet<Named> {
    let mut keys = gateway.usage.unreferenced();
    if !keys.is_empty() {
        gateway.keys.for_each(|live| {
            keys.remove(live.key.id());
        });
    }
    let snapshot = gateway.snapshot.load();
    let (mut routes, mut upstreams) = gateway.observers.named();
    routes.retain(|route| !snapshot.routes.names().any(|known| known == &**route));
    upstreams.retain(|upstream| !snapshot.upstreams.iter().any(|known| known.name == *upstream));
    let keys = keys.into_iter().map(Named::Key);
    let routes = routes.into_iter().map(Named::Route);
    keys.chain(routes).chain(upstreams.into_iter().map(Named::Upstream)).collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method, StatusCode, Version};

    use super::*;
    use crate::app::App;
    use crate::clock::Clock;
    use crate::config::Config;
    use crate::hooks::Hooks;
    use crate::key_cache::KeySet;
    use crate::keys::token::Token;
    use crate::observe::RequestRecord;

    fn gateway() -> Arc<Gateway> {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("keys.yaml");
        let key = |id: &str| {
            let hash = Token::generate().unwrap().hash().to_stored();
            format!("  - {{id: {id}, hash: \"{hash}\", permissions: [read]}}\n")
        };
        std::fs::write(&keys, format!("keys:\n{}{}", key("key_stays"), key("key_goes"))).unwrap();
        let source = format!(
            "listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: stays, endpoints: [http://127.0.0.1:1]}}]\n\
             keys: {{path: {}}}\nadmin: off\nroutes: [{{name: stays, paths: [/**], permission: read}}]\n",
            keys.display()
        );
        let config = Config::parse(&directory.path().join("bearward.yaml"), &source, &|_| None).unwrap();
        App::bind(&config, Clock::system(), Hooks::default()).unwrap().gateway()
    }

    /// Records a finished request whose key, route and upstream have this name.
    fn request(gateway: &Gateway, name: &str) {
        let observer = gateway.observers.join();
        let id = HeaderValue::from_static("r");
        let mut record = RequestRecord::open(&observer, &id, None, &Method::GET, "/", Version::HTTP_11);
        record.owned(&gateway.usage.of(&format!("key_{name}")));
        record.route(&name.into(), &name.into());
        let now = Instant::now();
        let times = crate::observe::Times { ready: Some(now), back: Some(now), ..Default::default() };
        record.status(StatusCode::OK);
        record.decided(times);
        record.completed();
    }

    fn names(gateway: &Gateway) -> (Vec<String>, Vec<String>, Vec<String>) {
        let tally = gateway.observers.tally();
        let sorted = |names: &mut dyn Iterator<Item = &Arc<str>>| {
            let mut names: Vec<String> = names.map(|name| name.to_string()).collect();
            names.sort();
            names
        };
        let labelled = gateway.usage.labelled();
        (
            sorted(&mut tally.routes.keys()),
            sorted(&mut tally.upstreams.keys()),
            sorted(&mut labelled.values()),
        )
    }

    #[test]
    fn removed_names_are_forgotten_after_an_hour_and_others_are_not() {
        let (gateway, start) = (gateway(), Instant::now());
        ["stays", "goes"].into_iter().for_each(|name| request(&gateway, name));
        let (mut departures, both) = (Departures::default(), ["goes".to_owned(), "stays".to_owned()]);
        let keys = ["key_goes".to_owned(), "key_stays".to_owned()];
        departures.check(&gateway, start);
        departures.check(&gateway, start + 2 * KEPT);
        assert_eq!(names(&gateway), ([both[1].clone()].into(), [both[1].clone()].into(), keys.to_vec()));
        // Both keys are removed now. Their series in metrics stay for another hour.
        assert!(gateway.keys.len() == 2 && gateway.keys.replace(&KeySet::default()).removed == 2);
        let left = start + 3 * KEPT;
        departures.check(&gateway, left);
        departures.check(&gateway, left + KEPT / 2);
        assert_eq!(names(&gateway).2, keys);
        assert_eq!(gateway.observers.tally().requests(), 2);
        // A key with a request in flight keeps its label in metrics, because the request will be
        // counted under that label.
        let in_use = gateway.usage.of("key_stays");
        departures.check(&gateway, left + KEPT);
        assert_eq!(names(&gateway).2, [keys[1].clone()]);
        drop(in_use);
        departures.check(&gateway, left + KEPT);
        departures.check(&gateway, left + 2 * KEPT);
        assert_eq!(names(&gateway).2, [""; 0]);
        let tally = gateway.observers.tally();
        assert!(tally.routes.values().all(|of_route| of_route.requests.is_empty()), "{tally:?}");
        assert_eq!(tally.requests(), 2, "the sum goes on: the page draws its steps");
    }

    #[test]
    fn a_name_that_comes_back_in_time_continues() {
        let (gateway, start) = (gateway(), Instant::now());
        request(&gateway, "goes");
        let mut departures = Departures::default();
        departures.check(&gateway, start);
        assert_eq!(departures.0.len(), 2, "a route and an upstream that are not configured: {departures:?}");
        departures.0.clear();
        departures.check(&gateway, start + KEPT);
        assert_eq!(names(&gateway).0, ["goes"], "it was noticed anew");
    }
}
