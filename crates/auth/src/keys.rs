//! Pre-shared keys that a server knows: asked for while a handshake waits, remembered for a while.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use zeroize::Zeroizing;

use portcullis_proto::labels;
use portcullis_proto::policy::attributes::Attributes;
use portcullis_proto::policy::authentication::{AuthRequest, IdentityRole};
use portcullis_proto::session::{KeyAnswer, KnownKeys};
use portcullis_proto::types::reason::Label as _;
use portcullis_proto::types::{Identity, ListenerId, PeerAddr, Proof};

use super::database::{Directory, Found, Health};
use super::http::HttpBackend;
use super::json;
use super::metrics::Backend;
use super::settings::{KeyServer, KeySourceSettings};
use super::template::Values;
use super::users::FileError;
use super::{LOG_EVERY, lock};

labels! {
    /// What became of a question about an identity's keys: `psk_lookups_total{result}`.
    pub enum LookupResult {
        /// The server has keys.
        Found = "found",
        /// It has none.
        Unknown = "unknown",
        /// Remembered, whichever it was.
        Cached = "cached",
        /// The server could not be asked; keys that were found before count on.
        Stale = "stale",
        /// The server could not be asked, or what it said is not understood.
        Unavailable = "unavailable",
        /// Not even asked: too many wait.
        Full = "full",
    }
}

/// Who asks for keys.
#[derive(Debug, Clone)]
pub struct KeyRequest {
    /// On which listener.
    pub listener: ListenerId,
    /// Where the handshake comes from.
    pub peer: PeerAddr,
    /// The PSK identity as it is written.
    pub identity: Arc<str>,
}

/// Called once with the answer, from a task of the runtime or at once. It must not block.
pub type KeyReply = Box<dyn FnOnce(KeyAnswer) + Send>;

enum Asks {
    Http(Box<HttpBackend>),
    Directory(Directory, Backend),
}

/// The server that knows the keys of one listener's devices.
pub(super) struct KeySource {
    asks: Asks,
    name: Arc<str>,
    /// Questions that are put to the server at the same time, and those that wait for their turn beside.
    places: Semaphore,
    waiting: Mutex<Waiting>,
    most: usize,
    known: Mutex<Remembered>,
    unknown: Mutex<Remembered>,
    lifetime: Duration,
    grace: Duration,
    unknown_lifetime: Duration,
    results: [AtomicU64; LookupResult::ALL.len()],
    logged: Mutex<Option<Instant>>,
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySource({})", self.name)
    }
}

/// Questions that are not answered, in all and by source.
#[derive(Default)]
struct Waiting {
    all: usize,
    sources: HashMap<IpAddr, usize>,
}

/// A question that is not answered.
struct Place {
    source: Arc<KeySource>,
    from: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut waiting = lock(&self.source.waiting);
        waiting.all -= 1;
        if let Some(count) = waiting.sources.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                waiting.sources.remove(&self.from);
            }
        }
    }
}

impl KeySource {
    /// Checks the settings and reads the files they name.
    pub(super) fn open(name: Arc<str>, settings: &KeySourceSettings) -> Result<Self, Vec<FileError>> {
        let asks = match &settings.server {
            KeyServer::Http(http) => Asks::Http(Box::new(HttpBackend::open(http)?)),
            KeyServer::Database(source) => Asks::Directory(
                Directory::open(source, settings.timeout).map_err(|error| vec![error])?,
                source.backend(),
            ),
        };
        Ok(Self {
            asks,
            name,
            places: Semaphore::new(settings.at_once.max(1)),
            waiting: Mutex::default(),
            most: settings.lookups.max(1),
            known: Mutex::new(Remembered::new(settings.cached)),
            unknown: Mutex::new(Remembered::new(settings.cached)),
            lifetime: settings.lifetime,
            grace: settings.grace,
            unknown_lifetime: settings.unknown_lifetime,
            results: Default::default(),
            logged: Mutex::default(),
        })
    }

    pub(super) fn backend(&self) -> Backend {
        match &self.asks {
            Asks::Http(_) => Backend::Http,
            Asks::Directory(_, backend) => *backend,
        }
    }

    pub(super) const fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn health(&self) -> Option<&Arc<Health>> {
        match &self.asks {
            Asks::Http(_) => None,
            Asks::Directory(directory, _) => Some(directory.health()),
        }
    }

