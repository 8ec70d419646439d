//! Time as this thread spends it: what others do on the machine does not count.

use std::sync::OnceLock;

/// CPU time of this thread in microseconds.
#[allow(unsafe_code, reason = "the standard library has no clock of a thread")]
pub fn thread_micros() -> f64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one timespec.
    let told = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) };
    assert_eq!(told, 0);
    now.tv_sec as f64 * 1e6 + now.tv_nsec as f64 / 1e3
}

/// What reading the clock twice costs by itself, in microseconds.
fn overhead() -> f64 {
    static OVERHEAD: OnceLock<f64> = OnceLock::new();
    *OVERHEAD.get_or_init(|| {
        median(
            (0..1001)
                .map(|_| {
                    let start = thread_micros();
                    thread_micros() - start
                })
                .collect(),
        )
    })
}

/// What `call` costs, in microseconds, without the reading of the clock.
pub fn cost<T>(call: impl FnOnce() -> T) -> (f64, T) {
    let start = thread_micros();
    let result = call();
    (thread_micros() - start - overhead(), result)
}

/// Microseconds of one of `count` calls.
pub fn timed(count: usize, mut call: impl FnMut()) -> f64 {
    let start = thread_micros();
    for _ in 0..count {
        call();
    }
    (thread_micros() - start) / count as f64
}

pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
