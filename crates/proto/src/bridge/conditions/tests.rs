//! What observers with conditions are told, value by value, on a virtual clock.

use super::*;
use crate::bridge::uri::QueryParams;
use crate::clock_for_tests as clock;

fn conditions(query: &str) -> Conditions {
    let params = QueryParams::parse(query.split('&').map(str::as_bytes)).unwrap();
    *params.conditions.unwrap()
}

/// The steps of a sequence of numbers that are notified at once, one a second, after `first` was reported.
fn notified(query: &str, first: f64, values: &[f64]) -> Vec<f64> {
    let mut now = clock();
    let mut watch = Watch::new(now, conditions(query));
    watch.report(now, Some(Sample::Number(first)));
    let mut told = Vec::new();
    for value in values {
        now += Duration::from_secs(1);
        if watch.take(now, Some(Sample::Number(*value))) == Decision::Notify {
            told.push(*value);
        }
    }
    told
}

#[test]
fn limits_are_told_when_they_are_crossed_either_way_and_not_when_they_are_met() {
    let values = [25.0, 26.0, 30.0, 25.5, 25.0, 18.0];
    assert_eq!(notified("c.gt=25", 18.5, &values), [26.0, 25.0]);
    let values = [5.0, 4.9, -20.0, 5.0, 9.0];
    assert_eq!(notified("c.lt=5", 18.5, &values), [4.9, 5.0]);
    let values = [26.0, 18.0, 4.0, 8.0];
    assert_eq!(notified("c.gt=25&c.lt=5", 18.5, &values), values);
}

#[test]
fn a_step_is_measured_from_what_was_reported_and_decimals_are_not_off_by_a_bit() {
    let values = [10.4, 10.9, 11.0, 11.9, 12.0, 11.5, 11.0];
    assert_eq!(notified("c.st=1", 10.0, &values), [11.0, 12.0, 11.0]);
    let values = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];
    assert_eq!(notified("c.st=0.1", 0.1, &values), values);
    assert_eq!(notified("c.st=0.1", 0.1, &[0.199]), [] as [f64; 0]);
}

#[test]
fn a_band_tells_every_value_in_it() {
    let values = [19.0, 20.0, 25.0, 30.0, 31.0];
    for (query, told) in [
        ("c.band&c.gt=20&c.lt=30", &values[1..4]),
        ("c.band&c.lt=25", &values[2..]),
        ("c.band&c.gt=25", &values[..3]),
    ] {
        assert_eq!(notified(query, 0.0, &values), told, "{query}");
    }
    assert_eq!(notified("c.band&c.gt=30&c.lt=20", 0.0, &values), [19.0, 31.0]);
}

#[test]
fn an_edge_is_told_each_time_though_the_other_side_never_is() {
    let now = clock();
    let mut watch = Watch::new(now, conditions("c.edge=1"));
    watch.report(now, Some(Sample::Boolean(true)));
    let mut told = |value| watch.take(now, Some(value)) == Decision::Notify;
    let (yes, no) = (Sample::Boolean(true), Sample::Boolean(false));
    let rising = [yes, no, yes, yes, no, Sample::Number(1.0), Sample::Number(0.0)].map(&mut told);
    assert_eq!(rising, [false, false, true, false, false, true, false]);
    let mut watch = Watch::new(now, conditions("c.edge=false"));
    watch.report(now, Some(no));
    let falling = [yes, no, no, yes, no].map(|value| watch.take(now, Some(value)) == Decision::Notify);
    assert_eq!(falling, [false, true, false, false, true]);
}

#[test]
fn the_first_value_is_told_where_there_was_none_and_what_is_no_value_is_never_withheld() {
    for query in ["c.gt=25", "c.st=5", "c.edge=1"] {
        let now = clock();
        let mut watch = Watch::new(now, conditions(query));
        let value = Some(Sample::Number(0.0));
        assert_eq!(watch.take(now, value), Decision::Notify, "{query}");
        assert_eq!(watch.take(now, value), Decision::Withhold, "{query}");
        assert_eq!(watch.take(now, None), Decision::Notify, "{query}");
        assert_eq!(watch.take(now, value), Decision::Notify, "{query}");
    }
}

