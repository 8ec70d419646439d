//! The sockets of a listener against real peers over loopback.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Type};

use portcullis_proto::types::{ListenerId, PeerAddr, Transmits, Transport};

use super::errno::SendError;
use super::group::{GroupSpec, open_groups};
use super::inherit::{match_groups, stored_name};
use super::metrics::NetMetrics;
use super::mmsg::{RecvBatch, SLOTS, SendBatch};
use super::socket::{Outbox, Socket};

const LISTENER: ListenerId = ListenerId(0);

fn spec(transport: Transport, bind: &str, workers: usize) -> GroupSpec {
    GroupSpec {
        transport,
        name: "default".to_owned(),
        bind: bind.parse().unwrap(),
        workers,
        buffers: Default::default(),
    }
}

fn open(transport: Transport, bind: &str, workers: usize) -> Vec<UdpSocket> {
    open_groups(&[spec(transport, bind, workers)]).unwrap().remove(0)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(async { tokio::time::timeout(Duration::from_secs(10), future).await })
        .unwrap()
}

/// A socket with all that a worker has around it.
struct Bench {
    sockets: Vec<Option<Socket>>,
    batch: RecvBatch,
    outbox: Outbox,
    metrics: Arc<NetMetrics>,
    addr: SocketAddr,
}

/// A datagram as a test sees it.
type Seen = (SocketAddr, Option<IpAddr>, Vec<u8>);

fn peer_addr(addr: SocketAddr) -> PeerAddr {
    PeerAddr::new(addr).unwrap()
}

impl Bench {
    fn new(bind: &str) -> Self {
        Self::over(open(Transport::Udp, bind, 1).remove(0))
    }

    fn over(socket: UdpSocket) -> Self {
        let addr = socket.local_addr().unwrap();
        let metrics = Arc::new(NetMetrics::new(1));
        Self {
            sockets: vec![Some(Socket::new(LISTENER, socket, metrics.clone()).unwrap())],
            batch: RecvBatch::new(),
            outbox: Outbox::default(),
            metrics,
            addr,
        }
    }

    async fn read(&mut self) -> Vec<Seen> {
        let socket = self.sockets[0].as_mut().unwrap();
        loop {
            poll_fn(|cx| socket.poll_readable(cx)).await.unwrap();
            let received = socket.receive(&mut self.batch).unwrap();
            if received.count > 0 {
                let mut seen = Vec::new();
                for index in 0..received.count {
                    let datagram = self.batch.datagram(index).unwrap();
                    assert!(socket.admit(&datagram));
                    seen.push((datagram.from, datagram.local, datagram.bytes.to_vec()));
                }
                assert!(self.batch.datagram(received.count).is_none());
                return seen;
            }
        }
    }

    async fn echo_once(&mut self) -> Vec<Seen> {
        let seen = self.read().await;
        let mut transmits = Transmits::default();
        for (from, local, bytes) in &seen {
            transmits.push(LISTENER, peer_addr(*from).writing_to(*local), bytes);
        }
        self.outbox
            .flush(&mut self.sockets, transmits.iter())
            .await
            .unwrap();
        seen
    }

    fn counters(&self) -> &super::ListenerNet {
        self.metrics.listener(LISTENER).unwrap()
    }
}

fn client(bind: &str) -> UdpSocket {
    let socket = UdpSocket::bind(bind).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
    socket
}

fn read_all(socket: &UdpSocket, count: usize) -> Vec<(Vec<u8>, SocketAddr)> {
    let mut buffer = vec![0; 65_536];
    (0..count)
        .map(|_| {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            (buffer[..length].to_vec(), from)
        })
        .collect()
}

#[test]
fn ipv4_and_ipv6_peers_get_their_bytes_back() {
    for (bind, from) in [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0")] {
        run(async {
            let mut bench = Bench::new(bind);
            let peer = client(from);
            peer.send_to(b"hello", bench.addr).unwrap();
            bench.echo_once().await;
            assert_eq!(read_all(&peer, 1), [(b"hello".to_vec(), bench.addr)]);
            let counters = bench.counters();
            assert_eq!((counters.received.get(), counters.received_bytes.get()), (1, 5));
            assert_eq!((counters.sent.get(), counters.sent_bytes.get()), (1, 5));
            assert!(counters.receive_buffer.get() > 0);
        });
    }
}

