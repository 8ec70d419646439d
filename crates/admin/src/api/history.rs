//! `history`: the last hour in steps of ten seconds, for lines over time.
//!
//! Each step is what lies between two scrapes. At most 360 steps of 26 numbers are kept: some 40 KiB.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::error::{ApiError, ErrorBody};
use super::extract::Params;
use super::metrics::{self, Metrics};

const STEP: Duration = Duration::from_secs(10);

/// Steps that are kept: an hour of them.
const KEPT: usize = 360;

/// What one step came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HistoryPoint {
    /// When it ended, in seconds since 1970. Steps that lie further apart than usual have a gap between them.
    pub time: f64,
    /// Requests of devices.
    pub requests_per_second: f32,
    /// Publishes that the broker took.
    pub publishes_per_second: f32,
    /// Notifications that reached a device, or were sent without asking for an acknowledgement.
    pub notifications_per_second: f32,
    /// The median of the times to the answer; none without requests.
    pub latency_p50_seconds: Option<f32>,
    /// 95 of 100 answers came within this time.
    pub latency_p95_seconds: Option<f32>,
    /// 99 of 100 did.
    pub latency_p99_seconds: Option<f32>,
    /// Established DTLS sessions, at the end of the step.
    pub dtls_sessions: f32,
    /// Addresses that are remembered on UDP listeners.
    pub udp_peers: f32,
    /// Connections of clients.
    pub connections: f32,
    /// Observations of all clients.
    pub observations: f32,
    /// DTLS handshakes that succeeded.
    pub handshakes_per_second: f32,
    /// Those of them that resumed a session.
    pub resumptions_per_second: f32,
    /// DTLS handshakes that failed.
    pub failed_handshakes_per_second: f32,
    /// Messages to the broker.
    pub broker_sent_per_second: f32,
    /// Messages from the broker.
    pub broker_received_per_second: f32,
    /// Messages that wait for the broker, at the end of the step.
    pub spool_messages: f32,
    /// Datagrams and DTLS records that were dropped.
    pub drops_per_second: f32,
    /// Messages that were sent again because no acknowledgement came.
    pub retransmissions_per_second: f32,
    /// What a limit refused.
    pub refusals_per_second: f32,
    /// Processor time by time: 1.0 is one core in full use.
    pub cpu_ratio: f32,
    /// Resident memory, at the end of the step.
    pub memory_bytes: f32,
}

/// The last hour.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct History {
    /// How long a step is.
    pub step_seconds: u64,
    /// Latencies up to this are not told apart: one that is equal to it is less.
    pub latency_floor_seconds: f64,
    /// The steps that are kept, oldest first, at most 360.
    pub points: Vec<HistoryPoint>,
}

/// Counters and levels at one moment, as far as steps are made of them.
#[derive(Debug, Clone, Default)]
struct Look {
    time: f64,
    requests: f64,
    publishes: f64,
    notifications: f64,
    /// Bounds and counts of the answers, cumulative.
    answers: Vec<(f64, f64)>,
    handshakes: f64,
    handshakes_ended: f64,
    resumptions: f64,
    sent: f64,
    received: f64,
    drops: f64,
    retransmissions: f64,
    refusals: f64,
    cpu: f64,
}

impl Look {
    fn of(metrics: &Metrics) -> Self {
        let all = |name| metrics.sum(name, &[]);
        let notified = |labels| metrics.sum("portcullis_notifications_total", labels);
        let broker = |direction| metrics.sum("portcullis_broker_messages_total", &[("direction", direction)]);
        Self {
            time: metrics.time,
            requests: all("portcullis_request_seconds_count"),
            publishes: metrics.sum("portcullis_publishes_total", &[("result", "accepted")]),
            notifications: notified(&[("result", "acked")])
                + notified(&[("type", "non"), ("result", "sent")]),
            answers: buckets(metrics, "portcullis_request_seconds_bucket"),
            handshakes: metrics.sum("portcullis_dtls_handshakes_total", &[("result", "ok")]),
            handshakes_ended: all("portcullis_dtls_handshakes_total"),
            resumptions: all("portcullis_dtls_resumed_total"),
            sent: broker("sent"),
            received: broker("received"),
            drops: all("portcullis_datagrams_dropped_total") + all("portcullis_dtls_records_dropped_total"),
            retransmissions: all("portcullis_coap_retransmissions_total"),
            refusals: all("portcullis_limits_rejected_total"),
            cpu: all("process_cpu_seconds_total"),
        }
    }

