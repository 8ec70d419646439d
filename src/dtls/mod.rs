//! Datagram to plaintext and proved identity, and back.

pub mod contract;