#[test]
fn more_datagrams_than_slots_keep_their_order_and_length() {
    run(async {
        let mut bench = Bench::new("127.0.0.1:0");
        let peer = client("127.0.0.1:0");
        let count = 3 * SLOTS + 7;
        for number in 0..count {
            peer.send_to(&vec![number as u8; number + 1], bench.addr).unwrap();
        }
        let mut seen = 0;
        while seen < count {
            seen += bench.echo_once().await.len();
        }
        for (number, (bytes, _)) in read_all(&peer, count).into_iter().enumerate() {
            assert_eq!(bytes, vec![number as u8; number + 1]);
        }
    });
}

#[test]
fn datagrams_of_every_size_up_to_the_largest_arrive_whole() {
    run(async {
        let mut bench = Bench::new("[::]:0");
        let v4 = client("127.0.0.1:0");
        let v6 = client("[::1]:0");
        for size in [0, 1, 1472, 2048, 16_384, 65_507] {
            let bytes: Vec<u8> = (0..size).map(|n: usize| (n % 251) as u8).collect();
            v4.send_to(&bytes, ("127.0.0.1", bench.addr.port())).unwrap();
            assert_eq!(bench.echo_once().await[0].2, bytes);
            if size > 0 {
                assert_eq!(read_all(&v4, 1)[0].0, bytes);
            }
        }
        let largest = vec![7; 65_527];
        v6.send_to(&largest, ("::1", bench.addr.port())).unwrap();
        bench.echo_once().await;
        assert_eq!(read_all(&v6, 1)[0].0, largest);
    });
}

#[test]
fn a_small_datagram_after_a_large_one_shows_nothing_of_it() {
    run(async {
        let mut bench = Bench::new("127.0.0.1:0");
        let peer = client("127.0.0.1:0");
        peer.send_to(&[1; 60_000], bench.addr).unwrap();
        assert_eq!(bench.read().await[0].2.len(), 60_000);
        peer.send_to(&[2; 3], bench.addr).unwrap();
        assert_eq!(bench.read().await[0].2, [2; 3]);
    });
}

/// An IPv4 UDP datagram with a source port that no socket can have; needs CAP_NET_RAW.
fn send_from_port_zero(to: SocketAddr) {
    let raw = socket2::Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)).expect("needs CAP_NET_RAW");
    let mut datagram = vec![0, 0];
    datagram.extend(to.port().to_be_bytes());
    datagram.extend([0, 12, 0, 0]);
    datagram.extend(b"zero");
    raw.send_to(&datagram, &to.into()).unwrap();
}

#[test]
fn a_datagram_from_source_port_zero_is_seen_as_such_and_stops_nothing() {
    run(async {
        let mut bench = Bench::new("0.0.0.0:0");
        let to = SocketAddr::new("127.0.0.1".parse().unwrap(), bench.addr.port());
        send_from_port_zero(to);
        let seen = bench.read().await;
        assert_eq!((seen[0].0.port(), seen[0].2.as_slice()), (0, b"zero".as_slice()));
        let peer = client("127.0.0.1:0");
        peer.send_to(b"good", to).unwrap();
        bench.echo_once().await;
        assert_eq!(read_all(&peer, 1)[0].0, b"good");
    });
}

#[test]
fn a_wildcard_socket_answers_from_the_address_that_was_written_to() {
    for bind in ["0.0.0.0:0", "[::]:0"] {
        run(async {
            let mut bench = Bench::new(bind);
            for address in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
                let peer = client("127.0.0.1:0");
                peer.send_to(b"x", (address, bench.addr.port())).unwrap();
                let seen = bench.echo_once().await;
                assert_eq!(seen[0].1, Some(address.parse().unwrap()), "{bind}");
                assert_eq!(
                    read_all(&peer, 1)[0].1.ip(),
                    address.parse::<IpAddr>().unwrap(),
                    "{bind}"
                );
            }
        });
    }
}

