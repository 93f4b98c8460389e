//! A power cut: whatever sectors of the last group the disk lacks, the log opens with every leaf before the first that
//! was hit, and goes on from there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use haca_settle::{Audit, Log, LogConfig, LogKey, OpenError};
use haca_wire::{Digest, Leaf, RequestId};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

const ORIGIN: &str = "example.org/log";
const SECTOR: usize = 512;
/// What one leaf takes in the file.
const SLOT: usize = Leaf::LEN + Digest::LEN;
/// Leaves that were fsynced, and leaves there are with the last group, which was not.
const DURABLE: u64 = 400;
const WRITTEN: u64 = 700;

fn open(dir: &Path) -> Result<(Log, Vec<haca_settle::Appender>), OpenError> {
    let config = LogConfig { audit: Audit::Whole, ..LogConfig::new(dir, ORIGIN) };
    Log::open(config, LogKey::from_seed(ORIGIN, &[1; 32]).unwrap(), 1)
}

fn id(number: u64) -> RequestId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    id[8..].copy_from_slice(&number.to_be_bytes());
    RequestId(id)
}

fn leaf(number: u64) -> [u8; Leaf::LEN] {
    let mut leaf = [0x5a; Leaf::LEN];
    leaf[8..24].copy_from_slice(&id(number).0);
    leaf
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// A log whose last group is not promised to anyone.
struct Whole {
    dir: PathBuf,
    /// The file of leaves when the first ones were durable, and with the last group.
    durable: Vec<u8>,
    written: Vec<u8>,
}

impl Whole {
    fn new(dir: PathBuf) -> Self {
        let leaves = dir.join("store/leaves");
        let checkpoints = [dir.join("checkpoint"), dir.join("checkpoints")];
        let append = |numbers: std::ops::Range<u64>| {
            let (log, mut appenders) = open(&dir).unwrap();
            numbers.for_each(|number| appenders[0].append(&leaf(number)).unwrap());
            log.close().unwrap();
            std::fs::read(&leaves).unwrap()
        };
        let durable = append(0..DURABLE);
        let kept: Vec<_> = checkpoints.iter().map(|path| std::fs::read(path).unwrap()).collect();
        let written = append(DURABLE..WRITTEN);
        assert_eq!(written[..DURABLE as usize * SLOT], durable[..DURABLE as usize * SLOT]);
        // The last group was not fsynced, so no checkpoint covers it.
        checkpoints.iter().zip(kept).for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
        Self { dir, durable, written }
    }

    /// The first byte of what was written with the last group: its block began with durable leaves.
    fn unsynced(&self) -> usize {
        DURABLE as usize * SLOT / 4096 * 4096
    }

    /// Opens a copy whose file of leaves is `bytes`, of which the first `expected` leaves are whole.
    fn check(&self, bytes: &[u8], expected: u64, scratch: &Path) {
        let _ = std::fs::remove_dir_all(scratch);
        copy(&self.dir, scratch);
        let leaves = scratch.join("store/leaves");
        std::fs::write(&leaves, bytes).unwrap();
        let (log, mut appenders) = open(scratch).unwrap();
        let handle = log.handle();
        assert_eq!(handle.status().tree_size, expected);
        for number in 0..expected {
            assert_eq!(handle.leaf(number).unwrap(), Some(leaf(number)));
        }
        // Nothing is left behind the end that could be taken for leaves later.
        assert_eq!(std::fs::metadata(&leaves).unwrap().len(), expected * SLOT as u64);
        // And the log goes on: what was lost comes again, in another order, and some that was not.
        (DURABLE - 50..WRITTEN).rev().for_each(|number| appenders[0].append(&leaf(number)).unwrap());
        log.close().unwrap();
        let (log, _) = open(scratch).unwrap();
        let handle = log.handle();
        let places: HashSet<_> =
            (0..WRITTEN).map(|number| handle.index_of(&id(number)).unwrap().unwrap()).collect();
        assert_eq!((handle.status().tree_size, places.len() as u64), (WRITTEN, WRITTEN));
    }
}

/// What the disk has of a sector that was being written.
#[derive(Debug, Clone, Copy)]
enum Sector {
    New,
    /// As it was before: zeros where the file was not as long.
    Old,
    Garbage,
}

/// Which sectors, counted from where the last group's first block begins, are not as written; and where the file ends.
#[derive(Debug, Clone)]
struct Cut {
    sectors: Vec<(usize, Sector)>,
    end: usize,
}

fn cut(sectors: usize) -> impl Strategy<Value = Cut> {
    let state = || prop_oneof![Just(Sector::Old), Just(Sector::Garbage)];
    let hole = (0..sectors, 1..20usize, state())
        .prop_map(|(at, len, state)| (at..at + len).map(|sector| (sector, state)).collect());
    let scattered = prop::collection::vec((0..sectors, state()), 1..4);
    let any = prop::collection::vec(prop_oneof![state(), Just(Sector::New)], sectors)
        .prop_map(|states| states.into_iter().enumerate().collect());
    let damage = prop_oneof![3 => hole, 3 => scattered, 1 => any, 1 => Just(Vec::new())];
    let end = prop_oneof![2 => Just(usize::MAX), 1 => 0..sectors * SECTOR];
    (damage, end).prop_map(|(sectors, end)| Cut { sectors, end })
}

#[test]
fn the_log_opens_with_every_leaf_before_the_first_that_was_hit() {
    let dir = tempfile::tempdir().unwrap();
    let whole = Whole::new(dir.path().join("whole"));
    let start = whole.unsynced();
    let sectors = (whole.written.len() - start) / SECTOR;
    let scratch = dir.path().join("cut");
    let check = |cut: Cut| {
        let mut bytes = whole.written.clone();
        for (sector, state) in cut.sectors {
            let from = start + sector * SECTOR;
            let Some(place) = bytes.get_mut(from..from + SECTOR) else { continue };
            let old = whole.durable.get(from..from + SECTOR).unwrap_or(&[0; SECTOR]);
            match state {
                Sector::New => {}
                // A sector is written whole or not at all, and this one's durable bytes are the same in both.
                Sector::Garbage if from >= DURABLE as usize * SLOT => place.fill(0xa7),
                Sector::Old | Sector::Garbage => place.copy_from_slice(old),
            }
        }
        // Not shorter than it was.
        bytes.truncate(cut.end.saturating_add(start).max(DURABLE as usize * SLOT));
        let is_whole = |number: &u64| {
            let range = *number as usize * SLOT..(*number as usize + 1) * SLOT;
            bytes.get(range.clone()) == Some(&whole.written[range])
        };
        let expected = (0..WRITTEN).take_while(is_whole).count() as u64;
        assert!(expected >= DURABLE);
        whole.check(&bytes, expected, &scratch);
    };
    // Nothing of the group, all of it, and the sectors at its two ends.
    let sector = |at| Cut { sectors: vec![(at, Sector::Old)], end: usize::MAX };
    check(Cut { sectors: Vec::new(), end: 0 });
    check(Cut { sectors: Vec::new(), end: usize::MAX });
    check(sector((DURABLE as usize * SLOT - start) / SECTOR));
    check(sector((WRITTEN as usize * SLOT - 1 - start) / SECTOR));
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() });
    runner
        .run(&cut(sectors), |cut| {
            check(cut);
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_leaf_that_was_promised_and_is_gone_keeps_the_log_closed() {
    let dir = tempfile::tempdir().unwrap();
    let whole = Whole::new(dir.path().join("whole"));
    let leaves = whole.dir.join("store/leaves");
    for lost in [0, 1, DURABLE / 2, DURABLE - 1] {
        let mut bytes = whole.durable.clone();
        bytes[lost as usize * SLOT + 200] ^= 4;
        std::fs::write(&leaves, &bytes).unwrap();
        match open(&whole.dir) {
            Err(OpenError::Behind { store, checkpoint: DURABLE, .. }) => assert_eq!(store, lost),
            other => panic!("{:?}", other.map(|_| ())),
        }
        assert_eq!(std::fs::read(&leaves).unwrap(), bytes, "nothing is changed on disk");
    }
    std::fs::write(&leaves, &whole.durable).unwrap();
    assert_eq!(open(&whole.dir).unwrap().0.handle().status().tree_size, DURABLE);
}
