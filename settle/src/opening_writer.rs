//! The committer's end of the rings of openings: writes what belongs to a group before the group itself is committed.
//!
//! A shard pushes an opening before its leaf. So the openings of leaves that were taken are in the rings, whole, and at
//! most these are written: one behind the other, straight from the rings' memory, to the end of the newest segment. A
//! ring is released when fsync has returned and not before; until then every attempt writes the same bytes to the same
//! place. Where no openings come, a commit looks at one index of each ring and that is all.

use crate::error::ReadError;
use crate::opening_record::Header;
use crate::openings::{OpeningPosition, Openings};
use rtrb::Consumer;
use std::fs::File;
use std::os::unix::fs::FileExt;

pub(crate) struct OpeningWriter {
    rings: Vec<Consumer<u8>>,
    /// Of each ring, the bytes that go with the leaves that were taken.
    due: Vec<usize>,
    segment_bytes: u64,
    /// The segment that is written, and where it begins; none before the first opening.
    segment: Option<(File, u64)>,
    /// Behind the last opening that is durable.
    end: u64,
    /// Behind the last opening that readers may see.
    published: u64,
}

impl OpeningWriter {
    pub(crate) fn new(rings: Vec<Consumer<u8>>, segment_bytes: u64, openings: &Openings) -> Self {
        let (due, end) = (vec![0; rings.len()], openings.end().0);
        Self { rings, due, segment_bytes, segment: None, end, published: end }
    }

    /// Makes durable the openings of the first `taken` leaves of each ring. After an error nothing has been released;
    /// calling it again is all that it takes.
    pub(crate) fn write(&mut self, openings: &Openings, taken: &[u64]) -> Result<(), ReadError> {
        for ((ring, due), taken) in self.rings.iter_mut().zip(&mut self.due).zip(taken) {
            *due = if ring.is_empty() { 0 } else { due_bytes(ring, *taken) };
        }
        if self.due.iter().all(|due| *due == 0) {
            return Ok(());
        }
        let (file, start) = match self.segment.take() {
            Some((file, start)) if self.end - start < self.segment_bytes => (file, start),
            _ => openings.segment_to_write(self.end, self.segment_bytes)?,
        };
        let written = write_rings(&mut self.rings, &self.due, &file, self.end - start);
        if written.is_err() {
            // To give back the room. Where that fails too, the next attempt covers what is there.
            let _ = file.set_len(self.end - start);
        }
        self.segment = Some((file, start));
        written.map_err(|source| openings.failed(start, source))?;
        for (ring, due) in self.rings.iter_mut().zip(&self.due) {
            ring.read_chunk(*due).expect("it was there before").commit_all();
            self.end += *due as u64;
        }
        Ok(())
    }

    /// Shows readers what was written, once the fate of the leaves is settled.
    pub(crate) fn publish(&mut self, openings: &Openings) {
        if self.published != self.end {
            self.published = self.end;
            openings.publish(OpeningPosition(self.end));
        }
    }
}

/// The bytes of the openings that belong to the first `taken` leaves of a ring.
fn due_bytes(ring: &mut Consumer<u8>, taken: u64) -> usize {
    let held = ring.slots();
    let chunk = ring.read_chunk(held).expect("no more is asked for than the ring holds");
    let (front, back) = chunk.as_slices();
    let mut due = 0;
    // A header comes whole; behind it may be a part of its opening, but then its leaf has not come yet.
    while held - due >= Header::LEN {
        let mut header = Header([0; Header::LEN]);
        let bytes = front.iter().chain(back).skip(due);
        header.0.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        if !header.is_of_first(taken) {
            break;
        }
        due += header.record_len();
        assert!(due <= held, "an opening is in its ring before its leaf is");
    }
    due
}

