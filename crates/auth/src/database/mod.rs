//! Databases and directories that are asked about a client: one way to ask them all.
//!
//! A [`Directory`] finds the [`Record`] of a login or of a key. It holds a bounded number of connections, gives each question
//! a bounded time, and while the server cannot be asked it is tried now and then only, so that nobody waits for it.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use portcullis_proto::policy::authentication::{AuthRequest, DenyReason, Password, Verdict};

use super::hash::{HashAlgorithm, StoredHash};
use super::json;
use super::metrics::Backend;
use super::settings::{DatabaseSettings, Place, Source, WallClock};
use super::template::Values;
use super::users::{FileError, read_text};

mod health;
#[cfg(feature = "ldap")]
mod ldap;
#[cfg(feature = "mongodb")]
mod mongodb;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(any(
    feature = "ldap",
    feature = "mysql",
    feature = "postgresql",
    feature = "redis"
))]
mod pool;
#[cfg(feature = "postgresql")]
mod postgresql;
mod record;
#[cfg(feature = "redis")]
mod redis;

pub(super) use health::Health;
pub(super) use record::Record;

/// Why there is no answer. None of them holds anything of the question or the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The connection is of no use any more, or could not be made.
    Broken(String),
    /// The server said that it will not or cannot answer.
    Refused(String),
    /// What it has of the one who was asked about is of no use, or asking about that one fails: nobody else is concerned.
    OfOne(String),
    /// The question cannot be put to this server, as text with a NUL cannot to PostgreSQL: whoever it is about is not known.
    Unaskable,
}

impl Failure {
    fn told(self) -> String {
        match self {
            Self::Broken(why) | Self::Refused(why) | Self::OfOne(why) => why,
            Self::Unaskable => "the question cannot be put to it".to_owned(),
        }
    }
}

/// What is known of who was asked about.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing.
    Nobody,
    /// This.
    Somebody(Record),
    /// This, and whether the server itself took the password.
    Judged(Record, bool),
}

type Finding<'a> = Pin<Box<dyn Future<Output = Result<Found, Failure>> + Send + 'a>>;

/// A server, and the connections to it.
pub(super) trait Find: Send + Sync {
    /// What is known of who `values` are about.
    fn find<'a>(&'a self, values: &'a Values<'a>) -> Finding<'a>;
}

/// A server that is asked by name.
pub(super) struct Directory {
    finder: Box<dyn Find>,
    /// One for each connection. Who waits for a turn takes nothing of the time that the server has for an answer: many who come at
    /// once would make it look as if it gave none.
    turns: Semaphore,
    timeout: Duration,
    health: Arc<Health>,
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Directory({:?})", self.health)
    }
}

impl Directory {
    /// Checks the settings and reads the files they name; no connection is made yet.
    pub(super) fn open(source: &Source, timeout: Duration) -> Result<Self, FileError> {
        Ok(Self {
            finder: finder(source, timeout)?,
            turns: Semaphore::new(source.place().pool_size.max(1)),
            timeout,
            health: Arc::default(),
        })
    }

    pub(super) fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Asks the server as soon as it is this question's turn, for as long as `query_timeout` says.
    pub(super) async fn find(&self, values: &Values<'_>) -> Result<Found, String> {
        let _turn = self
            .turns
            .acquire()
            .await
            .map_err(|_| "it is stopped".to_owned())?;
        let trial = self.health.trial()?;
        let found = tokio::time::timeout(self.timeout, self.finder.find(values)).await;
        let (found, answered) = match found {
            Ok(Err(Failure::Unaskable)) => (Ok(Found::Nobody), true),
            Ok(Err(Failure::OfOne(why))) => (Err(why), true),
            Ok(found) => {
                let answered = found.is_ok();
                (found.map_err(Failure::told), answered)
            }
            Err(_) => (Err(format!("no answer within {:?}", self.timeout)), false),
        };
        trial.ends(found.as_ref().err().filter(|_| !answered));
        found
    }
}

