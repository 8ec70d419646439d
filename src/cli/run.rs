//! `run`.

use std::path::Path;
use std::process::ExitCode;

use crate::config::{self, Config};

use super::args::RunArgs;
use super::exit::Failure;
use super::{Serve, output, quickstart};

/// Serves until told to stop.
pub(super) fn run(args: &RunArgs, serve: Serve) -> Result<ExitCode, Failure> {
    match &args.config {
        Some(file) => Ok(serve(from_file(file)?, Box::new(|| {}))),
        None => {
            let start = quickstart::prepare(&quickstart::state_dir()?)?;
            let greeting = start.greeting();
            let config = start.config;
            Ok(serve(
                config,
                Box::new(move || {
                    if let Err(failure) = output::print(&greeting) {
                        output::error(&failure.message);
                    }
                }),
            ))
        }
    }
}

fn from_file(file: &Path) -> Result<Config, Failure> {
    let loaded = config::load(file)?;
    if !loaded.warnings.0.is_empty() {
        output::note(&format!("portcullis: warning: {}", loaded.warnings));
    }
    Ok(loaded.config)
}
