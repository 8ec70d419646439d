//! Datagram to plaintext and proved identity, and back.
