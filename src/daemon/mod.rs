//! The process: start, workers, reload, drain, signals.
/// Placeholder in this branch only.
#[must_use]
pub fn run(_: crate::config::Config, _: crate::cli::OnReady) -> std::process::ExitCode {
    std::process::ExitCode::from(70)
}
