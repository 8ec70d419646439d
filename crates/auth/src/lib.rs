//! Authentication backends: they read files, ask servers and hash passwords, all off the packet path.
//!
//! [`start`] gives an [`AuthHandle`]; a worker hands its requests to [`AuthHandle::try_submit`], which never waits, and
//! gets the verdict through the closure it gave. What may wait, hash and be asked at the same time is bounded by
//! [`settings::AuthCaps`].

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use portcullis_proto::policy::authentication::{
    AuthRequest, DenyReason, MAX_PASSWORD, MAX_USERNAME, Verdict,
};
use portcullis_proto::policy::failures::Class;
use portcullis_proto::policy::verdict_cache::VerdictCache;

mod answer;
pub mod client;
mod cwt;
#[cfg_attr(
    not(any(
        feature = "ldap",
        feature = "mongodb",
        feature = "mysql",
        feature = "postgresql",
        feature = "redis"
    )),
    allow(
        dead_code,
        unused_imports,
        reason = "a build without databases refuses them all"
    )
)]
mod database;
mod file;
pub mod hash;
mod http;
mod json;
mod judges;
mod jws;
mod jwt;
mod keys;
pub mod metrics;
pub mod settings;
mod template;
pub mod users;

use database::Step;
use judges::{Judge, Judges};
pub use judges::{LoginServer, load_acl, read_acl};
pub use keys::{KeyReply, KeyRequest, LookupResult};
use metrics::{AuthMetrics, AuthResult, Backend};
use portcullis_proto::session::KeyAnswer;
use settings::{AuthCaps, AuthSettings, WallClock};
use users::FileError;

/// A backend's problems are logged at most once in this time.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Called once with the verdict of the request that it was given with, from a task of the runtime or at once from
/// [`AuthHandle::try_submit`]. It must not block.
pub type Reply = Box<dyn FnOnce(AuthAnswer) + Send>;

/// The verdict on one request.
#[derive(Debug)]
pub struct AuthAnswer {
    /// The number that the caller gave the request
    /// ([`portcullis_proto::policy::authentication::AuthRequest::ticket`]).
    pub ticket: u64,
    /// Let in with which rights, denied, or not known in time.
    pub verdict: Verdict,
}

/// Too much waits already: 5.03. The reply is not called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

struct Inner {
    runtime: Handle,
    judges: RwLock<Arc<Judges>>,
    generation: AtomicU64,
    cache: Mutex<VerdictCache>,
    caps: AuthCaps,
    pending: Arc<Semaphore>,
    unproven: Arc<Semaphore>,
    sources: Mutex<HashMap<IpAddr, usize>>,
    hashers: Arc<Semaphore>,
    hash_memory: Arc<Semaphore>,
    http_requests: Semaphore,
    metrics: AuthMetrics,
    decoy_key: [u8; 32],
    logged: Mutex<Option<Instant>>,
}

/// The running backends; clones are the same ones.
#[derive(Clone)]
pub struct AuthHandle(Arc<Inner>);

impl fmt::Debug for AuthHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthHandle({} waiting)", self.waiting())
    }
}

/// Reads the files of all backends and starts them on `runtime`.
///
/// # Errors
/// Everything that is wrong with files, URLs and templates.
pub fn start(settings: &AuthSettings, runtime: Handle) -> Result<AuthHandle, Vec<FileError>> {
    let random = || {
        let mut bytes = [0; 32];
        let result = openssl::rand::rand_bytes(&mut bytes);
        result
            .map(|()| bytes)
            .map_err(|error| vec![FileError::whole("randomness".as_ref(), error)])
    };
    let (decoy_key, cache_key) = (random()?, random()?);
    let caps = settings.caps;
    let memory = usize::try_from(caps.hash_memory_kib).unwrap_or(Semaphore::MAX_PERMITS);
    Ok(AuthHandle(Arc::new(Inner {
        runtime,
        judges: RwLock::new(Arc::new(Judges::open(settings, decoy_key)?)),
        generation: AtomicU64::new(0),
        cache: Mutex::new(
            VerdictCache::new(cache_key, caps.cached, settings.cache).with_grace(settings.grace()),
        ),
        pending: Arc::new(Semaphore::new(caps.pending)),
        unproven: Arc::new(Semaphore::new(caps.pending.div_ceil(2))),
        sources: Mutex::default(),
        hashers: Arc::new(Semaphore::new(caps.hashers.max(1))),
        hash_memory: Arc::new(Semaphore::new(memory.min(Semaphore::MAX_PERMITS))),
        http_requests: Semaphore::new(caps.http_requests.max(1)),
        metrics: AuthMetrics::default(),
        decoy_key,
        logged: Mutex::default(),
        caps,
    })))
}

/// The places that a login takes while it is not decided.
struct Place {
    inner: Arc<Inner>,
    source: IpAddr,
    _permits: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut sources = lock(&self.inner.sources);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}

