//! Throttling by source: who is refused, who is not, and when again.

use std::net::IpAddr;

use super::*;
use crate::clock_for_tests as clock;

fn rates(capacity: usize) -> (SourceRates, Instant) {
    let now = clock();
    (SourceRates::new(now, capacity, [3, 4]), now)
}

fn source(n: u32) -> IpAddr {
    IpAddr::from(n.to_be_bytes())
}

fn taken(rates: &SourceRates, now: Instant, source: IpAddr, allowance: Allowance, tries: usize) -> usize {
    (0..tries)
        .filter(|_| rates.take(now, source, allowance).is_ok())
        .count()
}

#[test]
fn a_source_has_a_burst_and_then_its_rate() {
    let (rates, start) = rates(64);
    let allowance = Allowance::per_second(10, 2);
    let at = |millis| {
        taken(
            &rates,
            start + Duration::from_millis(millis),
            source(1),
            allowance,
            100,
        )
    };
    assert_eq!([at(0), at(500), at(60_000)], [20, 5, 20]);
    assert_eq!(
        taken(&rates, start, source(1), Allowance::per_second(0, 2), 1000),
        1000
    );
}

#[test]
fn over_a_long_time_the_rate_gets_through_and_never_more() {
    for per_second in [1, 20, 500, 10_000] {
        let (rates, start) = rates(64);
        let allowance = Allowance::per_second(per_second, 1);
        let passed: usize = (0..100_000)
            .map(|n| start + Duration::from_micros(n * 50))
            .map(|now| taken(&rates, now, source(1), allowance, 1))
            .sum();
        let all = 6 * usize::try_from(per_second).unwrap();
        assert!((all * 98 / 100..=all).contains(&passed), "{per_second}: {passed}");
    }
}

#[test]
fn after_the_time_that_was_said_one_more_is_granted() {
    for per_minute in [1, 7, 30, 1000, 61_440] {
        let (rates, now) = rates(8);
        let allowance = Allowance::per_minute(per_minute);
        let all = usize::try_from(per_minute).unwrap();
        assert_eq!(
            taken(&rates, now, source(1), allowance, all + 10),
            all,
            "{per_minute}"
        );
        let wait = rates.take(now, source(1), allowance).unwrap_err();
        assert!(wait <= Duration::from_secs(60), "{per_minute}: {wait:?}");
        let early = now + wait - Duration::from_micros(10);
        assert!(rates.take(early, source(1), allowance).is_err(), "{per_minute}");
        assert_eq!(
            taken(&rates, now + wait, source(1), allowance, 9),
            1,
            "{per_minute}"
        );
    }
}

#[test]
fn the_clock_goes_round_and_nobody_owes_for_what_is_long_past() {
    let (rates, start) = rates(8);
    let allowance = Allowance::per_minute(30);
    let round = Duration::from_secs((TIME + 1) / SECOND);
    for (n, after) in [
        Duration::ZERO,
        round / 2,
        round - Duration::from_secs(100),
        round + Duration::from_secs(10),
        round + Duration::from_secs(200),
        3 * round + Duration::from_secs(100),
    ]
    .into_iter()
    .enumerate()
    {
        let now = start + after;
        assert!(taken(&rates, now, source(1), allowance, 100) >= 15, "{n}");
        assert!(rates.take(now, source(1), allowance).is_err(), "{n}");
        let later = now + Duration::from_secs(30);
        assert_eq!(taken(&rates, later, source(1), allowance, 100), 15, "{n}");
    }
}

#[test]
fn workers_that_count_at_once_lose_and_invent_nothing() {
    let (rates, now) = rates(1024);
    let allowance = Allowance::per_minute(1000);
    // So that the threads find it in its place.
    rates.take(now, source(1), allowance).unwrap();
    let granted: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| taken(&rates, now, source(1), allowance, 2000)))
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(granted, 999);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| rates.give_back(now, source(1), allowance)));
        }
    });
    assert_eq!(taken(&rates, now, source(1), allowance, 2000), 400);
}

#[test]
fn a_flood_of_sources_neither_frees_the_guesser_nor_refuses_anyone() {
    let (rates, now) = rates(1024);
    let allowance = Allowance::per_minute(30);
    assert_eq!(taken(&rates, now, source(1), allowance, 31), 30);
    let refused = (100..100_000)
        .filter(|n| rates.take(now, source(*n), allowance).is_err())
        .count();
    // Those who share the guesser's mark by chance.
    assert!(refused <= 1, "{refused}");
    assert!(rates.take(now, source(1), allowance).is_err());
    assert_eq!(size_of_val(&**rates.sets.get().unwrap()), 1024 * 8);
}

#[test]
fn without_a_limit_no_memory_is_taken() {
    let (rates, now) = rates(1024);
    assert!(rates.take(now, source(1), Allowance::per_second(0, 1)).is_ok());
    assert!(rates.sets.get().is_none());
}
