//! Plaintext to exchange: message layer, reliability, block-wise transfer, observe.

pub mod contract;
