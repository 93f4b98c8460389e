//! Openings as the log's callers see them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use haca_settle::{Appender, Full, Log, LogConfig, LogHandle, LogKey, Opening, OpeningPosition};
use haca_wire::merkle::leaf_hash;
use haca_wire::{Leaf, RequestId};
use std::path::Path;
use std::time::Duration;

const ORIGIN: &str = "example.org/log";
const LONG: Duration = Duration::from_secs(3600);

fn config(dir: &Path) -> LogConfig {
    LogConfig { checkpoint_interval: Duration::from_millis(5), ..LogConfig::new(dir, ORIGIN) }
}

fn open(config: LogConfig, appenders: usize) -> (Log, Vec<Appender>) {
    Log::open(config, LogKey::from_seed(ORIGIN, &[1; 32]).unwrap(), appenders).unwrap()
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

fn number(opening: &Opening) -> u64 {
    let number = u64::from_be_bytes(*opening.request.0.last_chunk().unwrap());
    assert_eq!((opening.leaf_hash, &opening.bytes), (leaf_hash(&leaf(number)), &bytes(number)));
    number
}

fn bytes(number: u64) -> Vec<u8> {
    (0..number % 900).map(|at| (number + at * 7) as u8).collect()
}

/// Waits for room, as a shard does not: that one refuses the request.
fn append(appender: &mut Appender, number: u64) {
    let (leaf, bytes) = (leaf(number), bytes(number));
    while appender.free() == 0 || appender.free_opening_bytes() < Appender::opening_cost(bytes.len()) {
        appender.wake();
        std::thread::yield_now();
    }
    let (input, output) = bytes.split_at(bytes.len() / 2);
    appender.append_opened(&leaf, &leaf_hash(&leaf), &[input, output]).unwrap();
}

/// Reads so many openings, waiting for them.
fn read(handle: &LogHandle, from: OpeningPosition, count: usize) -> Vec<Opening> {
    let (mut at, mut all) = (from, Vec::new());
    while all.len() < count {
        assert!(handle.wait_for_openings(at, LONG), "the log closed");
        all.extend(handle.openings(at, 10_000).unwrap());
        at = all.last().unwrap().next;
    }
    assert_eq!(all.len(), count);
    all
}

#[test]
fn openings_of_several_appenders_are_read_in_order_once_their_leaves_are_durable() {
    const EACH: u64 = 2000;
    let dir = tempfile::tempdir().unwrap();
    // So small that the rings fill and many segments are written.
    let small = LogConfig {
        opening_ring_bytes: 5000,
        opening_segment_bytes: 50_000,
        max_group: 64,
        ..config(dir.path())
    };
    let (log, appenders) = open(small.clone(), 3);
    let handle = log.handle();
    let all = std::thread::scope(|scope| {
        for (shard, mut appender) in (0u64..).zip(appenders) {
            scope.spawn(move || {
                for at in 0..EACH {
                    // Some have none.
                    if at.is_multiple_of(5) {
                        while appender.append(&leaf(shard * EACH * 2 + EACH + at)).is_err() {
                            appender.wake();
                        }
                    }
                    append(&mut appender, shard * EACH * 2 + at);
                }
                appender.wake();
            });
        }
        let (mut at, mut all) = (OpeningPosition::default(), Vec::new());
        while all.len() < 3 * EACH as usize {
            assert!(handle.wait_for_openings(at, LONG), "the log closed");
            for opening in handle.openings(at, 4000).unwrap() {
                assert_eq!(opening.position, at);
                let index = handle.index_of(&opening.request).unwrap().expect("its leaf is durable");
                assert_eq!(handle.leaf(index).unwrap(), Some(leaf(number(&opening))));
                at = opening.next;
                all.push(opening);
            }
        }
        all
    });
    assert_eq!(all.last().unwrap().next, handle.openings_end());
    for shard in 0..3 {
        let numbers = all.iter().map(number).filter(|number| number / (EACH * 2) == shard);
        assert!(numbers.eq(shard * EACH * 2..shard * EACH * 2 + EACH));
    }
    log.close().unwrap();
    let (log, _) = open(small, 0);
    let handle = log.handle();
    assert_eq!(handle.openings(OpeningPosition::default(), usize::MAX).unwrap(), all);
    assert_eq!(handle.openings(all[1234].position, usize::MAX).unwrap(), all[1234..]);
    assert_eq!(handle.openings(handle.openings_end(), usize::MAX).unwrap(), []);
}

#[test]
fn openings_of_leaves_that_the_log_holds_already_leave_the_ring_too() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appenders) = open(config(dir.path()), 1);
    let handle = log.handle();
    append(&mut appenders[0], 8);
    appenders[0].wake();
    let first = read(&handle, OpeningPosition::default(), 1).pop().unwrap();
    // Groups of which nothing is kept: the same leaf, and another one for the same request.
    append(&mut appenders[0], 8);
    appenders[0].wake();
    let again = read(&handle, first.next, 1).pop().unwrap();
    assert_eq!(number(&again), 8);
    let mut other = leaf(8);
    other[100] ^= 1;
    appenders[0].append_opened(&other, &leaf_hash(&other), &[b"other"]).unwrap();
    appenders[0].wake();
    let dropped = read(&handle, again.next, 1).pop().unwrap();
    assert_eq!((dropped.request, &dropped.bytes[..]), (id(8), &b"other"[..]));
    let index = handle.index_of(&id(8)).unwrap().unwrap();
    assert_ne!(leaf_hash(&handle.leaf(index).unwrap().unwrap()), dropped.leaf_hash);
    let status = handle.status();
    assert_eq!((status.tree_size, status.duplicates, status.conflicts), (1, 1, 1));
    assert_eq!(appenders[0].free_opening_bytes(), config(dir.path()).opening_ring_bytes);
}