#[cfg_attr(
    not(feature = "mongodb"),
    allow(unused_variables, reason = "only MongoDB's driver keeps the time itself")
)]
fn finder(source: &Source, timeout: Duration) -> Result<Box<dyn Find>, FileError> {
    match source {
        #[cfg(feature = "postgresql")]
        Source::Postgresql(settings) => {
            Ok(Box::new(pool::Pool::new(postgresql::Postgresql::open(settings)?)))
        }
        #[cfg(feature = "mongodb")]
        Source::Mongodb(settings) => Ok(Box::new(mongodb::Mongodb::open(settings, timeout)?)),
        #[cfg(feature = "mysql")]
        Source::Mysql(settings) => Ok(Box::new(pool::Pool::new(mysql::Mysql::open(settings)?))),
        #[cfg(feature = "ldap")]
        Source::Ldap(settings) => Ok(Box::new(pool::Pool::new(ldap::Ldap::open(settings)?))),
        #[cfg(feature = "redis")]
        Source::Redis(settings) => Ok(Box::new(pool::Pool::new(redis::Redis::open(settings)?))),
        #[allow(
            unreachable_patterns,
            reason = "a build with all backends has an arm for each"
        )]
        other => Err(FileError::whole(
            "authentication.backend".as_ref(),
            format!("this build has no backend {}", other.name()),
        )),
    }
}

/// The password of a server's account: the first line of its file.
#[cfg(any(
    feature = "ldap",
    feature = "mongodb",
    feature = "mysql",
    feature = "postgresql",
    feature = "redis"
))]
fn password(place: &Place) -> Result<Option<Zeroizing<String>>, FileError> {
    let Some(file) = &place.password_file else {
        return Ok(None);
    };
    let text = read_text(file, 64 << 10)?;
    let first = text.lines().next().unwrap_or_default();
    if first.is_empty() {
        return Err(FileError::whole(file, "there is no password on its first line"));
    }
    Ok(Some(Zeroizing::new(first.to_owned())))
}

/// A directory with passwords in it.
#[derive(Debug)]
pub(super) struct Database {
    directory: Directory,
    backend: Backend,
    algorithm: HashAlgorithm,
    legacy_hashes: bool,
    grace: Duration,
    /// What a password is compared with where nobody is found, so that who does not exist takes as long: the last that was
    /// found. Made of the algorithm that is configured, until then.
    decoy: Mutex<Arc<StoredHash>>,
}

/// What is to be done about a login.
#[derive(Debug)]
pub(super) enum Step {
    Decided(Verdict),
    /// Compare, which is slow, and let in if it fits.
    Compare(Compared),
}

/// A password to compare with a hash.
#[derive(Debug)]
pub(super) struct Compared {
    pub(super) hash: Arc<StoredHash>,
    pub(super) password: Password,
    /// What holds if it fits.
    pub(super) verdict: Verdict,
}

impl Compared {
    /// Compares. Blocks for as long as the hash takes.
    pub(super) fn run(self) -> Verdict {
        if self.hash.verify(self.password.expose()) {
            self.verdict
        } else {
            Verdict::Deny(DenyReason::BadCredentials)
        }
    }
}

const BAD: Verdict = Verdict::Deny(DenyReason::BadCredentials);

impl Database {
    pub(super) fn open(settings: &DatabaseSettings) -> Result<Self, FileError> {
        Ok(Self {
            directory: Directory::open(&settings.source, settings.timeout)?,
            backend: settings.source.backend(),
            algorithm: settings.algorithm,
            legacy_hashes: settings.legacy_hashes,
            grace: settings.grace,
            decoy: Mutex::new(Arc::new(settings.algorithm.decoy())),
        })
    }

    pub(super) fn grace(&self) -> Duration {
        self.grace
    }

    pub(super) fn backend(&self) -> Backend {
        self.backend
    }

    pub(super) fn health(&self) -> &Arc<Health> {
        self.directory.health()
    }

