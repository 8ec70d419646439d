//! What many who come at once cost who is there: that it is nothing is tried with each kind of server, and what it is in
//! microseconds is measured by hand.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::key_servers::{Keys, Service};
use super::keys::{KEY, comes_in, far_from, lookups};
use super::ldap::Slapd;
use super::login_servers::{Logins, PASSWORD};
use super::mongodb::Mongo;
use super::mysql::Mariadb;
use super::postgresql::Postgresql;
use super::redis::Redis;
use super::slow::SlowWay;
use super::support::client::PATIENCE;
use super::support::{Client, Gateway, Kind, Request, code, ms, wait_until};
use super::tries;

/// Logins a second, for how long, and by how many clients at once.
const RATE: usize = 1000;
const SECONDS: usize = 10;
const CLIENTS: usize = 32;

/// Handshakes a second whose keys are looked up, and how many of them at once.
const HANDSHAKES: usize = 500;
const DEVICES: usize = 256;

/// The pause of the publisher whose answers are timed.
const PAUSE: Duration = Duration::from_millis(2);

/// Somebody with a connection, who logged in once.
struct Standing {
    client: Client,
    path: String,
}

impl Standing {
    fn new(gateway: &Gateway) -> Self {
        let mut client = gateway.client(Kind::Dtls);
        let create = Request::post("mqtt/connection?clientid=standing");
        let create = create.query("username=dora").query("password=correct horse");
        let token = client.request(&create).expect(code::CREATED).text();
        let path = format!("ps/open/beside?clientid=standing&token={token}");
        Self { client, path }
    }

    fn publish(&mut self) {
        self.client.publish(&self.path, "21.5");
    }

    fn publish_until(&mut self, over: &AtomicBool) -> Vec<Duration> {
        let mut times = Vec::new();
        while !over.load(Ordering::Acquire) {
            let begun = Instant::now();
            self.publish();
            times.push(begun.elapsed());
            std::thread::sleep(PAUSE);
        }
        times
    }
}

/// The middle, and the 99th part of a hundred.
fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    (at(50), at(99))
}

/// Tells how long the answers to a publisher take while nothing else goes on, and during `work`.
fn measure(what: &str, rate: usize, standing: &mut Standing, count: usize, work: impl FnOnce()) {
    let over = AtomicBool::new(false);
    let mut during = |work: &mut dyn FnMut()| {
        over.store(false, Ordering::Release);
        std::thread::scope(|scope| {
            let publisher = scope.spawn(|| standing.publish_until(&over));
            work();
            over.store(true, Ordering::Release);
            percentiles(publisher.join().unwrap())
        })
    };
    let quiet = during(&mut || std::thread::sleep(Duration::from_secs(5)));
    let begun = Instant::now();
    let mut work = Some(work);
    let busy = during(&mut || work.take().into_iter().for_each(|work| work()));
    eprintln!(
        "{what}: {:.0} a second of {rate}; a publisher beside them: quiet p50 {:?} p99 {:?}, then p50 {:?} p99 {:?}",
        count as f64 / begun.elapsed().as_secs_f64(),
        quiet.0,
        quiet.1,
        busy.0,
        busy.1
    );
}

/// Does something for each of `count`, `rate` a second, `workers` at the same time.
fn at_rate<W>(
    count: usize,
    rate: usize,
    workers: usize,
    worker: impl Fn() -> W + Sync,
    each: impl Fn(&mut W, usize) + Sync,
) {
    let (next, begun) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut own = worker();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    let due = begun + Duration::from_secs(1) * n as u32 / rate as u32;
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    each(&mut own, n);
                }
            });
        }
    });
}

fn a_thousand_logins_a_second<S: Logins>() {
    let server = S::filled();
    let logins = RATE * SECONDS;
    let users: Vec<_> = (0..logins).map(|n| format!("m-{n}")).collect();
    users.chunks(1000).for_each(|some| server.add(some));
    let gateway = Gateway::start(server.config());
    let mut standing = Standing::new(&gateway);
    let login = |client: &mut Client, n: usize| {
        tries::publish(client, "open/t", &users[n], PASSWORD).expect(code::CHANGED);
    };
    measure(S::NAME, RATE, &mut standing, logins, || {
        at_rate(logins, RATE, CLIENTS, || gateway.client(Kind::Udp), login);
    });
}

