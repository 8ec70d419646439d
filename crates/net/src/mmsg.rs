//! Everything of `net` that needs `unsafe`: recvmmsg and sendmmsg on reused buffers, the socket options that `socket2`
//! does not have, and the descriptors that the service manager passed.
#![expect(
    unsafe_code,
    reason = "recvmmsg, sendmmsg and three socket options exist only as C calls"
)]

use std::cell::UnsafeCell;
use std::io;
use std::marker::PhantomData;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::datagram::{Datagram, Outgoing};

use libc::{c_int, c_uint, c_void, cmsghdr, iovec, mmsghdr, sockaddr_storage};

/// Datagrams per system call.
pub const SLOTS: usize = 64;

/// Bytes of one slot: more than any UDP payload (65,507 over IPv4, 65,527 over IPv6), so nothing is cut short. The
/// memory is zero pages until the kernel writes to it.
pub const SLOT_BYTES: usize = 65_536;

/// Room for the control messages of one datagram: SO_RXQ_OVFL (24 bytes) and IPV6_PKTINFO (40 bytes).
const CONTROL_WORDS: usize = 12;
const CONTROL_BYTES: usize = CONTROL_WORDS * 8;
type Control = [u64; CONTROL_WORDS];

/// Slots that recvmmsg fills; made once per worker and reused for all of its sockets.
pub struct RecvBatch {
    // The headers point into these four. They never grow, and a Vec may move without its heap memory moving.
    bytes: Vec<UnsafeCell<u8>>,
    names: Vec<UnsafeCell<sockaddr_storage>>,
    _controls: Vec<UnsafeCell<Control>>,
    _iovs: Vec<UnsafeCell<iovec>>,
    headers: Vec<mmsghdr>,
    filled: usize,
}

impl Default for RecvBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl RecvBatch {
    /// [`SLOTS`] empty slots of [`SLOT_BYTES`] each.
    #[must_use]
    pub fn new() -> Self {
        let bytes = zeroed_cells(SLOTS * SLOT_BYTES);
        // SAFETY: all-zero bytes are a valid sockaddr_storage (integers only).
        let names: Vec<UnsafeCell<sockaddr_storage>> = (0..SLOTS)
            .map(|_| UnsafeCell::new(unsafe { mem::zeroed() }))
            .collect();
        let controls: Vec<UnsafeCell<Control>> =
            (0..SLOTS).map(|_| UnsafeCell::new([0; CONTROL_WORDS])).collect();
        let iovs: Vec<UnsafeCell<iovec>> = bytes
            .chunks_exact(SLOT_BYTES)
            .map(|slot| {
                UnsafeCell::new(iovec {
                    iov_base: slot.as_ptr().cast_mut().cast::<c_void>(),
                    iov_len: SLOT_BYTES,
                })
            })
            .collect();
        let headers = names
            .iter()
            .zip(&controls)
            .zip(&iovs)
            .map(|((name, control), iov)| {
                // SAFETY: all-zero bytes are a valid mmsghdr (integers and null pointers).
                let mut header: mmsghdr = unsafe { mem::zeroed() };
                header.msg_hdr.msg_name = name.get().cast();
                header.msg_hdr.msg_iov = iov.get();
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = control.get().cast();
                reset(&mut header);
                header
            })
            .collect();
        Self {
            bytes,
            names,
            _controls: controls,
            _iovs: iovs,
            headers,
            filled: 0,
        }
    }

    /// Reads as many datagrams as are there, at most [`SLOTS`], without waiting. What was read before is gone.
    ///
    /// # Errors
    /// The errno of recvmmsg; EAGAIN when nothing is there.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.headers.iter_mut().take(self.filled).for_each(reset);
        self.filled = 0;
        // SAFETY: every header points to a name, an iovec with its slot, and a control buffer that live as long as
        // `self`, are of the stated length, and to which nothing else points while `self` is borrowed mutably.
        let n = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                SLOTS as c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        self.filled = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        Ok(self.filled)
    }

    /// The datagram in slot `index`; nothing beyond what [`RecvBatch::receive`] returned, or when the kernel named no
    /// address that we know.
    pub fn datagram(&mut self, index: usize) -> Option<Datagram<'_>> {
        let header = self.headers.get(index).filter(|_| index < self.filled)?;
        let name = self.names.get(index)?.get();
        let slot = self.bytes.get(index * SLOT_BYTES..(index + 1) * SLOT_BYTES)?;
        let length = (header.msg_len as usize).min(SLOT_BYTES);
        // SAFETY: the kernel filled `name`; it is only read here.
        let from = socket_addr(unsafe { &*name })?;
        // SAFETY: `slot` is SLOT_BYTES long, initialised (zeroed, then written by the kernel), and cells allow
        // writing. `self` is borrowed mutably for as long as the slice lives, so nothing else reaches the slot.
        let bytes = unsafe { std::slice::from_raw_parts_mut(slot.as_ptr().cast_mut().cast::<u8>(), length) };
        let (local, drops) = control_messages(header);
        Some(Datagram {
            from,
            local,
            drops,
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            bytes,
        })
    }
}

