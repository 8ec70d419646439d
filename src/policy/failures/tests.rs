//! Rates of failures: who is throttled, for how long, and who is not.

//! Throttling by source: who is refused, who is not, and when again.

use rand::SeedableRng;

use super::*;
use crate::clock_for_tests as clock;

fn failures(per_minute: u32, capacity: usize) -> (Failures, Instant) {
    let now = clock();
    let capacity = SourceCapacity {
        unproven: capacity,
        proven: capacity,
    };
    let random = &mut StdRng::seed_from_u64(3);
    (Failures::new(now, per_minute, capacity, random), now)
}

fn source(n: u32) -> IpAddr {
    IpAddr::from(n.to_be_bytes())
}

fn charged(failures: &Failures, now: Instant, class: Class, source: IpAddr, tries: usize) -> usize {
    (0..tries)
        .filter(|_| failures.charge(now, class, source).is_ok())
        .count()
}

#[test]
fn guessing_is_throttled_for_the_guesser_and_nobody_else() {
    let (failures, start) = failures(30, 65_536);
    let (guesser, neighbour) = (source(2), source(3));
    let mut tries = 0;
    for second in 0..120 {
        let now = start + Duration::from_secs(second);
        tries += charged(&failures, now, Class::Unproven, guesser, 100);
        for _ in 0..100 {
            assert_eq!(failures.charge(now, Class::Unproven, neighbour), Ok(()));
            failures.give_back(now, Class::Unproven, neighbour);
        }
    }
    assert!((85..=90).contains(&tries), "{tries}");
}

#[test]
fn after_the_time_that_was_said_one_more_try_is_judged() {
    for per_minute in [1, 7, 30, 1000, 61_440] {
        let (failures, now) = failures(per_minute, 8);
        let all = usize::try_from(per_minute).unwrap();
        assert_eq!(
            charged(&failures, now, Class::Proven, source(1), all + 10),
            all,
            "{per_minute}"
        );
        let wait = failures.charge(now, Class::Proven, source(1)).unwrap_err();
        assert!(wait <= Duration::from_secs(60), "{per_minute}: {wait:?}");
        let early = now + wait - Duration::from_millis(2).min(wait / 2);
        assert!(
            failures.charge(early, Class::Proven, source(1)).is_err(),
            "{per_minute}"
        );
        assert_eq!(
            charged(&failures, now + wait, Class::Proven, source(1), 9),
            1,
            "{per_minute}"
        );
    }
}

#[test]
fn zero_is_no_limit_and_a_new_limit_holds_at_once() {
    let (failures, now) = failures(0, 8);
    assert_eq!(
        charged(&failures, now, Class::Unproven, source(1), 10_000),
        10_000
    );
    failures.set_per_minute(5);
    assert_eq!(charged(&failures, now, Class::Unproven, source(1), 100), 5);
}

#[test]
fn logins_in_flight_cannot_go_over_the_rate() {
    let (failures, now) = failures(30, 1024);
    assert_eq!(charged(&failures, now, Class::Proven, source(1), 1000), 30);
    for _ in 0..1000 {
        failures.give_back(now, Class::Proven, source(1));
    }
    assert_eq!(charged(&failures, now, Class::Proven, source(1), 1000), 30);
}

#[test]
fn workers_that_count_at_once_lose_and_invent_nothing() {
    let (failures, now) = failures(1000, 1024);
    // So that the threads find it in its place.
    failures.charge(now, Class::Unproven, source(1)).unwrap();
    let granted: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| charged(&failures, now, Class::Unproven, source(1), 2000)))
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(granted, 999);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| failures.give_back(now, Class::Unproven, source(1))));
        }
    });
    assert_eq!(charged(&failures, now, Class::Unproven, source(1), 2000), 400);
}

#[test]
fn a_flood_of_sources_neither_frees_the_guesser_nor_refuses_anyone() {
    let (failures, now) = failures(30, 1024);
    charged(&failures, now, Class::Unproven, source(1), 30);
    let refused = (100..100_000)
        .filter(|n| failures.charge(now, Class::Unproven, source(*n)).is_err())
        .count();
    // Those who share the guesser's mark by chance.
    assert!(refused <= 1, "{refused}");
    assert!(failures.charge(now, Class::Unproven, source(1)).is_err());
    assert_eq!(size_of_val(&*failures.unproven.0), 1024 * 8);
}

#[test]
fn unproven_sources_cannot_touch_proven_ones() {
    let (failures, now) = failures(2, 64);
    assert_eq!(charged(&failures, now, Class::Unproven, source(7), 10), 2);
    assert_eq!(charged(&failures, now, Class::Proven, source(7), 10), 2);
    for n in 100..10_000 {
        assert!(failures.charge(now, Class::Unproven, source(n)).is_ok());
    }
    assert!(failures.charge(now, Class::Proven, source(7)).is_err());
}
