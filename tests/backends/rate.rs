//! What a thousand logins a second cost others: a measurement, run by hand.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::postgresql::Postgresql;
use super::support::pki::Pki;
use super::support::{Client, Gateway, Kind, code};
use super::tries;

/// Logins a second, for how long, and by how many clients at once.
const RATE: usize = 1000;
const SECONDS: usize = 10;
const CLIENTS: usize = 32;

/// The pause of the publisher whose answers are timed.
const PAUSE: Duration = Duration::from_millis(2);

/// The 99th part of a hundred, and the middle.
fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    (at(50), at(99))
}

fn publish_until(client: &mut Client, over: &AtomicBool) -> Vec<Duration> {
    let mut times = Vec::new();
    while !over.load(Ordering::Acquire) {
        let begun = Instant::now();
        client.publish("ps/open/beside", "21.5");
        times.push(begun.elapsed());
        std::thread::sleep(PAUSE);
    }
    times
}

#[test]
#[ignore = "a measurement: it says something on a quiet machine and an optimized build only"]
fn a_thousand_logins_a_second_beside_a_publisher() {
    let server = Postgresql::start(&Pki::new());
    let logins = RATE * SECONDS;
    server.sql(
        "devices",
        &format!(
            "INSERT INTO mqtt_user SELECT 'm-' || n, encode(sha256(convert_to('s' || n || 'password', 'UTF8')), 'hex'), 's' || n, \
             false, NULL, NULL, NULL FROM generate_series(0, {}) AS n",
            logins - 1
        ),
    );
    let gateway = Gateway::start(server.config());
    let mut standing = gateway.client(Kind::Dtls);
    let over = AtomicBool::new(false);
    let quiet = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish_until(&mut standing, &over));
        std::thread::sleep(Duration::from_secs(5));
        over.store(true, Ordering::Release);
        publisher.join().unwrap()
    });
    over.store(false, Ordering::Release);
    let (next, begun) = (AtomicUsize::new(0), Instant::now());
    let busy = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish_until(&mut standing, &over));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = gateway.client(Kind::Udp);
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= logins {
                            return;
                        }
                        let due = begun + Duration::from_secs(1) * n as u32 / RATE as u32;
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        tries::publish(&mut client, "open/t", &format!("m-{n}"), "password")
                            .expect(code::CHANGED);
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        over.store(true, Ordering::Release);
        publisher.join().unwrap()
    });
    let rate = logins as f64 / begun.elapsed().as_secs_f64();
    let (quiet, busy) = (percentiles(quiet), percentiles(busy));
    eprintln!(
        "{rate:.0} logins/s; a publisher beside them: quiet p50 {:?} p99 {:?}, then p50 {:?} p99 {:?}",
        quiet.0, quiet.1, busy.0, busy.1
    );
    gateway.assert_serves();
}
