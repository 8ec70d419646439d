//! The stream that OpenSSL reads records from and writes datagrams to: memory, no socket.

use std::io::{self, Read, Write};

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
