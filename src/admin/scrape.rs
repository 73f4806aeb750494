//! Gathers the data for the metrics and for the status, each time when a client requests one of
//! them.

use super::identities;
use super::state::Admin;
use crate::acme::Shown;
use crate::key_cache::Outlook;
use crate::limit::ShownBudget;
use crate::observe::metrics::{
    AcmeSample, BudgetSample, Certificate, EndpointSample, Keys, QueueSample, Scrape, SharedFigures,
    StateFigures,
};
use crate::proxy::Gateway;
use crate::shared::LinkReport;
use crate::state::Health;
use crate::upstream::endpoints::Named;

/// Returns the endpoints of all upstreams with their current health. A host name without an address
/// is returned as one unhealthy endpoint.
pub(super) fn endpoints(gateway: &Gateway) -> Vec<EndpointSample> {
    let snapshot = gateway.snapshot.load();
    let mut all = Vec::new();
    for upstream in &snapshot.upstreams {
        for set in &upstream.sets {
            let look_up_fault = set.named().and_then(Named::fault);
            let before = all.len();
            all.extend(set.endpoints().iter().map(|endpoint| EndpointSample {
                upstream: upstream.name.clone(),
                endpoint: set.address.to_string(),
                address: endpoint.resolved_address().map(|socket| socket.to_string()),
                is_healthy: endpoint.health.is_healthy(),
                is_known: endpoint.health.is_known(),
                fault: endpoint.health.fault(),
                look_up_fault: look_up_fault.clone(),
                in_flight: endpoint.health.in_flight(),
            }));
            if all.len() == before {
                let fault = look_up_fault.as_deref().unwrap_or("it has not been looked up yet");
                all.push(EndpointSample {
                    upstream: upstream.name.clone(),
                    endpoint: set.address.to_string(),
                    address: None,
                    is_healthy: false,
                    is_known: true,
                    fault: Some(format!("no address: {fault}")),
                    look_up_fault,
                    in_flight: 0,
                });
            }
        }
    }
    all
}

/// Returns the queues of all upstreams that have one.
pub(super) fn queues(gateway: &Gateway) -> Vec<QueueSample> {
    let snapshot = gateway.snapshot.load();
    let with_queue = snapshot.upstreams.iter().filter_map(|upstream| {
        let queue = upstream.queue.as_ref()?;
        let (taken, slots) = queue.slots(&upstream.sets);
        Some(QueueSample { upstream: upstream.name.clone(), slots, taken, waiting: queue.shared.waiting() })
    });
    with_queue.collect()
}

/// Returns all certificates in service whose expiry is known.
pub(super) fn certificates(admin: &Admin) -> Vec<Certificate> {
    let of_all = admin.certificates.iter().flat_map(|(listener, tls)| {
        let served = tls.load().certificates.clone();
        served.into_iter().filter_map(|served| {
            Some(Certificate {
                listener: listener.to_string(),
                file: served.file.display().to_string(),
                not_after: served.not_after?,
            })
        })
    });
    of_all.collect()
}

/// Returns the certificates that bearward gets from authorities.
fn acme(gateway: &Gateway) -> Vec<AcmeSample> {
    let sample = |shown: Shown| AcmeSample {
        domains: shown.domains.join(","),
        issued: shown.issued,
        failed: shown.failed,
        is_failing: shown.fault.is_some(),
    };
    gateway.acme.shown().into_iter().map(sample).collect()
}

/// Returns what is known of the server that has the limits of all replicas, if they are shared, and the
/// number of keys of which this replica holds units.
pub(super) fn shared(gateway: &Gateway) -> Option<(LinkReport, usize)> {
    let sharing = gateway.sharing.as_ref()?;
    Some((sharing.link.report(&gateway.clock), gateway.limiter.leases()))
}

/// Returns the budgets of all groups, and those of the keys whose ids are labels in metrics.
fn budgets(gateway: &Gateway) -> Vec<BudgetSample> {
    let snapshot = gateway.snapshot.load();
    let mut all = Vec::new();
    let mut add =
        |key: &str, group: &str, shown: Vec<ShownBudget>| {
            all.extend(shown.into_iter().map(|ShownBudget { policy, limit, used, resets_at }| {
                BudgetSample { key: key.to_owned(), group: group.to_owned(), policy, used, limit, resets_at }
            }));
        };
    for group in snapshot.groups.all() {
        add("", &group.name, gateway.limiter.budgets(&group.holder()));
    }
    for key in gateway.usage.labelled().values() {
        add(key, "", gateway.limiter.known_budgets(key));
    }
    all
}

/// Returns the metrics in the text format of Prometheus.
pub(super) fn encoded(admin: &Admin) -> String {
    let Admin { gateway, outlook, .. } = admin;
    let Outlook { keys, due_for_rotation, next_ends, .. } = outlook.outlook(gateway);
    let server = gateway.followed_store.load().as_ref().map(|store| store.health().clone());
    Scrape {
        tally: gateway.observers.tally(),
        levels: gateway.observers.levels(),
        key_ids: gateway.usage.labelled(),
        reloads: gateway.reloads.state(),
        keys: Keys { keys, secrets: gateway.keys.len(), due_for_rotation, next_ends, server },
        endpoints: endpoints(gateway),
        queues: queues(gateway),
        certificates: certificates(admin),
        acme: acme(gateway),
        identities: identities::figures(gateway),
        lost_lines: gateway.observers.logs().lost().collect(),
        left_out_lines: gateway.observers.logs().left_out(),
        ended_threads: gateway.observers.logs().threads.ended().collect(),
        lost_spans: gateway.observers.logs().lost_spans(),
        shared: shared(gateway).map(|(report, leases)| SharedFigures {
            is_available: report.state.is_available,
            replicas: report.state.replicas.len(),
            leases,
            answered: report.answered,
            unanswered: report.unanswered,
            away: report.away,
            granted_away: report.granted_away,
        }),
        budgets: budgets(gateway),
        state: gateway.keeping.as_ref().map(|keeping| {
            let Health { bytes, written_at, failures, .. } = keeping.health();
            StateFigures { bytes, written_at, failures }
        }),
    }
    .encoded()
}
