//! Credentials: who is asked about, who is remembered, what guessing costs.

use super::*;
use crate::types::ClientId;

fn with_logins() -> Site {
    let mut settings = settings(1);
    settings.connection_required = false;
    settings.listeners[0].authentication = true;
    Site::with(settings)
}

#[test]
fn right_credentials_are_asked_about_once_and_then_no_burst_of_theirs_is_throttled() {
    let mut site = with_logins();
    assert_eq!(site.publish_as(1000, "right"), []);
    assert_eq!(site.judge(1000), [ResponseType::Changed]);
    for _ in 0..100 {
        assert_eq!(site.publish_as(1000, "right"), [ResponseType::Changed]);
    }
    assert!(site.logins.is_empty());
    assert_eq!(site.publish_as(1000, "wrong"), []);
    assert_eq!(site.logins.len(), 1);
    site.now += Duration::from_secs(10);
    assert_eq!(site.publish_as(1000, "right"), []);
    assert_eq!(site.logins.len(), 2);
}

#[test]
fn a_reload_forgets_who_was_right_and_who_was_asked_about_before_it() {
    let mut site = with_logins();
    site.publish_as(1000, "right");
    site.judge(1000);
    site.publish_as(2000, "wrong");
    site.publish_as(1000, "other");
    site.now += Duration::from_secs(1);
    let settings = Arc::clone(&site.workers[0].settings);
    let request = ControlRequest::Reconfigure { settings };
    site.workers[0].handle(site.now, Input::Control { ticket: 1, request });
    while site.workers[0].poll_output().is_some() {}
    for (_, request) in std::mem::take(&mut site.logins) {
        let (ticket, verdict) = (request.ticket, Verdict::allow());
        site.workers[0].handle(site.now, Input::Authenticated { ticket, verdict });
        site.settle();
    }
    for password in ["right", "other"] {
        assert_eq!(site.sent(0, 1000).len().min(1), usize::from(password == "right"));
        assert_eq!(site.publish_as(1000, password), [], "{password}");
    }
}

#[test]
fn wrong_credentials_in_flight_are_throttled_and_right_ones_give_back_what_they_took() {
    let mut site = with_logins();
    let burst: Vec<_> = (0..5).flat_map(|_| site.publish_as(1000, "wrong")).collect();
    assert_eq!(burst, [ResponseType::TooManyRequests; 2]);
    assert_eq!(site.judge(1000), [ResponseType::Unauthorized; 3]);
    assert_eq!(site.publish_as(1000, "right"), [ResponseType::TooManyRequests]);
    site.now += Duration::from_secs(20);
    for _ in 0..5 {
        assert_eq!(site.publish_as(1000, "right"), []);
        assert_eq!(site.judge(1000), [ResponseType::Changed]);
        site.now += Duration::from_secs(11);
    }
}

#[test]
fn a_token_in_place_of_the_user_name_is_shown_to_the_backend_and_to_nobody_else() {
    const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl";
    for (is_token, known_as) in [(true, None), (false, Some(TOKEN))] {
        let mut settings = settings(1);
        settings.listeners[0].authentication = true;
        settings.listeners[0].token_in_username = is_token;
        settings.mountpoint = "of/${username}/".into();
        let mut site = Site::with(settings);
        let username = format!("username={TOKEN}");
        let create = site.request(
            RequestType::Post,
            "mqtt/connection",
            &["clientid=meter", &username],
        );
        assert_eq!(site.ask(0, 1000, &create), []);
        let (_, request) = site.logins.pop().unwrap();
        assert_eq!(request.username.as_deref(), Some(TOKEN));
        assert!(!format!("{request:?}").contains("eyJ"));
        let (ticket, verdict) = (request.ticket, Verdict::allow());
        site.workers[0].handle(site.now, Input::Authenticated { ticket, verdict });
        site.settle();
        let client = ClientId::new("meter").unwrap();
        let connection = site.workers[0].connections.of_client(&client).unwrap();
        assert_eq!(connection.username.as_deref(), known_as);
    }
}