/// What the kernel overwrote in a header, as it has to be before the next call.
fn reset(header: &mut mmsghdr) {
    header.msg_hdr.msg_namelen = size_of::<sockaddr_storage>() as _;
    header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
    header.msg_hdr.msg_flags = 0;
    header.msg_len = 0;
}

/// Zeroed bytes that cost no memory until they are written to.
fn zeroed_cells(length: usize) -> Vec<UnsafeCell<u8>> {
    let mut bytes = mem::ManuallyDrop::new(vec![0_u8; length]);
    // SAFETY: UnsafeCell<u8> has the layout of u8 (it is transparent), and the parts are those of the vector, which is
    // not dropped.
    unsafe { Vec::from_raw_parts(bytes.as_mut_ptr().cast(), bytes.len(), bytes.capacity()) }
}

fn control_messages(header: &mmsghdr) -> (Option<IpAddr>, Option<u32>) {
    let (mut local, mut drops) = (None, None);
    // SAFETY: msg_control and msg_controllen describe the control buffer of this slot as the kernel left it; the CMSG
    // functions stay inside of it. A message's data is read unaligned, and only after its length was checked.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&raw const header.msg_hdr);
        while let Some(head) = message.as_ref() {
            let data = libc::CMSG_DATA(message);
            match (head.cmsg_level, head.cmsg_type) {
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) if holds::<u32>(head) => {
                    drops = Some(ptr::read_unaligned(data.cast::<u32>()));
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) if holds::<libc::in_pktinfo>(head) => {
                    let info = ptr::read_unaligned(data.cast::<libc::in_pktinfo>());
                    // ipi_spec_dst, not ipi_addr: the address to answer from, also when a broadcast came.
                    local = Some(IpAddr::V4(Ipv4Addr::from_bits(u32::from_be(
                        info.ipi_spec_dst.s_addr,
                    ))));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if holds::<libc::in6_pktinfo>(head) => {
                    let info = ptr::read_unaligned(data.cast::<libc::in6_pktinfo>());
                    local = Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)).to_canonical());
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(&raw const header.msg_hdr, message);
        }
    }
    (local, drops)
}

#[allow(clippy::unnecessary_cast, reason = "musl has a narrower cmsg_len than glibc")]
fn holds<T>(head: &cmsghdr) -> bool {
    // SAFETY: CMSG_LEN only computes.
    head.cmsg_len as usize >= unsafe { libc::CMSG_LEN(size_of::<T>() as c_uint) } as usize
}

fn socket_addr(name: &sockaddr_storage) -> Option<SocketAddr> {
    let name: *const sockaddr_storage = name;
    // SAFETY: sockaddr_storage is large enough and aligned for both types, which hold integers only; the family says
    // which of them the kernel wrote.
    unsafe {
        match c_int::from((*name).ss_family) {
            libc::AF_INET => {
                let v4 = &*name.cast::<libc::sockaddr_in>();
                let ip = Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
            }
            libc::AF_INET6 => {
                let v6 = &*name.cast::<libc::sockaddr_in6>();
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                // No flow label: it is not part of who a peer is.
                Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id)))
            }
            _ => None,
        }
    }
}

/// Headers for sendmmsg; made once per worker and reused.
pub struct SendBatch {
    names: Vec<UnsafeCell<sockaddr_storage>>,
    controls: Vec<UnsafeCell<Control>>,
    iovs: Vec<UnsafeCell<iovec>>,
    headers: Vec<mmsghdr>,
}

