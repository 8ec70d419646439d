//! How much may wait, for whom, and what is never written down.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portcullis::auth::Full;
use portcullis::auth::metrics::{AuthResult, Backend};
use portcullis::auth::settings::{
    AuthSettings, BackendSettings, FileSettings, HttpSettings, JwtKeys, JwtSettings,
};
use portcullis::policy::authentication::{AuthRequest, DenyReason, Verdict};
use portcullis::policy::failures::Class;
use portcullis::types::PeerAddr;

use super::support::{Server, add_user, judge, request, settings, start, submit};

fn from(source: &str) -> AuthRequest {
    let peer = PeerAddr::new(source.parse().unwrap()).unwrap();
    AuthRequest {
        peer,
        ..request("ann", "right")
    }
}

async fn slow_server() -> (Server, AuthSettings) {
    let server = Server::start(None, Duration::from_millis(300), |_| (204, String::new())).await;
    let url = format!("http://127.0.0.1:{}/", server.port);
    (server, settings(BackendSettings::Http(HttpSettings::new(&url))))
}

#[tokio::test(flavor = "multi_thread")]
async fn full_is_told_at_once_and_room_comes_back() {
    let (_server, mut settings) = slow_server().await;
    settings.caps.pending = 8;
    let auth = start(&settings);
    let mut waiting = Vec::new();
    for n in 0..8 {
        waiting.push(submit(&auth, from(&format!("127.0.0.{n}:9")), Class::Proven).unwrap());
    }
    assert_eq!(
        submit(&auth, from("127.0.0.99:9"), Class::Proven).err(),
        Some(Full)
    );
    assert_eq!(auth.metrics().get(Backend::Http, AuthResult::Full), 1);
    for answer in waiting {
        assert_eq!(answer.await.unwrap(), Verdict::allow());
    }
    assert_eq!(auth.waiting(), 0);
    assert_eq!(judge(&auth, from("127.0.0.99:9")).await, Verdict::allow());
}

#[tokio::test(flavor = "multi_thread")]
async fn unproven_peers_and_single_sources_cannot_take_all_the_room() {
    let (_server, mut settings) = slow_server().await;
    settings.caps.pending = 16;
    let auth = start(&settings);
    let take = |source: String, class| submit(&auth, from(&source), class);
    let unproven: Vec<_> = (0..100)
        .filter_map(|n| take(format!("127.0.1.{n}:9"), Class::Unproven).ok())
        .collect();
    assert_eq!(unproven.len(), 8);
    let single: Vec<_> = (0..100)
        .filter_map(|n| take(format!("127.0.2.1:{}", n + 1), Class::Proven).ok())
        .collect();
    assert_eq!(single.len(), 4);
    let honest = take("127.0.3.1:9".into(), Class::Proven).unwrap();
    assert_eq!(honest.await.unwrap(), Verdict::allow());
    for answer in unproven.into_iter().chain(single) {
        assert_eq!(answer.await.unwrap(), Verdict::allow());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_takes_too_long_is_unavailable_and_leaves_its_room() {
    let (_server, mut settings) = slow_server().await;
    settings.caps.deadline = Duration::from_millis(50);
    let auth = start(&settings);
    assert_eq!(judge(&auth, from("127.0.0.1:9")).await, Verdict::Unavailable);
    assert_eq!(auth.metrics().get(Backend::Http, AuthResult::Unavailable), 1);
    assert_eq!(auth.waiting(), 0);
}

/// One hasher of two cores, as the default is: what hands logins in and what else runs never waits for a hash.
#[tokio::test(flavor = "multi_thread")]
async fn eight_parallel_logins_hold_up_nobody_who_hands_one_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.txt");
    add_user(&path, "ann", "right");
    let mut settings = settings(BackendSettings::File(FileSettings::new(path)));
    settings.caps.hashers = 1;
    // Memory for one hash only: the others wait for it.
    settings.caps.hash_memory_kib = 20 << 10;
    let auth = start(&settings);
    let begin = Instant::now();
    let waiting: Vec<_> = (0..8)
        .map(|_| submit(&auth, request("ann", "right"), Class::Proven).unwrap())
        .collect();
    let handed_in = begin.elapsed();
    for answer in waiting {
        assert_eq!(answer.await.unwrap(), Verdict::allow());
    }
    let done = begin.elapsed();
    assert!(handed_in < done / 8, "{handed_in:?} of {done:?}");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Everything that any crate logs while backends of all kinds work and fail.
#[test]
fn secrets_are_in_no_log_at_any_level() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users.txt");
        add_user(&file, "ann", "hunter2-password");
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "hunter2-secret").unwrap();
        let server = Server::start(None, Duration::ZERO, |_| (500, "hunter2-answer".to_owned())).await;
        let mut http = HttpSettings::new(&format!("http://127.0.0.1:{}/?k=hunter2-query", server.port));
        http.headers.insert("X-Key".into(), "hunter2-header".into());
        let token = dir.path().join("token");
        std::fs::write(&token, "hunter2-token").unwrap();
        http.token_file = Some(token);
        let backends = [
            BackendSettings::File(FileSettings::new(&file)),
            BackendSettings::Http(http),
            BackendSettings::Jwt(JwtSettings::new(JwtKeys::File { path: secret.clone() })),
        ];
        for backend in backends {
            let mut settings = settings(backend);
            settings.cache = Duration::from_secs(9);
            let auth = start(&settings);
            for password in ["hunter2-password", "hunter2-wrong", "hunter2.hunter2.hunter2"] {
                let asked = request("ann", password);
                let verdict = judge(&auth, asked.clone()).await;
                tracing::info!(
                    ?asked,
                    ?auth,
                    ?settings,
                    ?verdict,
                    "logged as a careless caller would"
                );
            }
        }
        std::fs::write(&file, "ann:hunter2-plain\n").unwrap();
        let broken = settings(BackendSettings::File(FileSettings::new(file)));
        let errors = portcullis::auth::start(&broken, tokio::runtime::Handle::current()).unwrap_err();
        tracing::error!(?errors, "{}", errors[0]);
    });
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        text.contains("logins cannot be decided") && text.contains("careless"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
    // Byte lists, as a derived Debug of the password would print.
    assert!(!text.contains("104, 117, 110"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_user_a_wrong_password_and_a_wrong_token_are_told_alike() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.txt");
    add_user(&path, "ann", "right");
    let auth = start(&settings(BackendSettings::File(FileSettings::new(path))));
    let mut wordings = vec![DenyReason::BadToken.wording(), DenyReason::Refused.wording()];
    for (user, password) in [("ann", "wrong"), ("bob", "right")] {
        let Verdict::Deny(reason) = judge(&auth, request(user, password)).await else {
            panic!("let in");
        };
        wordings.push(reason.wording());
    }
    wordings.dedup();
    assert_eq!(wordings.len(), 1, "{wordings:?}");
}