    /// What happened since an earlier look; the levels are those of now.
    fn since(&self, before: &Self, metrics: &Metrics) -> HistoryPoint {
        let seconds = (self.time - before.time).max(1e-3);
        let per_second = |now: f64, then: f64| single((now - then).max(0.0) / seconds);
        let latency = |q| quantile(&before.answers, &self.answers, q).map(single);
        let level = |name, labels: &[(&str, &str)]| single(metrics.sum(name, labels));
        let handshakes = per_second(self.handshakes, before.handshakes);
        let ended = per_second(self.handshakes_ended, before.handshakes_ended);
        HistoryPoint {
            time: self.time,
            requests_per_second: per_second(self.requests, before.requests),
            publishes_per_second: per_second(self.publishes, before.publishes),
            notifications_per_second: per_second(self.notifications, before.notifications),
            latency_p50_seconds: latency(0.5),
            latency_p95_seconds: latency(0.95),
            latency_p99_seconds: latency(0.99),
            dtls_sessions: level("portcullis_sessions", &[("transport", "dtls")]),
            udp_peers: level("portcullis_sessions", &[("transport", "udp")]),
            connections: level("portcullis_connections", &[]),
            observations: level("portcullis_subscriptions", &[]),
            handshakes_per_second: handshakes,
            resumptions_per_second: per_second(self.resumptions, before.resumptions),
            failed_handshakes_per_second: (ended - handshakes).max(0.0),
            broker_sent_per_second: per_second(self.sent, before.sent),
            broker_received_per_second: per_second(self.received, before.received),
            spool_messages: level("portcullis_spool_messages", &[]),
            drops_per_second: per_second(self.drops, before.drops),
            retransmissions_per_second: per_second(self.retransmissions, before.retransmissions),
            refusals_per_second: per_second(self.refusals, before.refusals),
            cpu_ratio: per_second(self.cpu, before.cpu),
            memory_bytes: level("process_resident_memory_bytes", &[]),
        }
    }
}

/// Four bytes are enough for a line on a screen.
#[expect(clippy::cast_possible_truncation, reason = "digits that nobody sees")]
fn single(value: f64) -> f32 {
    value as f32
}

/// The buckets of a histogram, added up over its labels: bounds, infinity last, with how many are at most that.
fn buckets(metrics: &Metrics, name: &str) -> Vec<(f64, f64)> {
    let mut all: Vec<(f64, f64)> = Vec::new();
    for sample in metrics.samples.get(name).into_iter().flatten() {
        let bound = sample.labels.get("le").and_then(|le| match le.as_str() {
            "+Inf" => Some(f64::INFINITY),
            number => number.parse().ok(),
        });
        let Some(bound) = bound else { continue };
        match all.iter_mut().find(|(own, _)| own.total_cmp(&bound).is_eq()) {
            Some((_, count)) => *count += sample.value,
            None => all.push((bound, sample.value)),
        }
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all
}

/// The quantile of what came between two looks, by straight line within its bucket. Of one in the first bucket only the bound is
/// known; of one above the last bound, that it is above.
fn quantile(before: &[(f64, f64)], after: &[(f64, f64)], q: f64) -> Option<f64> {
    let steps: Vec<(f64, f64)> = after
        .iter()
        .map(|(bound, count)| {
            let old = before.iter().find(|(own, _)| own.total_cmp(bound).is_eq());
            (*bound, count - old.map_or(0.0, |(_, count)| *count))
        })
        .collect();
    let total = steps.last()?.1;
    if total <= 0.0 {
        return None;
    }
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, count) in steps {
        if count >= q * total {
            if bound.is_infinite() {
                return Some(lower);
            }
            if lower == 0.0 {
                return Some(bound);
            }
            return Some(lower + (bound - lower) * ((q * total - below) / (count - below).max(1e-9)));
        }
        (lower, below) = (bound, count);
    }
    Some(lower)
}

/// What is kept.
#[derive(Default)]
pub(super) struct Recorder {
    before: Option<Look>,
    floor: f64,
    points: VecDeque<HistoryPoint>,
}

