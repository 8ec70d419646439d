//! Two processes and what lies between them: every datagram is taken once, by whom it is for.

use super::*;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// An end that knows `members`, the first of which it is.
fn end(members: &[Member], direct: bool) -> Links {
    let me = &members[0];
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    report_drops(socket.as_fd()).unwrap();
    let links = Links {
        socket,
        key: Arc::new(GroupKey::parse("4".repeat(64).as_bytes()).unwrap()),
        boot: boot_of(&me.boot).unwrap(),
        counter: AtomicU64::new(0),
        others: RwLock::default(),
        locals: RwLock::default(),
        direct,
    };
    links.set_members(members);
    links
}

fn member(id: u16, boot: &str) -> Member {
    Member {
        id,
        name: String::new(),
        address: "127.0.0.1:9".parse().unwrap(),
        boot: boot.repeat(32),
        home: String::new(),
    }
}

fn peer() -> PeerAddr {
    PeerAddr::new("192.0.2.1:5684".parse().unwrap()).unwrap()
}

/// Two ends that know each other, 7 and 8.
fn two() -> (Links, Links) {
    let (a, b) = (member(7, "a"), member(8, "b"));
    let (mut first, second) = (end(&[a.clone(), b.clone()], false), end(&[b.clone(), a], false));
    let there = Member {
        address: second.socket.local_addr().unwrap(),
        ..b
    };
    first.set_members(&[there]);
    first.direct = false;
    (first, second)
}

fn caught(links: &Links) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    let len = links.socket.recv(&mut buffer).unwrap();
    buffer.truncate(len);
    buffer
}

fn sent(from: &Links, to: &Links, record: &[u8]) -> Vec<u8> {
    let local = peer().writing_to("198.51.100.7".parse().ok());
    assert_eq!(from.forward(8, 0x0102_0304_0506_0708, local, record), Sent::Ok);
    caught(to)
}

#[test]
fn a_record_comes_with_its_way_back_and_the_answer_finds_the_address_that_was_written_to() {
    let (a, b) = two();
    let datagram = sent(&a, &b, b"record");
    let (what, said) = b.open(&datagram, &mut HashMap::new()).unwrap();
    assert_eq!(what, Received::Record);
    let NodeMessage::Record {
        listener,
        from,
        bytes,
    } = said
    else {
        panic!("{said:?}")
    };
    assert_eq!((listener, &*bytes), (0x0102_0304_0506_0708, &b"record"[..]));
    let via = from.via().unwrap();
    assert_eq!((via.node, via.listener), (7, 0x0506_0708));
    assert_eq!(via.process, [0xaa; PROCESS]);
    assert_eq!(from.socket_addr(), peer().socket_addr());
    let back = Member {
        address: a.socket.local_addr().unwrap(),
        ..member(7, "a")
    };
    b.set_members(&[back]);
    assert_eq!(b.answer(via, from, b"answer"), Sent::Ok);
    let (what, said) = a.open(&caught(&a), &mut HashMap::new()).unwrap();
    let wanted = NodeMessage::Answer {
        listener: 0x0506_0708,
        to: peer().writing_to("198.51.100.7".parse().ok()),
        bytes: b"answer"[..].into(),
    };
    assert_eq!((what, said), (Received::Answer, wanted));
}

#[test]
fn where_answers_go_directly_the_peer_is_one_that_writes_here() {
    let (a, mut b) = two();
    b.direct = true;
    let datagram = sent(&a, &b, b"record");
    let Ok((_, NodeMessage::Record { from, .. })) = b.open(&datagram, &mut HashMap::new()) else {
        panic!("no record")
    };
    assert_eq!(from, peer().writing_to("198.51.100.7".parse().ok()));
}

