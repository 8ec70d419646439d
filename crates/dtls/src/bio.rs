//! The stream that OpenSSL reads records from and writes datagrams to: memory, no socket.

use std::io::{self, Read, Write};

use openssl::ssl::{self, ErrorCode, SslRef};

/// Whether OpenSSL, which returned `error`, only waits for more records. Of a record that it drops it says nothing (RFC
/// 6347, 4.1.2.7); whether it then ends in `WANT_READ` or in a `SYSCALL` without a cause differs by patch level. An SSL
/// that failed stays failed, and its patch levels before the mend of CVE-2026-75806 do so without a word as well.
pub fn is_waiting(ssl: &SslRef, error: &ssl::Error) -> bool {
    const FAILED: &str = "SSLERR";
    let is_silent = error.ssl_error().is_none()
        && error
            .io_error()
            .is_none_or(|e| e.kind() == io::ErrorKind::WouldBlock);
    is_silent && error.code() != ErrorCode::ZERO_RETURN && ssl.state_string() != FAILED
}

/// One datagram in, any number out.
#[derive(Debug, Default)]
pub struct Pipe {
    input: Vec<u8>,
    has_input: bool,
    output: Vec<Box<[u8]>>,
}

impl Pipe {
    /// Hands OpenSSL its next datagram in place of one that it did not read. An empty one counts as none: OpenSSL
    /// would take it for the end of the stream.
    pub fn put(&mut self, datagram: &[u8]) {
        self.input.clear();
        self.input.extend_from_slice(datagram);
        self.has_input = !datagram.is_empty();
    }

    /// Whether OpenSSL wrote something.
    #[must_use]
    pub(crate) const fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// What OpenSSL wrote, one write a datagram.
    pub fn take(&mut self) -> Vec<Box<[u8]>> {
        std::mem::take(&mut self.output)
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !std::mem::take(&mut self.has_input) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        (&*self.input).read(buffer)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.push(bytes.into());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
