//! Pressure to ordered steps: the fuller the house, the more is refused, with hysteresis so that it does not flap.

use std::time::{Duration, Instant};

use crate::labels;
use crate::types::reason::Label;

labels! {
    /// What is done about overload, mildest first: `overload_active{action}`.
    pub enum Step {
        /// Idle DTLS sessions end, and silent UDP peers are forgotten, sooner.
        ShortIdle = "short_idle",
        /// Peers that have not proved their address get no new handshake.
        NoUnproven = "no_unproven",
        /// Publishes with QoS 0 are refused: 5.03.
        NoQos0 = "no_qos0",
        /// Publishes are refused, and what clears a retained message: 5.03. All else goes on.
        NoPublish = "no_publish",
        /// All new work is refused: 5.03.
        RefuseAll = "refuse_all",
    }
}

labels! {
    /// What may run short: `overload_pressure{resource}`.
    pub enum Resource {
        /// Resident memory against its limit.
        Memory = "memory",
        /// Sessions against their cap, and what known peers make the gateway keep against `limits.memory`.
        Sessions = "sessions",
        /// Bytes in the spool against `max_bytes`.
        Spool = "spool",
        /// How long a datagram or message waits against what is tolerable.
        QueueDelay = "queue_delay",
    }
}

/// How full something is: 0.0 empty, 1.0 full; more when it is over its limit.
#[must_use]
pub fn fullness(used: u64, limit: u64) -> f64 {
    if limit == 0 {
        return 0.0;
    }
    #[expect(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
    let share = used as f64 / limit as f64;
    share
}

/// One reading of each [`Resource`], as [`fullness`] gives it; what has no limit is 0.0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Readings {
    /// Resident memory.
    pub memory: f64,
    /// Sessions, and what is kept for those who have them.
    pub sessions: f64,
    /// The spool.
    pub spool: f64,
    /// Waiting time.
    pub queue_delay: f64,
}

impl Readings {
    /// The reading of `resource`.
    #[must_use]
    pub const fn get(&self, resource: Resource) -> f64 {
        match resource {
            Resource::Memory => self.memory,
            Resource::Sessions => self.sessions,
            Resource::Spool => self.spool,
            Resource::QueueDelay => self.queue_delay,
        }
    }

    /// The highest of them. A reading that is no number counts as full: not knowing is no reason to go on.
    #[must_use]
    pub fn pressure(&self) -> f64 {
        self.worst(Resource::ALL)
    }

    /// The highest of some.
    fn worst(&self, of: &[Resource]) -> f64 {
        let worst = |worst: f64, resource: &Resource| match self.get(*resource) {
            value if value.is_nan() => worst.max(1.0),
            value => worst.max(value),
        };
        of.iter().fold(0.0, worst)
    }
}

/// What some resources have done about them.
#[derive(Debug, Clone, Copy)]
struct Ladder {
    resources: &'static [Resource],
    /// The steps, mildest first, each with the pressure at which it begins.
    steps: &'static [(Step, f64)],
}

/// What everything that is done needs.
const HOUSE: Ladder = Ladder {
    resources: &[Resource::Memory, Resource::QueueDelay],
    steps: &[
        (Step::ShortIdle, 0.60),
        (Step::NoUnproven, 0.75),
        (Step::NoQos0, 0.85),
        (Step::RefuseAll, 0.95),
    ],
};

/// What only those need who are new: whoever has a session or connection takes no more of it.
const GROWTH: Ladder = Ladder {
    resources: &[Resource::Sessions],
    steps: &[(Step::ShortIdle, 0.60), (Step::NoUnproven, 0.75)],
};

/// What publishes alone need: whoever reads, observes or shows that he lives takes nothing of it.
const SPOOL: Ladder = Ladder {
    resources: &[Resource::Spool],
    steps: &[(Step::NoQos0, 0.85), (Step::NoPublish, 0.95)],
};

/// How steps end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OverloadSettings {
    /// A step ends when the pressure is this far under where it began.
    pub hysteresis: f64,
    /// And not before it was held this long.
    pub hold: Duration,
}

