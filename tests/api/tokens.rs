//! Tokens over the API: shown once, in force at once, gone at once.

use serde_json::json;

use crate::PLAIN;
use crate::http::{TOKEN, ask, delete, get, send};
use crate::site::Served;

fn status_by(served: &Served, token: &str, method: &str, path: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    ask(served.address, method, path, &[("Authorization", &bearer)], b"").status
}

#[test]
fn a_token_is_shown_once_counts_at_once_and_is_gone_at_once() {
    let served = Served::start(PLAIN);
    let post = |body| send(served.address, "POST", "/api/v1/tokens", &body);
    let made = post(json!({"name": "ci-4", "role": "readonly", "for": "2h"})).expect(201);
    assert_eq!(made.header("cache-control"), Some("no-store"));
    let made = made.json();
    let token = made["token"].as_str().unwrap();
    assert_eq!(
        (token.len(), &made["role"], &made["expired"]),
        (32, &json!("readonly"), &json!(false))
    );
    assert!(made["until"].is_string(), "{made}");
    assert_eq!(status_by(&served, token, "GET", "/api/v1/status"), 200);
    assert_eq!(status_by(&served, token, "POST", "/api/v1/reload"), 403);
    assert_eq!(status_by(&served, token, "POST", "/api/v1/tokens"), 403);
    post(json!({"name": "ci-4", "role": "admin"})).error(409, "exists");
    post(json!({"name": "admin.token", "role": "admin"})).error(409, "exists");
    let all = get(served.address, "/api/v1/tokens").expect(200);
    assert!(
        !all.body.contains(token) && !all.body.contains("sha256"),
        "{all:?}"
    );
    let all = all.json();
    let names: Vec<_> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["admin.token", "ci-4"]);
    let kept = std::fs::read_to_string(served.path("state").join("tokens")).unwrap();
    assert!(kept.starts_with("ci-4 readonly sha256:") && !kept.contains(token));
    delete(served.address, "/api/v1/tokens/ci-4").expect(204);
    assert_eq!(status_by(&served, token, "GET", "/api/v1/status"), 401);
    delete(served.address, "/api/v1/tokens/ci-4").error(404, "not_found");
    // The first token goes, and the next is in its file.
    delete(served.address, "/api/v1/tokens/admin.token").expect(204);
    assert_eq!(status_by(&served, TOKEN, "GET", "/api/v1/status"), 401);
    let next = std::fs::read_to_string(served.path("state").join("admin.token")).unwrap();
    assert_eq!(status_by(&served, next.trim(), "GET", "/api/v1/status"), 200);
}

#[test]
fn a_token_that_is_none_is_refused() {
    let served = Served::start(PLAIN);
    for body in [
        json!({"name": "a"}),
        json!({"name": "", "role": "admin"}),
        json!({"name": "a b", "role": "admin"}),
        json!({"name": "a\nb", "role": "admin"}),
        json!({"name": "a", "role": "root"}),
        json!({"name": "a", "role": "admin", "until": "2001-01-01T00:00:00Z"}),
        json!({"name": "a", "role": "admin", "until": "2999-01-01T00:00:00Z", "for": "1h"}),
        json!({"name": "a", "role": "admin", "for": "soon"}),
        json!({"name": "a", "role": "admin", "token": "chosen-by-the-client"}),
    ] {
        send(served.address, "POST", "/api/v1/tokens", &body).error(400, "bad_request");
    }
    assert!(!served.path("state").join("tokens").exists());
}
