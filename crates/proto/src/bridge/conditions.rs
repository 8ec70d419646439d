//! Conditional query parameters of Observe (draft-ietf-core-conditional-attributes-12): when a notification is worth its airtime.

use std::time::{Duration, Instant};

use super::sample::Sample;

/// Shortest time between notifications that nobody published, and between repeated evaluations: `c.pmax` and `c.epmax` below it
/// are rounded up to it.
pub const MIN_TIMED: Duration = Duration::from_secs(1);

/// What an observation asks of the values that it is notified of (section 3).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conditions {
    /// `c.gt`: notify when the value crosses it.
    pub greater: Option<f64>,
    /// `c.lt`: notify when the value crosses it.
    pub less: Option<f64>,
    /// `c.st`, more than 0: notify when the value is that far from the last one that was reported.
    pub step: Option<f64>,
    /// `c.band`: [`Self::greater`] and [`Self::less`] bound a band; notify of each value in it.
    pub band: bool,
    /// `c.edge`: notify when the value becomes this one.
    pub edge: Option<bool>,
    /// `c.pmin`: the least time between two notifications.
    pub min_period: Option<Duration>,
    /// `c.pmax`: the most time between two notifications; at least [`MIN_TIMED`].
    pub max_period: Option<Duration>,
    /// `c.epmin`: the least time between two evaluations.
    pub min_evaluation: Option<Duration>,
    /// `c.epmax`: the most time between two evaluations; at least [`MIN_TIMED`].
    pub max_evaluation: Option<Duration>,
    /// `c.con`: every notification is confirmable.
    pub confirmable: bool,
}

impl Conditions {
    /// Whether its parameters go together.
    ///
    /// # Errors
    /// With what does not.
    pub fn check(&self) -> Result<(), &'static str> {
        let exceeds = |least: Option<Duration>, most: Option<Duration>, or_equal: bool| match (least, most) {
            (Some(least), Some(most)) => least > most || (least == most && !or_equal),
            _ => false,
        };
        if self.band && self.greater.is_none() && self.less.is_none() {
            Err("c.band needs c.gt, c.lt or both")
        } else if exceeds(self.min_period, self.max_period, true) {
            Err("c.pmax is less than c.pmin")
        } else if exceeds(self.min_evaluation, self.max_evaluation, false) {
            Err("c.epmax is not more than c.epmin")
        } else {
            Ok(())
        }
    }

    /// Whether they are about the state of one resource, and not only about how its notifications are sent.
    #[must_use]
    pub(crate) fn concern_one_state(&self) -> bool {
        let timed = [
            self.min_period,
            self.max_period,
            self.min_evaluation,
            self.max_evaluation,
        ];
        self.concern_values() || timed.iter().any(Option::is_some)
    }

    /// Whether they are about numbers or truth values.
    const fn concern_values(&self) -> bool {
        self.concern_numbers() || self.edge.is_some()
    }

    const fn concern_numbers(&self) -> bool {
        self.greater.is_some() || self.less.is_some() || self.step.is_some()
    }

    /// Whether a value is of the kind that they are about.
    ///
    /// # Errors
    /// With what they need.
    pub fn fit(&self, sample: Option<Sample>) -> Result<(), &'static str> {
        let number = self.concern_numbers() && sample.and_then(Sample::number).is_some();
        let boolean = self.edge.is_some() && sample.and_then(Sample::boolean).is_some();
        if number || boolean || !self.concern_values() {
            Ok(())
        } else if self.edge.is_some() {
            Err("c.edge needs a truth value; what is there is none")
        } else {
            Err("c.gt, c.lt and c.st need a number; what is there is none")
        }
    }

    /// Whether a number meets what they say of numbers, given the last one that was reported.
    fn met_by(&self, number: f64, reported: f64) -> bool {
        // Differences of decimals are off by a few units in the last place: 0.3 - 0.2 is less than 0.1.
        let step = self.step.is_some_and(|step| {
            let error = 4.0 * f64::EPSILON * number.abs().max(reported.abs());
            (number - reported).abs() + error >= step
        });
        if self.band {
            return step
                || match (self.greater, self.less) {
                    (Some(top), None) => number <= top,
                    (None, Some(bottom)) => number >= bottom,
                    (Some(low), Some(high)) if low <= high => (low..=high).contains(&number),
                    (Some(high), Some(low)) => number > high || number < low,
                    (None, None) => false,
                };
        }
        let crosses = |is_past: fn(&f64, &f64) -> bool, limit: Option<f64>| {
            limit.is_some_and(|limit| is_past(&number, &limit) != is_past(&reported, &limit))
        };
        step || crosses(f64::gt, self.greater) || crosses(f64::lt, self.less)
    }
}

/// What becomes of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is to be notified now.
    Notify,
    /// It waits for `c.pmin` or `c.epmin`; a later value may take its place.
    Wait,
    /// It meets no condition.
    Withhold,
}

/// What a look at the newest value finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Nothing to notify.
    Nothing,
    /// A value that the observer has not been told of.
    News,
    /// The state that it knows, once more.
    Again,
}

