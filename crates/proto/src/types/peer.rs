//! Where a datagram came from and which of our sockets it came to.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU16;

use crate::state::ReadBytes;

/// The address of a peer, and the one of ours that it wrote to where the socket has several: whoever writes to two of ours is two peers,
/// as the answers and notifications of each must come from where it wrote to (RFC 7252, 5.3.2). Source port 0 cannot be answered, so it
/// cannot be represented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerAddr {
    /// IPv4 is mapped.
    ip: Ipv6Addr,
    scope: u32,
    port: NonZeroU16,
    /// Unspecified where the socket has one address only.
    local: Ipv6Addr,
}

/// The first bytes of what stands in the place of an address of ours for a peer whose datagrams reach another node: of 0100::/8 there
/// are no hosts (RFC 4291, 2.4; RFC 6666).
const ELSEWHERE: [u8; 2] = [1, 0];

/// Bytes that tell the process of a node from the next one.
pub const PROCESS: usize = 6;

/// The way back to a peer whose datagrams reach another node of the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Via {
    /// The node.
    pub node: u16,
    /// The first bytes of what its process drew at its start: only that one knows what the numbers are for.
    pub process: [u8; PROCESS],
    /// Its number for the address of its own that the peer writes to.
    pub local: u16,
    /// What names the listener there: the lower half of that.
    pub listener: u32,
}

impl PeerAddr {
    /// The same peer, reached by another node only. As with addresses of ours, who writes to two nodes is two peers.
    #[must_use]
    pub fn reached_by(mut self, via: Via) -> Self {
        let mut octets = [0; 16];
        let parts = [
            &ELSEWHERE[..],
            &via.node.to_be_bytes(),
            &via.process,
            &via.local.to_be_bytes(),
            &via.listener.to_be_bytes(),
        ];
        let all = parts.into_iter().flatten();
        octets.iter_mut().zip(all).for_each(|(to, from)| *to = *from);
        self.local = Ipv6Addr::from(octets);
        self
    }

    /// By which node the peer is reached, where it is not this one.
    #[must_use]
    pub fn via(self) -> Option<Via> {
        let octets = self.local.octets();
        let mut bytes = ReadBytes(octets.strip_prefix(&ELSEWHERE)?);
        Some(Via {
            node: bytes.u16()?,
            process: bytes.array()?,
            local: bytes.u16()?,
            listener: bytes.u32()?,
        })
    }

    /// The address, or nothing when its port is 0. IPv4-mapped IPv6 addresses become IPv4. A link-local address keeps its
    /// scope: without it there is no way back.
    #[must_use]
    pub fn new(addr: SocketAddr) -> Option<Self> {
        Some(Self {
            ip: mapped(addr.ip()),
            scope: match addr {
                SocketAddr::V4(_) => 0,
                SocketAddr::V6(v6) => v6.scope_id(),
            },
            port: NonZeroU16::new(addr.port())?,
            local: Ipv6Addr::UNSPECIFIED,
        })
    }

    /// The same peer, where it wrote to this address of ours. Nothing can be sent from a multicast or broadcast address: then the kernel
    /// chooses.
    #[must_use]
    pub fn writing_to(mut self, local: Option<IpAddr>) -> Self {
        let can_be_source = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast(),
            IpAddr::V6(ip) => !ip.is_multicast(),
        };
        self.local = local.filter(can_be_source).map_or(Ipv6Addr::UNSPECIFIED, mapped);
        self
    }

    /// The address of ours that what is sent to the peer must come from; `None` leaves the choice to the kernel.
    #[must_use]
    pub fn local(self) -> Option<IpAddr> {
        (!self.local.is_unspecified()).then(|| self.local.to_canonical())
    }

    /// The socket address, in canonical form.
    #[must_use]
    pub fn socket_addr(self) -> SocketAddr {
        let port = self.port.get();
        match self.ip() {
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.scope).into(),
            ip => SocketAddr::new(ip, port),
        }
    }

    /// As bytes, for what outlives the process.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 38] {
        let mut bytes = [0; 38];
        let parts = [
            &self.ip.octets()[..],
            &self.local.octets(),
            &self.scope.to_be_bytes(),
            &self.port.get().to_be_bytes(),
        ];
        let all = parts.into_iter().flatten();
        bytes.iter_mut().zip(all).for_each(|(to, from)| *to = *from);
        bytes
    }

    /// The address that [`Self::to_bytes`] wrote down.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 38]) -> Option<Self> {
        let (ip, rest) = bytes.split_first_chunk::<16>()?;
        let (local, rest) = rest.split_first_chunk::<16>()?;
        let (scope, port) = rest.split_first_chunk::<4>()?;
        Some(Self {
            ip: Ipv6Addr::from(*ip),
            scope: u32::from_be_bytes(*scope),
            port: NonZeroU16::new(u16::from_be_bytes(*port.first_chunk()?))?,
            local: Ipv6Addr::from(*local),
        })
    }

    /// The IP address, in canonical form.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        self.ip.to_canonical()
    }

    /// What per-source limits count by: an IPv4 address, or the /64 of an IPv6 address.
    #[must_use]
    pub fn source(self) -> IpAddr {
        match self.ip() {
            ip @ IpAddr::V4(_) => ip,
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        }
    }
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket_addr().fmt(f)
    }
}