#[test]
fn within_pmin_the_newest_value_waits_and_goes_when_it_no_longer_meets_the_condition() {
    let start = clock();
    let at = |seconds| start + Duration::from_secs(seconds);
    let number = |value| Some(Sample::Number(value));
    let mut watch = Watch::new(start, conditions("c.pmin=10&c.gt=25"));
    watch.report(start, number(20.0));
    assert_eq!(watch.take(at(2), number(26.0)), Decision::Wait);
    assert_eq!(watch.due(), Some(at(10)));
    assert_eq!(watch.take(at(3), number(21.0)), Decision::Withhold);
    assert_eq!(watch.due(), None);
    assert_eq!(watch.take(at(4), number(27.0)), Decision::Wait);
    assert_eq!(watch.look(at(9), number(27.0)), Look::Nothing);
    assert_eq!(watch.look(at(10), number(27.0)), Look::News);
    assert_eq!(watch.take(at(19), number(20.0)), Decision::Wait);
    assert_eq!(watch.take(at(20), number(20.0)), Decision::Notify);

    let mut watch = Watch::new(start, conditions("c.pmin=0.5"));
    watch.report(start, number(1.0));
    assert_eq!(watch.take(start, number(1.0)), Decision::Wait);
    assert_eq!(watch.due(), Some(start + Duration::from_millis(500)));
}

#[test]
fn pmax_tells_what_nobody_published_and_never_more_than_once_a_second() {
    let start = clock();
    let mut watch = Watch::new(start, conditions("c.pmax=20&c.gt=25"));
    watch.report(start, Some(Sample::Number(20.0)));
    assert_eq!(watch.due(), Some(start + Duration::from_secs(20)));
    assert_eq!(watch.look(start + Duration::from_secs(19), None), Look::Nothing);
    assert_eq!(watch.look(start + Duration::from_secs(20), None), Look::Again);
    assert_eq!(watch.due(), Some(start + Duration::from_secs(40)));
    assert_eq!(conditions("c.pmax=0.001").max_period, Some(MIN_TIMED));
    assert_eq!(conditions("c.epmax=0.2").max_evaluation, Some(MIN_TIMED));
}

#[test]
fn evaluations_keep_their_cadence() {
    let start = clock();
    let at = |seconds| start + Duration::from_secs(seconds);
    let number = |value| Some(Sample::Number(value));
    let mut watch = Watch::new(start, conditions("c.epmin=5&c.gt=25"));
    watch.report(start, number(20.0));
    assert_eq!(watch.take(at(1), number(30.0)), Decision::Wait);
    assert_eq!(watch.take(at(2), number(21.0)), Decision::Wait);
    assert_eq!(watch.due(), Some(at(5)));
    assert_eq!(
        watch.look(at(5), number(21.0)),
        Look::Nothing,
        "the newest value is the one that counts"
    );
    assert_eq!(watch.due(), None);
    assert_eq!(watch.take(at(11), number(30.0)), Decision::Notify);

    let mut watch = Watch::new(start, conditions("c.epmax=5&c.band&c.lt=25"));
    watch.report(start, number(30.0));
    assert_eq!(watch.look(at(5), number(30.0)), Look::Again, "in the band");
    watch.report(at(5), number(20.0));
    assert_eq!(watch.look(at(10), number(20.0)), Look::Nothing);
    assert_eq!(watch.due(), Some(at(15)), "{watch:?}");
}

#[test]
fn a_repeated_evaluation_does_not_lose_what_waits_for_pmin() {
    let start = clock();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut watch = Watch::new(start, conditions("c.pmin=10&c.epmax=2"));
    watch.report(start, None);
    assert_eq!(watch.take(at(1), None), Decision::Wait);
    assert_eq!(watch.look(at(3), None), Look::Nothing);
    assert_eq!(watch.look(at(5), None), Look::Nothing);
    assert_eq!(watch.look(at(10), None), Look::News);
}

#[test]
fn parameters_that_do_not_go_together_are_refused() {
    for (query, named) in [
        ("c.band", "c.band"),
        ("c.pmin=10&c.pmax=9", "c.pmax"),
        ("c.epmin=10&c.epmax=10", "c.epmax"),
    ] {
        let error = QueryParams::parse(query.split('&').map(str::as_bytes)).unwrap_err();
        assert!(error.to_string().contains(named), "{query}: {error}");
    }
    assert!(conditions("c.pmin=10&c.pmax=10").check().is_ok());
}