/// Writes so many bytes of each ring, one behind the other, and makes them durable.
fn write_rings(
    rings: &mut [Consumer<u8>],
    due: &[usize],
    file: &File,
    mut offset: u64,
) -> std::io::Result<()> {
    for (ring, due) in rings.iter_mut().zip(due) {
        let chunk = ring.read_chunk(*due).expect("it was there before");
        let (front, back) = chunk.as_slices();
        file.write_all_at(front, offset)?;
        file.write_all_at(back, offset + front.len() as u64)?;
        offset += *due as u64;
    }
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LeafBytes;
    use crate::log::LogConfig;
    use crate::openings::Opening;
    use crate::queue::{Appender, Waker};
    use haca_wire::Leaf;
    use haca_wire::merkle::leaf_hash;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    /// Two appenders' rings, the writer and the segments, without a log around them.
    struct Rig {
        appenders: Vec<Appender>,
        writer: OpeningWriter,
        openings: Openings,
    }

    impl Rig {
        fn open(dir: &Path, ring_bytes: usize, segment_bytes: u64) -> Self {
            let config = LogConfig { opening_ring_bytes: ring_bytes, ..LogConfig::new(dir, "rig") };
            let positions: Arc<[_]> = vec![Default::default(), Default::default()].into();
            let waker = Arc::new(Waker::default());
            let (appenders, rings): (_, Vec<_>) = (0..2)
                .map(|index| Appender::new(&config, index, Arc::clone(&positions), Arc::clone(&waker)))
                .unzip();
            let openings = Openings::open(&folder(dir)).unwrap();
            openings.cut().unwrap();
            let rings = rings.into_iter().map(|(_, opening_bytes)| opening_bytes).collect();
            let writer = OpeningWriter::new(rings, segment_bytes, &openings);
            Self { appenders, writer, openings }
        }

        fn append(&mut self, appender: usize, number: u64) {
            let (leaf, bytes) = (leaf(number), bytes(number));
            let (front, back) = bytes.split_at(bytes.len() / 3);
            self.appenders[appender].append_opened(&leaf, &leaf_hash(&leaf), &[front, &[], back]).unwrap();
        }

        fn settle(&mut self, taken: [u64; 2]) {
            self.writer.write(&self.openings, &taken).unwrap();
            self.writer.publish(&self.openings);
        }

        /// The numbers of all openings from a position on, each read by itself and compared.
        fn numbers(&self, mut from: OpeningPosition) -> Vec<u64> {
            let mut numbers = Vec::new();
            while let Some(opening) = self.openings.read(from, 0).unwrap().pop() {
                assert!(from <= opening.position && opening.position < opening.next);
                from = opening.next;
                numbers.push(number(&opening));
            }
            assert_eq!(from, self.openings.end());
            numbers
        }
    }

    fn folder(dir: &Path) -> PathBuf {
        dir.join("openings")
    }

    fn leaf(number: u64) -> LeafBytes {
        let mut leaf = [7; Leaf::LEN];
        leaf[8..16].copy_from_slice(&number.to_le_bytes());
        leaf
    }

    fn bytes(number: u64) -> Vec<u8> {
        (0..number * 37 % 150).map(|at| (number * 3 + at) as u8).collect()
    }

    fn number(opening: &Opening) -> u64 {
        let number = u64::from_le_bytes(*opening.request.0.first_chunk().unwrap());
        assert_eq!((&opening.bytes, opening.leaf_hash), (&bytes(number), leaf_hash(&leaf(number))));
        number
    }

    fn segments(dir: &Path) -> Vec<PathBuf> {
        let mut paths: Vec<_> =
            std::fs::read_dir(folder(dir)).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    #[test]
    fn openings_of_leaves_that_were_taken_are_written_and_seen_when_they_are_published() {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::open(dir.path(), 1 << 10, 1 << 20);
        rig.settle([0, 0]);
        assert!(!folder(dir.path()).exists(), "nothing is created for leaves without openings");
        for number in [1, 2, 3] {
            rig.append(0, number);
        }
        rig.appenders[1].append(&leaf(9)).unwrap();
        rig.append(1, 4);
        rig.writer.write(&rig.openings, &[2, 1]).unwrap();
        assert_eq!(rig.openings.read(OpeningPosition(0), usize::MAX).unwrap(), []);
        // What was written is not written again, and is published in the end.
        rig.settle([2, 1]);
        assert_eq!(rig.numbers(OpeningPosition(0)), [1, 2]);
        rig.settle([3, 2]);
        assert_eq!(rig.numbers(OpeningPosition(0)), [1, 2, 3, 4]);
        assert_eq!(rig.appenders[0].free_opening_bytes(), 1 << 10);
    }

    #[test]
    fn records_go_around_the_end_of_their_ring_at_every_place() {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::open(dir.path(), 499, 1 << 12);
        for number in 0..1000 {
            rig.append(number as usize % 2, number);
            rig.settle([number / 2 + 1, number.div_ceil(2)]);
        }
        assert_eq!(rig.numbers(OpeningPosition(0)), Vec::from_iter(0..1000));
        let whole = rig.openings.read(OpeningPosition(0), usize::MAX).unwrap();
        assert_eq!(whole.iter().map(number).collect::<Vec<_>>(), Vec::from_iter(0..1000));
        let some = rig.openings.read(whole[10].position, 500).unwrap();
        assert_eq!(some, whole[10..10 + some.len()]);
        let bytes = some.last().unwrap().next.0 - some[0].position.0;
        assert!((500..500 + 64 + 150).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_torn_tail_is_cut_wherever_it_was_torn_and_openings_go_on_from_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::open(dir.path(), 1 << 12, 1 << 20);
        (0..4).for_each(|number| rig.append(0, number));
        rig.settle([4, 0]);
        let ends: Vec<u64> =
            rig.openings.read(OpeningPosition(0), usize::MAX).unwrap().iter().map(|o| o.next.0).collect();
        drop(rig);
        let path = segments(dir.path()).pop().unwrap();
        let written = std::fs::read(&path).unwrap();
        // Each begin and end of a record, and some places between.
        let near_an_end = |cut: usize| ends.iter().any(|end| cut.abs_diff(*end as usize) < 2);
        for cut in (0..written.len()).filter(|cut| cut.is_multiple_of(11) || near_an_end(*cut)) {
            // The file ends there, or what should follow was not written, or something else was.
            let zeros = [&written[..cut], &vec![0; written.len() - cut]].concat();
            let garbage = [&written[..cut], &[written[cut] ^ 0x40], &written[cut + 1..]].concat();
            for torn in [written[..cut].to_vec(), zeros, garbage] {
                let whole = ends.iter().take_while(|end| {
                    let range = ..**end as usize;
                    torn.get(range) == Some(&written[range])
                });
                let whole = whole.count() as u64;
                std::fs::write(&path, &torn).unwrap();
                let mut rig = Rig::open(dir.path(), 1 << 12, 1 << 20);
                if rig.openings.end().0 == written.len() as u64 && whole < 4 {
                    // Not torn but damaged: intact ones follow, which its length leads to.
                    let begin = whole.checked_sub(1).map_or(0, |last| ends[last as usize]);
                    assert!(whole < 3 && !(8..12).contains(&(cut as u64 - begin)), "{cut}");
                    let at = OpeningPosition(begin);
                    let damage = rig.openings.damage(at).unwrap().unwrap();
                    assert_eq!(damage.next, Some(OpeningPosition(ends[whole as usize])));
                    assert_eq!(rig.numbers(damage.next.unwrap()), Vec::from_iter(whole + 1..4));
                    continue;
                }
                assert_eq!(rig.numbers(OpeningPosition(0)), Vec::from_iter(0..whole), "{cut}");
                assert_eq!(std::fs::metadata(&path).unwrap().len(), rig.openings.end().0);
                if cut.is_multiple_of(2) {
                    rig.append(1, 5);
                    rig.settle([0, 1]);
                    assert_eq!(rig.numbers(OpeningPosition(0)).last(), Some(&5));
                }
            }
        }
    }

    #[test]
    fn intact_openings_behind_a_damaged_length_are_kept_aside_when_they_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::open(dir.path(), 1 << 12, 1 << 20);
        (0..4).for_each(|number| rig.append(0, number));
        rig.settle([4, 0]);
        let begin = rig.openings.read(OpeningPosition(0), 0).unwrap()[0].next.0 as usize;
        drop(rig);
        let path = segments(dir.path()).pop().unwrap();
        let mut written = std::fs::read(&path).unwrap();
        written[begin + 8] ^= 1;
        std::fs::write(&path, &written).unwrap();
        let rig = Rig::open(dir.path(), 1 << 12, 1 << 20);
        assert_eq!(rig.numbers(OpeningPosition(0)), [0]);
        let kept = segments(dir.path()).pop().unwrap();
        assert_eq!(std::fs::read(&kept).unwrap(), written[begin..], "{}", kept.display());
        let again = Openings::open(&folder(dir.path())).unwrap();
        assert_eq!(again.end(), rig.openings.end(), "what is kept aside is no segment");
    }

    #[test]
    fn segments_before_a_position_are_deleted_and_an_older_one_reads_on_behind_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::open(dir.path(), 1 << 12, 300);
        for number in 0..30 {
            rig.append(0, number);
            rig.settle([number + 1, 0]);
        }
        let all = rig.openings.read(OpeningPosition(0), usize::MAX).unwrap();
        let before = segments(dir.path()).len();
        assert!(before > 5);
        rig.openings.release(all[17].position).unwrap();
        let left = rig.numbers(OpeningPosition(0));
        assert!(left[0] > 10 && left[0] <= 17 && left.last() == Some(&29), "{left:?}");
        let on_disk: u64 = segments(dir.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
        assert_eq!(rig.openings.bytes(), on_disk);
        rig.openings.release(OpeningPosition(u64::MAX)).unwrap();
        assert_eq!(segments(dir.path()).len(), 1);
        let last = rig.numbers(OpeningPosition(0));
        // And so it stays.
        drop(rig);
        let mut rig = Rig::open(dir.path(), 1 << 12, 300);
        assert_eq!(rig.numbers(OpeningPosition(3)), last);
        rig.append(1, 30);
        rig.settle([0, 1]);
        assert_eq!(rig.numbers(all[29].next), [30]);
    }

    #[test]
    fn an_older_segment_that_was_damaged_or_lost_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::open(dir.path(), 1 << 12, 300);
        for number in 0..30 {
            rig.append(0, number);
            rig.settle([number + 1, 0]);
        }
        let all = rig.openings.read(OpeningPosition(0), usize::MAX).unwrap();
        let path = segments(dir.path())[1].clone();
        let start: u64 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let hit = all.iter().find(|opening| opening.position.0 > start).unwrap().position;
        let whole = std::fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damaged[(hit.0 - start) as usize + 20] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        // What lies before it and behind it can be read.
        let some = rig.openings.read(OpeningPosition(0), usize::MAX).unwrap();
        assert_eq!(some.last().unwrap().next, hit);
        match rig.openings.read(hit, usize::MAX).unwrap_err() {
            ReadError::DamagedOpening { path: named, position } => {
                assert_eq!((named, position), (path.clone(), hit.0))
            }
            error => panic!("{error}"),
        }
        assert_eq!(rig.numbers(all[20].position), Vec::from_iter(20..30));
        // A position that was never given out.
        let between = OpeningPosition(all[20].position.0 + 1);
        assert!(matches!(rig.openings.read(between, 0), Err(ReadError::DamagedOpening { .. })));

        let refused = |at: &Path, length: u64| match Openings::open(&folder(dir.path())).err().unwrap() {
            ReadError::LostOpenings { path, length: found, .. } => assert_eq!((&*path, found), (at, length)),
            error => panic!("{error}"),
        };
        std::fs::write(&path, &whole[1..]).unwrap();
        refused(&path, whole.len() as u64 - 1);
        std::fs::write(&path, [&whole[..], b"0"].concat()).unwrap();
        refused(&path, whole.len() as u64 + 1);
        std::fs::remove_file(&path).unwrap();
        let first = &segments(dir.path())[0];
        refused(first, first.metadata().unwrap().len());
        std::fs::write(&path, &whole).unwrap();
        // Other files in the folder are none of ours.
        std::fs::write(folder(dir.path()).join("99999999999999999999"), b"").unwrap();
        std::fs::write(folder(dir.path()).join("note"), b"").unwrap();
        assert_eq!(Openings::open(&folder(dir.path())).unwrap().end(), all[29].next);
    }

    #[test]
    fn what_could_not_be_written_stays_in_the_ring_and_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let mut rig = Rig::open(dir.path(), 1 << 12, 300);
        (0..2).for_each(|number| rig.append(0, number));
        let free = rig.appenders[0].free_opening_bytes();
        std::fs::write(folder(dir.path()), b"in the way").unwrap();
        for _ in 0..2 {
            match rig.writer.write(&rig.openings, &[2, 0]).unwrap_err() {
                ReadError::Openings { path, .. } => assert!(path.starts_with(folder(dir.path()))),
                error => panic!("{error}"),
            }
        }
        assert_eq!(rig.appenders[0].free_opening_bytes(), free);
        std::fs::remove_file(folder(dir.path())).unwrap();
        rig.settle([2, 0]);
        assert_eq!(rig.numbers(OpeningPosition(0)), [0, 1]);
        assert_eq!(rig.appenders[0].free_opening_bytes(), 1 << 12);
    }
}
