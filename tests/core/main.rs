//! The core on a virtual clock: each timer and rule of the RFCs, through the public interface only.

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
