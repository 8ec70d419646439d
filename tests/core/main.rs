//! The core on a virtual clock: each timer and rule of the RFCs, through the public interface only.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod harness;

mod amplification;
mod blockwise;
mod dedup;
mod message;
mod nstart;
mod observe;
mod requests;
mod retransmit;
mod separate;
mod soup;