impl Default for OverloadSettings {
    fn default() -> Self {
        Self {
            hysteresis: 0.05,
            hold: Duration::from_secs(2),
        }
    }
}

/// How far up a ladder it is.
#[derive(Debug, Clone)]
struct Height {
    ladder: Ladder,
    /// How many steps are held; each holds all before it.
    level: usize,
    changed: Option<Instant>,
}

impl Height {
    const fn new(ladder: Ladder) -> Self {
        Self {
            ladder,
            level: 0,
            changed: None,
        }
    }

    fn update(&mut self, now: Instant, readings: &Readings, settings: &OverloadSettings) -> bool {
        let pressure = readings.worst(self.ladder.resources);
        let steps = self.ladder.steps.iter();
        let wanted = steps.take_while(|(_, begin)| pressure >= *begin).count();
        if wanted > self.level {
            self.level = wanted;
        } else if self.may_end(now, pressure, settings) {
            self.level -= 1;
        } else {
            return false;
        }
        self.changed = Some(now);
        true
    }

    fn may_end(&self, now: Instant, pressure: f64, settings: &OverloadSettings) -> bool {
        let held = |since| now.saturating_duration_since(since) >= settings.hold;
        self.held()
            .last()
            .is_some_and(|(_, begin)| pressure < begin - settings.hysteresis)
            && self.changed.is_none_or(held)
    }

    fn held(&self) -> &'static [(Step, f64)] {
        self.ladder.steps.get(..self.level).unwrap_or(self.ladder.steps)
    }
}

/// The steps that are held now.
#[derive(Debug, Clone)]
pub struct Overload {
    settings: OverloadSettings,
    house: Height,
    growth: Height,
    spool: Height,
    pressure: f64,
}

impl Overload {
    /// No step held.
    #[must_use]
    pub fn new(settings: OverloadSettings) -> Self {
        Self {
            settings,
            house: Height::new(HOUSE),
            growth: Height::new(GROWTH),
            spool: Height::new(SPOOL),
            pressure: 0.0,
        }
    }

    /// Takes new readings. Steps begin at once, several if need be, and end one at a time.
    /// Whether the held steps are others than before.
    pub fn update(&mut self, now: Instant, readings: &Readings) -> bool {
        self.pressure = readings.pressure();
        let house = self.house.update(now, readings, &self.settings);
        let growth = self.growth.update(now, readings, &self.settings);
        let spool = self.spool.update(now, readings, &self.settings);
        house || growth || spool
    }

    /// Whether `step` is held.
    #[must_use]
    pub fn holds(&self, step: Step) -> bool {
        let mut heights = [&self.house, &self.growth, &self.spool].into_iter();
        heights.any(|height| height.held().iter().any(|(held, _)| *held == step))
    }

    /// The steps that are held, mildest first.
    pub fn steps(&self) -> impl Iterator<Item = Step> {
        Step::ALL.iter().copied().filter(|step| self.holds(*step))
    }

    /// The last pressure.
    #[must_use]
    pub fn pressure(&self) -> f64 {
        self.pressure
    }

    /// An idle time as it is now: whole without [`Step::ShortIdle`], then down from a half to a sixteenth with each
    /// step. Never under a minute, unless it was.
    #[must_use]
    pub fn idle(&self, configured: Duration) -> Duration {
        let shortened = configured / (1 << self.house.level.max(self.growth.level));
        shortened.max(configured.min(Duration::from_secs(60)))
    }

    /// After what time a refused client may try again: longer the worse it is. For Max-Age.
    #[must_use]
    pub(crate) fn retry_after(&self) -> Duration {
        let worst = self.steps().last();
        Duration::from_secs(match worst {
            None | Some(Step::ShortIdle | Step::NoUnproven) => 2,
            Some(Step::NoQos0) => 5,
            Some(Step::NoPublish | Step::RefuseAll) => 10,
        })
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
mod tests {
    use super::*;

    fn readings(memory: f64) -> Readings {
        Readings {
            memory,
            ..Readings::default()
        }
    }

    fn at(seconds: u64) -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now) + Duration::from_secs(seconds)
    }

