//! The core composed: one [`contract::Input`], one [`contract::Output`], one deadline.

pub mod contract;
pub mod settings;
pub mod workers;
