//! What Prometheus is told: for now, what became of reloads.

use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The content type of [`Metrics::encoded`] (OpenMetrics 1.0).
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of the process.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    reloads: Family<OutcomeLabels, Counter>,
    reload_success: Family<PartLabels, Gauge>,
    reload_success_time: Family<PartLabels, Gauge<f64, AtomicU64>>,
    generation: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartLabels {
    part: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    part: &'static str,
    outcome: &'static str,
}

impl Metrics {
    /// Metrics that say that all `parts` were loaded just now: without that, nothing starts.
    pub(crate) fn new(parts: impl Iterator<Item = &'static str>) -> Self {
        let mut registry = Registry::with_prefix("bearward");
        let metrics = Metrics {
            reloads: Family::default(),
            reload_success: Family::default(),
            reload_success_time: Family::default(),
            generation: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("reloads", "Reloads by part and outcome", metrics.reloads.clone());
        let help = "Whether what is on disk is what is served: 0 where the last reload was refused";
        registry.register("reload_success", help, metrics.reload_success.clone());
        let help = "When the part was last loaded, in seconds since 1970";
        registry.register("reload_success_timestamp_seconds", help, metrics.reload_success_time.clone());
        let help = "Counts the changes that were applied since the start";
        registry.register("generation", help, metrics.generation.clone());
        for part in parts {
            metrics.loaded(part);
        }
        Metrics { registry, ..metrics }
    }

    /// A reload of a part was applied, or refused.
    pub(crate) fn reloaded(&self, part: &'static str, is_applied: bool, generation: u64) {
        let outcome = if is_applied { "applied" } else { "refused" };
        self.reloads.get_or_create(&OutcomeLabels { part, outcome }).inc();
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        if is_applied {
            self.loaded(part);
        } else {
            self.reload_success.get_or_create(&PartLabels { part }).set(0);
        }
    }

    fn loaded(&self, part: &'static str) {
        let now = Timestamp::now().as_duration().as_secs_f64();
        self.reload_success.get_or_create(&PartLabels { part }).set(1);
        self.reload_success_time.get_or_create(&PartLabels { part }).set(now);
    }

    /// The text that a scrape gets.
    pub(crate) fn encoded(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _never = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_reload_turns_its_own_part_alone() {
        let metrics = Metrics::new(["keys", "config"].into_iter());
        metrics.reloaded("keys", false, 0);
        metrics.reloaded("config", true, 1);
        let text = metrics.encoded();
        for line in [
            "bearward_reload_success{part=\"keys\"} 0",
            "bearward_reload_success{part=\"config\"} 1",
            "bearward_reloads_total{part=\"keys\",outcome=\"refused\"} 1",
            "bearward_generation 1",
            "# EOF",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
