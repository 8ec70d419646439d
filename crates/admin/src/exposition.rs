//! Samples of all workers merged into Prometheus families.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use prometheus::proto::{self, MetricFamily, MetricType};

use portcullis_proto::types::metrics::Histogram;

/// Prefix of every family; names are given without it.
const PREFIX: &str = "portcullis_";

/// A label with its value.
pub type LabelPair<'a> = (&'static str, &'a str);

/// One scrape: every layer adds its numbers, each worker for itself. Samples of the same family and labels add up.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<&'static str, Family>,
}

#[derive(Debug)]
struct Family {
    help: &'static str,
    kind: MetricType,
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

impl Exposition {
    /// Adds to a counter; its name ends in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &'static str, labels: &[LabelPair<'_>], value: u64) {
        self.number(MetricType::COUNTER, name, help, labels, value as f64);
    }

    /// Adds a counter for each value of a closed list, under the label `by`, those at 0 included.
    pub fn counters(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[LabelPair<'_>],
        by: &'static str,
        values: impl Iterator<Item = (&'static str, u64)>,
    ) {
        let mut all = labels.to_vec();
        for (label, value) in values {
            all.truncate(labels.len());
            all.push((by, label));
            self.counter(name, help, &all, value);
        }
    }

    /// Adds to a gauge.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, labels: &[LabelPair<'_>], value: f64) {
        self.number(MetricType::GAUGE, name, help, labels, value);
    }

    /// Adds histograms, which have to have the same bounds.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[LabelPair<'_>],
        histograms: &[&Histogram],
    ) {
        for histogram in histograms {
            let new = || Sample::Histogram {
                bounds: histogram.bounds(),
                counts: vec![0; histogram.bounds().len() + 1],
                sum: 0.0,
            };
            let sample = self.sample(MetricType::HISTOGRAM, name, help, labels, new);
            if let Some(Sample::Histogram { bounds, counts, sum }) = sample {
                debug_assert_eq!(*bounds, histogram.bounds(), "{name} has two sets of buckets");
                for (total, count) in counts.iter_mut().zip(histogram.counts()) {
                    *total += count;
                }
                *sum += histogram.sum();
            }
        }
    }

    /// Adds a histogram by its numbers: upper bounds in seconds without +Inf, counts per bucket with +Inf, sum in seconds.
    pub fn histogram_values(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[LabelPair<'_>],
        bounds: &'static [f64],
        counts: &[u64],
        sum: f64,
    ) {
        let new = || Sample::Histogram {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        };
        if let Some(Sample::Histogram {
            counts: totals,
            sum: total,
            ..
        }) = self.sample(MetricType::HISTOGRAM, name, help, labels, new)
        {
            for (into, count) in totals.iter_mut().zip(counts) {
                *into += count;
            }
            *total += sum;
        }
    }

    fn number(
        &mut self,
        kind: MetricType,
        name: &'static str,
        help: &'static str,
        labels: &[LabelPair<'_>],
        value: f64,
    ) {
        if let Some(Sample::Number(total)) = self.sample(kind, name, help, labels, || Sample::Number(0.0)) {
            *total += value;
        }
    }

    /// The sample to add to; none when the family is of another kind, which only a mistake in the code can bring about.
    fn sample(
        &mut self,
        kind: MetricType,
        name: &'static str,
        help: &'static str,
        labels: &[LabelPair<'_>],
        new: impl FnOnce() -> Sample,
    ) -> Option<&mut Sample> {
        let family = match self.families.entry(name) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Family {
                help,
                kind,
                samples: BTreeMap::new(),
            }),
        };
        debug_assert_eq!(family.kind, kind, "{name} is of two kinds");
        if family.kind != kind {
            return None;
        }
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned()));
        Some(family.samples.entry(labels.collect()).or_insert_with(new))
    }

    /// The families in the order of their names.
    #[must_use]
    pub fn into_families(self) -> Vec<MetricFamily> {
        self.families
            .into_iter()
            .map(|(name, family)| {
                let mut out = MetricFamily::default();
                out.set_name(format!("{PREFIX}{name}"));
                out.set_help(family.help.to_owned());
                out.set_field_type(family.kind);
                out.set_metric(
                    family
                        .samples
                        .into_iter()
                        .map(|(labels, sample)| metric(family.kind, labels, sample))
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
        for worker in [3, 4] {
            exposition.counter("drops_total", "Drops.", &[("listener", "a")], worker);
            exposition.gauge("sessions", "Sessions.", &[], worker as f64);
        }
        exposition.counter("drops_total", "Drops.", &[("listener", "b")], 0);
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
        exposition.histogram("request_seconds", "Time.", &[], &[&a, &b]);
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
        exposition.counter("x_total", "X.", &[("listener", "a\"b\\c\nd")], 1);
        assert!(text(exposition).contains(r#"{listener="a\"b\\c\nd"} 1"#));
    }
}
