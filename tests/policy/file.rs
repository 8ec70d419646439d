//! The users file, as mosquitto_passwd and others write it.

use std::path::Path;
use std::time::{Duration, Instant};

use portcullis::auth::hash::Scheme;
use portcullis::auth::metrics::{AuthResult, Backend};
use portcullis::auth::settings::{AuthSettings, BackendSettings, FileSettings};
use portcullis::auth::users;
use portcullis::policy::authentication::{DenyReason, IdentityRole, Verdict};
use portcullis::types::{Identity, ListenerId, Proof};

use super::support::{add_user, judge, request, run, settings, start, text};

const BAD: Verdict = Verdict::Deny(DenyReason::BadCredentials);

fn file(path: &Path) -> AuthSettings {
    settings(BackendSettings::File(FileSettings::new(path)))
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_real_mosquitto_passwd_work() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.txt");
    run("mosquitto_passwd", &["-c", "-b", text(&path), "ann", "p w:ü$"]);
    run(
        "mosquitto_passwd",
        &["-H", "sha512", "-b", text(&path), "old", "older"],
    );
    let users = std::fs::read_to_string(&path).unwrap();
    assert!(users.contains("ann:$7$") && users.contains("old:$6$"), "{users}");
    let auth = start(&file(&path));
    assert_eq!(judge(&auth, request("ann", "p w:ü$")).await, Verdict::allow());
    assert_eq!(judge(&auth, request("old", "older")).await, Verdict::allow());
    for (user, password) in [
        ("ann", "older"),
        ("old", "p w:ü$"),
        ("ann", ""),
        ("Ann", "p w:ü$"),
        ("", ""),
        ("bob", "x"),
    ] {
        assert_eq!(judge(&auth, request(user, password)).await, BAD, "{user}");
    }
    let stored = users::parse(&users).unwrap();
    assert!(stored.len() == 2 && stored.values().all(|hash| hash.weakness().is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_files_become_usable_with_mosquitto_passwd_u() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.txt");
    std::fs::write(&path, "ann:secret1\nbob:secret2\n").unwrap();
    let errors = portcullis::auth::start(&file(&path), tokio::runtime::Handle::current()).unwrap_err();
    assert_eq!(
        errors
            .iter()
            .map(|error| error.place.map(|(line, _)| line))
            .collect::<Vec<_>>(),
        [Some(1), Some(2)]
    );
    assert!(!format!("{errors:?}").contains("secret1"));
    run("mosquitto_passwd", &["-U", text(&path)]);
    let auth = start(&file(&path));
    assert_eq!(judge(&auth, request("bob", "secret2")).await, Verdict::allow());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_kinds_of_hashes_stand_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.txt");
    add_user(&path, "ann", "one");
    let mut lines = std::fs::read_to_string(&path).unwrap();
    lines += &format!("bob:{}\n", bcrypt::hash("two", 4).unwrap());
    std::fs::write(&path, lines).unwrap();
    run("mosquitto_passwd", &["-b", text(&path), "carl", "three"]);
    let stored = users::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let schemes = ["ann", "bob", "carl"].map(|name| stored[name].scheme());
    assert_eq!(schemes, [Scheme::Argon2id, Scheme::Bcrypt, Scheme::Pbkdf2Sha512]);
    // As databases of other gateways have them, written by Python's hashlib.
    let salted = [
        (
            "dora",
            "$sha256$prefix$c2FsdA$E2Ab2k6njlWge5iGbSvmvgdE44ZvE8AMgRyrYIoo8yI",
        ),
        (
            "emil",
            "$pbkdf2-sha256$i=1000$c2FsdA$YywoEuRtRgQQK6dhjp1tfS+BKPYma0oDJk0qBGC33LM",
        ),
        ("fred", "$sha1$suffix$c2FsdA$yI6cZwQadOA1e+/f+T+H3eCQQhQ"),
    ];
    let append = |(name, hash): (&str, &str)| {
        let lines = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{lines}{name}:{hash}\n")).unwrap();
    };
    salted[..2].iter().copied().for_each(append);
    let auth = start(&file(&path));
    for (user, password) in [
        ("ann", "one"),
        ("bob", "two"),
        ("carl", "three"),
        ("dora", "password"),
        ("emil", "password"),
    ] {
        assert_eq!(
            judge(&auth, request(user, password)).await,
            Verdict::allow(),
            "{user}"
        );
        assert_eq!(judge(&auth, request(user, "four")).await, BAD, "{user}");
    }
    assert_eq!(auth.metrics().get(Backend::File, AuthResult::Allowed), 5);
    assert_eq!(auth.metrics().get(Backend::File, AuthResult::Denied), 5);
    append(salted[2]);
    let errors = portcullis::auth::start(&file(&path), tokio::runtime::Handle::current()).unwrap_err();
    assert!(errors[0].message.contains("legacy_hashes = true"), "{errors:?}");
    let mut legacy = FileSettings::new(&path);
    legacy.legacy_hashes = true;
    let auth = start(&settings(BackendSettings::File(legacy)));
    assert_eq!(judge(&auth, request("fred", "password")).await, Verdict::allow());
    assert_eq!(judge(&auth, request("fred", "saltpassword")).await, BAD);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_refused_and_an_empty_file_lets_nobody_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.txt");
    std::fs::write(&path, "# nobody yet\n").unwrap();
    let auth = start(&file(&path));
    assert_eq!(judge(&auth, request("ann", "")).await, BAD);
    let mut nameless = request("ann", "x");
    nameless.username = None;
    assert_eq!(
        judge(&auth, nameless).await,
        Verdict::Deny(DenyReason::MissingCredentials)
    );
    let mut open = request("ann", "x");
    open.password = None;
    assert_eq!(
        judge(&auth, open).await,
        Verdict::Deny(DenyReason::MissingCredentials)
    );
    assert_eq!(judge(&auth, request("ann", &"x".repeat(20_000))).await, BAD);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proved_identity_needs_no_password_but_does_not_excuse_a_wrong_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.txt");
    add_user(&path, "ann", "one");
    let mut settings = file(&path);
    settings
        .per_listener
        .insert(ListenerId(1), BackendSettings::Identity);
    let auth = start(&settings);
    let mut asked = request("dev", "");
    asked.password = None;
    assert_eq!(
        judge(&auth, asked.clone()).await,
        Verdict::Deny(DenyReason::MissingCredentials)
    );
    asked.identity_role = IdentityRole::Username;
    assert_eq!(
        judge(&auth, asked.clone()).await,
        Verdict::Deny(DenyReason::MissingCredentials)
    );
    asked.identity = Some(Identity::new("dev", Proof::Psk));
    assert_eq!(judge(&auth, asked.clone()).await, Verdict::allow());
    asked.identity_role = IdentityRole::None;
    assert_eq!(
        judge(&auth, asked.clone()).await,
        Verdict::Deny(DenyReason::MissingCredentials)
    );
    let mut wrong = request("ann", "two");
    wrong.identity = asked.identity.clone();
    wrong.identity_role = IdentityRole::ClientId;
    assert_eq!(judge(&auth, wrong).await, BAD);

    let mut second = request("ann", "one");
    second.listener = ListenerId(1);
    assert_eq!(
        judge(&auth, second.clone()).await,
        Verdict::Deny(DenyReason::MissingCredentials)
    );
    second.identity = asked.identity;
    second.identity_role = IdentityRole::Username;
    assert_eq!(judge(&auth, second).await, Verdict::allow());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_users_and_a_broken_file_keeps_the_old_ones_and_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.txt");
    run("mosquitto_passwd", &["-c", "-b", text(&path), "ann", "one"]);
    let mut settings = file(&path);
    settings.cache = Duration::from_secs(60);
    let auth = start(&settings);
    assert_eq!(judge(&auth, request("ann", "one")).await, Verdict::allow());
    assert_eq!(judge(&auth, request("ann", "one")).await, Verdict::allow());
    assert_eq!(auth.metrics().get(Backend::File, AuthResult::Cached), 1);

    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{good}# fine\nbob\ncarl:hunter2\n")).unwrap();
    let errors = auth.reload(&settings).unwrap_err();
    let shown: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert!(
        shown[0].starts_with(&format!("{}:3:", path.display())),
        "{shown:?}"
    );
    assert!(
        shown[1].starts_with(&format!("{}:4:", path.display())) && !shown[1].contains("hunter2"),
        "{shown:?}"
    );
    std::fs::remove_file(&path).unwrap();
    assert_eq!(auth.reload(&settings).unwrap_err()[0].file, path);
    assert_eq!(judge(&auth, request("ann", "one")).await, Verdict::allow());

    add_user(&path, "ann", "two");
    auth.reload(&settings).unwrap();
    assert_eq!(judge(&auth, request("ann", "one")).await, BAD);
    assert_eq!(judge(&auth, request("ann", "two")).await, Verdict::allow());
}

/// Medians of interleaved tries, so that what else the machine does falls on all alike.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_user_takes_as_long_as_a_wrong_password() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.txt");
    add_user(&path, "ann", "one");
    let auth = start(&file(&path));
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..21 {
        for (which, user) in [(0, "ann".to_owned()), (1, format!("nobody{round}"))] {
            let begin = Instant::now();
            assert_eq!(judge(&auth, request(&user, "wrong")).await, BAD);
            times[which].push(begin.elapsed());
        }
    }
    // The shortest: what others do on the machine only adds to it.
    let [known, unknown] = times.map(|times| times.into_iter().min().unwrap());
    assert!(
        known < unknown * 2 && unknown < known * 2,
        "{known:?} {unknown:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_that_needs_more_memory_than_there_is_for_all_is_refused_when_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.txt");
    add_user(&path, "ann", "one");
    let mut settings = file(&path);
    settings.caps.hash_memory_kib = 1024;
    let errors = portcullis::auth::start(&settings, tokio::runtime::Handle::current()).unwrap_err();
    assert_eq!(errors[0].place.map(|(line, _)| line), Some(1));
    assert!(errors[0].message.contains("19456"), "{}", errors[0]);
}

#[test]
fn a_broken_acl_file_says_where() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("acl");
    std::fs::write(&path, "user ann\ntopic read a\n").unwrap();
    assert!(portcullis::auth::load_acl(&path).is_ok());
    std::fs::write(&path, "user ann\ntopic reed a\nallow b\n").unwrap();
    let errors = portcullis::auth::load_acl(&path).unwrap_err();
    assert_eq!(
        errors
            .iter()
            .map(|error| error.place.map(|(line, _)| line))
            .collect::<Vec<_>>(),
        [Some(2), Some(3)]
    );
    assert!(
        errors[0]
            .to_string()
            .starts_with(&format!("{}:2:", path.display()))
    );
}
