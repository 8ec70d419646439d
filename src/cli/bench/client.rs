//! What one device of a run does, and what came of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openssl::ssl::SslContext;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::coap::codec::{Message, Writer};
use crate::coap::contract::{Code, Token};
use crate::coap::metrics::MessageType;

use super::histogram::Histogram;
use super::link::Link;

/// Uri-Path, Uri-Query and Observe (RFC 7252, 5.10; RFC 7641, 2).
const URI_PATH: u16 = 11;
const URI_QUERY: u16 = 15;
const OBSERVE: u16 = 6;

/// ACK_TIMEOUT (RFC 7252, 4.8).
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// A message id is not used again within EXCHANGE_LIFETIME (RFC 7252, 4.4): after so many requests a device begins anew, from
/// another port.
const MESSAGES: u32 = 60_000;

/// What all devices of a run have in common.
pub(super) struct Plan {
    pub(super) to: SocketAddr,
    pub(super) context: Option<SslContext>,
    /// Path segments of the topic; the number of the device follows.
    pub(super) path: Vec<String>,
    pub(super) queries: Vec<Zeroizing<String>>,
    /// Whether each device makes a connection first.
    pub(super) connects: bool,
    pub(super) confirmable: bool,
    pub(super) payload: usize,
    /// Between two requests of a device; none is as soon as the last is answered.
    pub(super) interval: Option<Duration>,
    pub(super) patience: Duration,
    /// What times in payloads count from.
    pub(super) epoch: Instant,
    pub(super) stop: AtomicBool,
}

/// When a run begins and ends, once all are there.
pub(super) type Times = Option<(Instant, Instant)>;

/// What became of a device's requests, or of all.
#[derive(Default)]
pub(super) struct Tally {
    /// Answers by their code.
    pub(super) answers: BTreeMap<u8, u64>,
    /// Requests without an answer.
    pub(super) lost: u64,
    pub(super) latency: Histogram,
    /// Handshakes and connections that were made, and how long they took.
    pub(super) opened: Histogram,
    pub(super) failed: u64,
    /// Why the last of them failed.
    pub(super) why: Option<String>,
    /// Notifications, and how long after the publish they came.
    pub(super) notified: Histogram,
    /// The number of the device, and how many of its publishes were taken.
    pub(super) taken: Vec<(usize, u64)>,
    /// The device that an observer follows.
    pub(super) follows: Vec<usize>,
}

impl Tally {
    pub(super) fn merge(&mut self, other: Self) {
        for (code, count) in other.answers {
            *self.answers.entry(code).or_default() += count;
        }
        self.lost += other.lost;
        self.failed += other.failed;
        self.why = self.why.take().or(other.why);
        self.latency.merge(&other.latency);
        self.opened.merge(&other.opened);
        self.notified.merge(&other.notified);
        self.taken.extend(other.taken);
        self.follows.extend(other.follows);
    }
}

/// How long the answer to the end of an observation is waited for.
const GOODBYE: Duration = Duration::from_secs(2);

/// A device: its way to the gateway, and what it counts.
pub(super) struct Device {
    plan: Arc<Plan>,
    /// The number of the topic that it publishes to or observes.
    index: usize,
    client: String,
    link: Option<Link>,
    tally: Tally,
    next: u32,
    /// The token of its connection.
    connection: Option<String>,
    /// The number of the request that it observes by.
    observed_by: Option<u32>,
    message: Vec<u8>,
    received: Vec<u8>,
}

/// How a device is known to the rest of the run.
pub(super) struct Start {
    /// Dropped once it is ready, or never will be.
    pub(super) ready: mpsc::Sender<()>,
    pub(super) times: watch::Receiver<Times>,
}

impl Device {
    /// A device that publishes to, or observes, the topic of a number.
    pub(super) fn new(plan: Arc<Plan>, index: usize, client: String) -> Self {
        Self {
            plan,
            index,
            client,
            link: None,
            tally: Tally::default(),
            next: 0,
            connection: None,
            observed_by: None,
            message: Vec::new(),
            received: Vec::new(),
        }
    }