impl Default for SendBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl SendBatch {
    /// Room for [`SLOTS`] datagrams in one call.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: all-zero bytes are a valid sockaddr_storage, iovec and mmsghdr (integers and null pointers).
        let zero = || unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        let mut batch = Self {
            names: Vec::with_capacity(SLOTS),
            controls: Vec::with_capacity(SLOTS),
            iovs: Vec::with_capacity(SLOTS),
            headers: Vec::with_capacity(SLOTS),
        };
        for _ in 0..SLOTS {
            let (name, iov, header) = zero();
            batch.names.push(UnsafeCell::new(name));
            batch.controls.push(UnsafeCell::new([0; CONTROL_WORDS]));
            batch.iovs.push(UnsafeCell::new(iov));
            batch.headers.push(header);
        }
        batch
    }

    /// Takes up to [`SLOTS`] datagrams. `ipv6` says whether the socket is an IPv6 one; IPv4 destinations are mapped then.
    pub fn prepare<'b, 'a: 'b>(
        &'b mut self,
        ipv6: bool,
        datagrams: impl Iterator<Item = Outgoing<'a>>,
    ) -> Prepared<'b> {
        let slots = self
            .names
            .iter()
            .zip(&self.controls)
            .zip(&self.iovs)
            .zip(&mut self.headers);
        let mut length = 0;
        // The slots come first: a zip that asked the datagrams first would take one more than there are slots.
        for ((((name, control), iov), header), datagram) in slots.zip(datagrams) {
            // SAFETY: the cells are borrowed by nobody else, since `self` is borrowed mutably; only here and in the
            // kernel are they written or read.
            unsafe {
                header.msg_hdr.msg_namelen = write_name(&mut *name.get(), datagram.to, ipv6);
                header.msg_hdr.msg_controllen = write_source(&mut *control.get(), datagram.source, ipv6) as _;
                (*iov.get()).iov_base = datagram.bytes.as_ptr().cast_mut().cast();
                (*iov.get()).iov_len = datagram.bytes.len();
            }
            header.msg_hdr.msg_name = name.get().cast();
            header.msg_hdr.msg_iov = iov.get();
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = if header.msg_hdr.msg_controllen == 0 {
                ptr::null_mut()
            } else {
                control.get().cast()
            };
            header.msg_len = 0;
            length += 1;
        }
        Prepared {
            headers: self.headers.get_mut(..length).unwrap_or_default(),
            next: 0,
            borrows: PhantomData,
        }
    }
}

/// Datagrams that are ready to be sent. Holds the borrow of their bytes.
pub struct Prepared<'b> {
    headers: &'b mut [mmsghdr],
    next: usize,
    borrows: PhantomData<&'b [u8]>,
}

impl Prepared<'_> {
    /// How many were prepared.
    #[must_use]
    pub fn len(&self) -> usize {
        self.headers.len()
    }

    /// Whether all were sent or skipped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.next >= self.headers.len()
    }

    /// Sends what is left, in order, and returns how many and how many bytes the kernel took.
    ///
    /// # Errors
    /// The errno for the first one that is left; none was sent then.
    pub fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<(usize, usize)> {
        let rest = self.headers.get_mut(self.next..).unwrap_or_default();
        // SAFETY: each header points to a name, a control buffer and an iovec of the batch that `self` borrows, and
        // the iovec to bytes whose borrow `self` holds; the kernel only reads them.
        let n = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                rest.as_mut_ptr(),
                rest.len() as c_uint,
                libc::MSG_DONTWAIT as _,
            )
        };
        let sent = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        let bytes = rest.iter().take(sent).map(|header| header.msg_len as usize).sum();
        self.next += sent;
        Ok((sent, bytes))
    }

    /// Lets the kernel choose the source of the first one that is left; false when it does so already.
    pub(crate) fn drop_source(&mut self) -> bool {
        let Some(header) = self.headers.get_mut(self.next) else {
            return false;
        };
        header.msg_hdr.msg_control = ptr::null_mut();
        mem::take(&mut header.msg_hdr.msg_controllen) > 0
    }

    /// Gives up the first one that is left.
    pub fn skip(&mut self) {
        self.next += 1;
    }
}