impl AuthHandle {
    /// Hands a request in; never waits. `class` says whether the peer has proved its address: those who have not get
    /// half of the room at most, and no single source more than a quarter of it, so that they cannot keep others out.
    ///
    /// # Errors
    /// When there is no room: answer 5.03 at once. `reply` is then dropped without being called.
    pub fn try_submit(&self, request: AuthRequest, class: Class, reply: Reply) -> Result<(), Full> {
        // Before the backends are looked up, so that a verdict of old ones never passes for one of the new.
        let generation = self.0.generation.load(Ordering::Acquire);
        let judges = Arc::clone(&read(&self.0.judges));
        let judge = Arc::clone(judges.of(request.listener));
        let backend = judge.label();
        if request.is_proved() && !matches!(*judge, Judge::Http(_)) && !is_oversized(&request) {
            // Nothing is to be done for it, so it needs no place: a flood of logins keeps no proved device out.
            self.0.metrics.inc(backend, AuthResult::Allowed);
            reply(AuthAnswer {
                ticket: request.ticket,
                verdict: Verdict::allow(),
            });
            return Ok(());
        }
        let Some(place) = self.place(request.peer.source(), class) else {
            self.0.metrics.inc(backend, AuthResult::Full);
            return Err(Full);
        };
        let inner = Arc::clone(&self.0);
        self.0.runtime.spawn(async move {
            let listener = judges.name(request.listener);
            let deciding = inner.decide(&judge, &request, listener, judges.clock, generation);
            let decided = tokio::time::timeout(inner.caps.deadline, deciding).await;
            let (verdict, result) = decided.unwrap_or((Verdict::Unavailable, AuthResult::Unavailable));
            inner.metrics.inc(backend, result);
            drop(place);
            reply(AuthAnswer {
                ticket: request.ticket,
                verdict,
            });
        });
        Ok(())
    }

    /// Asks the backend of a listener about somebody who cannot be known, to find out whether it can be asked.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn probe(&self, somebody: &AuthRequest) -> Result<(), String> {
        let judges = Arc::clone(&read(&self.0.judges));
        let judge = judges.of(somebody.listener);
        let listener = judges.name(somebody.listener);
        let asking = async {
            match &**judge {
                Judge::Identity | Judge::File(_) => Ok(()),
                Judge::Http(http) => http.ask(somebody, listener, judges.clock).await.map(drop),
                Judge::Jwt(jwt) => jwt.probe().await,
                Judge::Database(database) => {
                    let most = self.0.caps.hash_memory_kib;
                    database
                        .judge(somebody, listener, judges.clock, most)
                        .await
                        .map(drop)
                }
            }
        };
        let answer = tokio::time::timeout(self.0.caps.deadline, asking).await;
        answer.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    /// Asks the source of keys of a listener for those of a PSK identity; never waits. The reply is called once, at once perhaps.
    pub fn find_keys(&self, request: KeyRequest, reply: KeyReply) {
        let judges = Arc::clone(&read(&self.0.judges));
        match judges.keys_of(request.listener) {
            Some(source) => source.find(request, &self.0.runtime, reply),
            None => reply(KeyAnswer::Unknown),
        }
    }

    /// How often questions for keys ended how, by listener and backend, since the last reload.
    #[must_use]
    pub fn lookups(&self) -> Vec<(Arc<str>, Backend, LookupResult, u64)> {
        read(&self.0.judges).lookups()
    }

    /// Reads all files again and puts the backends of `settings` in force for what comes next; its caps and the time that
    /// verdicts are remembered stay as they were at the start.
    ///
    /// # Errors
    /// Everything that is wrong; then nothing has changed.
    pub fn reload(&self, settings: &AuthSettings) -> Result<(), Vec<FileError>> {
        let mut settings = settings.clone();
        settings.caps = self.0.caps;
        let judges = Arc::new(Judges::open(&settings, self.0.decoy_key)?);
        // With the cache held nobody can remember a verdict of the old backends after it was emptied.
        let mut cache = lock(&self.0.cache);
        *self.0.judges.write().unwrap_or_else(PoisonError::into_inner) = judges;
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        cache.clear();
        cache.set_grace(settings.grace());
        Ok(())
    }

    /// How many logins ended how, by backend, since the start.
    #[must_use]
    pub fn metrics(&self) -> &AuthMetrics {
        &self.0.metrics
    }

    /// The databases that are asked about logins, and whether they can be.
    #[must_use]
    pub fn servers(&self) -> Vec<LoginServer> {
        read(&self.0.judges).servers()
    }

