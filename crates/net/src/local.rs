//! Which of our addresses a peer wrote to, so that the answer leaves from it.
//!
//! A socket that is bound to a wildcard address lets the kernel choose the source of an answer. On a host with several
//! addresses that can be another one than the peer wrote to, and the peer, or a NAT in between, drops the answer.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Peers per generation; there are two. A peer that was evicted is answered from the usual address until it writes again.
const GENERATION: usize = 65_536;

/// The memory of one wildcard socket.
///
/// Hosts with one address per family are the rule, so the first address that a peer wrote to becomes the usual one of
/// its family and only peers that wrote to another one are remembered, in two generations: bounded, and what is in use stays.
#[derive(Debug)]
pub struct Locals {
    usual_v4: Option<Ipv4Addr>,
    usual_v6: Option<Ipv6Addr>,
    young: HashMap<SocketAddr, IpAddr>,
    old: HashMap<SocketAddr, IpAddr>,
    generation: usize,
}

impl Default for Locals {
    fn default() -> Self {
        Self::with_generation(GENERATION)
    }
}

impl Locals {
    fn with_generation(generation: usize) -> Self {
        Self {
            usual_v4: None,
            usual_v6: None,
            young: HashMap::new(),
            old: HashMap::new(),
            generation,
        }
    }

    /// Notes that `remote` wrote to `local`, both in canonical form.
    pub fn learn(&mut self, remote: SocketAddr, local: IpAddr) {
        if !can_be_source(local) {
            return;
        }
        self.adopt_usual(local);
        if self.implied(remote) == Some(local) {
            if !self.young.is_empty() || !self.old.is_empty() {
                self.forget(remote);
            }
            return;
        }
        if let Some(known) = self.young.get_mut(&remote) {
            *known = local;
            return;
        }
        if self.young.len() >= self.generation {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(remote, local);
    }

    /// The address that an answer to `remote` must leave from; `None` leaves the choice to the kernel.
    #[must_use]
    pub fn source_for(&self, remote: SocketAddr) -> Option<IpAddr> {
        if self.young.is_empty() && self.old.is_empty() {
            return self.usual_for(remote);
        }
        let known = self.young.get(&remote).or_else(|| self.old.get(&remote));
        known.copied().or_else(|| self.usual_for(remote))
    }

    /// Forgets `local` after the kernel refused it as a source for `remote`: the host has lost it.
    pub fn refused(&mut self, remote: SocketAddr, local: IpAddr) {
        self.forget(remote);
        if self.usual_v4.map(IpAddr::V4) == Some(local) {
            self.usual_v4 = None;
        }
        if self.usual_v6.map(IpAddr::V6) == Some(local) {
            self.usual_v6 = None;
        }
    }

    /// How many peers are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether no peer is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn forget(&mut self, remote: SocketAddr) {
        self.young.remove(&remote);
        self.old.remove(&remote);
    }

    /// Loopback and link-local addresses are never the usual ones: most peers cannot be answered from them.
    fn adopt_usual(&mut self, local: IpAddr) {
        match local {
            IpAddr::V4(ip) if self.usual_v4.is_none() && !ip.is_loopback() && !ip.is_link_local() => {
                self.usual_v4 = Some(ip);
            }
            IpAddr::V6(ip) if self.usual_v6.is_none() && !ip.is_loopback() && !ip.is_unicast_link_local() => {
                self.usual_v6 = Some(ip);
            }
            _ => {}
        }
    }

    /// The source that an answer gets when nothing is remembered of `remote`. To a loopback peer the kernel answers
    /// from 127.0.0.1 or ::1 of its own accord.
    fn implied(&self, remote: SocketAddr) -> Option<IpAddr> {
        match remote.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            IpAddr::V6(ip) if ip.is_loopback() => Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            _ => self.usual_for(remote),
        }
    }

    fn usual_for(&self, remote: SocketAddr) -> Option<IpAddr> {
        match remote.ip() {
            ip if ip.is_loopback() => None,
            IpAddr::V4(_) => self.usual_v4.map(IpAddr::V4),
            IpAddr::V6(ip) if ip.is_unicast_link_local() => None,
            IpAddr::V6(_) => self.usual_v6.map(IpAddr::V6),
        }
    }
}

fn can_be_source(local: IpAddr) -> bool {
    match local {
        IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_host_with_one_address_remembers_no_peer() {
        let mut locals = Locals::default();
        for port in 1..1000 {
            locals.learn(SocketAddr::new(ip("198.51.100.7"), port), ip("192.0.2.1"));
        }
        assert!(locals.is_empty());
        assert_eq!(locals.source_for(at("198.51.100.7:5")), Some(ip("192.0.2.1")));
    }

    #[test]
    fn a_peer_of_a_second_address_is_answered_from_it() {
        let mut locals = Locals::default();
        locals.learn(at("198.51.100.7:1"), ip("192.0.2.1"));
        locals.learn(at("198.51.100.8:1"), ip("192.0.2.2"));
        assert_eq!(locals.source_for(at("198.51.100.7:1")), Some(ip("192.0.2.1")));
        assert_eq!(locals.source_for(at("198.51.100.8:1")), Some(ip("192.0.2.2")));
        locals.learn(at("198.51.100.8:1"), ip("192.0.2.1"));
        assert_eq!(locals.source_for(at("198.51.100.8:1")), Some(ip("192.0.2.1")));
        assert!(locals.is_empty());
    }

    #[test]
    fn a_health_check_over_loopback_does_not_become_the_source_for_everyone() {
        let mut locals = Locals::default();
        locals.learn(at("127.0.0.1:9"), ip("127.0.0.1"));
        locals.learn(at("[::1]:9"), ip("::1"));
        assert_eq!(locals.source_for(at("198.51.100.7:1")), None);
        assert!(locals.is_empty());
        locals.learn(at("127.0.0.1:9"), ip("127.0.0.2"));
        assert_eq!(locals.source_for(at("127.0.0.1:9")), Some(ip("127.0.0.2")));
    }

    #[test]
    fn broadcast_and_multicast_are_no_sources() {
        let mut locals = Locals::default();
        locals.learn(at("198.51.100.7:1"), ip("255.255.255.255"));
        locals.learn(at("198.51.100.7:1"), ip("224.0.1.187"));
        locals.learn(at("[2001:db8::1]:1"), ip("ff05::fd"));
        assert_eq!(locals.source_for(at("198.51.100.7:1")), None);
        assert_eq!(locals.source_for(at("[2001:db8::1]:1")), None);
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_latest() {
        let mut locals = Locals::with_generation(8);
        locals.learn(at("198.51.100.7:1"), ip("192.0.2.1"));
        for port in 1..100 {
            locals.learn(SocketAddr::new(ip("198.51.100.8"), port), ip("192.0.2.2"));
            assert!(locals.len() <= 16);
            assert_eq!(
                locals.source_for(SocketAddr::new(ip("198.51.100.8"), port)),
                Some(ip("192.0.2.2"))
            );
        }
    }

    #[test]
    fn an_address_that_the_host_lost_is_forgotten() {
        let mut locals = Locals::default();
        locals.learn(at("198.51.100.7:1"), ip("192.0.2.1"));
        locals.refused(at("198.51.100.7:1"), ip("192.0.2.1"));
        assert_eq!(locals.source_for(at("198.51.100.7:1")), None);
        locals.learn(at("198.51.100.7:1"), ip("192.0.2.9"));
        assert_eq!(locals.source_for(at("198.51.100.7:1")), Some(ip("192.0.2.9")));
    }
}