#[test]
fn what_was_recorded_does_nothing_again_nor_anywhere_else() {
    let (a, b) = two();
    let mut windows = HashMap::new();
    let recorded: Vec<_> = (0..3).map(|n| sent(&a, &b, &[n])).collect();
    for datagram in recorded.iter().rev() {
        assert!(b.open(datagram, &mut windows).is_ok());
    }
    for datagram in &recorded {
        assert_eq!(b.open(datagram, &mut windows), Err(Received::Replay));
        // Sent back to whom it is of, to a third node, and to the next process of the node that it was for.
        assert_eq!(a.open(datagram, &mut HashMap::new()), Err(Received::UnknownNode));
        for other in [member(9, "c"), member(8, "d")] {
            let other = end(&[other, member(7, "a")], false);
            let opened = other.open(datagram, &mut HashMap::new());
            assert_eq!(opened, Err(Received::NotAuthentic));
        }
    }
    // The sender was started again: what its former process sent is of nobody.
    b.set_members(&[member(7, "e")]);
    assert_eq!(
        b.open(&recorded[0], &mut HashMap::new()),
        Err(Received::UnknownNode)
    );
}

/// An end that takes in what comes, on a thread of its own.
struct Running {
    metrics: Arc<GroupMetrics>,
    seen: Option<watch::Sender<View>>,
    lived: std::sync::mpsc::Receiver<usize>,
    takes: std::sync::mpsc::Receiver<NodeMessage>,
    thread: Option<std::thread::JoinHandle<()>>,
    _ends: oneshot::Sender<()>,
}

