//! The unit file, judged by systemd's own tools. They have to be there: a test that is skipped shows nothing.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name)
}

fn analyze(args: &[&str], unit: &Path) -> Output {
    Command::new("systemd-analyze")
        .args(args)
        .arg(unit)
        .output()
        .expect("systemd-analyze (Debian: systemd) is needed")
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]]
        .map(String::from_utf8_lossy)
        .concat()
}

/// The unit as it can be judged here: the binary and the user of an installed package are replaced by ones that exist.
fn installed(dir: &Path) -> PathBuf {
    let text = std::fs::read_to_string(source("portcullis.service")).unwrap();
    assert!(text.contains("\nUser=portcullis\nGroup=portcullis\n"));
    let text = text
        .replace("/usr/bin/portcullis", env!("CARGO_BIN_EXE_portcullis"))
        .replace(
            "\nUser=portcullis\nGroup=portcullis\n",
            "\nUser=daemon\nGroup=daemon\n",
        );
    let path = dir.join("portcullis.service");
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn the_exposure_of_the_unit_is_1_1_at_most() {
    let output = analyze(
        &["security", "--offline=true", "--threshold=11", "--no-pager"],
        &source("portcullis.service"),
    );
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn the_threshold_is_one_that_a_weaker_unit_exceeds() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(source("portcullis.service")).unwrap();
    let weaker = dir.path().join("portcullis.service");
    std::fs::write(&weaker, text.replace("PrivateUsers=yes\n", "")).unwrap();
    let output = analyze(
        &["security", "--offline=true", "--threshold=11", "--no-pager"],
        &weaker,
    );
    assert!(!output.status.success(), "{}", said(&output));
}

#[test]
fn the_unit_has_no_unknown_or_malformed_line() {
    let dir = tempfile::tempdir().unwrap();
    let output = analyze(&["verify", "--man=no"], &installed(dir.path()));
    assert!(output.status.success(), "{}", said(&output));
    let said = said(&output);
    let ours: Vec<_> = said.lines().filter(|line| line.contains("portcullis")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

/// systemd gives up after 90 s unless told otherwise, and again at every try: it would never start. A memory card gives some
/// 20 MB/s, a spool may have many gigabytes.
#[test]
fn a_start_that_reads_a_large_spool_is_not_broken_off() {
    let text = std::fs::read_to_string(source("portcullis.service")).unwrap();
    let minutes = text
        .lines()
        .find_map(|line| line.strip_prefix("TimeoutStartSec=")?.strip_suffix("min"));
    assert!(minutes.unwrap().parse::<u32>().unwrap() >= 15);
}

/// What the unit says of memory, in percent of the machine's.
fn percent(key: &str) -> u64 {
    let text = std::fs::read_to_string(source("portcullis.service")).unwrap();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_suffix('%'));
    value.unwrap().parse().unwrap()
}

/// The kernel is to hold back or kill only a process that has more than it plans to have.
#[test]
fn all_that_is_planned_fits_below_memory_high() {
    let (high, max) = (percent("MemoryHigh="), percent("MemoryMax="));
    assert!(high < max && max < 100, "{high} {max}");
    let half_open: u64 = include_str!("../config/portcullis.toml")
        .lines()
        .find_map(|line| line.strip_prefix("max_half_open = ")?.split_whitespace().next())
        .unwrap()
        .parse()
        .unwrap();
    let hashing = u64::from(portcullis::auth::settings::AuthCaps::default().hash_memory_kib) << 10;
    let planned = |machine: u64, half_open: u64, hashing: u64| {
        let tables = machine * high / 100 / 4;
        let kept = tables;
        tables + kept + ((half_open * 80) << 10) + hashing + (64 << 20)
    };
    for (mib, half_open, hashing) in [(1024, half_open, hashing), (512, half_open, 0), (256, 256, 0)] {
        let machine = mib << 20;
        let (needs, may) = (planned(machine, half_open, hashing), machine * high / 100);
        assert!(needs <= may, "{mib} MiB: {needs} of {may}");
    }
    assert!(planned(512 << 20, half_open, hashing) > (512 << 20) * high / 100);
}

#[test]
fn the_user_of_the_unit_is_declared() {
    let sysusers = std::fs::read_to_string(source("portcullis.sysusers.conf")).unwrap();
    assert!(
        sysusers.lines().any(|line| line.starts_with("u portcullis ")),
        "{sysusers}"
    );
}