    pub(super) fn count(&self, result: LookupResult) -> u64 {
        self.results
            .get(result.index())
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn counted(&self, result: LookupResult, answer: KeyAnswer) -> KeyAnswer {
        if let Some(count) = self.results.get(result.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    /// What is remembered of an identity.
    fn at_hand(&self, identity: &str) -> Option<KeyAnswer> {
        let known = lock(&self.known).get(identity, self.lifetime);
        let answer = known.or_else(|| lock(&self.unknown).get(identity, self.unknown_lifetime))?;
        Some(self.counted(LookupResult::Cached, answer))
    }

    /// Answers at once if it can, else it asks on `runtime`; never waits.
    pub(super) fn find(self: &Arc<Self>, request: KeyRequest, runtime: &Handle, reply: KeyReply) {
        if let Some(answer) = self.at_hand(&request.identity) {
            return reply(answer);
        }
        let Some(place) = self.place(request.peer.source()) else {
            return reply(self.counted(LookupResult::Full, KeyAnswer::Unavailable));
        };
        let source = Arc::clone(self);
        runtime.spawn(async move {
            let answer = source.ask(request).await;
            drop(place);
            reply(answer);
        });
    }

    async fn ask(&self, request: KeyRequest) -> KeyAnswer {
        // Who waits here takes nothing of the time that the server has for an answer.
        let turn = self.places.acquire().await;
        if let Some(answer) = self.at_hand(&request.identity) {
            return answer;
        }
        let identity = Arc::clone(&request.identity);
        let asked = match turn {
            Ok(_turn) => self.put(request).await,
            Err(_) => Err("it is stopped".to_owned()),
        };
        match asked {
            Ok(Some(keys)) => {
                let answer = KeyAnswer::Known(Arc::new(keys));
                lock(&self.unknown).forget(&identity);
                lock(&self.known).put(identity, answer.clone());
                self.counted(LookupResult::Found, answer)
            }
            Ok(None) => {
                lock(&self.known).forget(&identity);
                lock(&self.unknown).put(identity, KeyAnswer::Unknown);
                self.counted(LookupResult::Unknown, KeyAnswer::Unknown)
            }
            Err(error) => {
                let stale = lock(&self.known).get(&identity, self.lifetime.saturating_add(self.grace));
                if let Some(answer) = stale {
                    return self.counted(LookupResult::Stale, answer);
                }
                self.log(&error);
                self.counted(LookupResult::Unavailable, KeyAnswer::Unavailable)
            }
        }
    }

    /// Puts the question to the server.
    async fn put(&self, request: KeyRequest) -> Result<Option<KnownKeys>, String> {
        let question = AuthRequest {
            ticket: 0,
            clientid: None,
            username: None,
            password: None,
            identity: Some(Identity::new(request.identity, Proof::Psk)),
            identity_role: IdentityRole::None,
            peer: request.peer,
            listener: request.listener,
        };
        let values = Values::new(&question, &self.name);
        match &self.asks {
            Asks::Http(http) => match http.answer(&values).await? {
                Some((status, body)) => of_answer(status, &body),
                None => Ok(None),
            },
            Asks::Directory(directory, _) => match directory.find(&values).await? {
                Found::Nobody => Ok(None),
                Found::Somebody(record) | Found::Judged(record, _) => record.keys(),
            },
        }
    }

    fn log(&self, error: &str) {
        let mut logged = lock(&self.logged);
        if logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            *logged = Some(Instant::now());
            let (listener, backend) = (&*self.name, self.backend().label());
            tracing::warn!(listener, backend, error, "keys cannot be looked up");
        }
    }

    /// A place among the questions that are not answered. A single source has half of them at most.
    fn place(self: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let mut waiting = lock(&self.waiting);
        let all = waiting.all;
        let own = waiting.sources.get(&from).copied().unwrap_or_default();
        if all >= self.most || own >= self.most.div_ceil(2) {
            return None;
        }
        waiting.all += 1;
        *waiting.sources.entry(from).or_default() += 1;
        Some(Place {
            source: Arc::clone(self),
            from,
        })
    }
}

/// What an HTTP server says of keys: 200 with an object that has `key`, and may have `previous_key` and `client_attrs`; 204, 404 or
/// 410 where it knows none.
fn of_answer(status: u16, body: &[u8]) -> Result<Option<KnownKeys>, String> {
    match status {
        200 => {}
        204 | 404 | 410 => return Ok(None),
        status => return Err(format!("it answered with status {status}")),
    }
    let answer = json::object(body).ok_or("it answered 200 without a JSON object whose names differ")?;
    if answer
        .get("result")
        .and_then(Value::as_str)
        .is_some_and(|result| matches!(result, "deny" | "ignore"))
    {
        return Ok(None);
    }
    let text = |name: &str| match answer.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(format!("{name} is no text")),
    };
    let attributes = match answer.get("client_attrs") {
        None | Some(Value::Null) => Attributes::default(),
        Some(Value::Object(object)) => Attributes::from_json(object)?,
        Some(_) => return Err("client_attrs is no object".to_owned()),
    };
    known(text("key")?, text("previous_key")?, attributes)
}

/// Keys in hexadecimal digits, with what else is known of who has them.
///
/// # Errors
/// One of them is none; nothing of it is told.
pub(super) fn known(
    key: Option<&str>,
    previous: Option<&str>,
    attributes: Attributes,
) -> Result<Option<KnownKeys>, String> {
    let Some(key) = key else {
        return Ok(None);
    };
    let key = bytes("key", key)?;
    let previous = previous.filter(|text| !text.trim().is_empty());
    let previous = previous.map(|text| bytes("previous_key", text)).transpose()?;
    let previous = previous.filter(|previous| *previous != key);
    let keys = std::iter::once(key).chain(previous).collect();
    Ok(Some(KnownKeys { keys, attributes }))
}

/// Longest key in bytes (RFC 4279, 5.3).
const MAX_KEY: usize = 64;

fn bytes(name: &str, digits: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let digits = digits.trim();
    let mut bytes = Zeroizing::new(vec![0; digits.len() / 2]);
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| format!("{name} is not in hexadecimal digits"))?;
    match bytes.len() {
        1..=MAX_KEY => Ok(bytes),
        0 => Err(format!("{name} is empty")),
        _ => Err(format!("{name} is longer than {MAX_KEY} bytes")),
    }
}

