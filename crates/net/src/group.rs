//! Opening the sockets of a listener: one per worker, in worker order.
//!
//! The kernel spreads datagrams over a SO_REUSEPORT group by the hash of their addresses, and numbers its sockets in the
//! order in which they were bound, which [`super::mmsg::steer_by_connection_id`] relies on.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tracing::warn;

use portcullis_proto::types::Transport;

use super::{mmsg, options};

/// What is asked of the kernel for receiving where nothing else is said, in bytes. It doubles the number for its own use and cuts it at
/// net.core.rmem_max.
pub const RECEIVE_BUFFER: usize = 4 << 20;

/// The same for sending, cut at net.core.wmem_max.
pub const SEND_BUFFER: usize = 1 << 20;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// What is asked of the kernel for each socket, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffers {
    /// For receiving.
    pub receive: usize,
    /// For sending.
    pub send: usize,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            receive: RECEIVE_BUFFER,
            send: SEND_BUFFER,
        }
    }
}

/// The sockets that one listener needs.
#[derive(Debug, Clone)]
pub struct GroupSpec {
    /// How its peers speak; for messages and for the steering by Connection ID.
    pub transport: Transport,
    /// The name of the listener.
    pub name: String,
    /// Where; port 0 takes a free one, the same for all sockets of the group.
    pub bind: SocketAddr,
    /// How many sockets; at least 1.
    pub workers: usize,
    /// How much each may hold.
    pub buffers: Buffers,
}

impl GroupSpec {
    /// The key of the configuration that says where it listens.
    #[must_use]
    pub fn key(&self) -> String {
        format!("listeners.{}.{}.bind", self.transport.label(), self.name)
    }
}

/// What a key names cannot be listened on, with the way out.
#[derive(Debug)]
pub struct BindError {
    key: String,
    bind: SocketAddr,
    /// What `ss` calls its sockets.
    kind: char,
    error: io::Error,
}

impl BindError {
    fn new(spec: &GroupSpec, error: io::Error) -> Self {
        Self {
            key: spec.key(),
            bind: spec.bind,
            kind: if spec.transport.is_stream() { 't' } else { 'u' },
            error,
        }
    }

    /// Of a TCP port that `key` of the configuration names, such as that of the management interface.
    #[must_use]
    pub fn of_tcp(key: &str, bind: SocketAddr, error: io::Error) -> Self {
        Self {
            key: key.to_owned(),
            bind,
            kind: 't',
            error,
        }
    }

