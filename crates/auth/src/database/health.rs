//! Whether a server can be asked.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After the first failure it is tried again after this time, which doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(5);

/// Whether a server can be asked, and since when it cannot.
#[derive(Default)]
pub(in super::super) struct Health(Mutex<Option<Down>>);

struct Down {
    why: String,
    since: Instant,
    /// Who comes earlier is not to wait for it.
    again: Instant,
    pause: Duration,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.fault().is_none() { "up" } else { "down" })
    }
}

/// One question.
pub(super) struct Trial<'h>(&'h Health);

impl Health {
    /// Why it cannot be asked, and for how long that has been so; nothing while it answers, or was not asked yet.
    pub(in super::super) fn fault(&self) -> Option<(String, Duration)> {
        let down = self.lock();
        down.as_ref().map(|down| (down.why.clone(), down.since.elapsed()))
    }

    /// Lets a question be asked: each while it answers, one of them now and then while it does not.
    pub(super) fn trial(&self) -> Result<Trial<'_>, String> {
        if let Some(down) = &mut *self.lock() {
            let now = Instant::now();
            if now < down.again {
                return Err(down.why.clone());
            }
            // Whoever comes while this one tries is not to wait.
            down.again = now + LONGEST;
        }
        Ok(Trial(self))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Down>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trial<'_> {
    /// How the question ended.
    pub(super) fn ends(self, failure: Option<&String>) {
        let mut down = self.0.lock();
        let Some(why) = failure else {
            *down = None;
            return;
        };
        let now = Instant::now();
        let (since, pause) = match &*down {
            // Several that were in flight when it went down are one failure.
            Some(down) if now < down.since + FIRST => return,
            Some(down) => (down.since, (down.pause * 2).min(LONGEST)),
            None => (now, FIRST),
        };
        *down = Some(Down {
            why: why.clone(),
            since,
            again: now + pause,
            pause,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_down_is_tried_now_and_then_and_answers_at_once() {
        let health = Health::default();
        let why = "no route".to_owned();
        let first = health.trial().unwrap();
        let second = health.trial().unwrap();
        first.ends(Some(&why));
        second.ends(Some(&why));
        let mut pause = FIRST;
        for _ in 0..8 {
            assert_eq!(health.trial().err(), Some(why.clone()));
            tokio::time::advance(pause).await;
            let trial = health.trial().unwrap();
            assert!(health.trial().is_err(), "one at a time");
            trial.ends(Some(&why));
            pause = (pause * 2).min(LONGEST);
        }
        assert!(health.fault().is_some());
        tokio::time::advance(LONGEST).await;
        health.trial().unwrap().ends(None);
        assert!(health.fault().is_none() && health.trial().is_ok());
    }
}
