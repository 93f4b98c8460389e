//! A full disk: nothing that was taken is lost, the log says that it is stalled, and goes on when there is room.
//!
//! The disk is a small tmpfs in a mount namespace of its own, where the test starts its own binary again. Where
//! such a namespace cannot be made, the test says so and passes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use haca_settle::{Appender, Audit, CloseError, Log, LogConfig, LogKey, OpeningPosition};
use haca_wire::merkle::leaf_hash;
use haca_wire::vocabulary::LogOutcome;
use haca_wire::{Leaf, RequestId, Stage};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

const ORIGIN: &str = "example.org/log";
const MOUNTED: &str = "HACA_SETTLE_SMALL_DISK";

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
    let dir = tempfile::tempdir().unwrap();
    let in_namespace = |script: &str| {
        Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .env(MOUNTED, dir.path())
            .output()
    };
    let mount = format!("mount -t tmpfs -o size=64m none \"${MOUNTED}\"");
    match in_namespace(&mount) {
        Ok(output) if output.status.success() => {}
        other => {
            println!("skipped: no mount namespace can be made here: {other:?}");
            return;
        }
    }
    let output = in_namespace(&format!("{mount} && \"$0\" on_a_small_disk --exact --nocapture")).unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Not a test of its own: what runs on the small disk.
#[test]
fn on_a_small_disk() {
    let Ok(disk) = std::env::var(MOUNTED) else { return };
    let disk = Path::new(&disk);
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
        fill_up_to(&ballast, (round * 1500) << 10);
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
    fill_up_to(&ballast, 0);
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

/// Takes what room there is, but for so many bytes.
fn fill_up_to(path: &Path, room: u64) {
    let mut file = File::create(path).unwrap();
    let mut taken = 0;
    while let Ok(written @ 1..) = file.write(&[1; 4096]) {
        taken += written as u64;
    }
    file.set_len(taken.saturating_sub(room)).unwrap();
}