#[test]
fn a_source_address_that_the_host_lost_costs_no_answer() {
    run(async {
        let mut bench = Bench::new("0.0.0.0:0");
        let peer = client("127.0.0.1:0");
        peer.send_to(b"x", ("127.0.0.1", bench.addr.port())).unwrap();
        bench.read().await;
        // As if the peer had written to an address that the host has no more.
        let to = peer_addr(peer.local_addr().unwrap()).writing_to("192.0.2.77".parse().ok());
        for _ in 0..2 {
            let one = [(to, b"answer".as_slice())];
            bench.sockets[0]
                .as_mut()
                .unwrap()
                .send(&mut SendBatch::new(), one.into_iter())
                .await
                .unwrap();
            assert_eq!(read_all(&peer, 1)[0].0, b"answer");
        }
        assert_eq!(
            bench
                .counters()
                .send_errors
                .iter()
                .map(|(_, count)| count)
                .sum::<u64>(),
            0
        );
    });
}

#[test]
fn a_datagram_that_cannot_be_sent_is_counted_and_its_neighbours_leave() {
    run(async {
        let mut bench = Bench::new("127.0.0.1:0");
        let peer = client("127.0.0.1:0");
        let to = peer_addr(peer.local_addr().unwrap());
        let nowhere = peer_addr("255.255.255.255:9".parse().unwrap());
        let huge = vec![0; 65_600];
        let all = [
            (to, b"1".as_slice()),
            (to, &huge),
            (to, b"2"),
            (nowhere, b"?"),
            (to, b"3"),
        ];
        bench.sockets[0]
            .as_mut()
            .unwrap()
            .send(&mut SendBatch::new(), all.into_iter())
            .await
            .unwrap();
        let got: Vec<_> = read_all(&peer, 3).into_iter().map(|(bytes, _)| bytes).collect();
        assert_eq!(got, [b"1", b"2", b"3"]);
        let errors = &bench.counters().send_errors;
        assert_eq!(errors.get(SendError::MessageSize), 1);
        assert_eq!(errors.get(SendError::NotPermitted), 1);
        assert_eq!(bench.counters().sent.get(), 3);
    });
}

#[test]
fn a_peer_whose_port_is_closed_costs_no_other_peer_a_datagram() {
    run(async {
        let mut bench = Bench::new("127.0.0.1:0");
        let peer = client("127.0.0.1:0");
        let gone = peer_addr(client("127.0.0.1:0").local_addr().unwrap());
        let to = peer_addr(peer.local_addr().unwrap());
        for _ in 0..20 {
            let all = [(gone, b"g".as_slice()), (to, b"p")];
            bench.sockets[0]
                .as_mut()
                .unwrap()
                .send(&mut SendBatch::new(), all.into_iter())
                .await
                .unwrap();
        }
        assert_eq!(read_all(&peer, 20).len(), 20);
        peer.send_to(b"still there", bench.addr).unwrap();
        assert_eq!(bench.read().await[0].2, b"still there");
    });
}

#[test]
fn what_the_kernel_dropped_is_counted() {
    run(async {
        let mut bench = Bench::new("127.0.0.1:0");
        SockRef::from(bench.sockets[0].as_ref().unwrap().as_udp())
            .set_recv_buffer_size(4096)
            .unwrap();
        let peer = client("127.0.0.1:0");
        for _ in 0..200 {
            peer.send_to(&[0; 512], bench.addr).unwrap();
        }
        let mut seen = bench.read().await.len() as u64;
        // The count comes with the next datagram that is queued.
        peer.send_to(b"last", bench.addr).unwrap();
        seen += bench.read().await.len() as u64;
        assert_eq!(seen + bench.counters().socket_drops.get(), 201);
    });
}

#[test]
fn a_port_in_use_is_a_clear_error_even_when_its_owner_shares_it() {
    for shared in [false, true] {
        let owner = socket2::Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        owner.set_reuse_port(shared).unwrap();
        owner
            .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
            .unwrap();
        let bind = owner.local_addr().unwrap().as_socket().unwrap().to_string();
        let free = spec(Transport::Dtls, "127.0.0.1:0", 2);
        let errors = open_groups(&[spec(Transport::Udp, &bind, 2), free]).unwrap_err();
        let text = errors[0].to_string();
        let start = format!("listeners.udp.default.bind: cannot listen on {bind}: the port is in use");
        assert!(text.starts_with(&start), "{text}");
        assert_eq!(errors.len(), 1);
    }
}

