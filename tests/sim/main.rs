//! A seeded hostile network between devices and the pure core, on a virtual clock: loss, duplication, reordering, rebinding, reboots,
//! a slow and lying broker, reloads, several workers, processes that die and go on from kept state. After every step what must always hold is looked at.
//!
//! ```text
//! cargo test --test sim                                256 seeds
//! PORTCULLIS_SEEDS=10000 cargo test --test sim         more
//! PORTCULLIS_SEED=77 cargo test --test sim             one; a failure is shrunk and printed with its datagrams
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests fail by panicking, and nothing waits on the real clock"
)]

mod broker;
mod chance;
mod device;
mod invariants;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::{Plan, World};

const STEPS: usize = 500;

fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    number("PORTCULLIS_SEED").map_or_else(
        || (0..number("PORTCULLIS_SEEDS").unwrap_or(256)).collect(),
        |seed| vec![seed],
    )
}

/// What happened, or in which words it failed.
fn run(plan: &Plan) -> Result<invariants::Tally, String> {
    let run = AssertUnwindSafe(|| World::new(plan).run());
    catch_unwind(run).map_err(|error| {
        let text = error.downcast_ref::<String>().cloned();
        text.unwrap_or_else(|| (*error.downcast_ref::<&str>().unwrap_or(&"?")).to_owned())
    })
}

/// The same failure with as few kinds of trouble and steps as there can be.
fn shrink(mut plan: Plan) -> Plan {
    for without in Plan::LESS {
        let mut less = plan.clone();
        without(&mut less);
        if run(&less).is_err() {
            plan = less;
        }
    }
    let mut step = plan.steps / 2;
    while step > 0 {
        let mut fewer = plan.clone();
        fewer.steps = plan.steps.saturating_sub(step);
        if run(&fewer).is_err() {
            plan = fewer;
        } else {
            step /= 2;
        }
    }
    plan
}

/// Runs the seeds on all cores; what happened in them, and the first that fails.
fn run_all(seeds: &[u64]) -> (invariants::Tally, Option<u64>) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut tally = invariants::Tally::default();
                    for seed in seeds.iter().skip(thread).step_by(threads) {
                        match run(&Plan::new(*seed, STEPS)) {
                            Ok(more) => tally.add(&more),
                            Err(_) => return (tally, Some(*seed)),
                        }
                    }
                    (tally, None)
                })
            })
            .collect();
        let mut all = (invariants::Tally::default(), None);
        for (tally, failed) in running.into_iter().map(|it| it.join().unwrap()) {
            all.0.add(&tally);
            all.1 = all.1.into_iter().chain(failed).min();
        }
        all
    })
}

#[test]
fn what_must_always_hold_holds_in_every_seed() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let (tally, failed) = run_all(&seeds());
    let shrunk = failed.map(|seed| {
        let plan = shrink(Plan::new(seed, STEPS));
        let why = run(&plan.clone().verbose()).err().unwrap_or_default();
        format!("PORTCULLIS_SEED={seed} fails; shrunk to {plan:?}:\n{why}")
    });
    std::panic::set_hook(hook);
    assert!(shrunk.is_none(), "{}", shrunk.unwrap_or_default());
    println!("{tally:?}");
    assert!(
        tally.answered > 0 && tally.notified > 0 && tally.lost > 0 && tally.duplicated > 0 && tally.moved > 0
    );
}