    /// Publishes from begin to end of the run.
    pub(super) async fn publish(mut self, mut start: Start) -> Tally {
        let is_open = self.open().await;
        drop(start.ready);
        let Some((begin, end)) = begun(&mut start.times).await.filter(|_| is_open) else {
            return self.tally;
        };
        let mut taken = 0;
        let mut due = begin + self.phase();
        while due < end && !self.plan.stop.load(Ordering::Relaxed) {
            tokio::time::sleep_until(due).await;
            if self.next >= MESSAGES && !self.reopen().await {
                break;
            }
            let sent = Instant::now();
            let code = self.request(Code::PUT, None).await;
            match code {
                Some(code) => {
                    *self.tally.answers.entry(code.0).or_default() += 1;
                    taken += u64::from(code.class() == 2);
                    // From when it was due: a gateway that is late makes those behind wait as well.
                    let since = self.plan.interval.map_or(sent, |_| due);
                    self.tally.latency.record(since.elapsed());
                }
                None => self.tally.lost += 1,
            }
            due = self
                .plan
                .interval
                .map_or_else(Instant::now, |interval| due + interval);
        }
        self.tally.taken.push((self.index, taken));
        self.end().await
    }

    /// Observes what the device of its number publishes, until `end` and a while longer.
    pub(super) async fn observe(mut self, mut start: Start) -> Tally {
        let mut is_open = self.open().await;
        if is_open {
            let answer = self.request(Code::GET, Some(0)).await;
            is_open = answer.is_some_and(|code| code.class() == 2);
            if !is_open {
                self.tally.failed += 1;
                let said = answer.map_or_else(|| "no answer".to_owned(), |code| code.to_string());
                self.tally.why = Some(format!("an observation got {said}"));
            }
        }
        let token = self.next;
        self.observed_by = Some(token);
        drop(start.ready);
        let Some((_, end)) = begun(&mut start.times).await.filter(|_| is_open) else {
            return self.tally;
        };
        self.tally.follows.push(self.index);
        let last = end + self.plan.patience;
        let mut deadline = last;
        let mut newest = Duration::ZERO;
        while let Some(link) = &mut self.link {
            if self.plan.stop.load(Ordering::Relaxed) {
                break;
            }
            // Once the run is over, whoever hears nothing for a second has heard it all.
            if Instant::now() > end {
                deadline = last.min(Instant::now() + Duration::from_secs(1));
            }
            if !link.receive(&mut self.received, deadline.min(last)).await {
                break;
            }
            let Ok(message) = Message::parse(&self.received) else {
                continue;
            };
            if message.kind == MessageType::Con {
                acknowledge(link, &mut self.message, message.mid).await;
            }
            if message.token.as_bytes() == token.to_be_bytes()
                && let Some(sent) = stamp(message.payload)
                && sent > newest
            {
                // One that comes again has told it already.
                newest = sent;
                let now = self.plan.epoch.elapsed();
                self.tally.notified.record(now.saturating_sub(sent));
            }
        }
        let goodbye = self.request(Code::GET, Some(1));
        drop(tokio::time::timeout(GOODBYE, goodbye).await);
        self.end().await
    }

    async fn end(mut self) -> Tally {
        if let Some(link) = self.link.take() {
            link.close().await;
        }
        self.tally
    }

    /// Where within an interval this device sends, so that not all do at once.
    fn phase(&self) -> Duration {
        let share = u32::try_from(self.index % 997).unwrap_or_default();
        self.plan.interval.unwrap_or_default() * share / 997
    }

    async fn reopen(&mut self) -> bool {
        if let Some(link) = self.link.take() {
            link.close().await;
        }
        self.next = 0;
        self.open().await
    }

    /// Opens the way to the gateway and makes a connection where one is wanted; whether it is there.
    async fn open(&mut self) -> bool {
        let begun = Instant::now();
        let deadline = begun + self.plan.patience.max(Duration::from_secs(30));
        let made = Link::open(self.plan.to, self.plan.context.as_ref(), deadline).await;
        let why = match made {
            Ok(link) => {
                self.link = Some(link);
                if !self.plan.connects {
                    None
                } else {
                    self.connection = None;
                    let answer = self.request(Code::POST, None).await;
                    let token = std::str::from_utf8(payload(&self.received))
                        .ok()
                        .map(str::to_owned);
                    match answer {
                        Some(Code::CREATED) => {
                            self.connection = token;
                            None
                        }
                        Some(code) => Some(format!("a connection got {code}")),
                        None => Some("a connection got no answer".to_owned()),
                    }
                }
            }
            Err(why) => Some(why),
        };
        if self.plan.connects || self.plan.context.is_some() {
            match &why {
                None => self.tally.opened.record(begun.elapsed()),
                Some(_) => self.tally.failed += 1,
            }
        }
        let is_open = why.is_none();
        self.tally.why = why.or(self.tally.why.take());
        is_open
    }