/// RFC 7252, 11.3: a server that answers what is sent to all nodes of a link helps to flood whose address it is sent from.
#[test]
fn what_is_sent_to_all_nodes_is_not_heard() {
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let options = SockRef::from(&sender);
    options
        .set_multicast_if_v4(&std::net::Ipv4Addr::LOCALHOST)
        .unwrap();
    options.set_multicast_loop_v4(true).unwrap();
    let heard_first = |socket: &UdpSocket| {
        let port = socket.local_addr().unwrap().port();
        sender.send_to(b"to all", ("224.0.0.1", port)).unwrap();
        sender.send_to(b"to one", ("127.0.0.1", port)).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut bytes = [0; 16];
        let len = socket.recv(&mut bytes).unwrap();
        bytes[..len].to_vec()
    };
    assert_eq!(heard_first(&UdpSocket::bind("0.0.0.0:0").unwrap()), b"to all");
    for bind in ["0.0.0.0:0", "[::]:0"] {
        for socket in open(Transport::Udp, bind, 1) {
            assert_eq!(heard_first(&socket), b"to one", "{bind}");
            if bind.starts_with('[') {
                assert!(!SockRef::from(&socket).multicast_all_v6().unwrap());
            }
        }
    }
}

#[test]
fn an_address_that_the_host_does_not_have_is_a_clear_error() {
    let errors = open_groups(&[
        spec(Transport::Udp, "192.0.2.77:0", 1),
        spec(Transport::Dtls, "[2001:db8::77]:0", 1),
    ])
    .unwrap_err();
    assert_eq!(errors.len(), 2);
    assert!(
        errors
            .iter()
            .all(|error| error.to_string().contains("does not have that address"))
    );
}

#[test]
fn an_ipv6_wildcard_serves_ipv4_unless_another_listener_has_the_port() {
    run(async {
        let mut bench = Bench::new("[::]:0");
        let peer = client("127.0.0.1:0");
        peer.send_to(b"x", ("127.0.0.1", bench.addr.port())).unwrap();
        let seen = bench.echo_once().await;
        assert_eq!(
            PeerAddr::new(seen[0].0).unwrap().socket_addr(),
            peer.local_addr().unwrap()
        );
        assert_eq!(read_all(&peer, 1)[0].0, b"x");
    });
    let port = open(Transport::Udp, "[::]:0", 1)[0].local_addr().unwrap().port();
    let v6 = spec(Transport::Udp, &format!("[::]:{port}"), 2);
    let v4 = spec(Transport::Udp, &format!("0.0.0.0:{port}"), 2);
    assert_eq!(open_groups(&[v6, v4]).unwrap().len(), 2);
}

/// Reads what is there from each socket of a group: the first payload byte of each datagram.
fn drain(group: &[UdpSocket]) -> Vec<Vec<u8>> {
    std::thread::sleep(Duration::from_millis(50));
    let mut buffer = [0; 64];
    let drain_one = |socket: &UdpSocket| {
        let mut seen = Vec::new();
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            seen.push(buffer[..length].last().copied().unwrap_or_default());
        }
        seen
    };
    group.iter().map(drain_one).collect()
}

#[test]
fn a_connection_id_reaches_its_worker_from_any_address() {
    for any in ["127.0.0.1:0", "[::1]:0"] {
        let group = open(Transport::Dtls, any, 4);
        let to = group[0].local_addr().unwrap();
        for _ in 0..20 {
            let peer = client(any);
            for worker in 0..4 {
                let mut record = vec![25, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 1, worker, 9, 9, 9];
                record.push(worker);
                peer.send_to(&record, to).unwrap();
            }
        }
        for (worker, seen) in drain(&group).into_iter().enumerate() {
            assert_eq!(seen, vec![worker as u8; 20], "{any}");
        }
    }
}

