//! A CoAP client that does what a test says: well behaved by default, anything else on request.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::coap::{Message, Request, code, option, typ};
use super::dtls::{self, Session};

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A way to carry messages: one datagram, or one record, each.
pub trait Transport: Send {
    fn send(&mut self, bytes: &[u8]);
    /// The next message, if one comes in time.
    fn recv(&mut self, timeout: Duration) -> Option<Vec<u8>>;
    /// The UDP socket beneath.
    fn socket(&self) -> &UdpSocket;
    /// Every datagram sent so far, as it was on the wire; only DTLS keeps them.
    fn sent(&self) -> &[Vec<u8>] {
        &[]
    }
    /// Ends the session in an orderly way, where there is one.
    fn close(&mut self) {}
    /// How the other side ended the session, if it did.
    fn ended(&self) -> Option<&str> {
        None
    }
}

struct Plain(UdpSocket);

impl Transport for Plain {
    fn send(&mut self, bytes: &[u8]) {
        match self.0.send(bytes) {
            Err(e) if e.kind() != io::ErrorKind::ConnectionRefused => panic!("send: {e}"),
            _ => {}
        }
    }

    fn recv(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        let mut buf = vec![0; 65_536];
        let n = receive_within(&self.0, &mut buf, timeout).ok()?;
        buf.truncate(n);
        Some(buf)
    }

    fn socket(&self) -> &UdpSocket {
        &self.0
    }
}

impl Transport for Session {
    fn send(&mut self, bytes: &[u8]) {
        Self::send(self, bytes);
    }

    fn recv(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        Self::recv(self, timeout)
    }

    fn socket(&self) -> &UdpSocket {
        &self.stream.get_ref().socket
    }

    fn sent(&self) -> &[Vec<u8>] {
        &self.stream.get_ref().sent
    }

    fn close(&mut self) {
        Self::close(self);
    }

    fn ended(&self) -> Option<&str> {
        self.ended.as_deref()
    }
}

/// The next datagram. A machine that is halted for a moment interrupts a read that has a time-out (signal(7)).
pub fn receive(socket: &UdpSocket, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.recv(buf) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The next datagram of the time.
pub fn receive_within(socket: &UdpSocket, buf: &mut [u8], timeout: Duration) -> io::Result<usize> {
    socket
        .set_read_timeout(Some(timeout.max(Duration::from_millis(1))))
        .unwrap();
    receive(socket, buf)
}

/// The loopback address of the family of `server`, any port.
pub fn any_loopback(server: SocketAddr) -> SocketAddr {
    let ip = if server.is_ipv4() {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        IpAddr::V6(Ipv6Addr::LOCALHOST)
    };
    SocketAddr::new(ip, 0)
}

/// What the client does with a message that is not the answer it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Acknowledge what is CON.
    Acknowledge,
    /// Say nothing.
    Ignore,
    /// Answer RST, to NON as well.
    Reset,
}

/// An observation that the gateway accepted.
#[derive(Debug, Clone)]
pub struct Observation {
    pub token: Vec<u8>,
    /// The answer to the request.
    pub first: Message,
}

/// The client.
pub struct Client {
    transport: Box<dyn Transport>,
    next_id: u16,
    next_token: u32,
    /// Messages that came while something else was waited for.
    pending: VecDeque<Message>,
    seen: HashSet<u16>,
    /// Requests that were sent again and answered: what is sent more than once may be answered more than once.
    answered: HashSet<u16>,
    pub reaction: Reaction,
}

impl Client {
    /// A plain UDP peer on a fresh loopback port.
    pub fn udp(server: SocketAddr) -> Self {
        Self::udp_from(server, any_loopback(server))
    }

    /// A plain UDP peer at `local`.
    pub fn udp_from(server: SocketAddr, local: SocketAddr) -> Self {
        let socket = UdpSocket::bind(local).unwrap();
        socket.connect(server).unwrap();
        Self::over(Box::new(Plain(socket)))
    }

    /// A DTLS peer; panics when the handshake fails.
    pub fn dtls(server: SocketAddr, options: &dtls::Options) -> Self {
        Self::over(Box::new(dtls::connect(server, options).expect("DTLS handshake")))
    }

    pub fn over(transport: Box<dyn Transport>) -> Self {
        let port = transport.socket().local_addr().unwrap().port();
        Self {
            transport,
            next_id: port,
            next_token: u32::from(port) << 8,
            pending: VecDeque::new(),
            seen: HashSet::new(),
            answered: HashSet::new(),
            reaction: Reaction::Acknowledge,
        }
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.transport.socket().local_addr().unwrap()
    }

