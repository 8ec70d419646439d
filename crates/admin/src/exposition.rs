//! Samples of all workers merged into Prometheus families.

use std::collections::BTreeMap;

use prometheus::proto::{self, MetricFamily, MetricType};

use portcullis_proto::types::metrics::{Descriptor, Histogram, LabelPair, MetricKind, Samples};

/// Prefix of every family; names are given without it.
const PREFIX: &str = "portcullis_";

/// One scrape: every layer adds its numbers, each worker for itself. Samples of the same family and labels add up.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<&'static str, Family>,
}

#[derive(Debug)]
struct Family {
    descriptor: Descriptor,
    samples: BTreeMap<Vec<(&'static str, String)>, Sample>,
}

#[derive(Debug)]
enum Sample {
    Number(f64),
    Histogram {
        bounds: &'static [f64],
        counts: Vec<u64>,
        sum: f64,
    },
}

impl Samples for Exposition {
    fn number(&mut self, family: Descriptor, labels: &[LabelPair<'_>], value: f64) {
        if let Sample::Number(total) = self.sample(family, labels, || Sample::Number(0.0)) {
            *total += value;
        }
    }

    fn histogram(&mut self, family: Descriptor, labels: &[LabelPair<'_>], histogram: &Histogram) {
        let new = || Sample::Histogram {
            bounds: histogram.bounds(),
            counts: vec![0; histogram.bounds().len() + 1],
            sum: 0.0,
        };
        if let Sample::Histogram { bounds, counts, sum } = self.sample(family, labels, new) {
            debug_assert_eq!(
                *bounds,
                histogram.bounds(),
                "{} has two sets of buckets",
                family.name
            );
            for (total, count) in counts.iter_mut().zip(histogram.counts()) {
                *total += count;
            }
            *sum += histogram.sum();
        }
    }
}

impl Exposition {
    /// The sample to add to.
    fn sample(
        &mut self,
        descriptor: Descriptor,
        labels: &[LabelPair<'_>],
        new: impl FnOnce() -> Sample,
    ) -> &mut Sample {
        let family = self.families.entry(descriptor.name).or_insert_with(|| Family {
            descriptor,
            samples: BTreeMap::new(),
        });
        debug_assert_eq!(
            family.descriptor.kind, descriptor.kind,
            "{} is of two kinds",
            descriptor.name
        );
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned()));
        family.samples.entry(labels.collect()).or_insert_with(new)
    }

    /// The families in the order of their names.
    #[must_use]
    pub(crate) fn into_families(self) -> Vec<MetricFamily> {
        self.families
            .into_iter()
            .map(|(name, family)| {
                let kind = match family.descriptor.kind {
                    MetricKind::Counter => MetricType::COUNTER,
                    MetricKind::Gauge => MetricType::GAUGE,
                    MetricKind::Histogram => MetricType::HISTOGRAM,
                };
                let mut out = MetricFamily::default();
                out.set_name(format!("{PREFIX}{name}"));
                out.set_help(family.descriptor.help.to_owned());
                out.set_field_type(kind);
                out.set_metric(
                    family
                        .samples
                        .into_iter()
                        .map(|(labels, sample)| metric(kind, labels, sample))
                        .collect(),
                );
                out
            })
            .collect()
    }
}

fn metric(kind: MetricType, labels: Vec<(&'static str, String)>, sample: Sample) -> proto::Metric {
    let labels = labels
        .into_iter()
        .map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value);
            pair
        })
        .collect();
    let mut out = proto::Metric::from_label(labels);
    match sample {
        Sample::Number(value) if kind == MetricType::COUNTER => {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            out.set_counter(counter);
        }
        Sample::Number(value) => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            out.set_gauge(gauge);
        }
        Sample::Histogram { bounds, counts, sum } => out.set_histogram(histogram(bounds, &counts, sum)),
    }
    out
}

fn histogram(bounds: &[f64], counts: &[u64], sum: f64) -> proto::Histogram {
    let mut cumulative = 0;
    let buckets = bounds
        .iter()
        .zip(counts)
        .map(|(bound, count)| {
            cumulative += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            bucket
        })
        .collect();
    let mut out = proto::Histogram::default();
    out.set_bucket(buckets);
    out.set_sample_count(counts.iter().sum());
    out.set_sample_sum(sum);
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus::TextEncoder;

    use super::*;

    fn text(exposition: Exposition) -> String {
        TextEncoder::new()
            .encode_to_string(&exposition.into_families())
            .unwrap()
    }

    #[test]
    fn samples_of_two_workers_add_up() {
        let mut exposition = Exposition::default();
        let drops = Descriptor::counter("drops_total", "Drops.");
        for worker in [3.0, 4.0] {
            exposition.number(drops, &[("listener", "a")], worker);
            exposition.number(Descriptor::gauge("sessions", "Sessions."), &[], worker);
        }
        exposition.number(drops, &[("listener", "b")], 0.0);
        assert_eq!(
            text(exposition),
            "# HELP portcullis_drops_total Drops.\n# TYPE portcullis_drops_total counter\n\
             portcullis_drops_total{listener=\"a\"} 7\nportcullis_drops_total{listener=\"b\"} 0\n\
             # HELP portcullis_sessions Sessions.\n# TYPE portcullis_sessions gauge\nportcullis_sessions 7\n"
        );
    }

    #[test]
    fn histograms_of_two_workers_add_up_and_are_cumulative() {
        let (a, b) = (Histogram::new(&[0.5, 1.0]), Histogram::new(&[0.5, 1.0]));
        a.observe(Duration::from_millis(250));
        b.observe(Duration::from_millis(750));
        b.observe(Duration::from_secs(8));
        let mut exposition = Exposition::default();
        for histogram in [&a, &b] {
            exposition.histogram(Descriptor::histogram("request_seconds", "Time."), &[], histogram);
        }
        let text = text(exposition);
        for line in [
            "portcullis_request_seconds_bucket{le=\"0.5\"} 1",
            "portcullis_request_seconds_bucket{le=\"1\"} 2",
            "portcullis_request_seconds_bucket{le=\"+Inf\"} 3",
            "portcullis_request_seconds_sum 9",
            "portcullis_request_seconds_count 3",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_label_value_cannot_break_the_format() {
        let mut exposition = Exposition::default();
        exposition.number(
            Descriptor::counter("x_total", "X."),
            &[("listener", "a\"b\\c\nd")],
            1.0,
        );
        assert!(text(exposition).contains(r#"{listener="a\"b\\c\nd"} 1"#));
    }
}
