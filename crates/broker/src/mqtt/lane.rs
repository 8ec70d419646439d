//! One connection to the broker and all that belongs to it, as one task.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::link::{Delivery, Envelope, QueueReceiver};
use crate::metrics::{ConnectResult, LaneMetrics};
use crate::origin::Origins;
use crate::settings::{MqttSettings, Protocol};
use crate::spool::{Spool, SpoolState};
use crate::status::Status;
use portcullis_proto::bridge::contract::BrokerRequest;
use portcullis_proto::bridge::receipt::{Receipt, Receipts};
use portcullis_proto::types::TopicLimits;
use portcullis_proto::types::message::{Message, Qos};
use portcullis_proto::types::topic::is_below;

use super::backoff::Backoff;
use super::codec::{Connect, Greeting, Inbound, MAX_PACKET};
use super::connection::Connection;
use super::exchanges::Exchanges;
use super::judge::Judge;
use super::options;
use super::pipeline::Pipeline;
use super::presence::Presence;
use super::session::{Ending, Happening, Session};
use super::spooling::Spooling;
use super::subscriptions::Subscriptions;
use super::trial::Trial;

/// Requests taken before the connection is looked at again.
const BATCH: usize = 256;
const TICK: Duration = Duration::from_millis(250);
const TICK_COLLECTING: Duration = Duration::from_millis(10);
const SHORTEST_TICK: Duration = Duration::from_millis(1);
/// How long a shutdown waits for acknowledgements before the rest goes to the spool.
const FLUSH: Duration = Duration::from_secs(3);
/// How long it waits for the goodbye to be sent.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long what an earlier process had under way at QoS 2 keeps the rest waiting.
const RECONCILE: Duration = Duration::from_secs(10);
/// A connection that the broker ends so soon after something was sent ends because of that, for all that can be told.
const RIGHT_AFTER: Duration = Duration::from_secs(5);
/// What a lane is made of.
pub(crate) struct LaneParts {
    pub(crate) index: usize,
    pub(crate) settings: Arc<MqttSettings>,
    pub(crate) node: Arc<str>,
    pub(crate) clock: Clock,
    pub(crate) workers: Vec<Delivery>,
    pub(crate) spool: Option<(Spool, SpoolState)>,
    /// Where it is kept what the broker hangs up on.
    pub(crate) judged: Option<PathBuf>,
    /// Where it is kept what is under way at QoS 2.
    pub(crate) exchanges: Option<PathBuf>,
    pub(crate) origins: Origins,
    pub(crate) metrics: Arc<LaneMetrics>,
    pub(crate) status: Arc<watch::Sender<Status>>,
    pub(crate) topics: watch::Receiver<TopicLimits>,
}

enum State {
    /// Waiting to try again.
    Away { until: Instant },
    /// Trying, or connected since.
    Linked {
        connection: Box<Connection>,
        since: Option<Instant>,
    },
}

/// One connection to the broker and all that belongs to it.
pub(crate) struct Lane {
    index: usize,
    settings: Arc<MqttSettings>,
    clock: Clock,
    origins: Origins,
    metrics: Arc<LaneMetrics>,
    status: Arc<watch::Sender<Status>>,
    topics: watch::Receiver<TopicLimits>,
    pipeline: Pipeline,
    subscriptions: Subscriptions,
    state: State,
    backoff: Backoff,
    /// The broker's session must not be resumed: it is another process's, or an exchange at QoS 2 was given up on it.
    clean_start: bool,
    /// By MQTT 3.1.1 the session is ended by a connection of its own, since one that begins clean does not outlive its connection.
    wiping: bool,
    /// This connection was for that, or found that it is needed.
    ends_now: bool,
    /// How many workers have not said yet what they go on with; nothing is connected before.
    awaited: usize,
    /// They go on observing, on the session of an earlier process.
    goes_on: bool,
    /// What workers took of what came on this connection, and what wakes this task for it.
    receipts: Arc<Receipts>,
    taken: Arc<Notify>,
    /// Until when the session of an earlier process is kept, for its exchanges at QoS 2 to be finished.
    reconciled_by: Option<Instant>,
    trial: Trial,
    presence: Presence,
}