    /// The UDP socket beneath, to send anything from this client's address.
    pub fn socket(&self) -> UdpSocket {
        self.transport.socket().try_clone().unwrap()
    }

    /// Every datagram sent so far, as it was on the wire (DTLS only).
    pub fn sent(&self) -> &[Vec<u8>] {
        self.transport.sent()
    }

    /// Ends the DTLS session with close_notify.
    pub fn close(mut self) {
        self.transport.close();
    }

    /// How the gateway ended the DTLS session, if it did.
    pub fn ended(&mut self) -> Option<String> {
        if let Some(bytes) = self.transport.recv(Duration::from_millis(1)) {
            self.pending.push_back(decode(&bytes));
        }
        self.transport.ended().map(str::to_owned)
    }

    pub fn next_id(&mut self) -> u16 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    pub fn next_token(&mut self) -> Vec<u8> {
        self.next_token = self.next_token.wrapping_add(1);
        self.next_token.to_be_bytes().to_vec()
    }

    /// The message that `request` becomes.
    pub fn message(&mut self, request: &Request) -> Message {
        Message {
            typ: request.typ,
            code: request.code,
            id: self.next_id(),
            token: request.token.clone().unwrap_or_else(|| self.next_token()),
            options: request.options.clone(),
            payload: request.payload.clone(),
        }
    }

    pub fn send(&mut self, message: &Message) {
        self.transport.send(&message.encode());
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.transport.send(bytes);
    }

    /// The next message as it comes, without any reaction to it.
    pub fn recv(&mut self, timeout: Duration) -> Option<Message> {
        self.pending
            .pop_front()
            .or_else(|| self.transport.recv(timeout).map(|bytes| decode(&bytes)))
    }

    /// The next datagram as it comes.
    pub fn recv_raw(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        self.transport.recv(timeout)
    }

    /// The next message that is no duplicate, with the reaction done.
    fn next(&mut self, timeout: Duration) -> Option<Message> {
        let end = Instant::now() + timeout;
        loop {
            let bytes = self
                .transport
                .recv(end.saturating_duration_since(Instant::now()))?;
            let message = decode(&bytes);
            if message.typ == typ::ACK && self.answered.contains(&message.id) {
                continue;
            }
            if message.typ == typ::ACK || message.typ == typ::RST {
                return Some(message);
            }
            // A ping is an empty message (RFC 7252, 4.3).
            let is_ping = message.code == code::EMPTY && self.reaction == Reaction::Acknowledge;
            if is_ping || self.reaction == Reaction::Reset {
                self.send(&Message::empty(typ::RST, message.id));
            } else if message.typ == typ::CON && self.reaction == Reaction::Acknowledge {
                self.send(&Message::empty(typ::ACK, message.id));
            }
            if self.seen.insert(message.id) {
                return Some(message);
            }
        }
    }

    /// Sends the request, again every second while a CON is unanswered, and waits for its response; notifications that
    /// come meanwhile wait for [`Client::notification`].
    #[track_caller]
    pub fn request(&mut self, request: &Request) -> Message {
        match self.try_request(request, PATIENCE) {
            Some(message) => message,
            None => panic!("no answer to {request:?}"),
        }
    }

    pub fn try_request(&mut self, request: &Request, timeout: Duration) -> Option<Message> {
        let message = self.message(request);
        self.exchange(&message, timeout)
    }

    /// The same for a message whose id and token the test chose. RST counts as an answer.
    pub fn exchange(&mut self, message: &Message, timeout: Duration) -> Option<Message> {
        let end = Instant::now() + timeout;
        let mut acknowledged = message.typ != typ::CON;
        self.answered.remove(&message.id);
        let mut sent = 0;
        while Instant::now() < end {
            self.send(message);
            sent += 1;
            let again = (Instant::now() + Duration::from_secs(1)).min(end);
            while acknowledged || Instant::now() < again {
                let until = if acknowledged { end } else { again };
                let Some(answer) = self.next(until.saturating_duration_since(Instant::now())) else {
                    break;
                };
                let ours = answer.id == message.id && (answer.typ == typ::ACK || answer.typ == typ::RST);
                let empty = answer.code == code::EMPTY;
                if ours && answer.typ == typ::ACK && empty {
                    acknowledged = true;
                } else if ours || (!empty && answer.typ < typ::ACK && is_answer(&answer, message)) {
                    if sent > 1 {
                        self.answered.insert(message.id);
                    }
                    return Some(answer);
                } else if !empty {
                    self.pending.push_back(answer);
                }
            }
        }
        None
    }

    /// The next message with this token.
    #[track_caller]
    pub fn notification(&mut self, token: &[u8]) -> Message {
        match self.try_notification(token, PATIENCE) {
            Some(message) => message,
            None => panic!("no notification for {token:02x?}; pending {:?}", self.pending),
        }
    }

