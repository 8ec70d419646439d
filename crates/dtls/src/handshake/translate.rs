//! Between the records that OpenSSL knows and those with a Connection ID.

use super::super::aead::{Aead, Opened, Seal, SessionKeys};
use super::super::record::Header;

/// An opened record with a Connection ID as the ordinary record that OpenSSL knows: same sequence number, same
/// explicit nonce. It never leaves this process.
pub(super) fn reseal(
    aead: &mut Aead,
    keys: &SessionKeys,
    header: &Header,
    sealed: &[u8],
    plain: &[u8],
    opened: &Opened,
) -> Option<Vec<u8>> {
    let explicit = sealed.get(header.header_len..)?.first_chunk::<8>()?;
    let what = Seal {
        kind: opened.kind,
        sequence: header.sequence,
        explicit: u64::from_be_bytes(*explicit),
        cid: &[],
        plaintext: plain.get(opened.plaintext.clone())?,
    };
    let mut out = Vec::new();
    aead.seal(&keys.client, &what, &mut out).ok()?;
    Some(out)
}

/// Appends OpenSSL's protected record as a record with the client's Connection ID. Only this form leaves.
pub(super) fn reseal_with_cid(
    aead: &mut Aead,
    keys: &SessionKeys,
    header: &Header,
    record: &[u8],
    cid: &[u8],
    out: &mut Vec<u8>,
) -> Option<()> {
    let explicit = record.get(header.header_len..)?.first_chunk::<8>()?;
    let mut copy = record.to_vec();
    let opened = aead.open(&keys.server, header, &mut copy)?;
    let what = Seal {
        kind: opened.kind,
        sequence: header.sequence,
        explicit: u64::from_be_bytes(*explicit),
        cid,
        plaintext: copy.get(opened.plaintext)?,
    };
    aead.seal(&keys.server, &what, out).ok()
}