#[test]
fn an_opening_is_as_long_as_16_mib_and_a_closed_log_has_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let (leaf, hash) = (leaf(1), leaf_hash(&leaf(1)));
    let large = LogConfig { opening_ring_bytes: 20 << 20, ..config(dir.path()) };
    let (log, mut appenders) = open(large, 1);
    let mut bytes = vec![3; (16 << 20) + 1];
    assert_eq!(appenders[0].append_opened(&leaf, &hash, &[&bytes]), Err(Full));
    bytes.pop();
    assert_eq!(appenders[0].append_opened(&leaf, &hash, &[&bytes]), Ok(()));
    appenders[0].wake();
    assert!(read(&log.handle(), OpeningPosition::default(), 1)[0].bytes == bytes);
    log.close().unwrap();
    assert_eq!(appenders[0].free_opening_bytes(), 0);
}

#[test]
fn what_was_released_is_gone_from_disk_and_an_older_position_reads_on_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let small = LogConfig { opening_segment_bytes: 10_000, max_group: 16, ..config(dir.path()) };
    let (log, mut appenders) = open(small.clone(), 1);
    let handle = log.handle();
    assert_eq!((handle.opening_bytes(), handle.openings_end()), (0, OpeningPosition(0)));
    handle.release_openings(OpeningPosition(5)).unwrap();
    (0..1000).for_each(|number| append(&mut appenders[0], number));
    appenders[0].wake();
    let all = read(&handle, OpeningPosition::default(), 1000);
    assert_eq!(handle.opening_bytes(), handle.openings_end().0);
    let disk_bytes = || -> u64 {
        let files = std::fs::read_dir(dir.path().join("store/openings")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    assert_eq!(disk_bytes(), handle.opening_bytes());
    handle.release_openings(all[700].position).unwrap();
    assert_eq!(disk_bytes(), handle.opening_bytes());
    let left = handle.openings(all[3].position, usize::MAX).unwrap();
    assert!((300..400).contains(&left.len()), "{}", left.len());
    assert_eq!(left, all[1000 - left.len()..]);
    log.close().unwrap();

    let (log, mut appenders) = open(small, 1);
    let handle = log.handle();
    assert_eq!(handle.openings(OpeningPosition::default(), usize::MAX).unwrap(), left);
    assert!(handle.status().disk_bytes >= handle.opening_bytes());
    append(&mut appenders[0], 1000);
    appenders[0].wake();
    assert_eq!(number(&read(&handle, all[999].next, 1)[0]), 1000);
}

#[test]
fn a_wait_ends_when_an_opening_comes_the_time_is_over_or_the_log_closes() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appenders) = open(config(dir.path()), 1);
    let handle = log.handle();
    let start = OpeningPosition::default();
    assert!(!handle.wait_for_openings(start, Duration::ZERO));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| handle.wait_for_openings(start, LONG));
        append(&mut appenders[0], 1);
        appenders[0].wake();
        assert!(waits.join().unwrap());
        let end = handle.openings_end();
        let waits = scope.spawn(move || (log.handle().wait_for_openings(end, Duration::ZERO), log.close()));
        assert!(!handle.wait_for_openings(end, LONG));
        let (there, closed) = waits.join().unwrap();
        closed.unwrap();
        assert!(!there && !handle.wait_for_openings(end, LONG) && handle.wait_for_openings(start, LONG));
    });
}
