//! What runs out by itself: certificates, and the room on the disk.

use std::path::Path;

use super::{Finding, Verdict, finding};
use crate::cli::remote::status;
use crate::config::{BrokerUrl, Config, certificates_not_after};
use crate::daemon::clock;

const DAY: i64 = 24 * 60 * 60;
/// When the alert PortcullisCertificateExpires rings.
const SOON: i64 = 14 * DAY;
/// A file of the stores grows by so much at a time.
const LEAST_ROOM: u64 = 1 << 20;

/// The certificates that the configuration names and that have ended or are about to; when the first ends, where none is.
pub(super) fn certificates(config: &Config) -> Vec<Finding> {
    let now = clock::unix_seconds().cast_signed();
    let left: Vec<(String, i64)> = files(config)
        .into_iter()
        .filter_map(|(key, file)| Some((key, certificates_not_after(file)? - now)))
        .collect();
    let due: Vec<Finding> = left
        .iter()
        .filter(|(_, left)| *left < SOON)
        .map(|(key, left)| ending(key, *left))
        .collect();
    match left.iter().map(|(_, left)| left).min() {
        Some(first) if due.is_empty() => vec![finding(
            Verdict::Good,
            "certificates",
            format!("the first ends in {} days", first / DAY),
        )],
        _ => due,
    }
}

fn ending(key: &str, left: i64) -> Finding {
    let mend = "put a new one in its place, then `portcullis reload`";
    if left <= 0 {
        return finding(Verdict::Bad, "certificates", format!("{key} has ended: {mend}"));
    }
    let when = match left / DAY {
        0 => "within a day".to_owned(),
        1 => "in 1 day".to_owned(),
        days => format!("in {days} days"),
    };
    finding(
        Verdict::Warning,
        "certificates",
        format!("{key} ends {when}: {mend}"),
    )
}

/// Files with certificates, each with the key that names it.
fn files(config: &Config) -> Vec<(String, &Path)> {
    let mut all = Vec::new();
    for listener in &config.listeners {
        let Some(dtls) = &listener.dtls else { continue };
        let key = listener.key();
        all.push((format!("{key}.cert_file"), &dtls.handshake.cert_file));
        all.push((format!("{key}.ca_file"), &dtls.handshake.ca_file));
    }
    all.extend([
        ("broker.ca_file".to_owned(), &config.broker.ca_file),
        ("broker.cert_file".to_owned(), &config.broker.cert_file),
        ("admin.cert_file".to_owned(), &config.admin.cert_file),
    ]);
    let more = config.listeners.iter().filter_map(|listener| {
        let dtls = listener.dtls.as_ref()?;
        Some((
            format!("{}.certificates", listener.key()),
            &dtls.handshake.certificates,
        ))
    });
    let more = more.flat_map(|(key, files)| {
        files
            .iter()
            .map(move |file| (key.clone(), file.cert_file.as_path()))
    });
    let named = all
        .into_iter()
        .filter_map(|(key, file)| Some((key, file.as_deref()?)));
    named.chain(more).collect()
}

/// The room that is left for what is kept in the state directory; nothing before there is one.
pub(super) fn room(config: &Config) -> Option<Finding> {
    let path = &config.node.state_dir;
    let disk = rustix::fs::statvfs(path).ok()?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let shown = format!("{} free for {}", status::bytes(free), path.display());
    let spool = config.broker.spool.max_bytes.0;
    let spools = config.broker.url != BrokerUrl::Embedded;
    Some(if free < LEAST_ROOM {
        finding(
            Verdict::Bad,
            "disk",
            format!(
                "{shown}: retained messages and publishes for the spool are refused (5.03) until there is room"
            ),
        )
    } else if spools && free < spool {
        finding(
            Verdict::Warning,
            "disk",
            format!("{shown}: less than broker.spool.max_bytes"),
        )
    } else {
        finding(Verdict::Good, "disk", shown)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_ends_is_told_with_its_key_and_the_time_that_is_left() {
        for (left, verdict, words) in [
            (-1, Verdict::Bad, "admin.cert_file has ended: "),
            (DAY - 1, Verdict::Warning, "admin.cert_file ends within a day: "),
            (2 * DAY - 1, Verdict::Warning, "admin.cert_file ends in 1 day: "),
            (9 * DAY, Verdict::Warning, "admin.cert_file ends in 9 days: "),
        ] {
            let found = ending("admin.cert_file", left);
            assert!(found.words.starts_with(words), "{}", found.words);
            assert_eq!(found.verdict, verdict, "{words}");
        }
    }
}