    /// The token of the present request: its number, or that of the observation which it ends (RFC 7641, 3.6).
    fn token(&self, observe: Option<u32>) -> [u8; 4] {
        let ended = self.observed_by.filter(|_| observe == Some(1));
        ended.unwrap_or(self.next).to_be_bytes()
    }

    /// The message id of the present request.
    fn mid(&self) -> u16 {
        u16::try_from(self.next & 0xffff).unwrap_or_default()
    }

    /// Writes the next request.
    fn write(&mut self, code: Code, observe: Option<u32>) {
        self.next += 1;
        self.message.clear();
        let kind = if self.plan.confirmable || code != Code::PUT {
            MessageType::Con
        } else {
            MessageType::Non
        };
        let Some(token) = Token::new(&self.token(observe)) else {
            return;
        };
        let mid = self.mid();
        let mut writer = Writer::new(&mut self.message, kind, code, mid, token);
        writer.uint(OBSERVE, observe);
        let number = self.index.to_string();
        let is_connecting = code == Code::POST;
        if is_connecting {
            ["mqtt", "connection"]
                .iter()
                .for_each(|part| writer.option(URI_PATH, part.as_bytes()));
        } else {
            writer.option(URI_PATH, b"ps");
            self.plan
                .path
                .iter()
                .for_each(|part| writer.option(URI_PATH, part.as_bytes()));
            writer.option(URI_PATH, number.as_bytes());
        }
        if self.plan.connects {
            writer.option(URI_QUERY, format!("c={}", self.client).as_bytes());
        }
        if let Some(token) = &self.connection {
            writer.option(URI_QUERY, format!("t={token}").as_bytes());
        }
        for query in &self.plan.queries {
            let is_login = query.starts_with("u=") || query.starts_with("p=");
            // What a connection was made with is not said again, and a connection has no QoS.
            let is_said = if is_login {
                self.connection.is_none()
            } else {
                !is_connecting
            };
            if is_said {
                writer.option(URI_QUERY, query.as_bytes());
            }
        }
        let mut text = String::new();
        if code == Code::PUT {
            text = format!("{:016x}", self.plan.epoch.elapsed().as_nanos());
            text.extend(std::iter::repeat_n(
                '.',
                self.plan.payload.saturating_sub(text.len()),
            ));
        }
        writer.payload(text.as_bytes());
    }

    /// Sends a request, again where it is not acknowledged (RFC 7252, 4.2), and waits for its answer.
    async fn request(&mut self, code: Code, observe: Option<u32>) -> Option<Code> {
        self.write(code, observe);
        let (mid, token) = (self.mid(), self.token(observe));
        let link = self.link.as_mut()?;
        let begun = Instant::now();
        let deadline = begun + self.plan.patience;
        let mut wait = ACK_TIMEOUT;
        let mut again = if self.plan.confirmable || code != Code::PUT {
            begun + wait
        } else {
            deadline
        };
        link.send(&self.message).await;
        loop {
            if !link.receive(&mut self.received, again.min(deadline)).await {
                if Instant::now() >= deadline {
                    return None;
                }
                link.send(&self.message).await;
                wait *= 2;
                again += wait;
                continue;
            }
            let Ok(message) = Message::parse(&self.received) else {
                continue;
            };
            if message.kind == MessageType::Ack && message.code == Code::EMPTY {
                again = deadline;
                continue;
            }
            if message.kind == MessageType::Con {
                let mut empty = Vec::new();
                acknowledge(link, &mut empty, message.mid).await;
            }
            // The token of an observation that ends is that of its first answer and its notifications too.
            let is_of_another = match message.kind {
                MessageType::Ack => message.mid != mid,
                _ => observe == Some(1) && message.options().any(|(number, _)| number == OBSERVE),
            };
            if message.token.as_bytes() == token && message.code.is_response() && !is_of_another {
                return Some(message.code);
            }
        }
    }
}

