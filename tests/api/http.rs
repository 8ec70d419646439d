//! HTTP as a test needs it: any method, any header, any body, the answer as JSON.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// The administrator's token of every gateway here that has no tokens of its own.
pub const TOKEN: &str = "0123456789abcdef-of-the-first-start";

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// That it is an error of this status and code.
    #[track_caller]
    pub fn error(self, status: u16, code: &str) -> Value {
        let answer = self.expect(status);
        let body = answer.json();
        assert_eq!(body["code"], code, "{answer:?}");
        assert!(
            body["message"].as_str().is_some_and(|text| !text.is_empty()),
            "{answer:?}"
        );
        body
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(own, _)| own.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Asks with these headers; `Host` is the address, and the token [`TOKEN`], unless they are among them.
pub fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let stream = TcpStream::connect(address).unwrap();
    ask_over(stream, &address.to_string(), method, path, headers, body)
}

/// The same over any stream.
pub fn ask_over(
    stream: impl Read + Write,
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let (mut answer, body) = ask_bytes(stream, host, method, path, headers, body);
    answer.body = String::from_utf8(body).unwrap();
    answer
}

/// The same where the body is no text.
pub fn ask_bytes(
    mut stream: impl Read + Write,
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (Answer, Vec<u8>) {
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str(&format!("Host: {host}\r\n"));
    }
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("authorization"))
    {
        head.push_str(&format!("Authorization: Bearer {TOKEN}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    // The server may refuse before it has read the body.
    drop(stream.write_all(body));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let answer = Answer {
        status,
        headers: lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        body: String::new(),
    };
    (answer, body)
}

pub fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, "GET", path, &[], b"")
}

pub fn delete(address: SocketAddr, path: &str) -> Answer {
    ask(address, "DELETE", path, &[], b"")
}

pub fn put(address: SocketAddr, path: &str) -> Answer {
    ask(address, "PUT", path, &[], b"")
}

/// Asks with a JSON body.
pub fn send(address: SocketAddr, method: &str, path: &str, body: &Value) -> Answer {
    let json = [("Content-Type", "application/json")];
    ask(address, method, path, &json, body.to_string().as_bytes())
}

/// How long a test waits for what should not take long.
pub const PATIENCE: Duration = Duration::from_secs(10);
