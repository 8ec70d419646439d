//! CoAP over TCP, TLS and WebSockets (RFC 8323).
//!
//! | file | what |
//! |---|---|
//! | [`frame`] | messages in a stream of bytes |
//! | [`signal`] | signalling messages |
//! | [`listener`] | the streams of one worker, as the gateway knows sessions; pure |
//! | [`gate`] | where connections come in: caps, TLS, the way to a worker |
//! | `websocket` | a WebSocket as such a stream |
//! | `connection` | one connection: reading, writing, time-outs |
//! | [`source`] | what opens a listener on a worker |
//! | [`metrics`] | what is counted |

mod connection;
pub mod frame;
pub mod gate;
pub mod listener;
pub mod metrics;
pub mod signal;
pub mod source;
mod web_frames;
mod websocket;

pub use connection::{FromStream, StreamHandle, Told};
pub use gate::{Gate, GateSettings};
pub use listener::StreamListener;
pub use metrics::{GateMetrics, StreamMetrics};
pub use source::StreamSource;