impl Running {
    fn start(links: Links) -> Self {
        let (links, metrics) = (Arc::new(links), Arc::new(GroupMetrics::default()));
        let (seen, view) = watch::channel(View::default());
        let (ends, end) = oneshot::channel();
        let (taken, takes) = std::sync::mpsc::channel();
        let (lives, lived) = std::sync::mpsc::channel();
        let (counted, socket) = (Arc::clone(&metrics), links.socket.try_clone().unwrap());
        socket.set_nonblocking(true).unwrap();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let lives = move |_, members: &[Member]| lives.send(members.len()).unwrap();
            let take = |said| taken.send(said).is_ok();
            let ran = runtime.block_on(links.run(socket, view, end, &counted, lives, take));
            ran.unwrap();
        });
        Self {
            metrics,
            seen: Some(seen),
            lived,
            takes,
            thread: Some(thread),
            _ends: ends,
        }
    }

    fn knows(&self, members: &[Member]) {
        let seen = self.seen.as_ref().unwrap();
        seen.send_modify(|view| view.members = members.to_vec());
        while self.lived.recv_timeout(PATIENCE).unwrap() != members.len() {}
    }

    fn takes_a_record(&self) {
        let taken = self.takes.recv_timeout(PATIENCE);
        assert!(matches!(taken, Ok(NodeMessage::Record { .. })), "{taken:?}");
    }

    fn waits_for(&self, what: &str, mut is_so: impl FnMut(&GroupMetrics) -> bool) {
        let looks = std::iter::repeat_with(|| std::thread::sleep(Duration::from_millis(5)));
        assert!(looks.take(12_000).any(|()| is_so(&self.metrics)), "{what}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.seen.take());
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

#[test]
fn a_datagram_of_before_a_late_lease_is_not_taken_again_after_it() {
    let (a, b) = two();
    let recorded = sent(&a, &b, b"record");
    let address = b.socket.local_addr().unwrap();
    let b = Running::start(b);
    b.knows(&[member(7, "a")]);
    a.socket.send_to(&recorded, address).unwrap();
    b.takes_a_record();
    b.knows(&[]);
    a.socket.send_to(&recorded, address).unwrap();
    b.waits_for("it is of nobody", |metrics| {
        metrics.datagrams.get(Received::UnknownNode) == 1
    });
    b.knows(&[member(7, "a")]);
    a.socket.send_to(&recorded, address).unwrap();
    b.waits_for("it is a replay", |metrics| {
        metrics.datagrams.get(Received::Replay) == 1
    });
    // What it sends anew is taken.
    assert_eq!(a.forward(8, 1, peer(), b"another"), Sent::Ok);
    b.takes_a_record();
}

#[test]
fn what_the_kernel_drops_because_the_buffer_is_full_is_counted() {
    let (a, b) = two();
    socket2::SockRef::from(&b.socket).set_recv_buffer_size(1).unwrap();
    const FLOOD: u64 = 300;
    // Nobody reads yet.
    for _ in 0..FLOOD {
        assert_eq!(a.forward(8, 1, peer(), &[0; 400]), Sent::Ok);
    }
    let b = Running::start(b);
    b.knows(&[member(7, "a")]);
    let all = |metrics: &GroupMetrics| metrics.datagrams.iter().map(|(_, count)| count).sum::<u64>();
    b.waits_for("what the buffer had is read", |metrics| all(metrics) > 0);
    // The kernel tells how many it dropped with the next one that it keeps.
    let mut sent = FLOOD;
    b.waits_for("each is counted", |metrics| {
        assert_eq!(a.forward(8, 1, peer(), b"more"), Sent::Ok);
        sent += 1;
        std::thread::sleep(Duration::from_millis(5));
        all(metrics) == sent
    });
    assert!(b.metrics.datagrams.get(Received::SocketFull) > 0);
}

#[test]
fn an_answer_does_not_leave_by_the_next_process_of_the_node_that_the_peer_was_reached_by() {
    let (a, b) = two();
    let datagram = sent(&a, &b, b"record");
    let Ok((_, NodeMessage::Record { from, .. })) = b.open(&datagram, &mut HashMap::new()) else {
        panic!("no record")
    };
    let via = from.via().unwrap();
    assert_eq!(b.answer(via, from, b"answer"), Sent::Ok);
    // Started again, and another node under the same id.
    for boot in ["e", "f"] {
        b.set_members(&[member(7, boot)]);
        assert_eq!(b.answer(via, from, b"answer"), Sent::Gone);
    }
    b.set_members(&[]);
    assert_eq!(b.answer(via, from, b"answer"), Sent::UnknownNode);
    b.set_members(&[member(7, "a")]);
    assert_eq!(b.answer(via, from, b"answer"), Sent::Ok);
}

#[test]
fn a_text_that_is_no_boot_is_none_and_not_that_of_zeros() {
    for bad in [
        "",
        "0",
        "x".repeat(32).as_str(),
        "0".repeat(31).as_str(),
        "0".repeat(34).as_str(),
    ] {
        assert_eq!(boot_of(bad), None, "{bad}");
    }
    let (one, other) = (crate::lease::random().unwrap(), crate::lease::random().unwrap());
    assert!(boot_of(&one).is_some() && boot_of(&one) != boot_of(&other));
}

#[test]
fn a_datagram_that_was_changed_anywhere_is_not_opened_and_spoils_nothing() {
    let (a, b) = two();
    let mut windows = HashMap::new();
    let good = sent(&a, &b, b"record");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        let why = b.open(&bad, &mut windows).unwrap_err();
        let wanted = match at {
            0 => Received::Malformed,
            1..=16 => Received::UnknownNode,
            _ => Received::NotAuthentic,
        };
        assert_eq!(why, wanted, "byte {at}");
        assert!(b.open(&good[..at], &mut windows).is_err());
    }
    assert!(b.open(&good, &mut windows).is_ok());
}

#[test]
fn what_has_no_way_has_a_reason() {
    let (a, b) = two();
    assert_eq!(a.forward(9, 1, peer(), b"x"), Sent::UnknownNode);
    assert_eq!(a.forward(7, 1, peer(), b"x"), Sent::UnknownNode);
    assert_eq!(a.forward(8, 1, peer(), &[0; 65_500]), Sent::TooLong);
    // A real one of any length, and one of ours that is no message.
    assert!(b.open(&sent(&a, &b, &[0; 65_000]), &mut HashMap::new()).is_ok());
    let to = a.others.read().unwrap().get(&8).cloned().unwrap();
    for text in [&[][..], &[RECORD], &[ANSWER, 1, 2], &[9; 99]] {
        let sealed = a.seal(&to, text).unwrap();
        assert_eq!(b.open(&sealed, &mut HashMap::new()), Err(Received::Malformed));
    }
}