    /// How many logins are not decided.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.caps.pending - self.0.pending.available_permits()
    }

    fn place(&self, source: IpAddr, class: Class) -> Option<Place> {
        let unproven = match class {
            Class::Proven => None,
            Class::Unproven => Some(Arc::clone(&self.0.unproven).try_acquire_owned().ok()?),
        };
        let pending = Arc::clone(&self.0.pending).try_acquire_owned().ok()?;
        let mut sources = lock(&self.0.sources);
        let count = sources.entry(source).or_default();
        if *count >= self.0.caps.pending.div_ceil(4) {
            return None;
        }
        *count += 1;
        drop(sources);
        Some(Place {
            inner: Arc::clone(&self.0),
            source,
            _permits: (pending, unproven),
        })
    }
}

impl Inner {
    async fn decide(
        &self,
        judge: &Judge,
        request: &AuthRequest,
        listener: &str,
        clock: WallClock,
        generation: u64,
    ) -> (Verdict, AuthResult) {
        if is_oversized(request) {
            return (Verdict::Deny(DenyReason::BadCredentials), AuthResult::Denied);
        }
        let remembered = matches!(judge, Judge::File(_) | Judge::Http(_) | Judge::Database(_));
        let hash = if remembered {
            self.recall(request)
        } else {
            Err(None)
        };
        let hash = match hash {
            Ok(verdict) => return (verdict, AuthResult::Cached),
            Err(hash) => hash,
        };
        let asked = match judge {
            Judge::Http(http) => match self.http_requests.acquire().await {
                Ok(_permit) => http.ask(request, listener, clock).await,
                Err(_) => Ok(Verdict::Unavailable),
            },
            Judge::Identity => Ok(Verdict::Deny(DenyReason::MissingCredentials)),
            Judge::Jwt(jwt) => jwt.judge(request, listener, clock).await,
            Judge::File(file) => match Arc::clone(file).judge(request) {
                Ok(comparison) => {
                    self.compare(comparison.memory_kib(), move || comparison.run())
                        .await
                }
                Err(verdict) => Ok(verdict),
            },
            Judge::Database(database) => {
                let most = self.caps.hash_memory_kib;
                match database.judge(request, listener, clock, most).await {
                    Ok(Step::Decided(verdict)) => Ok(verdict),
                    Ok(Step::Compare(compared)) => {
                        self.compare(compared.hash.memory_kib(), move || compared.run())
                            .await
                    }
                    Err(error) => Err(error),
                }
            }
        };
        if asked.is_err()
            && let (Some(hash), Some(grace)) = (&hash, judge.grace())
            && let Some(verdict) = lock(&self.cache).get_within(Instant::now().into_std(), hash, grace)
        {
            return (verdict, AuthResult::Cached);
        }
        let verdict = asked.unwrap_or_else(|error| {
            self.log(judge.label(), &error);
            Verdict::Unavailable
        });
        let result = match &verdict {
            Verdict::Allow { .. } => AuthResult::Allowed,
            Verdict::Deny(_) => AuthResult::Denied,
            Verdict::Unavailable => AuthResult::Unavailable,
        };
        if let Some(hash) = hash {
            let mut cache = lock(&self.cache);
            if self.generation.load(Ordering::Acquire) == generation {
                cache.put(Instant::now().into_std(), hash, &verdict);
            }
        }
        (verdict, result)
    }

    fn recall(
        &self,
        request: &AuthRequest,
    ) -> Result<Verdict, Option<portcullis_proto::policy::verdict_cache::CredentialHash>> {
        let cache = lock(&self.cache);
        if !cache.is_on() {
            return Err(None);
        }
        let hash = cache.hash(request);
        cache.get(Instant::now().into_std(), &hash).ok_or(Some(hash))
    }

    /// Waits for a place among the hashers and for the memory, and keeps both until the hash is done, even if nobody
    /// waits for it any more.
    async fn compare(
        &self,
        memory_kib: u32,
        compare: impl FnOnce() -> Verdict + Send + 'static,
    ) -> Result<Verdict, String> {
        let stopped = |_| "the hashers have stopped".to_owned();
        let slot = Arc::clone(&self.hashers).acquire_owned().await.map_err(stopped)?;
        let kib = memory_kib.min(self.caps.hash_memory_kib);
        let memory = Arc::clone(&self.hash_memory)
            .acquire_many_owned(kib)
            .await
            .map_err(stopped)?;
        let hashing = self.runtime.spawn_blocking(move || {
            let verdict = compare();
            drop((slot, memory));
            verdict
        });
        hashing.await.map_err(|error| error.to_string())
    }

    fn log(&self, backend: Backend, error: &str) {
        let mut logged = lock(&self.logged);
        if logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            *logged = Some(Instant::now());
            tracing::warn!(?backend, error, "logins cannot be decided");
        }
    }
}

fn is_oversized(request: &AuthRequest) -> bool {
    // With tokens in the user name it is as long as a password may be.
    request
        .username
        .as_ref()
        .is_some_and(|name| name.len() > MAX_PASSWORD.max(MAX_USERNAME))
        || request
            .password
            .as_ref()
            .is_some_and(|password| password.expose().len() > MAX_PASSWORD)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
