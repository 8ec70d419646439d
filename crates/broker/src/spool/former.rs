//! Segments of a former version, which had no key. They are written anew before anything reads them, a file at a time.
//!
//! ```text
//! record: "PtSp", u32 body length, u64 number, u64 accepted at (ms since 1970), u32 CRC-32 of these three and the body, body
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::frame::{self, HEADER, Key, MAX_BODY};

const MARK: &[u8; 4] = b"PtSp";
/// Bytes before the body.
const FORMER_HEADER: usize = 28;
/// Bytes of a key, of which a segment now begins with three copies.
const KEY: usize = 16;

/// A whole record.
struct Record<'b> {
    number: u64,
    accepted_millis: u64,
    body: &'b [u8],
    end: usize,
}

/// Writes the file of a segment anew if a former version wrote it; whether it did.
///
/// # Errors
/// The disk's. Then the file is as it was.
pub(super) fn convert(path: &Path, segment: u64) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let mut start = Vec::with_capacity(3 * KEY);
    (&mut file).take(3 * KEY as u64).read_to_end(&mut start)?;
    if has_key(&start) {
        return Ok(false);
    }
    let mut bytes = start;
    file.read_to_end(&mut bytes)?;
    let Some(content) = rewritten(&bytes, segment) else {
        return Ok(false);
    };
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&content)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    Ok(true)
}

/// Whether a segment begins with a key, one copy of which may be damaged.
fn has_key(start: &[u8]) -> bool {
    let mut copies = start.chunks_exact(KEY);
    match (copies.next(), copies.next(), copies.next()) {
        (Some(a), Some(b), Some(c)) => a == b || b == c || a == c,
        _ => false,
    }
}

/// The segment as it is written now, if there is a record of the former kind in it. What is damaged leaves a hole of the same numbers.
fn rewritten(bytes: &[u8], segment: u64) -> Option<Vec<u8>> {
    let key = Key::new();
    let mut out = key.preamble();
    let (mut expected, mut at, mut end) = (segment, 0, 0);
    while let Some(record) = next(bytes, &mut at) {
        // Each record before it took at least a header.
        let most = at.saturating_sub(end) / FORMER_HEADER;
        let missing = record
            .number
            .checked_sub(expected)
            .and_then(|count| usize::try_from(count).ok());
        let Some(missing) = missing.filter(|count| *count <= most) else {
            at += 1;
            continue;
        };
        out.resize(out.len() + missing * HEADER, 0);
        frame::write(&mut out, &key, record.number, record.accepted_millis, record.body);
        expected = record.number + 1;
        (at, end) = (record.end, record.end);
    }
    (end > 0).then_some(out)
}

/// The first whole record from `at` on, which is then where it begins.
fn next<'b>(bytes: &'b [u8], at: &mut usize) -> Option<Record<'b>> {
    loop {
        let rest = bytes.get(*at..)?;
        *at += rest.windows(MARK.len()).position(|four| four == MARK)?;
        if let Some(record) = record_at(bytes, *at) {
            return Some(record);
        }
        *at += 1;
    }
}

fn record_at(bytes: &[u8], at: usize) -> Option<Record<'_>> {
    let header = bytes.get(at..)?.first_chunk::<FORMER_HEADER>()?;
    let (fields, crc) = header.get(MARK.len()..)?.split_first_chunk::<20>()?;
    let length = usize::try_from(u32::from_le_bytes(*fields.first_chunk()?)).ok()?;
    let end = (at + FORMER_HEADER).checked_add(length)?;
    let body = bytes
        .get(at + FORMER_HEADER..end)
        .filter(|body| body.len() <= MAX_BODY)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(fields);
    hasher.update(body);
    (hasher.finalize().to_le_bytes() == *crc).then_some(())?;
    Some(Record {
        number: u64::from_le_bytes(*fields.get(4..)?.first_chunk()?),
        accepted_millis: u64::from_le_bytes(*fields.get(12..)?.first_chunk()?),
        body,
        end,
    })
}

#[cfg(test)]
mod tests {
    use super::super::disk::Directory;
    use super::super::log::Log;
    use super::*;

    fn former(number: u64, body: &[u8]) -> Vec<u8> {
        let mut fields = Vec::new();
        fields.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
        fields.extend_from_slice(&number.to_le_bytes());
        fields.extend_from_slice(&(1_000 + number).to_le_bytes());
        let crc = crc32fast::hash(&[&fields, body].concat());
        [MARK.as_slice(), &fields, &crc.to_le_bytes(), body].concat()
    }

    fn read(directory: &Path) -> (u64, Vec<(u64, Vec<u8>)>) {
        let (mut log, found) = Log::open(Directory::open(directory).unwrap(), 1 << 20).unwrap();
        let read = std::iter::from_fn(|| log.read().unwrap());
        (
            found.records,
            read.map(|frame| (frame.number, frame.body)).collect(),
        )
    }

    #[test]
    fn what_a_former_version_left_is_sent_and_what_comes_goes_behind_it() {
        let directory = tempfile::tempdir().unwrap();
        let bodies: Vec<(u64, Vec<u8>)> = (5..105)
            .map(|n| (n, format!("message {n}").into_bytes()))
            .collect();
        let (first, second) = bodies.split_at(60);
        for (name, records) in [(5, first), (65, second)] {
            let bytes: Vec<u8> = records
                .iter()
                .flat_map(|(number, body)| former(*number, body))
                .collect();
            std::fs::write(directory.path().join(format!("{name:016x}.spool")), bytes).unwrap();
        }
        for _ in 0..2 {
            assert_eq!(read(directory.path()), (100, bodies.clone()));
        }
        assert_eq!(
            std::fs::read_dir(directory.path()).unwrap().count(),
            4,
            "two segments, head and lock"
        );
    }

    #[test]
    fn damage_of_a_former_version_costs_what_it_hit() {
        let directory = tempfile::tempdir().unwrap();
        // A payload that looks like a record is none.
        let bodies = [
            b"one".to_vec(),
            former(9, b"within"),
            b"three".to_vec(),
            b"four".to_vec(),
        ];
        let mut bytes: Vec<u8> = (0..)
            .zip(&bodies)
            .flat_map(|(number, body)| former(number, body))
            .collect();
        let hit = former(0, b"one").len() + 8;
        bytes[hit] ^= 1;
        // And a crash cut the last one off.
        bytes.truncate(bytes.len() - 1);
        std::fs::write(directory.path().join(format!("{:016x}.spool", 0)), bytes).unwrap();
        let (_, read) = read(directory.path());
        assert_eq!(read, [(0, b"one".to_vec()), (2, b"three".to_vec())]);
    }
}
