//! How the management interface reaches the workers and the process.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::events::Events;
use crate::expose::mqtt_requests::MqttRequestMetrics;
use crate::operator::Operator;
use portcullis_auth::LoginServer;
use portcullis_broker::{BrokerSnapshot, Status as BrokerStatus};
use portcullis_config::ban_book::BanBook;
use portcullis_config::{Config, Problems};
use portcullis_dtls::ContextCell;
use portcullis_group::Group;
use portcullis_proto::gateway::contract::{ControlAnswer, ControlRequest};
use portcullis_proto::types::{ListenerId, Transport, WorkerId};

/// An answer that is on its way.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The running process, as far as operators are concerned. All of it is called by the thread of the management interface.
pub trait Site: Send + Sync + 'static {
    /// Both clocks, read together.
    fn now(&self) -> Moment;

    /// How many workers there are; their ids are 0 to one less than this.
    fn workers(&self) -> u8;

    /// Asks one worker; `None` when it is gone.
    fn ask(&self, worker: WorkerId, request: ControlRequest) -> Answer<'_, Option<ControlAnswer>>;

    /// The configuration in force: another `Arc` after each reload, the same one in between.
    fn config(&self) -> Arc<Config>;

    /// How the process is.
    fn state(&self) -> SiteState;

    /// The listeners, in the order of their [`ListenerId`].
    fn listeners(&self) -> Vec<ListenerState>;

    /// Stops a listener (its sockets take nothing more; what is connected through it ends) or lets it serve again. It comes
    /// back as configured after a restart of the process.
    ///
    /// # Errors
    /// Why it cannot be done, in words.
    fn set_listener(&self, listener: ListenerId, enabled: bool) -> Answer<'_, Result<(), String>>;

    /// Reads the configuration and the files that it names again; all or nothing.
    ///
    /// # Errors
    /// Everything that is wrong; then the old configuration is still in force.
    fn reload(&self) -> Answer<'_, Result<Reloaded, Problems>>;

    /// Whether a configuration could be put in force, as far as only the process knows: whether it could listen where it would have to.
    ///
    /// # Errors
    /// Why not.
    fn could(&self, config: Config) -> Answer<'_, Result<(), Problems>> {
        drop(config);
        Box::pin(async { Ok(()) })
    }

    /// Ends the process, and says goodbye to every DTLS session although the next process would find it.
    ///
    /// # Errors
    /// The process is ending already.
    fn drain(&self) -> Answer<'_, Result<(), String>>;

    /// Who is banned.
    fn bans(&self) -> &Arc<BanBook>;

    /// This node's part in its group; `None` where it is alone.
    fn group(&self) -> Option<&Group> {
        None
    }

    /// The way to the broker past the devices; `None` once the broker is gone.
    fn operator(&self) -> Option<Operator>;

    /// What is counted of requests that come over MQTT.
    fn mqtt_requests(&self) -> Arc<MqttRequestMetrics>;

    /// What happens to clients.
    fn events(&self) -> Arc<Events>;

    /// What `/metrics` shows, in the text format of Prometheus.
    fn metrics_text(&self) -> String;
}

/// Both clocks, read together.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// What ages and time-outs are measured with; it never jumps.
    pub steady: Instant,
    /// What is shown to people (UTC); it may jump.
    pub wall: SystemTime,
}

impl Moment {
    /// The time of day of an earlier moment.
    #[must_use]
    pub(crate) fn wall_of(&self, earlier: Instant) -> SystemTime {
        let ago = self.since(earlier);
        self.wall.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// How long ago an earlier moment was.
    #[must_use]
    pub fn since(&self, earlier: Instant) -> Duration {
        self.steady.saturating_duration_since(earlier)
    }
}

/// How the process is.
#[derive(Debug, Clone)]
pub struct SiteState {
    /// When the process started, by the time of day.
    pub started: SystemTime,
    /// Whether it serves; else why not, as `/readyz` says.
    pub ready: Result<(), String>,
    /// What the broker says about itself.
    pub broker: BrokerStatus,
    /// Messages, filters and spool of the broker, counted over all workers.
    pub numbers: BrokerSnapshot,
    /// The databases that are asked about logins.
    pub logins: Vec<LoginServer>,
}

/// A listener as operators see it.
#[derive(Debug, Clone)]
pub struct ListenerState {
    /// Plain UDP or DTLS.
    pub transport: Transport,
    /// Its name, unique among those of its transport.
    pub name: String,
    /// Where it listens: the address in force, not that of the file.
    pub bind: SocketAddr,
    /// Whether its sockets are open; the API can close and open them.
    pub enabled: bool,
    /// Whether it is no longer in the configuration; it keeps its id.
    pub removed: bool,
    /// Where a DTLS listener has what its handshakes are made with.
    pub context: Option<Arc<ContextCell>>,
}

/// What came of a reload.
#[derive(Debug, Clone, Default)]
pub struct Reloaded {
    /// Dotted keys that changed in the file and take effect only after a restart.
    pub needs_restart: Vec<String>,
    /// What should be said about what is in force now, such as certificates that ran out.
    pub warnings: Problems,
}
