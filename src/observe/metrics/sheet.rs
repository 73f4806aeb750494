//! Writes families of metrics, one after the other.

use std::fmt::Error;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::observe::histogram::Histogram;

/// The encoder to which families of metrics are written one after the other.
pub(super) struct Sheet<'a>(pub(super) DescriptorEncoder<'a>);

impl Sheet<'_> {
    pub(super) fn counter<'s>(&'s mut self, name: &'s str, help: &str) -> Result<MetricEncoder<'s>, Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Counter)
    }

    pub(super) fn gauge<'s>(&'s mut self, name: &'s str, help: &str) -> Result<MetricEncoder<'s>, Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)
    }

    pub(super) fn histogram<'s>(&'s mut self, name: &'s str, help: &str) -> Result<MetricEncoder<'s>, Error> {
        self.0.encode_descriptor(name, help, None, MetricType::Histogram)
    }

    /// Writes a family of histograms, one for each value of the label `label`.
    pub(super) fn histograms<'h>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        all: impl Iterator<Item = (&'h str, &'h Histogram)>,
    ) -> Result<(), Error> {
        let mut family = self.histogram(name, help)?;
        for (value, histogram) in all {
            timed(&mut family, &[(label, value)], histogram)?;
        }
        Ok(())
    }

    /// Writes a gauge without labels.
    pub(super) fn level(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        valued(&mut self.gauge(name, help)?, &[], value)
    }
}

pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

pub(super) fn counted(family: &mut MetricEncoder<'_>, labels: Labels<'_>, count: u64) -> Result<(), Error> {
    match labels {
        [] => family.encode_counter::<NoLabelSet, _, u64>(&count, None),
        labels => family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None),
    }
}

pub(super) fn counted_seconds(
    sheet: &mut Sheet<'_>,
    name: &str,
    help: &str,
    seconds: f64,
) -> Result<(), Error> {
    sheet.counter(name, help)?.encode_counter::<NoLabelSet, _, f64>(&seconds, None)
}

pub(super) fn valued(family: &mut MetricEncoder<'_>, labels: Labels<'_>, value: f64) -> Result<(), Error> {
    match labels {
        [] => family.encode_gauge(&value),
        labels => family.encode_family(&labels)?.encode_gauge(&value),
    }
}

pub(super) fn timed(
    family: &mut MetricEncoder<'_>,
    labels: Labels<'_>,
    histogram: &Histogram,
) -> Result<(), Error> {
    let (sum, count, buckets) = (histogram.sum(), histogram.count(), histogram.buckets());
    match labels {
        [] => family.encode_histogram::<NoLabelSet>(sum, count, &buckets, None),
        labels => family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None),
    }
}
