//! What the black-box tests share: the built gateway as a process, a CoAP client of its own over UDP and DTLS.
//!
//! Nothing here uses the product's code or its CoAP library, so a fault there cannot hide itself.

#![allow(unused_imports, reason = "each test binary uses a part of this")]

pub mod certs;
pub mod client;
pub mod coap;
pub mod config;
pub mod dtls;
pub mod gateway;
pub mod http;
pub mod jwt;
pub mod pki;
pub mod ports;
pub mod stream;
pub mod web;
pub mod websocket;

pub use client::{Client, Reaction};
pub use coap::{Message, Request, code, option, typ};
pub use config::Config;
pub use gateway::{Gateway, Kind, PSK_IDENTITIES, psk_of};

/// Runs each test function once over plain UDP and once over DTLS.
#[macro_export]
macro_rules! each_transport {
    ($($name:ident),+ $(,)?) => {
        mod udp {
            $(#[test] fn $name() { super::$name($crate::support::Kind::Udp); })+
        }
        mod dtls {
            $(#[test] fn $name() { super::$name($crate::support::Kind::Dtls); })+
        }
    };
}

/// Waits until `condition` holds; panics with `what` when it is in vain.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + client::PATIENCE;
    while !condition() {
        assert!(
            std::time::Instant::now() < end,
            "not within {:?}: {what}",
            client::PATIENCE
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// `std::time::Duration::from_millis`, short.
pub const fn ms(n: u64) -> std::time::Duration {
    std::time::Duration::from_millis(n)
}
