//! Record headers on the wire (RFC 6347, 4.1; RFC 9146, 4).

/// `change_cipher_spec` records.
pub const CHANGE_CIPHER_SPEC: u8 = 20;
/// `alert` records.
pub const ALERT: u8 = 21;
/// `handshake` records.
pub const HANDSHAKE: u8 = 22;
/// `application_data` records.
pub const APPLICATION_DATA: u8 = 23;
/// `tls12_cid` records (RFC 9146, 4).
pub const TLS12_CID: u8 = 25;
/// `return_routability_check` records (RFC 9853, 4), which are found inside of `tls12_cid` ones only.
pub const RETURN_ROUTABILITY_CHECK: u8 = 27;

/// DTLS 1.2 as it stands in headers.
pub const DTLS_1_2: [u8; 2] = [0xfe, 0xfd];
/// DTLS 1.0 as it stands in headers: what hellos and HelloVerifyRequests carry.
pub const DTLS_1_0: [u8; 2] = [0xfe, 0xff];

/// Bytes of a record header without a Connection ID.
pub const HEADER_LEN: usize = 13;
/// Most bytes of plaintext in a record (RFC 5246, 6.2.1).
pub const MAX_PLAINTEXT: usize = 1 << 14;
/// Most bytes that a record may be longer than its plaintext (RFC 5246, 6.2.3).
const MAX_EXPANSION: usize = 2048;
/// The last sequence number of an epoch.
pub const MAX_SEQUENCE: u64 = (1 << 48) - 1;

/// A record header, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The content type.
    pub kind: u8,
    /// The version bytes.
    pub version: [u8; 2],
    /// The epoch: 0 is not protected.
    pub epoch: u16,
    /// The sequence number within the epoch; 48 bits.
    pub sequence: u64,
    /// Bytes of Connection ID in the header.
    pub cid_len: usize,
    /// Bytes before the body.
    pub header_len: usize,
    /// Bytes of body.
    pub body_len: usize,
}

impl Header {
    /// The header at the start of `bytes`; a `tls12_cid` record is taken to carry `cid_len` bytes of Connection ID.
    /// Nothing when it is cut, when the body is, or when the body is longer than RFC 5246, 6.2.3 allows.
    #[must_use]
    pub fn parse(bytes: &[u8], cid_len: usize) -> Option<Self> {
        let (start, rest) = bytes.split_first_chunk::<11>()?;
        let [kind, v0, v1, e0, e1, sequence @ ..] = *start;
        let cid_len = if kind == TLS12_CID { cid_len } else { 0 };
        let [l0, l1] = *rest.get(cid_len..)?.first_chunk::<2>()?;
        let header = Self {
            kind,
            version: [v0, v1],
            epoch: u16::from_be_bytes([e0, e1]),
            sequence: sequence.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)),
            cid_len,
            header_len: HEADER_LEN + cid_len,
            body_len: usize::from(u16::from_be_bytes([l0, l1])),
        };
        let whole = header.record_len() <= bytes.len() && header.body_len <= MAX_PLAINTEXT + MAX_EXPANSION;
        whole.then_some(header)
    }

    /// Bytes of header and body.
    #[must_use]
    pub const fn record_len(&self) -> usize {
        self.header_len + self.body_len
    }
}

/// Appends the header of an outgoing DTLS 1.2 record. `cid` is empty for every type but `tls12_cid`.
pub fn write_header(out: &mut Vec<u8>, kind: u8, epoch: u16, sequence: u64, cid: &[u8], body_len: usize) {
    out.push(kind);
    out.extend_from_slice(&DTLS_1_2);
    out.extend_from_slice(&epoch_and_sequence(epoch, sequence));
    out.extend_from_slice(cid);
    out.extend_from_slice(&u16::try_from(body_len).unwrap_or(u16::MAX).to_be_bytes());
}

/// Adds `by` to the sequence number of a record, in place.
pub fn renumber(record: &mut [u8], by: u64) {
    if let Some(place) = record.get_mut(3..).and_then(<[u8]>::first_chunk_mut::<8>) {
        let number = u64::from_be_bytes(*place);
        *place = epoch_and_sequence((number >> 48) as u16, number.wrapping_add(by));
    }
}

/// Epoch and sequence number as the eight bytes that they are on the wire.
#[must_use]
pub fn epoch_and_sequence(epoch: u16, sequence: u64) -> [u8; 8] {
    (u64::from(epoch) << 48 | (sequence & MAX_SEQUENCE)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let mut bytes = Vec::new();
        write_header(&mut bytes, TLS12_CID, 1, MAX_SEQUENCE, &[7; 8], 3);
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        let header = Header::parse(&bytes, 8).unwrap();
        assert_eq!(
            (header.kind, header.epoch, header.sequence),
            (TLS12_CID, 1, MAX_SEQUENCE)
        );
        assert_eq!((header.header_len, header.body_len, header.cid_len), (21, 3, 8));
    }

    #[test]
    fn cut_and_oversize_records_are_no_records() {
        let mut bytes = Vec::new();
        write_header(&mut bytes, HANDSHAKE, 0, 0, &[], 10);
        bytes.extend_from_slice(&[0; 10]);
        assert!(Header::parse(&bytes, 8).is_some());
        for len in 0..bytes.len() {
            assert!(Header::parse(&bytes[..len], 8).is_none(), "{len}");
        }
        let mut long = Vec::new();
        write_header(&mut long, HANDSHAKE, 0, 0, &[], MAX_PLAINTEXT + MAX_EXPANSION + 1);
        long.resize(30_000, 0);
        assert!(Header::parse(&long, 8).is_none());
    }
}