    pub fn try_notification(&mut self, token: &[u8], timeout: Duration) -> Option<Message> {
        if let Some(at) = self.pending.iter().position(|message| message.token == token) {
            return self.pending.remove(at);
        }
        let end = Instant::now() + timeout;
        loop {
            let message = self.next(end.saturating_duration_since(Instant::now()))?;
            if message.token == token && message.code != code::EMPTY {
                return Some(message);
            }
            if message.code != code::EMPTY {
                self.pending.push_back(message);
            }
        }
    }

    /// That nothing with this token comes for so long.
    #[track_caller]
    pub fn no_notification(&mut self, token: &[u8], time: Duration) {
        if let Some(message) = self.try_notification(token, time) {
            panic!("a notification that should not be: {message:?}");
        }
    }

    /// That nothing comes at all for so long.
    #[track_caller]
    pub fn silence(&mut self, time: Duration) {
        if let Some(message) = self.recv(time) {
            panic!("a message that should not be: {message:?}");
        }
    }

    /// Observes; panics unless the answer is 2.05 with Observe.
    #[track_caller]
    pub fn observe(&mut self, uri: &str) -> Observation {
        let request = Request::get(uri).observe(0);
        self.observe_with(request)
    }

    #[track_caller]
    pub fn observe_with(&mut self, request: Request) -> Observation {
        let token = request.token.clone().unwrap_or_else(|| self.next_token());
        let first = self.request(&request.token(&token)).expect(code::CONTENT);
        assert!(first.observe().is_some(), "no Observe in {first:?}");
        Observation { token, first }
    }

    /// Publishes as CON; panics unless the answer is 2.04.
    #[track_caller]
    pub fn publish(&mut self, uri: &str, payload: impl AsRef<[u8]>) {
        self.request(&Request::post(uri).payload(payload))
            .expect(code::CHANGED);
    }

    /// Creates a connection; its token.
    #[track_caller]
    pub fn create(&mut self, clientid: &str) -> String {
        let answer = self.request(&Request::post(&format!("mqtt/connection?clientid={clientid}")));
        answer.expect(code::CREATED).text()
    }

    /// Whether the pair is taken: the answer's code to a heartbeat.
    #[track_caller]
    pub fn heartbeat(&mut self, clientid: &str, token: &str) -> u8 {
        let uri = format!("mqtt/connection?clientid={clientid}&token={token}");
        self.request(&Request::put(&uri)).code
    }

    /// The whole body of which `first` is the first block, fetched with requests like `request`.
    #[track_caller]
    pub fn rest_of(&mut self, request: &Request, first: &Message) -> Vec<u8> {
        let mut body = first.payload.clone();
        let mut last = first.clone();
        while let Some(block) = last.block(option::BLOCK2).filter(|block| block.more) {
            let mut next = request.clone();
            next.token = None;
            next.options
                .retain(|(n, _)| *n != option::OBSERVE && *n != option::BLOCK2);
            let at = u32::try_from(body.len() / block.size).unwrap();
            last = self.request(&next.block2(at, block.size)).expect(code::CONTENT);
            assert_eq!(
                last.option(option::ETAG),
                first.option(option::ETAG),
                "one ETag: {last:?}"
            );
            assert_eq!(last.observe(), None, "Observe on a later block: {last:?}");
            body.extend(&last.payload);
        }
        body
    }

    /// Reads a resource to its end.
    #[track_caller]
    pub fn read(&mut self, uri: &str) -> Vec<u8> {
        let request = Request::get(uri);
        let first = self.request(&request).expect(code::CONTENT);
        self.rest_of(&request, &first)
    }
}

/// Whether a separate or NON message answers the request: a response with its token. A notification of an observation
/// that this very request begins or repeats looks the same and is told by nothing else, as RFC 7641 has it.
fn is_answer(answer: &Message, request: &Message) -> bool {
    answer.token == request.token && answer.code >> 5 >= 2
}

fn decode(bytes: &[u8]) -> Message {
    Message::decode(bytes).unwrap_or_else(|e| panic!("the gateway sent no CoAP message ({e}): {bytes:02x?}"))
}

impl Message {
    /// Itself, if it has this code.
    #[track_caller]
    pub fn expect(self, code: u8) -> Self {
        assert_eq!(self.status(), super::coap::show(code), "{self:?}");
        self
    }

    /// Itself, if its payload names `what`.
    #[track_caller]
    pub fn naming(self, what: &str) -> Self {
        assert!(self.text().contains(what), "should name {what:?}: {self:?}");
        self
    }
}