/// What is known of the values of one observation with conditions.
#[derive(Debug)]
pub struct Watch {
    conditions: Conditions,
    /// The value of the last notification; `None` before there is one, and where it had none.
    reported: Option<Sample>,
    reported_at: Instant,
    evaluated_at: Instant,
    /// Whether the other side of the edge was seen since the edge was last reported.
    armed: bool,
    /// Whether the newest value is to be notified once `c.pmin` is over.
    held: bool,
    /// Whether the newest value is to be evaluated once `c.epmin` is over.
    unseen: bool,
}

impl Watch {
    /// Begins to watch, before anything is reported.
    #[must_use]
    pub const fn new(now: Instant, conditions: Conditions) -> Self {
        Self {
            conditions,
            reported: None,
            reported_at: now,
            evaluated_at: now,
            armed: true,
            held: false,
            unseen: false,
        }
    }

    /// What it watches for.
    #[must_use]
    pub const fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// Notes the state that the observer has from now on; `None` where it has no value.
    pub fn report(&mut self, now: Instant, sample: Option<Sample>) {
        self.reported = sample;
        self.reported_at = now;
        self.evaluated_at = now;
        self.held = false;
        self.unseen = false;
        if let (Some(target), Some(value)) = (self.conditions.edge, sample.and_then(Sample::boolean)) {
            self.armed = value != target;
        }
    }

    /// Takes in a new value; `None` where a message has none. On [`Decision::Notify`] it counts as reported.
    pub fn take(&mut self, now: Instant, sample: Option<Sample>) -> Decision {
        if let (Some(target), Some(value)) = (self.conditions.edge, sample.and_then(Sample::boolean)) {
            self.armed |= value != target;
        }
        if let Some(every) = self.conditions.min_evaluation
            && self.evaluated_at + every > now
        {
            self.unseen = true;
            return Decision::Wait;
        }
        self.evaluate(now, sample, true)
    }

    fn evaluate(&mut self, now: Instant, sample: Option<Sample>, is_new: bool) -> Decision {
        self.evaluated_at = now;
        self.unseen = false;
        self.held = self.is_met(sample, is_new);
        if !self.held {
            return Decision::Withhold;
        }
        if self.next_report().is_some_and(|at| at > now) {
            return Decision::Wait;
        }
        self.report(now, sample);
        Decision::Notify
    }

    /// What has no value, or follows what had none, is told: an observer must learn of a state that its conditions cannot judge.
    fn is_met(&self, sample: Option<Sample>, is_new: bool) -> bool {
        let Self { conditions, .. } = self;
        if conditions.fit(sample).is_err() || !conditions.concern_values() {
            return is_new;
        }
        let numbers = sample
            .and_then(Sample::number)
            .filter(|_| conditions.concern_numbers());
        let by_number = numbers.is_some_and(|number| match self.reported.and_then(Sample::number) {
            Some(reported) => conditions.met_by(number, reported),
            None => is_new,
        });
        let by_edge = conditions.edge.is_some_and(|target| {
            let value = sample.and_then(Sample::boolean);
            (self.armed && value == Some(target)) || (is_new && value.is_some() && self.reported.is_none())
        });
        by_number || by_edge
    }

    fn next_report(&self) -> Option<Instant> {
        let least = self.conditions.min_period?;
        self.reported_at.checked_add(least)
    }

    /// When to [`Self::look`] next.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let Conditions {
            max_period,
            min_evaluation,
            max_evaluation,
            ..
        } = self.conditions;
        let after = |from: Instant, time: Option<Duration>| time.and_then(|time| from.checked_add(time));
        let held = self.held.then(|| self.next_report()).flatten();
        let unseen = self
            .unseen
            .then(|| after(self.evaluated_at, min_evaluation))
            .flatten();
        let again = after(self.evaluated_at, max_evaluation);
        let latest = after(self.reported_at, max_period);
        [held, unseen, again, latest].into_iter().flatten().min()
    }

    /// Looks again at the newest value, since a time is over. What is to be notified counts as reported.
    pub fn look(&mut self, now: Instant, newest: Option<Sample>) -> Look {
        let is_over = |from: Instant, time: Option<Duration>| {
            time.and_then(|time| from.checked_add(time))
                .is_some_and(|at| at <= now)
        };
        let Conditions {
            max_period,
            min_evaluation,
            max_evaluation,
            ..
        } = self.conditions;
        let has_news = self.held || self.unseen;
        let held = self.held && self.next_report().is_none_or(|at| at <= now);
        if held || is_over(self.reported_at, max_period) {
            self.report(now, newest);
            return if has_news { Look::News } else { Look::Again };
        }
        if self.unseen && is_over(self.evaluated_at, min_evaluation) {
            return match self.evaluate(now, newest, true) {
                Decision::Notify => Look::News,
                Decision::Wait | Decision::Withhold => Look::Nothing,
            };
        }
        if is_over(self.evaluated_at, max_evaluation) {
            let held = self.held;
            if self.evaluate(now, newest, false) == Decision::Notify {
                return Look::Again;
            }
            self.held |= held;
        }
        Look::Nothing
    }
}

#[cfg(test)]
mod tests;
