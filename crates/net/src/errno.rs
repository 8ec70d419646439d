//! What an errno means for the loop.
//!
//! A UDP socket reports the trouble of one peer, of one route or of the moment; none of that may end a listener. Only an
//! errno that says that the descriptor itself is useless does.

use std::io;

use portcullis_proto::labels;

labels! {
    /// Why the kernel would not send a datagram: `udp_send_errors_total{error}`.
    pub enum SendError {
        /// EAGAIN for longer than a worker waits: the send buffer stayed full.
        WouldBlock = "would_block",
        /// EMSGSIZE: larger than the path, or than UDP, takes.
        MessageSize = "message_size",
        /// ENOBUFS, ENOMEM: the kernel or the queue of the interface has no room.
        NoBuffers = "no_buffers",
        /// EPERM, EACCES: a firewall rule, or a broadcast address as destination.
        NotPermitted = "not_permitted",
        /// ENETUNREACH, EHOSTUNREACH, ENETDOWN, EHOSTDOWN: no way there.
        Unreachable = "unreachable",
        /// EINVAL, EADDRNOTAVAIL, EAFNOSUPPORT: not an address that can be sent to from here.
        Address = "address",
        /// Any other errno that a send may end with.
        Other = "other",
    }
}

/// What to do after a failed send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterSend {
    /// The same datagram again at once: EINTR, or an ICMP error that an earlier datagram caused and that this call
    /// only reported (ECONNREFUSED).
    Again,
    /// Wait until the socket is writable.
    Wait,
    /// Give this datagram up and go on with the next.
    Skip(SendError),
    /// The descriptor is useless: the worker ends, and the service manager starts the process afresh. A group of
    /// sockets cannot be mended one by one, because its order decides which worker a Connection ID reaches.
    End,
}

/// Judges the errno of a send.
#[must_use]
pub fn after_send(error: &io::Error) -> AfterSend {
    match error.raw_os_error().unwrap_or_default() {
        libc::EINTR | libc::ECONNREFUSED => AfterSend::Again,
        libc::EAGAIN => AfterSend::Wait,
        libc::EMSGSIZE => AfterSend::Skip(SendError::MessageSize),
        libc::ENOBUFS | libc::ENOMEM => AfterSend::Skip(SendError::NoBuffers),
        libc::EPERM | libc::EACCES => AfterSend::Skip(SendError::NotPermitted),
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN => {
            AfterSend::Skip(SendError::Unreachable)
        }
        libc::EINVAL | libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT => AfterSend::Skip(SendError::Address),
        libc::EBADF | libc::ENOTSOCK | libc::EFAULT => AfterSend::End,
        _ => AfterSend::Skip(SendError::Other),
    }
}

/// Whether a failed send may have failed because of the source address that was asked for: the host lost that address,
/// or it was a broadcast address of ours.
#[must_use]
pub fn blames_source(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH)
    )
}

/// What to do after a failed receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterReceive {
    /// Nothing there: EAGAIN.
    Empty,
    /// Read again: EINTR, or the error of an earlier send that the kernel reports here (ECONNREFUSED, EHOSTUNREACH,
    /// ENETUNREACH, EMSGSIZE, ...). It belongs to one peer.
    Again,
    /// Read again after a while: ENOMEM, ENOBUFS, ENETDOWN and what is unknown. At once might be a busy loop.
    Later,
    /// The descriptor is useless.
    End,
}

/// Judges the errno of a receive.
#[must_use]
pub fn after_receive(error: &io::Error) -> AfterReceive {
    match error.raw_os_error().unwrap_or_default() {
        libc::EAGAIN => AfterReceive::Empty,
        libc::EINTR
        | libc::ECONNREFUSED
        | libc::ECONNRESET
        | libc::EHOSTUNREACH
        | libc::ENETUNREACH
        | libc::EHOSTDOWN
        | libc::ENOPROTOOPT
        | libc::EPROTO
        | libc::EMSGSIZE => AfterReceive::Again,
        libc::EBADF | libc::ENOTSOCK | libc::EFAULT | libc::EINVAL => AfterReceive::End,
        _ => AfterReceive::Later,
    }
}

/// Whether an address is taken.
#[must_use]
pub fn is_in_use(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EADDRINUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn only_a_useless_descriptor_ends_the_loop() {
        let ends: Vec<i32> = (1..134)
            .filter(|code| after_send(&errno(*code)) == AfterSend::End)
            .collect();
        assert_eq!(ends, [libc::EBADF, libc::EFAULT, libc::ENOTSOCK]);
        let ends: Vec<i32> = (1..134)
            .filter(|code| after_receive(&errno(*code)) == AfterReceive::End)
            .collect();
        assert_eq!(ends, [libc::EBADF, libc::EFAULT, libc::EINVAL, libc::ENOTSOCK]);
    }

    #[test]
    fn an_icmp_error_of_one_peer_costs_nobody_else_a_datagram() {
        assert_eq!(after_send(&errno(libc::ECONNREFUSED)), AfterSend::Again);
        assert_eq!(after_receive(&errno(libc::ECONNREFUSED)), AfterReceive::Again);
    }

    #[test]
    fn a_firewall_rule_is_told_from_a_missing_route() {
        assert_eq!(
            after_send(&errno(libc::EPERM)),
            AfterSend::Skip(SendError::NotPermitted)
        );
        assert_eq!(
            after_send(&errno(libc::ENETDOWN)),
            AfterSend::Skip(SendError::Unreachable)
        );
    }
}