/// Waits for the run to begin; nothing when it never does.
async fn begun(times: &mut watch::Receiver<Times>) -> Times {
    let seen = times.wait_for(Option::is_some).await.ok()?;
    *seen
}

async fn acknowledge(link: &mut Link, buffer: &mut Vec<u8>, mid: u16) {
    buffer.clear();
    if let Some(none) = Token::new(&[]) {
        Writer::new(buffer, MessageType::Ack, Code::EMPTY, mid, none).payload(&[]);
        link.send(buffer).await;
    }
}

/// The time at the start of a payload.
fn stamp(payload: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(payload.get(..16)?).ok()?;
    u64::from_str_radix(text, 16).ok().map(Duration::from_nanos)
}

fn payload(message: &[u8]) -> &[u8] {
    Message::parse(message).map_or(&[], |message| message.payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(connects: bool) -> Device {
        let query = |text: &str| Zeroizing::new(text.to_owned());
        let plan = Plan {
            to: ([127, 0, 0, 1], 1).into(),
            context: None,
            path: vec!["bench".to_owned()],
            queries: vec![query("u=ann"), query("p=hush"), query("q=1")],
            connects,
            confirmable: true,
            payload: 20,
            interval: None,
            patience: Duration::from_secs(1),
            epoch: Instant::now(),
            stop: AtomicBool::new(false),
        };
        Device::new(Arc::new(plan), 7, "bench-7".to_owned())
    }

    fn options(device: &Device) -> Vec<String> {
        let message = Message::parse(&device.message).unwrap();
        let walk = message.options();
        walk.map(|(number, value)| format!("{number}={}", String::from_utf8_lossy(value)))
            .collect()
    }

    #[tokio::test]
    async fn who_has_a_connection_shows_its_token_and_no_password() {
        let mut device = device(true);
        device.write(Code::POST, None);
        assert_eq!(
            options(&device),
            [
                "11=mqtt",
                "11=connection",
                "15=c=bench-7",
                "15=u=ann",
                "15=p=hush"
            ]
        );
        device.connection = Some("tok".to_owned());
        device.write(Code::PUT, None);
        assert_eq!(
            options(&device),
            ["11=ps", "11=bench", "11=7", "15=c=bench-7", "15=t=tok", "15=q=1"]
        );
        let message = Message::parse(&device.message).unwrap();
        assert_eq!(message.payload.len(), 20);
        assert!(stamp(message.payload).is_some() && stamp(b"short").is_none());
    }

    #[tokio::test]
    async fn a_notification_that_comes_late_is_no_answer_to_the_end_of_its_observation() {
        let peer = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut device = device(false);
        let plan = Arc::get_mut(&mut device.plan).unwrap();
        plan.to = peer.local_addr().unwrap();
        plan.patience = Duration::from_secs(60);
        assert!(device.open().await);
        device.observed_by = Some(device.next);
        let answering = async {
            let mut buffer = [0; 2048];
            let (length, from) = peer.recv_from(&mut buffer).await.unwrap();
            let asked = Message::parse(&buffer[..length]).unwrap();
            let mut notification = Vec::new();
            let mut writer = Writer::new(
                &mut notification,
                MessageType::Non,
                Code::CONTENT,
                7000,
                asked.token,
            );
            writer.uint(OBSERVE, Some(9));
            writer.payload(b"late");
            peer.send_to(&notification, from).await.unwrap();
            let mut answer = Vec::new();
            Writer::new(
                &mut answer,
                MessageType::Ack,
                Code::NOT_FOUND,
                asked.mid,
                asked.token,
            )
            .payload(&[]);
            peer.send_to(&answer, from).await.unwrap();
        };
        let (answer, ()) = tokio::join!(device.request(Code::GET, Some(1)), answering);
        assert_eq!(answer, Some(Code::NOT_FOUND));
    }

    #[tokio::test]
    async fn without_connections_each_request_logs_in() {
        let mut device = device(false);
        device.write(Code::PUT, None);
        assert_eq!(
            options(&device),
            ["11=ps", "11=bench", "11=7", "15=u=ann", "15=p=hush", "15=q=1"]
        );
    }
}
