//! Sockets, batches of datagrams and errno judgement; nothing of CoAP.
//!
//! | file | what |
//! |---|---|
//! | [`group`] | opening the sockets of a listener: one per worker, in worker order |
//! | [`inherit`] | taking over the sockets that the service manager kept |
//! | [`socket`] | one socket in a worker: read a batch, write a batch |
//! | [`datagram`] | a datagram on its way in or out |
//! | [`options`] | what a socket is asked to tell with each datagram |
//! | [`errno`] | what an errno means for the loop |
//! | [`metrics`] | what is counted |
//! | [`shm`] | where kept state lies without a service manager |
//! | [`memory`] | memory that outlives the process; needs `unsafe` to map it and to hear of a crash |
//! | [`mmsg`] | what needs `unsafe` of sockets: recvmmsg, sendmmsg, two socket options |

pub mod datagram;
pub mod errno;
pub mod group;
pub mod inherit;
pub mod memory;
pub mod metrics;
pub mod mmsg;
pub mod options;
pub mod shm;
pub mod socket;

pub use group::{BindError, Buffers, GroupSpec, RECEIVE_BUFFER, SEND_BUFFER, open_groups, open_stream};
pub use metrics::{ListenerNet, NetMetrics};
pub use mmsg::RecvBatch;
pub use socket::{Outbox, Socket};

#[cfg(test)]
mod tests;
