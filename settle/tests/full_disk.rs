//! A full disk: nothing that was taken is lost, the log says that it is stalled, and goes on when there is room.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod small_disk;

use haca_settle::{Appender, Audit, CloseError, Log, LogConfig, LogKey, OpeningPosition};
use haca_wire::merkle::leaf_hash;
use haca_wire::vocabulary::LogOutcome;
use haca_wire::{Leaf, RequestId, Stage};
use std::sync::mpsc;
use std::time::Duration;

const ORIGIN: &str = "example.org/log";

fn leaf(number: u64) -> [u8; Leaf::LEN] {
    let mut leaf = [0x5a; Leaf::LEN];
    leaf[8..24].copy_from_slice(&id(number).0);
    leaf
}

fn id(number: u64) -> RequestId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    id[8..].copy_from_slice(&number.to_be_bytes());
    RequestId(id)
}

/// So many bytes that leaves and openings take turns in filling the disk.
fn opening(number: u64) -> Vec<u8> {
    vec![number as u8; number as usize % 700]
}

fn append(appender: &mut Appender, number: u64) {
    let leaf = leaf(number);
    appender.append_opened(&leaf, &leaf_hash(&leaf), &[&opening(number)]).unwrap();
}

#[test]
fn a_full_disk_stalls_the_log_and_loses_nothing() {
    small_disk::run_on_it("on_a_small_disk");
}

/// Not a test of its own: what runs on the small disk.
#[test]
fn on_a_small_disk() {
    let Some(disk) = small_disk::folder() else { return };
    let config = LogConfig {
        queue_capacity: 1024,
        close_patience: Duration::from_millis(100),
        opening_segment_bytes: 1 << 20,
        // So that runs are written meanwhile.
        max_group: 256,
        id_bytes: 0,
        ..LogConfig::new(disk.join("log"), ORIGIN)
    };
    let key = || LogKey::from_seed(ORIGIN, &[1; 32]).unwrap();
    let (log, mut appenders) = Log::open(config.clone(), key(), 1).unwrap();
    let (handle, appender) = (log.handle(), &mut appenders[0]);
    let mut next = 0;
    for round in 0u64..4 {
        // A little room each time, so that it ends in another place.
        let ballast = disk.join("ballast");
        small_disk::fill_up_to(&ballast, (round * 1500) << 10);
        // Until the log stalls and the ring is full: from here on a node refuses requests.
        while !(handle.status().stalled && appender.free() == 0) {
            if appender.free() > 0 {
                append(appender, next);
                next += 1;
            }
            appender.wake();
        }
        let status = handle.status();
        println!("round {round}: {next} taken, {status:?}");
        assert!(status.error.unwrap().contains("log"), "the error names the folder");
        assert!(status.queued >= 1024);
        let (send, receive) = mpsc::channel();
        let last = next - 1;
        let reply = Box::new(move |states| send.send(states).unwrap());
        handle.await_receipts(vec![id(last)], Stage::Checkpointed, reply).unwrap();
        assert!(receive.try_recv().is_err(), "nothing is durable on a full disk");

        std::fs::remove_file(&ballast).unwrap();
        assert_eq!(receive.recv().unwrap().entries[0].outcome, LogOutcome::Logged);
        let status = handle.status();
        assert_eq!((status.tree_size, status.duplicates, status.conflicts), (next, 0, 0));
    }
    let ballast = disk.join("ballast");
    small_disk::fill_up_to(&ballast, 0);
    (next..next + 1000).for_each(|number| append(appender, number));
    let unsettled = log.close().unwrap_err();
    assert!(matches!(unsettled, CloseError::Unsettled { unsettled: 1000, .. }), "{unsettled}");

    std::fs::remove_file(&ballast).unwrap();
    let (log, _) = Log::open(LogConfig { audit: Audit::Whole, ..config }, key(), 0).unwrap();
    // What was never called durable may have come all the same.
    assert!((next..=next + 1000).contains(&log.handle().status().tree_size));
    let openings = log.handle().openings(OpeningPosition::default(), usize::MAX).unwrap();
    for (number, found) in (0..next).zip(&openings) {
        assert_eq!(log.handle().leaf(number).unwrap(), Some(leaf(number)));
        assert_eq!((found.leaf_hash, &found.bytes), (leaf_hash(&leaf(number)), &opening(number)));
    }
    assert!(openings.len() as u64 >= next);
}