#[test]
fn the_connection_id_of_a_worker_that_is_no_more_reaches_the_same_one_from_any_address() {
    let group = open(Transport::Dtls, "127.0.0.1:0", 3);
    let to = group[0].local_addr().unwrap();
    for _ in 0..20 {
        for worker in [3, 7, 200] {
            let record = [25, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 1, worker, 9, 9, 9, worker];
            client("127.0.0.1:0").send_to(&record, to).unwrap();
        }
    }
    let seen = drain(&group);
    assert_eq!(seen, [vec![3; 20], vec![7; 20], vec![200; 20]]);
}

#[test]
fn other_datagrams_of_a_peer_all_reach_one_worker_and_peers_are_spread() {
    let group = open(Transport::Dtls, "127.0.0.1:0", 4);
    let to = group[0].local_addr().unwrap();
    let peers: Vec<_> = (0..40).map(|_| client("127.0.0.1:0")).collect();
    for (number, peer) in peers.iter().enumerate() {
        // Handshake, application data, and under 12 bytes of something else.
        for head in [22, 23] {
            let mut record = vec![head; 14];
            record.push(number as u8);
            peer.send_to(&record, to).unwrap();
        }
        peer.send_to(&[0x40, number as u8], to).unwrap();
    }
    let seen = drain(&group);
    assert!(seen.iter().filter(|datagrams| !datagrams.is_empty()).count() > 1);
    for number in 0..40_u8 {
        let workers: Vec<usize> = seen
            .iter()
            .map(|s| s.iter().filter(|n| **n == number).count())
            .collect();
        assert_eq!(workers.iter().sum::<usize>(), 3);
        assert!(workers.contains(&3), "peer {number} was split: {workers:?}");
    }
}

fn stored(spec: &GroupSpec, group: Vec<UdpSocket>) -> Vec<(OwnedFd, String)> {
    let name = |(worker, socket): (usize, UdpSocket)| (socket.into(), stored_name(spec, worker));
    group.into_iter().enumerate().map(name).collect()
}

#[test]
fn a_stored_group_is_taken_over_in_worker_order() {
    let free = spec(Transport::Udp, "127.0.0.1:0", 3);
    let group = open_groups(std::slice::from_ref(&free)).unwrap().remove(0);
    let spec = GroupSpec {
        bind: group[0].local_addr().unwrap(),
        ..free
    };
    let mut fds = stored(&spec, group);
    let inodes: Vec<String> = fds.iter().map(|(fd, _)| inode(fd)).collect();
    fds.reverse();
    let mut inherited = match_groups(std::slice::from_ref(&spec), fds);
    assert!(inherited.stale.is_empty());
    let taken = inherited.groups.remove(0).unwrap();
    let taken: Vec<String> = taken.into_iter().map(|socket| inode(&socket.into())).collect();
    assert_eq!(taken, inodes);
}

fn inode(fd: &OwnedFd) -> String {
    use std::os::fd::AsRawFd;
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    link.to_string_lossy().into_owned()
}

#[test]
fn a_stored_group_that_is_not_what_was_asked_for_is_closed_as_a_whole() {
    let free = spec(Transport::Udp, "127.0.0.1:0", 2);
    for change in ["address", "fewer", "more", "transport", "kind"] {
        let group = open_groups(std::slice::from_ref(&free)).unwrap().remove(0);
        let bind = group[0].local_addr().unwrap();
        let was = GroupSpec { bind, ..free.clone() };
        let mut now = was.clone();
        let mut fds = stored(&was, group);
        match change {
            "address" => now.bind.set_port(bind.port() ^ 1),
            "fewer" => now.workers = 1,
            "more" => now.workers = 3,
            "transport" => now.transport = Transport::Dtls,
            _ => fds[1].0 = std::net::TcpListener::bind("127.0.0.1:0").unwrap().into(),
        }
        let inherited = match_groups(std::slice::from_ref(&now), fds);
        assert!(inherited.groups[0].is_none(), "{change}");
        assert_eq!(inherited.stale, ["udp.default.0", "udp.default.1"], "{change}");
        // Closed: the port is free again.
        assert!(open_groups(&[was]).is_ok(), "{change}");
    }
}
