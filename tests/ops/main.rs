//! The operator's side: rules and dashboard against a live scrape, reference pages against the code, and every command of
//! the documents.
//!
//! | file | what it holds against what |
//! |---|---|
//! | `monitoring` | rules and dashboard, against promtool, a live scrape and a running Prometheus |
//! | `reference` | the generated pages of `docs/`, against the code and a live scrape |
//! | `pages` | links and commands of all pages, against the files and a running gateway |
//! | `tasks` | what `docs/tasks.md` has an operator do, against gateway, broker, devices and a small disk |
//! | `recipes` | what `docs/recipes.md` puts together, with the brokers that it names |
//! | `certificates` | the profiles of `certs/`, against the `openssl` command, `certs dev` and a running gateway |
//! | `conformance` | what the standards ask, against the tests that show it |
//! | `threats` | the tests that the threat model names, against the tests that there are (`named_tests`) |
//! | `*.sh` | what needs a system of its own: `make test-deb`, `make test-systemd`, `make reproducible` |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::let_underscore_must_use,
    unreachable_pub,
    dead_code,
    reason = "tests fail by panicking, read the clock, and each test binary uses a part of the support"
)]

#[path = "../support/mod.rs"]
mod support;

mod certificates;
mod conformance;
mod emqx;
mod monitoring;
mod named_tests;
mod pages;
mod recipes;
mod reference;
mod scrape;
mod tasks;
mod threats;

use std::path::{Path, PathBuf};

/// A path in the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of a file in the repository.
fn text_of(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