fn write_name(name: &mut sockaddr_storage, to: SocketAddr, ipv6: bool) -> libc::socklen_t {
    let v6 = match (to, ipv6) {
        (SocketAddr::V4(v4), false) => {
            let name: *mut sockaddr_storage = name;
            // SAFETY: sockaddr_storage is large enough and aligned for sockaddr_in, which holds integers only.
            let name = unsafe { &mut *name.cast::<libc::sockaddr_in>() };
            name.sin_family = libc::AF_INET as _;
            name.sin_port = v4.port().to_be();
            name.sin_addr.s_addr = v4.ip().to_bits().to_be();
            name.sin_zero = [0; 8];
            return size_of::<libc::sockaddr_in>() as _;
        }
        (SocketAddr::V4(v4), true) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0),
        (SocketAddr::V6(v6), _) => v6,
    };
    let name: *mut sockaddr_storage = name;
    // SAFETY: as above, for sockaddr_in6.
    let name = unsafe { &mut *name.cast::<libc::sockaddr_in6>() };
    name.sin6_family = libc::AF_INET6 as _;
    name.sin6_port = v6.port().to_be();
    name.sin6_flowinfo = 0;
    name.sin6_addr.s6_addr = v6.ip().octets();
    name.sin6_scope_id = v6.scope_id();
    size_of::<libc::sockaddr_in6>() as _
}

/// Writes the control message that asks for a source address and returns its length, 0 for none.
fn write_source(control: &mut Control, source: Option<IpAddr>, ipv6: bool) -> usize {
    match (source, ipv6) {
        (None, _) => 0,
        (Some(IpAddr::V4(ip)), false) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: ip.to_bits().to_be(),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            write_control(control, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        (Some(ip), _) => {
            let ip = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: ip.octets() },
                ipi6_ifindex: 0,
            };
            write_control(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

fn write_control<T>(control: &mut Control, level: c_int, kind: c_int, data: T) -> usize {
    const {
        assert!(
            size_of::<cmsghdr>() + size_of::<T>() + 8 <= CONTROL_BYTES,
            "a control message must fit"
        );
    }
    let head: *mut cmsghdr = control.as_mut_ptr().cast();
    // SAFETY: the buffer is aligned for a cmsghdr and, as asserted above, long enough for it and the data.
    unsafe {
        (*head).cmsg_len = libc::CMSG_LEN(size_of::<T>() as c_uint) as _;
        (*head).cmsg_level = level;
        (*head).cmsg_type = kind;
        ptr::write_unaligned(libc::CMSG_DATA(head).cast::<T>(), data);
        libc::CMSG_SPACE(size_of::<T>() as c_uint) as usize
    }
}

/// Steers DTLS records with a Connection ID (content type 25, RFC 9146, 4) to the socket of the group whose number is the
/// first byte of the Connection ID, modulo their count: the worker that gave it out, or, after a restart with fewer of them, always
/// the same one. All else goes by the hash of the addresses. Sockets are numbered in the order in which they were bound.
///
/// # Errors
/// The errno of setsockopt.
pub fn steer_by_connection_id(socket: BorrowedFd<'_>, workers: u32) -> io::Result<()> {
    const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const REMAINDER: u16 = (libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN_LOADED: u16 = (libc::BPF_RET | libc::BPF_A) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const TLS12_CID: u32 = 25;
    const FIRST_BYTE_OF_CID: u32 = 11;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(LOAD_BYTE, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 3, TLS12_CID),
        step(LOAD_BYTE, 0, 0, FIRST_BYTE_OF_CID),
        step(REMAINDER, 0, 0, workers),
        step(RETURN_LOADED, 0, 0, 0),
        step(RETURN, 0, 0, u32::MAX),
    ];
    let program = libc::sock_fprog {
        len: program.len() as _,
        filter: program.as_mut_ptr(),
    };
    // `program` points to the array, which outlives the call; the kernel copies both.
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, &program)
}

pub(super) fn set_option<T>(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes the descriptors that the service manager passed (LISTEN_FDS), with their names. Later calls get none.
///
/// # Errors
/// The variables do not parse, or a descriptor that they promise is not open.
pub fn take_passed_descriptors() -> io::Result<Vec<(OwnedFd, String)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let passed = sd_notify::listen_fds_with_names()?;
    // SAFETY: the service manager gave these descriptors to this process, `listen_fds` has just set a flag on each and
    // so knows them open, and nobody else takes them: the call is made once, as guarded above.
    Ok(passed
        .map(|(fd, name)| (unsafe { OwnedFd::from_raw_fd(fd) }, name))
        .collect())
}

/// Registers a socket with the runtime of this thread.
///
/// # Errors
/// The kernel or the runtime refuses it.
pub(super) fn watch(socket: UdpSocket, interest: Interest) -> io::Result<AsyncFd<UdpSocket>> {
    // SAFETY: a UdpSocket owns its descriptor, names the same one for as long as it lives, and closes it only when it
    // is dropped, which the AsyncFd that owns it does after it has been taken off the runtime.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}
