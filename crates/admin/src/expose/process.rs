//! The process: what was built, since when it runs, and what the operating system says of it.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;

use portcullis_proto::types::invariant;
use portcullis_proto::types::metrics::{Descriptor, Exposes, LabelPair, Samples};

const BUILD: Descriptor = Descriptor::gauge(
    "build_info",
    "What was built; openssl is the library that is loaded.",
);
const START: Descriptor = Descriptor::gauge(
    "start_time_seconds",
    "When the process started, in seconds since 1970.",
);

const BROKEN: Descriptor = Descriptor::counter(
    "invariants_broken_total",
    "What cannot happen and did. Please report it.",
);

/// What was built and since when it runs.
pub struct ExposeProcess {
    /// When the process started serving.
    pub started: SystemTime,
}

impl Exposes for ExposeProcess {
    fn expose(&self, _context: &[LabelPair<'_>], out: &mut dyn Samples) {
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("openssl", openssl::version::version()),
        ];
        out.number(BUILD, &labels, 1.0);
        let since = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        out.number(START, &[], since.as_secs_f64());
        out.number(BROKEN, &[], invariant::broken() as f64);
    }
}

/// The `process_*` families. Under `ProcSubset=pid` the time of boot is hidden and the start time would read 0, so it
/// is left out then: `portcullis_start_time_seconds` is always there.
pub struct Process(ProcessCollector);

impl Default for Process {
    fn default() -> Self {
        Self(ProcessCollector::for_self())
    }
}

impl Process {
    /// Memory, CPU, threads and descriptors of this process.
    #[must_use]
    pub fn families(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        families.retain(|family| {
            let zero = family
                .get_metric()
                .iter()
                .all(|metric| metric.get_gauge().get_value() == 0.0);
            !(family.name() == "process_start_time_seconds" && zero)
        });
        families
    }
}
