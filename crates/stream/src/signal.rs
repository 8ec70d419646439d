//! Signalling messages (RFC 8323, 5), in the form of a datagram.

use portcullis_proto::coap::codec::{Message, Writer};
use portcullis_proto::coap::contract::{Code, Token};
use portcullis_proto::coap::metrics::MessageType;

/// 7.01, Capabilities and Settings.
pub const CSM: u8 = 0xe1;
/// 7.02.
pub const PING: u8 = 0xe2;
/// 7.03.
pub const PONG: u8 = 0xe3;
/// 7.04.
pub const RELEASE: u8 = 0xe4;
/// 7.05.
pub const ABORT: u8 = 0xe5;

/// Max-Message-Size of a CSM.
const MAX_MESSAGE_SIZE: u16 = 2;
/// Block-Wise-Transfer of a CSM.
const BLOCK_WISE_TRANSFER: u16 = 4;
/// Custody of a Ping or Pong.
const CUSTODY: u16 = 2;
/// Bad-CSM-Option of an Abort.
const BAD_CSM_OPTION: u16 = 2;

/// What a peer takes that said nothing else (RFC 8323, 5.3.1).
pub const BASE_MESSAGE: usize = 1152;

/// What a signalling message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// What the peer can do: the longest message that it takes, if it says so.
    Csm(Option<usize>),
    /// The peer asks whether we are there, and whether all before was done (Custody).
    Ping(Token, bool),
    /// The peer is there.
    Pong,
    /// The peer wants the connection to end in order.
    Release,
    /// The peer has ended it.
    Abort,
    /// A code that means nothing.
    Unknown,
}

/// Why a message is none, or cannot be obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It cannot be read.
    Malformed,
    /// A critical option that is not known.
    Critical(u16),
}

/// Whether a code is that of a signalling message.
#[must_use]
pub const fn is_signal(code: u8) -> bool {
    code >> 5 == 7
}

/// Reads a signalling message. It may be written over.
///
/// # Errors
/// The connection has to end.
pub fn read(datagram: &mut [u8]) -> Result<Signal, Fault> {
    let Some(place) = datagram.get_mut(1) else {
        return Err(Fault::Malformed);
    };
    // Its options are those of any message, but its code is of no class that a datagram has.
    let code = std::mem::replace(place, Code::GET.0);
    let message = Message::parse(datagram).map_err(|_| Fault::Malformed)?;
    let known: &[u16] = match code {
        CSM => &[MAX_MESSAGE_SIZE, BLOCK_WISE_TRANSFER],
        PING | PONG => &[CUSTODY],
        _ => &[],
    };
    let unknown = message
        .options()
        .find(|(number, _)| number % 2 == 1 && !known.contains(number));
    if let Some((number, _)) = unknown {
        return Err(Fault::Critical(number));
    }
    let option = |wanted: u16| message.options().find(|(number, _)| *number == wanted);
    Ok(match code {
        CSM => Signal::Csm(option(MAX_MESSAGE_SIZE).and_then(|(_, value)| uint(value))),
        PING => Signal::Ping(message.token, option(CUSTODY).is_some()),
        PONG => Signal::Pong,
        RELEASE => Signal::Release,
        ABORT => Signal::Abort,
        _ => Signal::Unknown,
    })
}

/// A number of up to four bytes; longer than those no option of ours may be.
fn uint(value: &[u8]) -> Option<usize> {
    (value.len() <= 4).then(|| value.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)))
}

/// Our CSM: the longest message that we take, and that bodies may come in blocks, several in a message.
#[must_use]
pub fn csm(max_message: usize) -> Vec<u8> {
    write(CSM, Token::default(), |writer| {
        writer.uint(
            MAX_MESSAGE_SIZE,
            Some(u32::try_from(max_message).unwrap_or(u32::MAX)),
        );
        writer.option(BLOCK_WISE_TRANSFER, &[]);
    })
}

/// The answer to a Ping. Messages are handled in their order, so what Custody asks for is so.
#[must_use]
pub fn pong(token: Token, custody: bool) -> Vec<u8> {
    write(PONG, token, |writer| {
        if custody {
            writer.option(CUSTODY, &[]);
        }
    })
}

/// Asks the peer to end the connection.
#[must_use]
pub fn release() -> Vec<u8> {
    write(RELEASE, Token::default(), |_| {})
}

/// Says why the connection ends at once.
#[must_use]
pub fn abort(fault: Option<u16>, why: &str) -> Vec<u8> {
    let mut datagram = Vec::new();
    let mut writer = Writer::new(&mut datagram, MessageType::Non, Code(ABORT), 0, Token::default());
    writer.uint(BAD_CSM_OPTION, fault.map(u32::from));
    writer.payload(why.as_bytes());
    datagram
}

fn write(code: u8, token: Token, options: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut datagram = Vec::new();
    options(&mut Writer::new(
        &mut datagram,
        MessageType::Non,
        Code(code),
        0,
        token,
    ));
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(code: u8, token: &[u8], options: &[(u16, &[u8])]) -> Vec<u8> {
        write(code, Token::new(token).unwrap(), |writer| {
            for (number, value) in options {
                writer.option(*number, value);
            }
        })
    }

    #[test]
    fn a_csm_says_how_long_messages_may_be() {
        assert_eq!(read(&mut csm(65_536)), Ok(Signal::Csm(Some(65_536))));
        assert_eq!(read(&mut with(CSM, b"", &[])), Ok(Signal::Csm(None)));
        assert_eq!(read(&mut with(CSM, b"", &[(2, b"12345")])), Ok(Signal::Csm(None)));
        assert_eq!(
            read(&mut with(CSM, b"", &[(8, b"x")])),
            Ok(Signal::Csm(None)),
            "elective"
        );
    }

    #[test]
    fn a_critical_option_that_is_not_known_is_named() {
        for code in [CSM, PING, PONG, RELEASE, ABORT, 0xe6] {
            let fault = read(&mut with(code, b"", &[(2, b""), (7, b"")]));
            assert_eq!(fault, Err(Fault::Critical(7)), "{code:x}");
        }
        let mut half = csm(70_000);
        half.truncate(6);
        assert_eq!(read(&mut half), Err(Fault::Malformed));
    }

    #[test]
    fn a_pong_has_the_token_and_the_custody_of_its_ping() {
        let token = Token::new(b"tok").unwrap();
        for custody in [false, true] {
            let options: &[(u16, &[u8])] = if custody { &[(2, b"")] } else { &[] };
            assert_eq!(
                read(&mut with(PING, b"tok", options)),
                Ok(Signal::Ping(token, custody))
            );
            let answer = pong(token, custody);
            assert_eq!(answer, with(PONG, b"tok", options));
        }
        assert_eq!(read(&mut release()), Ok(Signal::Release));
        assert_eq!(read(&mut abort(Some(7), "no")), Ok(Signal::Abort));
    }
}