/// Answers by identity, of which the oldest go first.
struct Remembered {
    most: usize,
    number: u64,
    entries: HashMap<Arc<str>, (u64, Instant, KeyAnswer)>,
    order: VecDeque<(u64, Arc<str>)>,
}

impl Remembered {
    fn new(most: usize) -> Self {
        Self {
            most,
            number: 0,
            entries: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    fn get(&self, identity: &str, within: Duration) -> Option<KeyAnswer> {
        let (_, at, answer) = self.entries.get(identity)?;
        (at.elapsed() < within).then(|| answer.clone())
    }

    fn put(&mut self, identity: Arc<str>, answer: KeyAnswer) {
        self.number += 1;
        self.order.push_back((self.number, Arc::clone(&identity)));
        self.entries
            .insert(identity, (self.number, Instant::now(), answer));
        // What was put again, or forgotten, still stands in the order.
        while self.entries.len() > self.most || self.order.len() > 2 * self.most {
            let Some((number, oldest)) = self.order.pop_front() else {
                return;
            };
            if self.entries.get(&oldest).is_some_and(|(own, ..)| *own == number) {
                self.entries.remove(&oldest);
            }
        }
    }

    fn forget(&mut self, identity: &str) {
        self.entries.remove(identity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Result<Option<Vec<Vec<u8>>>, String> {
        let keys = of_answer(status, body.as_bytes())?;
        Ok(keys.map(|known| known.keys.iter().map(|key| key.to_vec()).collect()))
    }

    #[test]
    fn an_answer_has_keys_or_says_that_there_are_none() {
        assert_eq!(answer(200, r#"{"key": "00Ff"}"#), Ok(Some(vec![vec![0, 0xff]])));
        let two = answer(
            200,
            r#"{"key": "00", "previous_key": "01", "client_attrs": {"site": "x"}}"#,
        );
        assert_eq!(two, Ok(Some(vec![vec![0], vec![1]])));
        assert_eq!(
            answer(200, r#"{"key": "00", "previous_key": "00"}"#),
            Ok(Some(vec![vec![0]]))
        );
        for (status, body) in [
            (204, ""),
            (404, "{}"),
            (200, "{}"),
            (200, r#"{"result": "deny", "key": "00"}"#),
        ] {
            assert_eq!(answer(status, body), Ok(None), "{status} {body}");
        }
        let long = format!(r#"{{"key": "{}"}}"#, "00".repeat(65));
        for (status, body) in [
            (500, ""),
            (403, ""),
            (200, "no JSON"),
            (200, r#"{"key": 7}"#),
            (200, r#"{"key": ""}"#),
            (200, r#"{"key": "abc"}"#),
            (200, r#"{"key": "secret"}"#),
            (200, r#"{"key": "00", "previous_key": "x"}"#),
            (200, r#"{"key": "00", "key": "01"}"#),
            (200, r#"{"key": "00", "client_attrs": []}"#),
            (200, &long),
        ] {
            let why = answer(status, body).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_has_an_end() {
        let mut remembered = Remembered::new(3);
        let second = Duration::from_secs(1);
        for n in 0..100 {
            remembered.put(format!("d{n}").into(), KeyAnswer::Unknown);
            remembered.put("again".into(), KeyAnswer::Unknown);
        }
        assert_eq!(remembered.entries.len(), 3);
        assert!(remembered.order.len() <= 6);
        assert!(remembered.get("again", second).is_some() && remembered.get("d99", second).is_some());
        assert!(remembered.get("d3", second).is_none());
        tokio::time::advance(second).await;
        assert!(remembered.get("again", second).is_none());
        remembered.forget("again");
        assert!(remembered.get("again", 2 * second).is_none());
    }
}