impl Lane {
    pub(crate) fn new(parts: LaneParts) -> Self {
        let recovered = parts.spool.as_ref().map_or(0, |(_, state)| state.live);
        parts.metrics.recovered.add(recovered);
        let head = parts.spool.as_ref().map_or(0, |(_, state)| state.head);
        let exchanges = Exchanges::open(parts.exchanges.as_deref(), head);
        let (clean_start, awaited) = (exchanges.is_empty(), parts.settings.keepers);
        let pipeline = Pipeline::new(
            parts.clock,
            Arc::clone(&parts.metrics),
            parts.workers.clone(),
            parts.settings.max_qos,
            Spooling::new(parts.spool),
            Judge::open(parts.judged),
            exchanges,
        );
        pipeline.show_spool();
        Self {
            index: parts.index,
            subscriptions: Subscriptions::new(
                parts.workers.clone(),
                Arc::clone(&parts.metrics),
                parts.settings.protocol,
                &parts.settings.events_prefix,
            ),
            trial: Trial::new(Arc::clone(&parts.settings), parts.index, parts.clock.now),
            pipeline,
            state: State::Away {
                until: (parts.clock.now)(),
            },
            presence: Presence::new(&parts.settings, parts.index, &parts.node),
            settings: parts.settings,
            clock: parts.clock,
            origins: parts.origins,
            metrics: parts.metrics,
            status: parts.status,
            topics: parts.topics,
            backoff: Backoff::new(),
            clean_start,
            wiping: false,
            ends_now: false,
            awaited,
            goes_on: false,
            receipts: Arc::new(Receipts::new(|| {})),
            taken: Arc::default(),
            reconciled_by: None,
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
            self.proceed(now).await;
            self.flush();
            let tick = self.next_tick(now);
            // In random order, and a bounded amount of each: messages from the broker may come without a pause, and so may
            // requests, and neither may keep the other, or the spool's reports, from their turn. The end is looked at
            // first, above, whatever else is ready.
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                happenings = happenings(&mut self.state) => self.on_happenings(happenings),
                happenings = self.trial.next() => self.on_trial(happenings),
                () = self.taken.notified() => {}
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
        let ping = match &self.state {
            State::Linked { connection, .. } => connection.session.deadline(),
            State::Away { .. } => None,
        };
        for deadline in [self.pipeline.deadline(), self.trial.deadline(), ping]
            .into_iter()
            .flatten()
        {
            tick = tick.min(deadline.saturating_duration_since(now).max(SHORTEST_TICK));
        }
        tick
    }

    /// Does what can be done now: connect, send, spill, end rounds, try what may be the broker's reason to hang up.
    async fn proceed(&mut self, now: Instant) {
        if let State::Away { until } = self.state
            && until <= now
            && self.awaited == 0
        {
            self.connect(now);
        }
        self.end_if_wiped(now).await;
        if let State::Linked { connection, .. } = &mut self.state {
            let taken = self.receipts.take().into_iter();
            taken.for_each(|number| connection.session.acknowledge(number));
        }
        let connected = self.since().is_some();
        self.pipeline.tick(now, connected);
        self.subscriptions.tick(now);
        self.give_up_if_stalled(now);
        self.reconcile(now).await;
        let held_up = self.trial.wants_main(&self.pipeline, &self.subscriptions);
        if let (false, Some(session)) = (held_up, session(&mut self.state)) {
            if !self.pipeline.leaves {
                self.subscriptions.send(now, session);
            }
            self.pipeline.send(now, session);
        }
        self.trial
            .proceed(
                now,
                session(&mut self.state),
                &mut self.pipeline,
                &mut self.subscriptions,
            )
            .await;
        let ending = match &mut self.state {
            State::Linked { connection, .. } => {
                let ending = connection.tick(now);
                connection.flush().await;
                ending
            }
            State::Away { .. } => None,
        };
        if let Some(ending) = ending {
            self.on_ended(now, &ending);
        }
    }

    /// Ends a connection that only had to find, or end, a session of before (MQTT 3.1.1).
    async fn end_if_wiped(&mut self, now: Instant) {
        if std::mem::take(&mut self.ends_now)
            && let State::Linked { connection, .. } = &mut self.state
        {
            connection.session.disconnect();
            connection.flush().await;
            self.state = State::Away { until: now };
            self.connect(now);
        }
    }

    /// Leaves the session of an earlier process, which still has that one's subscriptions, once its exchanges at QoS 2 are over.
    async fn reconcile(&mut self, now: Instant) {
        if !self.pipeline.reconciling {
            return;
        }
        let State::Linked {
            connection,
            since: Some(_),
        } = &mut self.state
        else {
            return;
        };
        let late = self.reconciled_by.is_some_and(|by| by <= now);
        self.pipeline.reconcile(now, late, &mut connection.session);
        if !self.pipeline.leaves || !late && !self.pipeline.is_reconciled(&connection.session) {
            return;
        }
        connection.session.disconnect();
        connection.flush().await;
        (self.pipeline.reconciling, self.pipeline.leaves) = (false, false);
        self.pipeline.forsaken = true;
        self.on_ended(
            now,
            &Ending::ours("what an earlier process had under way is over"),
        );
        self.state = State::Away { until: now };
    }

    /// Ends a connection on which the broker answers pings and acknowledges nothing (a cluster without a leader, a plugin
    /// that hangs): what waits is spooled or answered, and another connection may lead to a node that works.
    fn give_up_if_stalled(&mut self, now: Instant) {
        let owed = session(&mut self.state).and_then(|session| session.requests.owed_since());
        if owed.is_none_or(|since| now.saturating_duration_since(since) < self.settings.ack_patience) {
            return;
        }
        self.metrics.stalls.inc();
        // It did not hang up: no message is to be suspected of being the cause.
        self.on_ended(now, &Ending::ours("the broker does not acknowledge"));
    }

    /// Wakes each worker once for all that this turn has for it.
    fn flush(&mut self) {
        self.pipeline.flush();
        self.subscriptions.flush();
    }

    fn since(&self) -> Option<Instant> {
        match self.state {
            State::Linked { since, .. } => since,
            State::Away { .. } => None,
        }
    }

    fn connect(&mut self, now: Instant) {
        let connect = Connect {
            client_id: options::client_id(&self.settings, self.index),
            clean_start: self.begins_clean(),
            session_seconds: u32::try_from(self.settings.session_expiry.as_secs()).unwrap_or(u32::MAX),
            keep_alive: options::keep_alive(&self.settings),
            will: self.presence.will(),
        };
        match options::connect(&self.settings, connect, self.clock.now) {
            Ok(connection) => {
                let mut connection = Box::new(connection);
                if self.settings.keepers > 0 {
                    connection.session.arrivals.acknowledge_later();
                    let taken = Arc::clone(&self.taken);
                    self.receipts = Arc::new(Receipts::new(move || taken.notify_one()));
                }
                self.state = State::Linked {
                    connection,
                    since: None,
                };
            }
            Err(text) => self.on_ended(now, &Ending::ours(text)),
        }
    }

    /// Whether the CONNECT says so.
    fn begins_clean(&self) -> bool {
        match self.settings.protocol {
            Protocol::V5 => self.clean_start,
            Protocol::V4 => self.wiping || self.settings.session_expiry.is_zero(),
        }
    }

    /// Publishes the status, where there is one.
    fn tell(&mut self, now: Instant, status: &str) {
        if let Some(message) = self.presence.message(status) {
            self.pipeline.publish_internal(now, message);
        }
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
            BrokerRequest::Publish { ticket, message } | BrokerRequest::PublishIf { ticket, message, .. } => {
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
                let judge = (&self.pipeline.judge, self.clock.wall_millis());
                self.subscriptions.subscribe(
                    now,
                    (worker, filter_id),
                    ticket,
                    filter,
                    (qos, retained),
                    judge,
                );
            }
            BrokerRequest::Unsubscribe { filter_id } => self.subscriptions.unsubscribe((worker, filter_id)),
            BrokerRequest::Restore {
                filter_id,
                filter,
                qos,
            } => {
                (self.goes_on, self.clean_start, self.pipeline.leaves) = (true, false, false);
                self.subscriptions.restore((worker, filter_id), filter, qos);
            }
            BrokerRequest::Abandon { filter } => self.subscriptions.abandon(filter),
            BrokerRequest::Restored => self.awaited = self.awaited.saturating_sub(1),
            BrokerRequest::ReadRetained { ticket, topic } => {
                let judge = (&self.pipeline.judge, self.clock.wall_millis());
                self.subscriptions.read(now, worker, ticket, &topic, judge);
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

    fn on_happenings(&mut self, happenings: Vec<Happening>) {
        let now = (self.clock.now)();
        for happening in happenings {
            let (pipeline, subscriptions) = (&mut self.pipeline, &mut self.subscriptions);
            if self
                .trial
                .takes_from_main(now, &happening, pipeline, subscriptions)
            {
                continue;
            }
            match happening {
                Happening::Connected(greeting) => {
                    self.on_connected(now, greeting);
                    if self.ends_now {
                        // What comes from the session that ends is for nobody.
                        return;
                    }
                }
                Happening::Acknowledged(packet, reason) => pipeline.on_acknowledged(now, packet, reason),
                Happening::Received(packet) => {
                    pipeline.on_received(packet);
                    if let Some(session) = session(&mut self.state) {
                        session.release(now, packet);
                    }
                }
                Happening::Confirmed(number) => pipeline.on_confirmed(now, number),
                Happening::Subscribed(packet, reason) => {
                    subscriptions.on_subscribed(now, packet, reason, &mut pipeline.judge);
                }
                Happening::Unsubscribed(packet) => subscriptions.on_unsubscribed(now, packet),
                Happening::Message(inbound, number) => self.on_message(now, inbound, number),
                Happening::Ended(ending) => return self.on_ended(now, &ending),
            }
        }
    }

    fn on_trial(&mut self, happenings: Vec<Happening>) {
        let now = (self.clock.now)();
        for happening in happenings {
            let main = session(&mut self.state);
            self.trial
                .on_happening(now, happening, main, &mut self.pipeline, &mut self.subscriptions);
        }
        self.pipeline.judge.save();
    }

    fn on_connected(&mut self, now: Instant, mut greeting: Greeting) {
        let State::Linked { since, .. } = &mut self.state else {
            return;
        };
        if self.settings.protocol == Protocol::V4 {
            let is_wiped = std::mem::take(&mut self.wiping);
            self.wiping = !is_wiped && self.clean_start && greeting.session_present;
            self.clean_start &= !is_wiped;
            self.ends_now = is_wiped || self.wiping;
            if self.ends_now {
                return;
            }
        }
        *since = Some(now);
        self.clean_start = false;
        self.presence.connected(&mut greeting);
        self.metrics.connected.set(1);
        self.metrics.connects.inc(ConnectResult::Ok);
        self.metrics.max_qos.set(greeting.max_qos.number().into());
        self.metrics.retains.set(greeting.retain.into());
        self.metrics.max_packet.set(greeting.max_packet as u64);
        let lacks = lacks(&greeting);
        let said: String = lacks.iter().map(|lack| format!("; {lack}")).collect();
        tracing::info!(
            broker = %self.settings.address,
            connection = self.index,
            session_present = greeting.session_present,
            "connected to the broker{said}"
        );
        if std::mem::take(&mut self.goes_on) && !greeting.session_present {
            tracing::warn!(
                connection = self.index,
                "the broker does not know the session of before the restart any more: what it would have sent meanwhile is lost; \
                 broker.session_expiry is how long it is to be kept"
            );
        }
        self.say(format!("connected to {}{said}", self.settings.address), lacks);
        if !greeting.session_present {
            (self.pipeline.reconciling, self.pipeline.leaves) = (false, false);
        }
        self.reconciled_by = now.checked_add(RECONCILE);
        if let Some(session) = session(&mut self.state) {
            self.pipeline.connected(now, greeting, session);
        }
        self.tell(now, "online");
        let judge = (&self.pipeline.judge, self.clock.wall_millis());
        self.subscriptions.connected(now, &greeting, judge);
    }

    fn say(&self, connection: String, lacks: Vec<String>) {
        self.status.send_if_modified(|status| {
            let changed = status.connection != connection || status.lacks != lacks;
            (status.connection, status.lacks) = (connection, lacks);
            changed
        });
    }

    fn on_ended(&mut self, now: Instant, ending: &Ending) {
        let since = self.since();
        let ended = session(&mut self.state);
        let right_after = ended
            .as_ref()
            .is_some_and(|session| now.saturating_duration_since(session.last_sent()) < RIGHT_AFTER);
        // A connection on which the broker acknowledged nothing was no success, however long it stood.
        let of_use = ended
            .as_ref()
            .is_some_and(|session| session.requests.were_of_use());
        let tried_at_qos2 =
            ended.is_some_and(|session| session.requests.at_qos2() > 0) && self.trial.is_on_main();
        let accused = ending.by_broker && right_after;
        let mut wait = self.backoff.wait(since.filter(|_| of_use), now);
        let less = self.presence.asks_for_less(
            ending,
            since.is_some(),
            accused && self.pipeline.only_status_is_under_way(),
        );
        let brief = accused && of_use;
        if brief || less {
            wait = self.backoff.at_once();
        }
        let text = format!("disconnected from {}: {}", self.settings.address, ending.text);
        if ending.result == ConnectResult::Protocol && since.is_none() {
            tracing::error!(connection = self.index, "{text}");
        } else {
            let retry_in = Duration::from_millis(wait.as_millis().try_into().unwrap_or(u64::MAX));
            tracing::warn!(connection = self.index, ?retry_in, "{text}");
        }
        self.say(text, Vec::new());
        for gauge in [
            &self.metrics.max_qos,
            &self.metrics.retains,
            &self.metrics.max_packet,
        ] {
            gauge.set(0);
        }
        self.metrics.connected.set(0);
        if since.is_none() {
            self.metrics.connects.inc(ending.result);
        }
        self.ends_now = false;
        self.state = State::Away {
            until: now.checked_add(wait).unwrap_or(now),
        };
        let (pipeline, subscriptions) = (&mut self.pipeline, &mut self.subscriptions);
        self.trial
            .main_ended(now, ending, accused, pipeline, subscriptions);
        pipeline.disconnected(now, accused, true);
        pipeline.brief = brief;
        self.clean_start |= pipeline.forsaken || tried_at_qos2;
        subscriptions.disconnected(now, accused, &mut pipeline.judge, self.clock.wall_millis());
        pipeline.judge.save();
    }

    fn on_message(&mut self, now: Instant, inbound: Inbound, number: Option<u64>) {
        let receipt = number.map(|number| self.receipts.of(number));
        let limits = *self.topics.borrow();
        let topic = std::str::from_utf8(&inbound.topic)
            .ok()
            .and_then(|text| limits.name(text).ok());
        let Some(topic) = topic else {
            receipt.into_iter().for_each(Receipt::taken);
            return self.metrics.unfit_topics.inc();
        };
        // What others mean to each other by it is theirs.
        let of_gateway = is_below(topic.as_str(), &self.settings.events_prefix);
        let correspondence = inbound.correspondence.filter(|_| of_gateway);
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
            correspondence,
        };
        message.origin = self.origins.recall(inbound.origin, &message);
        self.subscriptions
            .on_message(now, message, inbound.retained, &inbound.subscriptions, receipt);
    }

    /// Flushes to the broker as far as it goes, then to the spool, and answers everything.
    async fn finish(&mut self) {
        let mut left = FLUSH;
        let begun = (self.clock.now)();
        if self.since().is_some() {
            self.tell(begun, "offline");
        }
        while self.since().is_some() && !self.pipeline.is_idle() && !left.is_zero() {
            self.proceed((self.clock.now)()).await;
            self.flush();
            tokio::select! {
                happenings = happenings(&mut self.state) => self.on_happenings(happenings),
                happenings = self.trial.next() => self.on_trial(happenings),
                () = self.taken.notified() => {}
                report = self.pipeline.spooling.report() => self.on_report(report),
                () = tokio::time::sleep(TICK_COLLECTING) => {}
            }
            left = FLUSH.saturating_sub((self.clock.now)().saturating_duration_since(begun));
        }
        if let State::Linked {
            connection,
            since: Some(_),
        } = &mut self.state
        {
            connection.session.disconnect();
            let ended =
                async { while !matches!(connection.next().await.last(), Some(Happening::Ended(_))) {} };
            if tokio::time::timeout(GOODBYE, ended).await.is_err() {
                tracing::debug!("the broker did not end the connection in time");
            }
        }
        let now = (self.clock.now)();
        self.pipeline.disconnected(now, false, false);
        let wall = self.clock.wall_millis();
        self.subscriptions
            .disconnected(now, false, &mut self.pipeline.judge, wall);
        if let Some(spool) = self.pipeline.spooling.take() {
            for report in spool.close().await {
                self.pipeline.on_report(now, report);
            }
        }
        self.pipeline.forget_finished();
        self.metrics.connected.set(0);
        self.state = State::Away { until: now };
        self.flush();
    }
}

/// What happens on the connection; for ever pending without one. Cancel safe.
async fn happenings(state: &mut State) -> Vec<Happening> {
    match state {
        State::Linked { connection, .. } => connection.next().await,
        State::Away { .. } => std::future::pending().await,
    }
}

/// The session of a connection that stands.
fn session(state: &mut State) -> Option<&mut Session> {
    match state {
        State::Linked {
            connection,
            since: Some(_),
        } => Some(&mut connection.session),
        _ => None,
    }
}

/// What a broker does not offer, for who reads the log or the status.
fn lacks(greeting: &Greeting) -> Vec<String> {
    let qos = || format!("it takes QoS {} at most", greeting.max_qos.number());
    let packet = || format!("it takes packets of {} bytes at most", greeting.max_packet);
    [
        (greeting.max_qos < Qos::ExactlyOnce).then(qos),
        (!greeting.retain).then(|| "it keeps no retained messages".to_owned()),
        (!greeting.wildcards).then(|| "it takes no filters with wildcards".to_owned()),
        (greeting.max_packet < MAX_PACKET).then(packet),
    ]
    .into_iter()
    .flatten()
    .collect()
}
