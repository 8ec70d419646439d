//! Overload: what runs short is read once a second, and ordered steps are taken until it is better.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::answers::unavailable;
use super::timers::Timer;
use super::{Gateway, cx};
use crate::coap::contract::Response;
use crate::policy::ledger::Table;
use crate::policy::overload::{Overload, OverloadSettings, Readings, Step, fullness};
use crate::policy::rate;
use crate::types::reason::Label as _;
use crate::types::standing::Standing;

/// How often the readings are taken.
const EVERY: Duration = Duration::from_secs(1);

/// How many strangers are asked for a sign of life with each reading.
const ASKED_AT_ONCE: usize = 256;

/// A worker that comes to its timers this late, time after time, has more to do than it can.
const TOLERABLE_DELAY: Duration = Duration::from_millis(250);

/// How many readings in a row must show a delay: one stall is no overload.
const DELAYS: usize = 3;

/// The overload of one worker.
pub(super) struct Pressure {
    overload: Overload,
    /// Memory and spool, as the process last said.
    pub(super) memory: f64,
    pub(super) spool: f64,
    pub(super) due: Instant,
    /// What remembered exchanges weighed at the last reading.
    exchanges: [usize; 2],
    delays: VecDeque<Duration>,
}

impl Pressure {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            overload: Overload::new(OverloadSettings::default()),
            memory: 0.0,
            spool: 0.0,
            due: now + EVERY,
            exchanges: [0; 2],
            delays: VecDeque::with_capacity(DELAYS),
        }
    }

    /// Whether publishes at QoS 0 are refused now.
    pub(super) fn refuses_qos0(&self) -> bool {
        self.overload.holds(Step::NoQos0)
    }

    /// Whether publishes are refused now, whatever their QoS.
    pub(super) fn refuses_publishes(&self) -> bool {
        self.overload.holds(Step::NoPublish)
    }

    /// Whether everything is refused now.
    pub(super) fn refuses_all(&self) -> bool {
        self.overload.holds(Step::RefuseAll)
    }

    /// The answer to what is refused: 5.03 with the time to try again.
    pub(super) fn refusal(&self) -> Response {
        Response {
            max_age: Some(rate::max_age(self.overload.retry_after())),
            ..unavailable()
        }
    }

    /// An idle time as it is now.
    pub(super) fn idle(&self, configured: Duration) -> Duration {
        self.overload.idle(configured)
    }

    fn queue_delay(&mut self, now: Instant) -> f64 {
        if self.delays.len() == DELAYS {
            self.delays.pop_front();
        }
        self.delays.push_back(now.saturating_duration_since(self.due));
        if self.delays.len() < DELAYS {
            return 0.0;
        }
        let least = self.delays.iter().min().copied().unwrap_or_default();
        least.as_secs_f64() / TOLERABLE_DELAY.as_secs_f64()
    }
}

impl Gateway {
    /// Reads what may run short and takes or ends steps.
    pub(super) fn check_pressure(&mut self, now: Instant) {
        let queue_delay = self.pressure.queue_delay(now);
        self.pressure.due = now + EVERY;
        self.timers.arm(self.pressure.due, Timer::Pressure);
        let readings = Readings {
            memory: self.pressure.memory,
            sessions: self.sessions_fullness(),
            spool: self.pressure.spool,
            queue_delay,
        };
        self.weigh_exchanges(0);
        self.ask_for_life(now);
        self.agenda.events.tell_left_out(now);
        let changed = self.pressure.overload.update(now, &readings);
        self.metrics.pressure_millis.set(millis(readings.pressure()));
        if changed {
            self.take_steps();
        }
    }

    /// Writes down what remembered exchanges weigh, which have no peer to belong to, once it changed by `step` bytes.
    pub(super) fn weigh_exchanges(&mut self, step: usize) {
        let now = self.coap.exchanges_kept();
        let mut changes = now.iter().zip(self.pressure.exchanges);
        if changes.all(|(now, before)| now.abs_diff(before) < step) {
            return;
        }
        let before = std::mem::replace(&mut self.pressure.exchanges, now);
        for ((standing, before), now) in [Standing::Unproven, Standing::Proven]
            .into_iter()
            .zip(before)
            .zip(now)
        {
            self.ledger.count(standing, Table::Exchanges, before, now);
        }
    }

    /// While there is time: those strangers that would have to give way first may show that they are there, and so be none.
    fn ask_for_life(&mut self, now: Instant) {
        if self.ledger.is_half_full(Standing::Unproven) {
            for holder in self.ledger.oldest(Standing::Unproven, ASKED_AT_ONCE) {
                self.observations.ask_for_life(&mut cx!(self, now), holder);
            }
        }
    }

    fn sessions_fullness(&self) -> f64 {
        let known = self.ledger.fullness(Standing::Known);
        let sessions = self
            .dtls
            .iter()
            .zip(&self.settings.listeners)
            .filter_map(|(dtls, listener)| {
                let (dtls, settings) = (dtls.as_ref()?, listener.dtls.as_ref()?);
                Some(fullness(
                    dtls.session_count() as u64,
                    settings.transport.max_sessions as u64,
                ))
            });
        sessions.fold(known, f64::max)
    }

    pub(super) fn take_steps(&mut self) {
        for step in Step::ALL {
            let held = self.pressure.overload.holds(*step);
            self.metrics.overload.set(*step, u64::from(held));
        }
        let refuse = self.pressure.overload.holds(Step::NoUnproven);
        for (dtls, listener) in self.dtls.iter_mut().zip(&self.settings.listeners) {
            if let (Some(dtls), Some(settings)) = (dtls, &listener.dtls) {
                dtls.set_pressure(
                    self.pressure.overload.idle(settings.transport.idle_timeout),
                    refuse,
                );
            }
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share is not negative, and a saturated gauge still says too much"
)]
fn millis(share: f64) -> u64 {
    (share * 1000.0) as u64
}