    /// The errno behind it.
    #[must_use]
    pub fn io_error(&self) -> &io::Error {
        &self.error
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            key,
            bind,
            kind,
            error,
        } = self;
        write!(f, "{key}: cannot listen on {bind}: ")?;
        let port = bind.port();
        match error.raw_os_error() {
            Some(libc::EADDRINUSE) => write!(
                f,
                "the port is in use; stop the other process (ss -{kind}lpn 'sport = :{port}' names it) or choose another port"
            ),
            Some(libc::EADDRNOTAVAIL) => write!(
                f,
                "this host does not have that address; choose one that `ip address` shows, or a wildcard ([::] or 0.0.0.0)"
            ),
            Some(libc::EACCES | libc::EPERM) => write!(
                f,
                "{error}; a port below 1024 needs the capability CAP_NET_BIND_SERVICE, choose a higher one"
            ),
            Some(libc::EAFNOSUPPORT) => {
                write!(
                    f,
                    "this host has no IPv6; bind to an IPv4 address, for example 0.0.0.0:{port}"
                )
            }
            _ => error.fmt(f),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Opens the sockets of all listeners; the result is in the order of `specs` and, within, of the workers. Those for streams have none
/// here: [`open_stream`].
///
/// # Errors
/// Every listener that cannot listen, not only the first.
pub fn open_groups(specs: &[GroupSpec]) -> Result<Vec<Vec<UdpSocket>>, Vec<BindError>> {
    let (mut groups, mut errors) = (Vec::new(), Vec::new());
    for spec in specs {
        if spec.transport.is_stream() {
            groups.push(Vec::new());
            continue;
        }
        match open_group(spec, shares_port_with_ipv4(spec, specs)) {
            Ok(group) => groups.push(group),
            Err(error) => errors.push(BindError::new(spec, error)),
        }
    }
    if errors.is_empty() {
        Ok(groups)
    } else {
        Err(errors)
    }
}

/// Opens the sockets of one more listener, `spec`, beside all that are to serve then, `among`.
///
/// # Errors
/// It cannot listen.
pub fn open_among(spec: &GroupSpec, among: &[GroupSpec]) -> Result<Vec<UdpSocket>, BindError> {
    open_group(spec, shares_port_with_ipv4(spec, among)).map_err(|error| BindError::new(spec, error))
}

/// Opens the socket of a listener for streams, `spec`, beside all that are to serve then, `among`.
///
/// # Errors
/// It cannot listen.
pub fn open_stream(spec: &GroupSpec, among: &[GroupSpec]) -> Result<TcpListener, BindError> {
    let only_v6 = shares_port_with_ipv4(spec, among);
    listen(spec, only_v6).map_err(|error| BindError::new(spec, error))
}

fn listen(spec: &GroupSpec, only_v6: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(spec.bind), Type::STREAM, Some(Protocol::TCP))?;
    if spec.bind.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    // Connections of an earlier process that have not ended for good do not keep the port.
    socket.set_reuse_address(true)?;
    socket.bind(&spec.bind.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// An IPv6 wildcard takes IPv4 too, unless another listener wants IPv4 on the same port.
fn shares_port_with_ipv4(spec: &GroupSpec, specs: &[GroupSpec]) -> bool {
    spec.bind.port() != 0
        && specs
            .iter()
            .filter(|other| other.transport.is_stream() == spec.transport.is_stream())
            .any(|other| other.bind.is_ipv4() && other.bind.port() == spec.bind.port())
}

fn open_group(spec: &GroupSpec, only_v6: bool) -> io::Result<Vec<UdpSocket>> {
    // With SO_REUSEPORT from the start, any process of the same user could silently share the port. So the first socket
    // binds without it, which fails if anyone is there, and opens the group only for the others.
    let first = open_socket(spec, spec.bind, only_v6, false)?;
    let bind = first.local_addr()?;
    if spec.workers > 1 {
        SockRef::from(&first).set_reuse_port(true)?;
    }
    let mut group = vec![first];
    for _ in 1..spec.workers {
        group.push(open_socket(spec, bind, only_v6, true)?);
    }
    prepare_group(spec, &group)?;
    Ok(group)
}

fn open_socket(spec: &GroupSpec, bind: SocketAddr, only_v6: bool, reuse_port: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(spec.bind), Type::DGRAM, Some(Protocol::UDP))?;
    if bind.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&bind.into())?;
    Ok(socket.into())
}

/// Sets what a group needs beyond being bound; harmless on sockets that have it.
pub(super) fn prepare_group(spec: &GroupSpec, group: &[UdpSocket]) -> io::Result<()> {
    let mut granted = usize::MAX;
    for socket in group {
        socket.set_nonblocking(true)?;
        let options = SockRef::from(socket);
        options.set_recv_buffer_size(spec.buffers.receive)?;
        options.set_send_buffer_size(spec.buffers.send)?;
        granted = granted.min(options.recv_buffer_size()?);
        options::report_drops(socket.as_fd())?;
        // The groups of the machine, such as that of all nodes, are not ours: who asks them asks in anybody's name, and everybody.
        options.set_multicast_all_v4(false)?;
        if spec.bind.is_ipv6() {
            // Before Linux 4.20 there is no such option.
            let _unknown = options.set_multicast_all_v6(false);
        }
        if spec.bind.ip().is_unspecified() {
            options::report_local_address(socket.as_fd(), spec.bind.is_ipv6())?;
        }
    }
    if granted < spec.buffers.receive {
        warn!(
            listener = spec.name,
            wanted_bytes = spec.buffers.receive,
            granted_bytes = granted,
            "the receive buffer was cut; a burst may be dropped by the kernel: raise net.core.rmem_max"
        );
    }
    if let (Transport::Dtls, [first, _, ..], Ok(workers)) =
        (spec.transport, group, u32::try_from(group.len()))
    {
        mmsg::steer_by_connection_id(first.as_fd(), workers)?;
    }
    Ok(())
}

/// The addresses that the groups are bound to, for logs: the port that was found where 0 was asked for.
#[must_use]
pub fn bound_addresses(groups: &[Vec<UdpSocket>]) -> Vec<Option<SocketAddr>> {
    let address = |group: &Vec<UdpSocket>| group.first().and_then(|socket| socket.local_addr().ok());
    groups.iter().map(address).collect()
}

/// Whether `socket` is what `spec` would open.
pub(super) fn fits(spec: &GroupSpec, socket: &UdpSocket) -> bool {
    let options = SockRef::from(socket);
    let is_udp = options.r#type().ok() == Some(Type::DGRAM)
        && options.protocol().ok().flatten() == Some(Protocol::UDP);
    let same_place = socket
        .local_addr()
        .is_ok_and(|local| local.ip() == spec.bind.ip() && local.port() == spec.bind.port());
    let grouped = spec.workers == 1 || options.reuse_port().unwrap_or(false);
    is_udp && same_place && grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_ipv6_is_told_what_to_bind_to() {
        for bind in ["[::]:5683", "[::1]:61616"] {
            let bind: SocketAddr = bind.parse().unwrap();
            let error = BindError {
                key: "listeners.udp.default.bind".to_owned(),
                bind,
                kind: 'u',
                error: io::Error::from_raw_os_error(libc::EAFNOSUPPORT),
            };
            let text = error.to_string();
            assert!(text.contains("this host has no IPv6"), "{text}");
            assert!(text.ends_with(&format!("0.0.0.0:{}", bind.port())), "{text}");
        }
    }
}
