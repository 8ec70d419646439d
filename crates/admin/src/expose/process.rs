//! The process: what was built, since when it runs, and what the operating system says of it.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, Metric, MetricFamily};

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
        // The collector counts whole seconds only.
        if let Some(seconds) = cpu_seconds() {
            for family in &mut families {
                if family.name() == "process_cpu_seconds_total" {
                    let mut counter = Counter::default();
                    counter.set_value(seconds);
                    let mut metric = Metric::default();
                    metric.set_counter(counter);
                    family.set_metric(vec![metric]);
                }
            }
        }
        families
    }
}

/// The processor time of this process in seconds, in user and kernel mode (proc_pid_stat(5)).
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let ticks = ticks(&stat)?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// `utime` and `stime`; the name of the program before them may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    user.checked_add(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_told_with_fractions() {
        let stat = "1 (a) b) S 1 1 1 0 -1 4194560 1 2 3 4 577 12 0 0 20 0 9 0 5 6 7";
        assert_eq!(ticks(stat), Some(589));
        let begun = cpu_seconds().unwrap();
        let mut told = begun;
        while told <= begun {
            told = cpu_seconds().unwrap();
        }
        assert!(told - begun < 1.0, "{begun} then {told}");
        let families = Process::default().families();
        let cpu = families
            .iter()
            .find(|family| family.name() == "process_cpu_seconds_total")
            .unwrap();
        assert!(cpu.get_metric()[0].get_counter().get_value() >= told);
    }
}
