//! What a socket is asked to tell with each datagram.

use std::io;
use std::os::fd::BorrowedFd;

use libc::c_int;

use super::mmsg::set_option;

/// Asks for the count of dropped datagrams with each datagram (SO_RXQ_OVFL).
///
/// # Errors
/// The errno of setsockopt.
pub fn report_drops(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &c_int::from(true))
}

/// Asks for the local address with each datagram (IP_PKTINFO or IPV6_RECVPKTINFO).
///
/// # Errors
/// The errno of setsockopt.
pub fn report_local_address(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    let (level, name) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
    } else {
        (libc::IPPROTO_IP, libc::IP_PKTINFO)
    };
    set_option(socket, level, name, &c_int::from(true))
}
