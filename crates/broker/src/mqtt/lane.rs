//! One connection to the broker and all that belongs to it, as one task.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::link::{Delivery, Envelope, QueueReceiver};
use crate::metrics::{ConnectResult, LaneMetrics};
use crate::origin::Origins;
use crate::settings::MqttSettings;
use crate::spool::{Spool, SpoolState};
use crate::status::Status;
use portcullis_proto::bridge::contract::BrokerRequest;
use portcullis_proto::types::message::{Message, Qos};
use portcullis_proto::types::{TopicLimits, TopicName};

use super::backoff::Backoff;
use super::options::{self, Will};
use super::pipeline::Pipeline;
use super::spooling::Spooling;
use super::subscriptions::Subscriptions;
use super::wire::{Ending, Greeting, Happening, Inbound, Link};

/// Requests taken before the connection is looked at again.
const BATCH: usize = 256;
/// Groups of happenings taken before the requests are looked at again.
const HAPPENINGS: usize = 64;
const TICK: Duration = Duration::from_millis(250);
const TICK_COLLECTING: Duration = Duration::from_millis(10);
/// How long a shutdown waits for acknowledgements before the rest goes to the spool.
const FLUSH: Duration = Duration::from_secs(3);
/// How long it waits for the goodbye to be sent.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a lane is made of.
pub(crate) struct LaneParts {
    pub(crate) index: usize,
    pub(crate) settings: Arc<MqttSettings>,
    pub(crate) node: Arc<str>,
    pub(crate) clock: Clock,
    pub(crate) workers: Vec<Delivery>,
    pub(crate) spool: Option<(Spool, SpoolState)>,
    pub(crate) origins: Origins,
    pub(crate) metrics: Arc<LaneMetrics>,
    pub(crate) status: Arc<watch::Sender<Status>>,
    pub(crate) topics: watch::Receiver<TopicLimits>,
}

enum State {
    /// Waiting to try again.
    Away { until: Instant },
    /// Trying, or connected since.
    Linked { link: Link, since: Option<Instant> },
}

/// One connection to the broker and all that belongs to it.
pub(crate) struct Lane {
    index: usize,
    settings: Arc<MqttSettings>,
    node: Arc<str>,
    clock: Clock,
    origins: Origins,
    metrics: Arc<LaneMetrics>,
    status: Arc<watch::Sender<Status>>,
    topics: watch::Receiver<TopicLimits>,
    pipeline: Pipeline,
    subscriptions: Subscriptions,
    state: State,
    backoff: Backoff,
    /// The broker's session must not be resumed: it is another process's, or holds half a QoS 2 exchange.
    clean_start: bool,
}

impl Lane {
    pub(crate) fn new(parts: LaneParts) -> Self {
        let recovered = parts.spool.as_ref().map_or(0, |(_, state)| state.live);
        parts.metrics.recovered.add(recovered);
        let pipeline = Pipeline::new(
            parts.clock,
            Arc::clone(&parts.metrics),
            parts.workers.clone(),
            parts.settings.max_qos,
            Spooling::new(parts.spool),
        );
        pipeline.show_spool();
        Self {
            index: parts.index,
            subscriptions: Subscriptions::new(parts.workers.clone(), Arc::clone(&parts.metrics)),
            pipeline,
            state: State::Away {
                until: (parts.clock.now)(),
            },
            settings: parts.settings,
            node: parts.node,
            clock: parts.clock,
            origins: parts.origins,
            metrics: parts.metrics,
            status: parts.status,
            topics: parts.topics,
            backoff: Backoff::new(),
            clean_start: true,
        }
    }