    #[test]
    fn steps_begin_in_order_and_each_holds_those_before() {
        let mut overload = Overload::new(OverloadSettings::default());
        for (pressure, held) in [(0.59, 0), (0.60, 1), (0.75, 2), (0.85, 3), (0.95, 4), (7.0, 4)] {
            overload.update(at(0), &readings(pressure));
            assert_eq!(overload.steps().count(), held, "{pressure}");
        }
        let of_the_house = |step: &Step| overload.holds(*step) == (*step != Step::NoPublish);
        assert!(Step::ALL.iter().all(of_the_house));
    }

    #[test]
    fn the_worst_resource_counts() {
        let mut overload = Overload::new(OverloadSettings::default());
        overload.update(
            at(0),
            &Readings {
                queue_delay: 0.9,
                sessions: 0.1,
                ..readings(0.2)
            },
        );
        assert!(overload.holds(Step::NoQos0) && !overload.holds(Step::RefuseAll));
        assert!(
            Readings {
                queue_delay: f64::NAN,
                ..Readings::default()
            }
            .pressure()
                >= 1.0
        );
    }

    #[test]
    fn pressure_that_trembles_at_a_threshold_does_not_flap() {
        let mut overload = Overload::new(OverloadSettings::default());
        let changes = (0..1000)
            .filter(|n| overload.update(at(n * 10), &readings(if n % 2 == 0 { 0.76 } else { 0.74 })))
            .count();
        assert_eq!(changes, 1);
        assert!(overload.holds(Step::NoUnproven));
    }

    #[test]
    fn steps_end_one_at_a_time_and_are_held_for_a_while() {
        let mut overload = Overload::new(OverloadSettings::default());
        overload.update(at(0), &readings(1.0));
        assert!(!overload.update(at(1), &readings(0.1)));
        assert!(overload.update(at(2), &readings(0.1)));
        assert!(!overload.holds(Step::RefuseAll) && overload.holds(Step::NoQos0));
        assert!(!overload.update(at(3), &readings(0.1)));
        for seconds in [4, 6, 8] {
            assert!(overload.update(at(seconds), &readings(0.1)), "{seconds}");
        }
        assert_eq!(overload.steps().count(), 0);
        assert!(!overload.update(at(99), &readings(0.1)));
    }

    #[test]
    fn idle_times_shorten_with_each_step_but_not_under_a_minute() {
        let mut overload = Overload::new(OverloadSettings::default());
        let (day, short) = (Duration::from_secs(86_400), Duration::from_secs(30));
        assert_eq!(overload.idle(day), day);
        overload.update(at(0), &readings(0.6));
        assert_eq!(overload.idle(day), day / 2);
        overload.update(at(0), &readings(1.0));
        assert_eq!(overload.idle(day), day / 16);
        assert_eq!(overload.idle(Duration::from_secs(120)), Duration::from_secs(60));
        assert_eq!(overload.idle(short), short);
    }

    #[test]
    fn a_full_spool_refuses_publishes_and_shortens_nobodys_time() {
        let mut overload = Overload::new(OverloadSettings::default());
        for (spool, held) in [
            (0.84, &[][..]),
            (0.85, &[Step::NoQos0]),
            (0.95, &[Step::NoQos0, Step::NoPublish]),
        ] {
            let readings = Readings {
                spool,
                ..readings(0.1)
            };
            overload.update(at(0), &readings);
            assert_eq!(overload.steps().collect::<Vec<_>>(), held, "{spool}");
        }
        assert_eq!(
            overload.idle(Duration::from_secs(9999)),
            Duration::from_secs(9999)
        );
        assert_eq!(overload.retry_after(), Duration::from_secs(10));
        assert!(overload.update(at(2), &readings(0.1)));
        assert_eq!(overload.steps().collect::<Vec<_>>(), [Step::NoQos0]);
    }

    #[test]
    fn a_limit_of_zero_is_no_limit() {
        assert!(fullness(5, 0).abs() < f64::EPSILON);
        assert!((fullness(3, 4) - 0.75).abs() < f64::EPSILON);
    }
}
