//! A datagram on its way in or out.

use std::net::{IpAddr, SocketAddr};

/// A datagram as it was received, with what the kernel says about it.
#[derive(Debug)]
pub struct Datagram<'a> {
    /// Where it came from, as the kernel says: IPv4 may be mapped, the port may be 0.
    pub from: SocketAddr,
    /// Which of our addresses it came to, where the socket asks for it; canonical.
    pub local: Option<IpAddr>,
    /// How many datagrams the socket has dropped so far because its buffer was full; wraps.
    pub drops: Option<u32>,
    /// Whether it was longer than a slot.
    pub truncated: bool,
    /// The UDP payload; DTLS decrypts it in place.
    pub bytes: &'a mut [u8],
}

/// A datagram to send.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Where to, in canonical form.
    pub to: SocketAddr,
    /// The source address; `None` leaves it to the kernel.
    pub source: Option<IpAddr>,
    /// The UDP payload, at most 65,507 bytes over IPv4.
    pub bytes: &'a [u8],
}
