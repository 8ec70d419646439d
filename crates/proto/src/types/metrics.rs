//! Counters that cost the packet path nothing shared: one writer each, summed at scrape. A struct of them is declared by
//! [`metrics!`](crate::metrics), each with the family that it is shown as.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::ListenerId;
use super::reason::Label;

/// A number that one worker writes and any thread may read. Adding is a load and a store, not a locked operation,
/// so there must be one writer only.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0
            .store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes `n` away; for gauges.
    pub fn sub(&self, n: u64) {
        self.0
            .store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Sets it; for gauges.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter for each value of a closed list.
#[derive(Debug)]
pub struct Family<L> {
    cells: Box<[Counter]>,
    label: PhantomData<L>,
}

impl<L: Label> Default for Family<L> {
    fn default() -> Self {
        Self {
            cells: L::ALL.iter().map(|_| Counter::default()).collect(),
            label: PhantomData,
        }
    }
}

impl<L: Label> Family<L> {
    /// Adds one to the counter of `label`.
    pub fn inc(&self, label: L) {
        self.add(label, 1);
    }

    /// Adds `n` to the counter of `label`.
    pub fn add(&self, label: L, n: u64) {
        if let Some(cell) = self.cells.get(label.index()) {
            cell.add(n);
        }
    }

    /// Sets the value for `label`; for gauges.
    pub fn set(&self, label: L, n: u64) {
        if let Some(cell) = self.cells.get(label.index()) {
            cell.set(n);
        }
    }

    /// The value for `label`.
    pub fn get(&self, label: L) -> u64 {
        self.cells.get(label.index()).map_or(0, Counter::get)
    }

    /// Every label with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        L::ALL.iter().map(|label| (label.label(), self.get(*label)))
    }
}

/// A histogram of seconds with fixed buckets.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    buckets: Box<[Counter]>,
    sum_micros: Counter,
}

impl Histogram {
    /// An empty histogram; `bounds` are the upper bounds in seconds, ascending, without +Inf.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            buckets: (0..=bounds.len()).map(|_| Counter::default()).collect(),
            sum_micros: Counter::default(),
        }
    }

    /// Counts one observation.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(cell) = self.buckets.get(bucket) {
            cell.inc();
        }
        self.sum_micros
            .add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// The upper bounds in seconds, without +Inf.
    #[must_use]
    pub fn bounds(&self) -> &'static [f64] {
        self.bounds
    }

    /// How many observations fell into each bucket, the last being +Inf; not cumulative.
    #[must_use]
    pub fn counts(&self) -> Vec<u64> {
        self.buckets.iter().map(Counter::get).collect()
    }

    /// The sum of all observations in seconds.
    #[must_use]
    pub fn sum(&self) -> f64 {
        Duration::from_micros(self.sum_micros.get()).as_secs_f64()
    }
}

/// Bounds for requests and broker acknowledgements, in seconds: from what the embedded broker takes to what a lost datagram costs
/// (2 and 3 are ACK_TIMEOUT and its random upper bound).
pub const REQUEST_SECONDS: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0,
];

/// Bounds for DTLS handshakes, in seconds.
pub const HANDSHAKE_SECONDS: &[f64] = &[
    0.000_01, 0.000_1, 0.000_5, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0,
    16.0, 32.0, 60.0,
];

/// Datagrams, or the messages in them, that went no further: sockets, CoAP and gateway drop some each.
pub const DATAGRAMS_DROPPED: Descriptor = Descriptor::counter(
    "datagrams_dropped_total",
    "Datagrams, or the CoAP messages in them, that went no further.",
);

/// Peers of UDP and DTLS listeners.
pub const SESSIONS: Descriptor = Descriptor::gauge("sessions", "Live peers; on DTLS, established sessions.");

/// What any layer refuses.
pub const LIMITS_REJECTED: Descriptor =
    Descriptor::counter("limits_rejected_total", "What a cap or a rate refused.");

/// What a family of samples is.
#[derive(Debug, Clone, Copy)]
pub struct Descriptor {
    /// Without the prefix of the product; that of a counter ends in `_total`.
    pub name: &'static str,
    /// For people.
    pub help: &'static str,
    /// What can be done with it.
    pub kind: MetricKind,
    /// How much of what is counted is 1 of what is shown.
    pub scale: f64,
}

/// What can be done with a family of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It comes and goes.
    Gauge,
    /// Observations by size.
    Histogram,
}