    /// Serves until all workers are gone or `stop` is told; then everything accepted is with the broker or in the spool.
    pub(crate) async fn run(
        mut self,
        mut requests: QueueReceiver<Envelope>,
        mut stop: watch::Receiver<bool>,
    ) {
        while !*stop.borrow() {
            let now = (self.clock.now)();
            self.proceed(now);
            let tick = self.next_tick(now);
            // In random order, and a bounded amount of each: messages from the broker may come without a pause, and so may
            // requests, and neither may keep the other, or the spool's reports, from their turn. The end is looked at
            // first, above, whatever else is ready.
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                happenings = happenings(&mut self.state) => self.on_happenings(happenings),
                report = self.pipeline.spooling.report() => self.on_report(report),
                request = requests.recv() => match request {
                    Some(first) => self.on_requests(first, &mut requests),
                    None => break,
                },
                () = tokio::time::sleep(tick) => {}
            }
        }
        requests.close();
        while let Some(first) = requests.try_recv() {
            self.on_requests(first, &mut requests);
        }
        self.finish().await;
    }

    fn next_tick(&self, now: Instant) -> Duration {
        let mut tick = if self.subscriptions.is_collecting() {
            TICK_COLLECTING
        } else {
            TICK
        };
        if let State::Away { until } = self.state {
            tick = tick.min(until.saturating_duration_since(now));
        }
        if let Some(deadline) = self.pipeline.deadline() {
            tick = tick.min(deadline.saturating_duration_since(now).max(TICK_COLLECTING));
        }
        tick
    }

    /// Does what can be done now: connect, send, spill, end rounds.
    fn proceed(&mut self, now: Instant) {
        if let State::Away { until } = self.state
            && until <= now
        {
            self.connect(now);
        }
        let connected = self.since().is_some();
        self.pipeline.tick(now, connected);
        self.subscriptions.tick(now);
        self.send(now);
        self.give_up_if_stalled(now);
    }

    /// Ends a connection on which the broker answers pings and acknowledges nothing (a cluster without a leader, a plugin
    /// that hangs): what waits is spooled or answered, and another connection may lead to a node that works.
    fn give_up_if_stalled(&mut self, now: Instant) {
        let owed = self.since().and(self.pipeline.ids.owed_since());
        if owed.is_none_or(|since| now.saturating_duration_since(since) < self.settings.ack_patience) {
            return;
        }
        self.metrics.stalls.inc();
        self.on_ended(
            now,
            &Ending {
                result: ConnectResult::Unreachable,
                text: "the broker does not acknowledge".into(),
                // It did not hang up: no message is to be suspected of being the cause.
                by_broker: false,
            },
        );
    }

    fn send(&mut self, now: Instant) {
        if let State::Linked { link, since: Some(_) } = &self.state {
            self.subscriptions.send(now, &link.client, &mut self.pipeline.ids);
            self.pipeline.send(now, &link.client);
        }
    }

    fn since(&self) -> Option<Instant> {
        match self.state {
            State::Linked { since, .. } => since,
            State::Away { .. } => None,
        }
    }

    fn connect(&mut self, now: Instant) {
        let will = self.status_topic().map(|topic| Will {
            topic: topic.to_string(),
            payload: self.status_payload("offline"),
        });
        match options::connect(&self.settings, self.index, self.clean_start, will) {
            Ok(link) => self.state = State::Linked { link, since: None },
            Err(text) => self.on_ended(
                now,
                &Ending {
                    result: ConnectResult::Unreachable,
                    text,
                    by_broker: false,
                },
            ),
        }
    }

    fn status_topic(&self) -> Option<TopicName> {
        if self.index != 0 || !self.settings.publish_status {
            return None;
        }
        TopicName::new(&format!("$portcullis/{}/status", self.node)).ok()
    }

    fn status_payload(&self, status: &str) -> String {
        serde_json::json!({ "node": &*self.node, "status": status }).to_string()
    }

    fn publish_status(&mut self, now: Instant, status: &str) {
        let Some(topic) = self.status_topic() else { return };
        let message = Message {
            topic,
            payload: Bytes::from(self.status_payload(status)),
            qos: Qos::AtLeastOnce,
            retain: true,
            content_type: Some("application/json".into()),
            expires_at: None,
            origin: None,
        };
        self.pipeline.publish_internal(now, message);
    }

    fn on_requests(&mut self, first: Envelope, requests: &mut QueueReceiver<Envelope>) {
        let now = (self.clock.now)();
        self.on_request(now, first);
        for _ in 1..BATCH {
            let Some(next) = requests.try_recv() else { break };
            self.on_request(now, next);
        }
    }

    fn on_request(&mut self, now: Instant, Envelope { worker, request }: Envelope) {
        match request {
            BrokerRequest::Publish { ticket, message } => {
                let origin = self.origins.remember(&message);
                self.pipeline.publish(now, (worker, ticket), message, origin);
            }
            BrokerRequest::Subscribe {
                ticket,
                filter_id,
                filter,
                qos,
                retained,
            } => {
                self.subscriptions
                    .subscribe(now, (worker, filter_id), ticket, filter, qos, retained);
            }
            BrokerRequest::Unsubscribe { filter_id } => self.subscriptions.unsubscribe((worker, filter_id)),
            BrokerRequest::ReadRetained { ticket, topic } => {
                self.subscriptions.read(now, worker, ticket, &topic)
            }
        }
    }

    fn on_report(&mut self, report: Option<crate::spool::Report>) {
        let now = (self.clock.now)();
        let Some(report) = report else {
            // The thread is gone; nothing can be kept any more.
            tracing::error!("the spool's thread is gone");
            self.metrics.spool_failed.set(1);
            drop(self.pipeline.spooling.take());
            return;
        };
        self.pipeline.on_report(now, report);
        if let Some(reason) = self.pipeline.spooling.state().failure.clone() {
            self.status.send_if_modified(|status| {
                let fault = Some(format!("spool failed: {reason}"));
                let changed = status.fault != fault;
                status.fault = fault;
                changed
            });
        }
    }

    fn on_happenings(&mut self, happenings: Option<Vec<Happening>>) {
        let now = (self.clock.now)();
        let Some(happenings) = happenings else {
            let text = "the connection's task ended".into();
            return self.on_ended(
                now,
                &Ending {
                    result: ConnectResult::Unreachable,
                    text,
                    by_broker: false,
                },
            );
        };
        for happening in happenings {
            match happening {
                Happening::Connected(greeting) => self.on_connected(now, greeting),
                Happening::Sent(packet) => self.pipeline.on_sent(now, packet),
                Happening::Acknowledged(packet, result) => self.pipeline.on_acknowledged(now, packet, result),
                Happening::Subscribing(packet) => self.subscriptions.on_subscribing(packet),
                Happening::Unsubscribing(packet) => self.subscriptions.on_unsubscribing(packet),
                Happening::Subscribed(packet, result) => {
                    self.subscriptions
                        .on_subscribed(now, packet, result, &mut self.pipeline.ids);
                }
                Happening::Unsubscribed(packet) => {
                    self.subscriptions
                        .on_unsubscribed(now, packet, &mut self.pipeline.ids);
                }
                Happening::Message(inbound) => self.on_message(now, inbound),
                Happening::Ended(ending) => return self.on_ended(now, &ending),
            }
        }
    }

    fn on_connected(&mut self, now: Instant, greeting: Greeting) {
        let State::Linked { since, .. } = &mut self.state else {
            return;
        };
        *since = Some(now);
        self.clean_start = false;
        self.metrics.connected.set(1);
        self.metrics.connects.inc(ConnectResult::Ok);
        tracing::info!(
            broker = %self.settings.address,
            connection = self.index,
            session_present = greeting.session_present,
            "connected to the broker"
        );
        self.say(format!("connected to {}", self.settings.address));
        self.pipeline.connected(greeting);
        self.publish_status(now, "online");
        self.subscriptions
            .connected(now, greeting.session_present, greeting.names_subscriptions);
    }

    fn say(&self, connection: String) {
        self.status.send_if_modified(|status| {
            let changed = status.connection != connection;
            status.connection = connection;
            changed
        });
    }

    fn on_ended(&mut self, now: Instant, ending: &Ending) {
        let since = self.since();
        if since.is_none() {
            self.metrics.connects.inc(ending.result);
        }
        // A connection on which the broker acknowledged nothing was no success, however long it stood.
        let stood = since.filter(|_| self.pipeline.ids.were_of_use());
        let wait = self.backoff.wait(stood, now);
        let text = format!("disconnected from {}: {}", self.settings.address, ending.text);
        if ending.result == ConnectResult::Protocol && since.is_none() {
            tracing::error!(connection = self.index, "{text}");
        } else {
            tracing::warn!(connection = self.index, retry_in = ?wait, "{text}");
        }
        self.say(text);
        self.metrics.connected.set(0);
        if since.is_some() {
            self.clean_start = self.pipeline.is_in_qos2();
        }
        self.pipeline.disconnected(now, ending.by_broker);
        self.subscriptions.disconnected();
        self.state = State::Away {
            until: now.checked_add(wait).unwrap_or(now),
        };
    }

    fn on_message(&mut self, now: Instant, inbound: Inbound) {
        let limits = *self.topics.borrow();
        let topic = std::str::from_utf8(&inbound.topic)
            .ok()
            .and_then(|text| limits.name(text).ok());
        let Some(topic) = topic else {
            return self.metrics.unfit_topics.inc();
        };
        let mut message = Message {
            topic,
            payload: inbound.payload,
            qos: inbound.qos,
            retain: inbound.retained,
            content_type: inbound.content_type,
            expires_at: inbound
                .expiry
                .and_then(|seconds| now.checked_add(Duration::from_secs(seconds.into()))),
            origin: None,
        };
        message.origin = self.origins.recall(inbound.origin, &message);
        self.subscriptions
            .on_message(now, message, inbound.retained, &inbound.subscriptions);
    }

    /// Flushes to the broker as far as it goes, then to the spool, and answers everything.
    async fn finish(&mut self) {
        let mut left = FLUSH;
        let begun = (self.clock.now)();
        if self.since().is_some() {
            self.publish_status(begun, "offline");
        }
        while self.since().is_some() && !self.pipeline.is_idle() && !left.is_zero() {
            self.proceed((self.clock.now)());
            tokio::select! {
                happenings = happenings(&mut self.state) => self.on_happenings(happenings),
                report = self.pipeline.spooling.report() => self.on_report(report),
                () = tokio::time::sleep(TICK_COLLECTING) => {}
            }
            left = FLUSH.saturating_sub((self.clock.now)().saturating_duration_since(begun));
        }
        if let State::Linked { link, since: Some(_) } = &mut self.state {
            link.client.disconnect();
            let ended = async { while link.happenings.recv().await.is_some() {} };
            if tokio::time::timeout(GOODBYE, ended).await.is_err() {
                tracing::debug!("the broker did not end the connection in time");
            }
        }
        let now = (self.clock.now)();
        self.pipeline.disconnected(now, false);
        self.subscriptions.disconnected();
        if let Some(spool) = self.pipeline.spooling.take() {
            for report in spool.close().await {
                self.pipeline.on_report(now, report);
            }
        }
        self.metrics.connected.set(0);
        self.state = State::Away { until: now };
    }
}

/// What happens on the connection; for ever pending without one. Cancel safe.
async fn happenings(state: &mut State) -> Option<Vec<Happening>> {
    match state {
        State::Linked { link, .. } => {
            let mut all = link.happenings.recv().await?;
            for _ in 1..HAPPENINGS {
                let Ok(more) = link.happenings.try_recv() else {
                    break;
                };
                all.extend(more);
            }
            Some(all)
        }
        State::Away { .. } => std::future::pending().await,
    }
}