/// Index of a listener in the order of the checked configuration; the same in every worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u16);

/// Index of a worker; the first byte of each DTLS Connection ID that it hands out, and of each id that it gives to a peer, a
/// connection or an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u8);

impl WorkerId {
    /// The worker that gave an id.
    #[must_use]
    pub const fn of(id: u64) -> Self {
        Self((id >> 56) as u8)
    }

    /// What the ids of this worker count from.
    #[must_use]
    pub(crate) const fn first_id(self) -> u64 {
        (self.0 as u64) << 56
    }
}

/// How a peer speaks to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// CoAP over plain UDP.
    Udp,
    /// CoAP over DTLS 1.2.
    Dtls,
    /// CoAP over TCP (RFC 8323).
    Tcp,
    /// CoAP over TLS 1.2 or 1.3 (RFC 8323).
    Tls,
}

impl Transport {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Udp, Self::Dtls, Self::Tcp, Self::Tls];

    /// The metric label and API word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Dtls => "dtls",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// Whether its messages travel in streams, and not in datagrams.
    #[must_use]
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }

    /// Whether it proves who the gateway is, and may prove who a peer is.
    #[must_use]
    pub(crate) const fn is_secure(self) -> bool {
        matches!(self, Self::Dtls | Self::Tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn source_port_zero_is_not_a_peer() {
        assert!(PeerAddr::new("127.0.0.1:0".parse().unwrap()).is_none());
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address() {
        let peer = PeerAddr::new("[::ffff:192.0.2.1]:5683".parse().unwrap()).unwrap();
        assert_eq!(peer.to_string(), "192.0.2.1:5683");
    }

    #[test]
    fn who_writes_to_two_addresses_of_ours_is_two_peers() {
        let peer = PeerAddr::new("192.0.2.1:5683".parse().unwrap()).unwrap();
        let to = |local: &str| peer.writing_to(local.parse().ok());
        assert_ne!(to("198.51.100.1"), to("198.51.100.2"));
        assert_eq!(to("198.51.100.1").local(), "198.51.100.1".parse().ok());
        assert_eq!(to("::ffff:198.51.100.1"), to("198.51.100.1"));
        assert_eq!(to("198.51.100.1").socket_addr(), peer.socket_addr());
        for none in ["224.0.1.187", "255.255.255.255", "ff02::fd", "::", ""] {
            assert_eq!((to(none), to(none).local()), (peer, None), "{none}");
        }
    }

    #[test]
    fn a_peer_that_is_reached_by_another_node_is_another_peer_and_keeps_its_way_back() {
        let peer = PeerAddr::new("192.0.2.1:5683".parse().unwrap()).unwrap();
        let via = Via {
            node: 0xfffe,
            process: [1, 2, 3, 4, 5, 255],
            local: 7,
            listener: 0x8000_0001,
        };
        let there = peer.reached_by(via);
        assert_eq!(there.via(), Some(via));
        assert_eq!(PeerAddr::from_bytes(&there.to_bytes()), Some(there));
        assert_ne!(there, peer);
        // The next process of that node has other addresses under the same numbers.
        let process = [1, 2, 3, 4, 5, 254];
        assert_ne!(peer.reached_by(Via { process, ..via }), there);
        assert_eq!(there.writing_to(None), peer);
        for local in ["198.51.100.1", "2001:db8::1", "::"] {
            assert_eq!(peer.writing_to(local.parse().ok()).via(), None);
        }
    }

    #[test]
    fn a_link_local_peer_keeps_its_scope_and_loses_its_flow_label() {
        let from = SocketAddrV6::new("fe80::1".parse().unwrap(), 5683, 7, 2);
        let peer = PeerAddr::new(from.into()).unwrap();
        assert_eq!(peer.to_string(), "[fe80::1%2]:5683");
        let without_flow = SocketAddrV6::new("fe80::1".parse().unwrap(), 5683, 0, 2);
        assert_eq!(PeerAddr::new(without_flow.into()), Some(peer));
    }

    #[test]
    fn ipv6_sources_are_counted_by_their_64_bit_prefix() {
        let a = PeerAddr::new("[2001:db8:1:2:3::4]:1".parse().unwrap()).unwrap();
        let b = PeerAddr::new("[2001:db8:1:2::9]:2".parse().unwrap()).unwrap();
        assert_eq!(a.source(), b.source());
    }
}