impl Descriptor {
    /// Of a counter.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, MetricKind::Counter, 1.0)
    }

    /// Of a gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, MetricKind::Gauge, 1.0)
    }

    /// Of a gauge that is kept in thousandths.
    #[must_use]
    pub(crate) const fn thousandths(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, MetricKind::Gauge, 1000.0)
    }

    /// Of a histogram.
    #[must_use]
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, MetricKind::Histogram, 1.0)
    }

    const fn new(name: &'static str, help: &'static str, kind: MetricKind, scale: f64) -> Self {
        Self {
            name,
            help,
            kind,
            scale,
        }
    }
}

/// A label with its value.
pub type LabelPair<'a> = (&'static str, &'a str);

/// Takes what a scrape shows. Samples of the same family and labels add up.
pub trait Samples {
    /// Adds a number.
    fn number(&mut self, family: Descriptor, labels: &[LabelPair<'_>], value: f64);
    /// Adds the observations of a histogram; all of a family have the same bounds.
    fn histogram(&mut self, family: Descriptor, labels: &[LabelPair<'_>], histogram: &Histogram);
}

/// Something that has numbers to show. Called by the thread that serves the scrape.
pub trait Exposes: Send + Sync {
    /// Adds them; `context` has the labels that say whose they are.
    fn expose(&self, context: &[LabelPair<'_>], out: &mut dyn Samples);
}

impl<T: Exposes> Exposes for Arc<T> {
    fn expose(&self, context: &[LabelPair<'_>], out: &mut dyn Samples) {
        (**self).expose(context, out);
    }
}

/// The numbers of a worker, some of which are those of one listener.
pub trait PerListener: Exposes {
    /// Those of one listener; `None` when there is no such listener.
    fn of_listener(&self, listener: ListenerId) -> Option<&dyn Exposes>;
}

/// What a field of a struct that [`metrics!`](crate::metrics) declares is.
pub trait Metric {
    /// Adds its samples. `by` names the labels that it has values of itself.
    fn show(&self, family: Descriptor, labels: &[LabelPair<'_>], by: &[&'static str], out: &mut dyn Samples);
}

impl Metric for Counter {
    fn show(
        &self,
        family: Descriptor,
        labels: &[LabelPair<'_>],
        _by: &[&'static str],
        out: &mut dyn Samples,
    ) {
        out.number(family, labels, self.get() as f64 / family.scale);
    }
}

/// By its label, those at 0 included; without one, all together.
impl<L: Label> Metric for Family<L> {
    fn show(&self, family: Descriptor, labels: &[LabelPair<'_>], by: &[&'static str], out: &mut dyn Samples) {
        for (label, value) in self.iter() {
            out.number(family, &with(labels, by, &[label]), value as f64);
        }
    }
}

impl<T: Metric> Metric for Arc<T> {
    fn show(&self, family: Descriptor, labels: &[LabelPair<'_>], by: &[&'static str], out: &mut dyn Samples) {
        (**self).show(family, labels, by, out);
    }
}

impl Metric for Histogram {
    fn show(
        &self,
        family: Descriptor,
        labels: &[LabelPair<'_>],
        _by: &[&'static str],
        out: &mut dyn Samples,
    ) {
        out.histogram(family, labels, self);
    }
}

/// `labels`, and those that a metric has `values` of itself.
#[must_use]
pub fn with<'a>(labels: &[LabelPair<'a>], by: &[&'static str], values: &[&'a str]) -> Vec<LabelPair<'a>> {
    let own = by.iter().copied().zip(values.iter().copied());
    labels.iter().copied().chain(own).collect()
}

/// The label of this name, with the value that the context has for it.
#[must_use]
pub fn label_of<'a>(context: &[LabelPair<'a>], name: &'static str) -> LabelPair<'a> {
    let found = context.iter().copied().find(|(label, _)| *label == name);
    debug_assert!(found.is_some(), "{name} is no label of what is shown");
    found.unwrap_or((name, ""))
}

/// Declares a struct of metrics that is [`Default`] and [`Exposes`](crate::types::metrics::Exposes) itself.
///
/// After the type of a field, which is a [`Metric`](crate::types::metrics::Metric), stands what it is shown as, if it is: `counter`,
/// `gauge`, `thousandths` (a gauge) or `histogram` with the name, or `shared` with a
/// [`Descriptor`](crate::types::metrics::Descriptor) of several fields; in brackets the labels, whose values are given or those
/// of the context; and after `by` the labels that the metric has values of itself. The doc comment is the help. A histogram's
/// bounds stand after its type.
#[macro_export]
macro_rules! metrics {
    (@new) => { ::std::default::Default::default() };
    (@new $bounds:path) => { $crate::types::metrics::Histogram::new($bounds) };
    (@family shared $family:ident $help:expr) => { $family };
    (@family $kind:ident $name:literal $help:expr) => { $crate::types::metrics::Descriptor::$kind($name, $help) };
    (@label $context:ident $label:ident) => { $crate::types::metrics::label_of($context, stringify!($label)) };
    (@label $context:ident $label:ident $value:expr) => { (stringify!($label), $value) };
    ($(#[$meta:meta])* $vis:vis struct $name:ident {$(
        $(#[doc = $doc:literal])+
        $field_vis:vis $field:ident: $type:ty $([$bounds:path])?
        $(= $kind:ident $family:tt [$($label:ident $(= $value:expr)?),*] $(by [$($by:ident),+])?)*,
    )+}) => {
        $(#[$meta])*
        #[derive(Debug)]
        $vis struct $name {$($(#[doc = $doc])+ $field_vis $field: $type,)+}

        impl ::std::default::Default for $name {
            fn default() -> Self {
                Self {$($field: $crate::metrics!(@new $($bounds)?),)+}
            }
        }

        impl $crate::types::metrics::Exposes for $name {
            fn expose(
                &self,
                context: &[$crate::types::metrics::LabelPair<'_>],
                out: &mut dyn $crate::types::metrics::Samples,
            ) {
                let _unused_without_families = (context, &out);
                $({
                    const _HELP: &str = concat!($($doc),+).trim_ascii_start();
                    $($crate::types::metrics::Metric::show(
                        &self.$field,
                        $crate::metrics!(@family $kind $family _HELP),
                        &[$($crate::metrics!(@label context $label $($value)?)),*],
                        &[$($(stringify!($by)),+)?],
                        out,
                    );)*
                })+
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::reason::DropReason;

    #[test]
    fn a_family_counts_by_label() {
        let family = Family::<DropReason>::default();
        family.inc(DropReason::Version);
        family.add(DropReason::Version, 2);
        assert_eq!(family.get(DropReason::Version), 3);
        assert_eq!(
            family.iter().filter(|(_, n)| *n > 0).collect::<Vec<_>>(),
            [("version", 3)]
        );
    }

    #[test]
    fn a_histogram_puts_a_bound_into_its_own_bucket() {
        let histogram = Histogram::new(&[0.5, 1.0]);
        histogram.observe(Duration::from_millis(500));
        histogram.observe(Duration::from_secs(7));
        assert_eq!(histogram.counts(), [1, 0, 1]);
        assert!((histogram.sum() - 7.5).abs() < 1e-9);
    }

    metrics! {
        /// Numbers.
        struct Sample {
            /// What was refused,
            /// by why.
            refused: Family<DropReason>
                = counter "refused_total" [listener, layer = "a"] by [reason]
                = shared DATAGRAMS_DROPPED [layer = "a"],
            /// How full it is.
            fill: Counter = thousandths "fill_ratio" [],
            /// Of nobody's concern.
            inner: Counter,
            /// How long it took.
            time: Histogram[HANDSHAKE_SECONDS] = histogram "time_seconds" [listener],
        }
    }

    /// What it was given, a number a line.
    #[derive(Default)]
    struct Lines(Vec<String>);

    impl Samples for Lines {
        fn number(&mut self, family: Descriptor, labels: &[LabelPair<'_>], value: f64) {
            self.0
                .push(format!("{} ({}) {labels:?} {value}", family.name, family.help));
        }

        fn histogram(&mut self, family: Descriptor, labels: &[LabelPair<'_>], histogram: &Histogram) {
            self.number(family, labels, histogram.sum());
        }
    }

    #[test]
    fn a_declared_struct_shows_each_field_as_it_says_with_its_doc_as_help() {
        let sample = Sample::default();
        sample.refused.inc(DropReason::Version);
        sample.refused.inc(DropReason::Truncated);
        sample.fill.set(250);
        sample.inner.inc();
        sample.time.observe(Duration::from_millis(1500));
        let mut lines = Lines::default();
        Arc::new(sample).expose(&[("listener", "x"), ("transport", "udp")], &mut lines);
        let has = |line: &str| lines.0.iter().any(|own| own == line);
        assert!(has(
            r#"refused_total (What was refused, by why.) [("listener", "x"), ("layer", "a"), ("reason", "version")] 1"#
        ));
        let together = lines
            .0
            .iter()
            .filter(|line| line.starts_with("datagrams_dropped_total"));
        assert_eq!(
            together
                .filter(|line| line.ends_with(r#"[("layer", "a")] 1"#))
                .count(),
            2
        );
        assert!(has("fill_ratio (How full it is.) [] 0.25"));
        assert!(has(r#"time_seconds (How long it took.) [("listener", "x")] 1.5"#));
        assert_eq!(lines.0.len(), 2 * DropReason::ALL.len() + 2, "{:?}", lines.0);
    }
}