    /// What to compare the request's password with, or the verdict when there is nothing to compare.
    pub(super) async fn judge(
        &self,
        request: &AuthRequest,
        listener: &str,
        clock: WallClock,
        max_kib: u32,
    ) -> Result<Step, String> {
        let (Some(_), Some(password)) = (&request.username, &request.password) else {
            return Ok(Step::Decided(Verdict::Deny(DenyReason::MissingCredentials)));
        };
        let compare = |hash, verdict| {
            Step::Compare(Compared {
                hash,
                password: password.clone(),
                verdict,
            })
        };
        let record = match self.directory.find(&Values::new(request, listener)).await? {
            Found::Nobody => return Ok(compare(self.decoy(), BAD)),
            Found::Judged(record, true) => return Ok(Step::Decided(record.verdict(clock())?)),
            Found::Judged(_, false) => return Ok(Step::Decided(BAD)),
            Found::Somebody(record) => record,
        };
        let Some(hash) = record.hash(self.algorithm)? else {
            return Ok(compare(self.decoy(), BAD));
        };
        hash.check_legacy(self.legacy_hashes)?;
        if hash.memory_kib() > max_kib {
            return Err(format!(
                "a hash needs {} KiB, all together may take {max_kib}",
                hash.memory_kib()
            ));
        }
        let hash = Arc::new(hash);
        *self.decoy.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&hash);
        Ok(compare(hash, record.verdict(clock())?))
    }

    fn decoy(&self) -> Arc<StoredHash> {
        Arc::clone(&self.decoy.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// `HOST:PORT`, or `HOST` with the usual port; an IPv6 address in brackets.
#[cfg(any(
    feature = "ldap",
    feature = "mongodb",
    feature = "mysql",
    feature = "postgresql",
    feature = "redis"
))]
fn host_and_port(server: &str, usual: u16) -> Result<(String, u16), FileError> {
    let wrong = || FileError::whole(Path::new("server"), "this is no HOST or HOST:PORT");
    let authority: hyper::http::uri::Authority = server.trim().parse().map_err(|_| wrong())?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || authority.as_str().contains('@') {
        return Err(wrong());
    }
    Ok((host.to_owned(), authority.port_u16().unwrap_or(usual)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::tests::request;
    use super::*;

    /// A server that takes its time, and has nothing of use about some.
    #[derive(Default)]
    struct Slow {
        asked: AtomicUsize,
    }

    const ANSWER: Duration = Duration::from_millis(300);

    impl Find for Slow {
        fn find<'a>(&'a self, values: &'a Values<'a>) -> Finding<'a> {
            Box::pin(async move {
                self.asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(ANSWER).await;
                match values.get(super::super::template::Variable::Username) {
                    Ok(Some("odd")) => Err(Failure::OfOne("two of that name".to_owned())),
                    Ok(Some("gone")) => Err(Failure::Broken("it hung up".to_owned())),
                    _ => Ok(Found::Nobody),
                }
            })
        }
    }

    fn directory(turns: usize) -> Arc<Directory> {
        Arc::new(Directory {
            finder: Box::new(Slow::default()),
            turns: Semaphore::new(turns),
            timeout: Duration::from_secs(1),
            health: Arc::default(),
        })
    }

    async fn asks(directory: &Directory, username: &str) -> Result<Found, String> {
        let asked = request(username, "pw");
        directory.find(&Values::new(&asked, "default")).await
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_wait_for_their_turn_do_not_make_a_server_look_dead() {
        let directory = directory(4);
        let all: Vec<_> = (0..200)
            .map(|n| {
                let directory = Arc::clone(&directory);
                tokio::spawn(async move { asks(&directory, &format!("u{n}")).await })
            })
            .collect();
        for one in all {
            assert!(matches!(one.await, Ok(Ok(Found::Nobody))));
        }
        assert!(directory.health().fault().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_cannot_be_asked_about_keeps_nobody_else_out() {
        let directory = directory(4);
        for _ in 0..3 {
            assert_eq!(
                asks(&directory, "odd").await.err().as_deref(),
                Some("two of that name")
            );
            assert!(asks(&directory, "ann").await.is_ok());
        }
        assert_eq!(
            asks(&directory, "gone").await.err().as_deref(),
            Some("it hung up")
        );
        assert!(asks(&directory, "ann").await.is_err(), "it is asked later");
        assert!(directory.health().fault().is_some());
    }
}
