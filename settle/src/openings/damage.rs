//! Past a damaged record: where the next one begins, if that is certain.
//!
//! Openings are callers' bytes, so what looks like a record within a segment may be part of one. What says where a record
//! begins is the length of the one before. The length of a damaged record is believed if it leads to an intact record or
//! to the end of the segment, and if nowhere within the record an intact one begins: then none that is intact is passed
//! over. Bytes that a caller sent can make that doubtful. They make a wrong place certain only if the damage hits the length
//! and turns it into the distance to a record that the caller put into the row, the first in it.

use super::{OpeningPosition, Openings, failed};
use crate::error::ReadError;
use crate::opening_record::{Header, MAX_OPENING};
use haca_wire::{Digest, RequestId};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// What is known of a damaged opening, and what lies behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Where the next opening begins, or its segment ends; `None` if that is not certain.
    pub next: Option<OpeningPosition>,
    /// Where its segment ends.
    pub segment_end: OpeningPosition,
    /// The request of its leaf, unless that is what was damaged: to be compared with the log.
    pub request: RequestId,
    /// The hash of its leaf, likewise.
    pub leaf_hash: Digest,
}

impl Openings {
    /// Looks at the damaged opening at a position; `None` if there is nothing at it.
    pub(crate) fn damage(&self, at: OpeningPosition) -> Result<Option<Damage>, ReadError> {
        let Some(records) = self.records(at.0)? else { return Ok(None) };
        let (path, start, at, end) = (records.path, records.start, records.at, records.end);
        let bytes = read(&path, start, at, end).map_err(failed(&path))?;
        let header = Header(bytes.first_chunk().copied().unwrap_or([0; Header::LEN]));
        Ok(Some(Damage {
            next: record_behind(&bytes).map(|len| OpeningPosition(at + len as u64)),
            segment_end: OpeningPosition(end),
            request: header.request(),
            leaf_hash: header.leaf_hash(),
        }))
    }
}

/// Where the record behind the damaged one at `at` begins, or `end`, of the segment that begins at `start`.
pub(super) fn behind(path: &Path, start: u64, at: u64, end: u64) -> io::Result<Option<u64>> {
    Ok(record_behind(&read(path, start, at, end)?).map(|len| at + len as u64))
}

/// Whether somewhere behind `at` an intact record begins, or may begin: then more than the end of a write is lost with what
/// lies there.
pub(super) fn may_hold_record(path: &Path, start: u64, at: u64, end: u64) -> io::Result<bool> {
    let bytes = read(path, start, at, end)?;
    let mut budget = MAX_HASHED;
    Ok((1..bytes.len()).any(|at| is_record(&bytes[at..], &mut budget).unwrap_or(true)))
}

fn read(path: &Path, start: u64, at: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at - start))?;
    let mut bytes = Vec::new();
    file.take(end - at).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How long the damaged record is with which these bytes of a segment begin, up to its end; `None` if that is not certain.
fn record_behind(bytes: &[u8]) -> Option<usize> {
    let header = Header(*bytes.first_chunk()?);
    let len = header.record_len();
    if header.opening_len() > MAX_OPENING || len > bytes.len() {
        return None;
    }
    let mut budget = MAX_HASHED;
    if len < bytes.len() && !is_record(&bytes[len..], &mut budget)? {
        return None;
    }
    for at in 1..len {
        if is_record(&bytes[at..], &mut budget)? {
            return None;
        }
    }
    Some(len)
}

/// Whether these bytes begin with an intact record; `None` when too much was hashed to learn that.
fn is_record(bytes: &[u8], budget: &mut u64) -> Option<bool> {
    let Some(header) = bytes.first_chunk::<{ Header::LEN }>() else { return Some(false) };
    let header = Header(*header);
    if header.opening_len() > MAX_OPENING || header.record_len() > bytes.len() {
        return Some(false);
    }
    *budget = budget.checked_sub(header.record_len() as u64)?;
    Some(header.is_intact(&bytes[Header::LEN..header.record_len()]))
}

/// Some seconds of hashing. A row can be made such that at every byte a long record seems to begin.
const MAX_HASHED: u64 = 16 << 30;

#[cfg(test)]
mod tests {
    use super::*;
    use haca_wire::Leaf;

    /// A record of these bytes.
    fn record(number: u8, opening: &[u8]) -> Vec<u8> {
        let header = Header::new(
            u64::from(number),
            &[number; Leaf::LEN],
            &Digest([number; 32]),
            opening.len() as u32,
            &[opening],
        );
        [&header.0[..], opening].concat()
    }

    /// Records of the same length, one of a power of two: a bit of one's length leads past another.
    fn segment() -> Vec<Vec<u8>> {
        (0..4).map(|number| record(number, &[number; 64])).collect()
    }

    #[test]
    fn a_record_is_passed_if_its_length_leads_to_the_next_or_to_the_end() {
        for damaged in 0..4 {
            for at in (0..8).chain(12..128) {
                let mut records = segment();
                records[damaged][at] ^= 1;
                assert_eq!(record_behind(&records[damaged..].concat()), Some(128), "byte {at} of {damaged}");
            }
        }
    }

    #[test]
    fn a_damaged_length_passes_no_intact_record() {
        for damaged in 0..4 {
            for bit in 0..32 {
                let mut records = segment();
                records[damaged][8 + bit / 8] ^= 1 << (bit % 8);
                assert_eq!(record_behind(&records[damaged..].concat()), None, "bit {bit} of {damaged}");
            }
        }
    }

    #[test]
    fn what_a_caller_put_into_a_row_is_not_taken_for_a_record() {
        let inner = record(9, b"of a caller");
        let outer = record(1, &[&[0; 10][..], &inner, &[0; 10]].concat());
        for at in [0, 70] {
            let mut damaged = outer.clone();
            damaged[at] ^= 1;
            // It may be one, if the length is what was damaged: so nothing is certain.
            assert_eq!(record_behind(&[damaged, record(2, b"")].concat()), None);
        }
    }

    #[test]
    fn two_damaged_records_in_a_row_are_not_passed() {
        let mut records = segment();
        records[1][70] ^= 1;
        records[2][70] ^= 1;
        assert_eq!(record_behind(&records[1..].concat()), None);
        assert_eq!(record_behind(&[]), None);
    }
}