impl Recorder {
    fn take(&mut self, metrics: &Metrics) {
        let look = Look::of(metrics);
        if let Some((bound, _)) = look.answers.first() {
            self.floor = *bound;
        }
        // A clock that was set back tells nothing of what lies between.
        if let Some(before) = self.before.as_ref().filter(|before| before.time < look.time) {
            if self.points.len() == KEPT {
                self.points.pop_front();
            }
            self.points.push_back(look.since(before, metrics));
        }
        self.before = Some(look);
    }
}

/// Looks at the numbers for as long as the interface serves.
pub(super) async fn record(api: Arc<Api>) {
    let mut ticks = interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let metrics = metrics::now(&api);
        api.history
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(&metrics);
    }
}

/// Which part of the history.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// Only steps that ended after this time, in seconds since 1970: what a reader does not have yet.
    #[serde(default)]
    #[param(default = 0)]
    after: f64,
}

/// Show the last hour
///
/// Rates, latencies and levels in steps of ten seconds, since the start of the process and for an hour at most.
#[utoipa::path(
    get,
    path = "/api/v1/history",
    tag = "status",
    params(HistoryQuery),
    responses((status = 200, body = History), (status = 400, body = ErrorBody))
)]
pub(super) async fn get(
    State(api): State<Arc<Api>>,
    Params(HistoryQuery { after }): Params<HistoryQuery>,
) -> Result<Json<History>, ApiError> {
    if after.is_nan() {
        return Err(ApiError::bad_request("after is a time in seconds since 1970"));
    }
    let recorder = api.history.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Json(History {
        step_seconds: STEP.as_secs(),
        latency_floor_seconds: recorder.floor,
        points: recorder
            .points
            .iter()
            .filter(|point| point.time > after)
            .cloned()
            .collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers as a scrape shows them: requests so far, of which `fast` took at most 10 us and the others at most 100.
    fn metrics(time: f64, requests: u32, fast: u32) -> Metrics {
        let text = format!(
            "portcullis_request_seconds_count {requests}\n\
             portcullis_request_seconds_bucket{{le=\"1e-5\"}} {fast}\n\
             portcullis_request_seconds_bucket{{le=\"1e-4\"}} {requests}\n\
             portcullis_request_seconds_bucket{{le=\"+Inf\"}} {requests}\n\
             portcullis_sessions{{transport=\"dtls\"}} 7\n\
             process_cpu_seconds_total {}\n",
            time / 4.0
        );
        Metrics::parse(&text, time)
    }

    #[test]
    fn a_step_is_what_lies_between_two_looks() {
        let mut recorder = Recorder::default();
        recorder.take(&metrics(1000.0, 500, 500));
        assert!(recorder.points.is_empty(), "one look is no step");
        recorder.take(&metrics(1010.0, 540, 510));
        let point = recorder.points.back().unwrap();
        assert!((point.requests_per_second - 4.0).abs() < 1e-6);
        assert!((point.cpu_ratio - 0.25).abs() < 1e-6);
        assert!((point.dtls_sessions - 7.0).abs() < 1e-6);
        // 10 of 40 in the first bucket: the median is a third into the second.
        let median = point.latency_p50_seconds.unwrap();
        assert!((median - 4e-5).abs() < 1e-6, "{median}");
        recorder.take(&metrics(1020.0, 540, 510));
        assert_eq!(recorder.points.back().unwrap().latency_p50_seconds, None);
        recorder.take(&metrics(1030.0, 550, 520));
        let in_the_first = recorder.points.back().unwrap().latency_p99_seconds.unwrap();
        assert!((f64::from(in_the_first) - recorder.floor).abs() < 1e-9);
    }

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let mut recorder = Recorder::default();
        for n in 0..1000_u32 {
            recorder.take(&metrics(f64::from(n) * 10.0, n, n));
        }
        assert_eq!(recorder.points.len(), KEPT);
        assert!((recorder.points[0].time - 6400.0).abs() < 1e-9);
        // Set back, the clock begins anew.
        recorder.take(&metrics(5.0, 1000, 1000));
        assert!((recorder.points.back().unwrap().time - 9990.0).abs() < 1e-9);
    }
}