fn five_hundred_handshakes_a_second<K: Keys>() {
    let server = K::filled();
    let way = SlowWay::to(server.address());
    let handshakes = HANDSHAKES * SECONDS;
    let (gateway, devices) = far_from(&server, &way, handshakes);
    let mut standing = Standing {
        client: gateway.client(Kind::Dtls),
        path: "ps/open/beside".to_owned(),
    };
    let came = AtomicUsize::new(0);
    let handshake = |(): &mut (), n: usize| {
        came.fetch_add(
            usize::from(comes_in(&gateway, &devices[n], KEY)),
            Ordering::Relaxed,
        );
    };
    measure(K::NAME, HANDSHAKES, &mut standing, handshakes, || {
        at_rate(handshakes, HANDSHAKES, DEVICES, || (), handshake);
    });
    let found = lookups(&gateway, "found");
    eprintln!(
        "{}: {} of {handshakes} came in, {found} keys were found",
        K::NAME,
        came.load(Ordering::Relaxed)
    );
}

/// Logins that wait at once.
const WAITING: usize = 40;

fn while_logins_wait_nobody_else_does<S: Logins>() {
    let server = S::filled();
    let users: Vec<_> = (0..WAITING).map(|n| format!("w-{n}")).collect();
    server.add(&users);
    let way = SlowWay::to(server.address());
    let gateway = Gateway::start(server.config_by(&way.at()));
    let mut standing = Standing::new(&gateway);
    let allowed = || gateway.metric("authentications_total", &["result=\"allowed\""]);
    let before = allowed();
    way.close();
    std::thread::scope(|scope| {
        for user in &users {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut client = gateway.client(Kind::Udp);
                // Who is told to come again while the server is held does, after ever longer pauses.
                let (mut pause, end) = (ms(500), Instant::now() + 4 * PATIENCE);
                loop {
                    let answer = tries::publish(&mut client, "open/t", user, PASSWORD);
                    if answer.code == code::CHANGED {
                        return;
                    }
                    assert!(Instant::now() < end, "it is not let in: {answer:?}");
                    answer.expect(code::UNAVAILABLE);
                    std::thread::sleep(pause);
                    pause = (2 * pause).min(ms(4000));
                }
            });
        }
        wait_until("most of them wait", || {
            gateway.metric("authentications_waiting", &[]) > (WAITING / 2) as f64
        });
        let Standing { client, path } = &mut standing;
        for _ in 0..50 {
            tries::is_served(&gateway, client, path);
        }
        // The server has not said a word meanwhile, so nobody here can have waited for one.
        assert_eq!(allowed(), before);
        way.open();
        for _ in 0..50 {
            tries::is_served(&gateway, client, path);
        }
    });
    gateway.metric_becomes(
        "authentications_total",
        &["result=\"allowed\""],
        before + WAITING as f64,
    );
}

/// What is tried, and measured, with each kind of server.
macro_rules! each_login {
    ($($name:ident: $server:ty $(, $ignored:meta)?;)+) => {
        mod logins {
            use super::*;

            $(#[test]
            $(#[$ignored])?
            fn $name() {
                while_logins_wait_nobody_else_does::<$server>();
            })+
        }

        mod a_thousand_logins_a_second {
            use super::*;

            $(#[test]
            #[ignore = "a measurement: it says something on a quiet machine and an optimized build only"]
            fn $name() {
                super::a_thousand_logins_a_second::<$server>();
            })+
        }
    };
}

each_login! {
    ldap: Slapd;
    mongodb: Mongo, ignore = "needs Maven: make test-peers";
    mysql: Mariadb;
    postgresql: Postgresql;
    redis: Redis;
}

macro_rules! each_source_of_keys {
    ($($name:ident: $server:ty;)+) => {
        mod five_hundred_handshakes_a_second {
            use super::*;

            $(#[test]
            #[ignore = "a measurement: it says something on a quiet machine and an optimized build only"]
            fn $name() {
                super::five_hundred_handshakes_a_second::<$server>();
            })+
        }
    };
}

each_source_of_keys! {
    http: Service;
    ldap: Slapd;
    mongodb: Mongo;
    mysql: Mariadb;
    postgresql: Postgresql;
    redis: Redis;
}
