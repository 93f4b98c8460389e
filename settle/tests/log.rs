//! The log as its callers see it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use haca_settle::{Appender, Audit, Checkpoint, Log, LogConfig, LogHandle, LogKey, OpenError};
use haca_wire::merkle::{is_consistent, leaf_hash, root_from_path};
use haca_wire::message::log::ReceiptStates;
use haca_wire::vocabulary::LogOutcome;
use haca_wire::{Digest, Leaf, RequestId, Stage};
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

const ORIGIN: &str = "example.org/log";

fn key() -> LogKey {
    LogKey::from_seed(ORIGIN, &[1; 32]).unwrap()
}

fn config(dir: &Path) -> LogConfig {
    LogConfig { checkpoint_interval: Duration::from_millis(5), ..LogConfig::new(dir, ORIGIN) }
}

fn open(dir: &Path, appenders: usize) -> (Log, Vec<Appender>) {
    Log::open(config(dir), key(), appenders).unwrap()
}

fn id(number: u64) -> RequestId {
    let mut id = [0; 16];
    // Spread as random ids are.
    id[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    id[8..].copy_from_slice(&number.to_be_bytes());
    RequestId(id)
}

fn leaf(number: u64) -> [u8; Leaf::LEN] {
    let mut bytes = [0; Leaf::LEN];
    bytes[0] = 1;
    let mut leaf = Leaf::decode(&bytes).unwrap();
    leaf.request = id(number);
    leaf.sequence = number;
    leaf.encode()
}

fn append(appender: &mut Appender, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        while appender.free() == 0 {
            appender.wake();
            std::thread::yield_now();
        }
        appender.append(&leaf(number)).unwrap();
    }
    appender.wake();
}

fn wait(handle: &LogHandle, ids: Vec<RequestId>, stage: Stage) -> ReceiptStates {
    let (send, receive) = mpsc::channel();
    handle.await_receipts(ids, stage, Box::new(move |states| send.send(states).unwrap())).unwrap();
    receive.recv().expect("the log answers")
}

fn check_inclusion(states: &ReceiptStates, numbers: impl Iterator<Item = u64>) {
    let checkpoint = Checkpoint::verify(&states.checkpoint, key().verifier_key()).unwrap();
    assert_eq!(checkpoint.tree_size, states.tree_size);
    let mut count = 0;
    for (entry, number) in states.entries.iter().zip(numbers) {
        assert_eq!(entry.outcome, LogOutcome::Logged);
        assert_eq!(entry.leaf_hash, leaf_hash(&leaf(number)));
        let root = root_from_path(&entry.leaf_hash, entry.index, states.tree_size, &entry.path);
        assert_eq!(root, Some(checkpoint.root));
        count += 1;
    }
    assert_eq!(count, states.entries.len());
}

#[test]
fn what_several_shards_append_is_durable_then_checkpointed_then_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (log, appenders) = open(dir.path(), 3);
    let handle = log.handle();
    std::thread::scope(|scope| {
        for (shard, mut appender) in (0u64..).zip(appenders) {
            let handle = handle.clone();
            scope.spawn(move || {
                for batch in 0..20 {
                    let numbers = (0..50).map(|at| shard * 1000 + batch * 50 + at);
                    append(&mut appender, numbers.clone());
                    let states = wait(&handle, numbers.clone().map(id).collect(), Stage::Durable);
                    for (entry, number) in states.entries.iter().zip(numbers) {
                        assert_eq!(entry.outcome, LogOutcome::Logged);
                        assert_eq!(entry.leaf_hash, leaf_hash(&leaf(number)));
                        assert_eq!(handle.leaf(entry.index).unwrap(), Some(leaf(number)));
                    }
                }
            });
        }
    });
    let numbers = (0..3).flat_map(|shard| (0..1000).map(move |at| shard * 1000 + at));
    let states = wait(&handle, numbers.clone().map(id).collect(), Stage::Checkpointed);
    check_inclusion(&states, numbers.clone());
    assert_eq!(handle.status().tree_size, 3000);
    log.close().unwrap();

    let (log, _) = Log::open(LogConfig { audit: Audit::Whole, ..config(dir.path()) }, key(), 0).unwrap();
    let handle = log.handle();
    assert_eq!(handle.latest_checkpoint().unwrap().tree_size, 3000);
    let states = wait(&handle, numbers.clone().map(id).collect(), Stage::Checkpointed);
    check_inclusion(&states, numbers);
    log.close().unwrap();
}

#[test]
fn a_leaf_is_logged_once_and_the_first_of_two_wins() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appenders) = open(dir.path(), 2);
    let handle = log.handle();
    let mut other = Leaf::decode(&leaf(7)).unwrap();
    other.completed = 99;
    // Within one group, and again in later ones, over either ring.
    append(&mut appenders[0], [7, 7, 8, 7]);
    wait(&handle, vec![id(7)], Stage::Durable);
    append(&mut appenders[1], [8]);
    appenders[1].append(&other.encode()).unwrap();
    append(&mut appenders[1], [9]);
    let states = wait(&handle, vec![id(7), id(8), id(9)], Stage::Checkpointed);
    check_inclusion(&states, [7, 8, 9].into_iter());
    assert_eq!(states.entries.iter().map(|entry| entry.index).collect::<Vec<_>>(), [0, 1, 2]);
    let status = handle.status();
    assert_eq!((status.tree_size, status.duplicates, status.conflicts, status.queued), (3, 3, 1, 0));
    assert_eq!(handle.index_of(&id(8)).unwrap(), Some(1));
    assert_eq!(handle.index_of(&id(10)).unwrap(), None);
    assert_eq!(handle.leaf(3).unwrap(), None);
    log.close().unwrap();

    let (log, mut appenders) = open(dir.path(), 1);
    append(&mut appenders[0], [9, 7]);
    wait(&log.handle(), vec![id(9)], Stage::Durable);
    log.close().unwrap();
    let (log, _) = open(dir.path(), 0);
    assert_eq!(log.handle().status().tree_size, 3);
}

#[test]
fn ids_that_never_came_are_unknown_and_so_is_nothing_that_was_appended() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appenders) = open(dir.path(), 1);
    let handle = log.handle();
    for stage in [Stage::Durable, Stage::Checkpointed] {
        let states = wait(&handle, vec![id(1)], stage);
        assert_eq!(states.entries[0].outcome, LogOutcome::Unknown);
        assert_eq!(wait(&handle, vec![], stage).entries, []);
    }
    for number in 0..200 {
        append(&mut appenders[0], [number]);
        let states = wait(&handle, vec![id(number), id(1_000_000)], Stage::Durable);
        let outcomes = [states.entries[0].outcome, states.entries[1].outcome];
        assert_eq!(outcomes, [LogOutcome::Logged, LogOutcome::Unknown], "{number}");
    }
}

#[test]
fn every_checkpoint_is_consistent_with_every_later_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut checkpoints: Vec<(u64, Digest)> = Vec::new();
    for round in 0u64..4 {
        let (log, mut appenders) = open(dir.path(), 1);
        let handle = log.handle();
        for batch in 0..5 {
            append(&mut appenders[0], (0..90).map(|at| round * 10_000 + batch * 100 + at));
            wait(&handle, vec![id(round * 10_000 + batch * 100 + 89)], Stage::Checkpointed);
            let newest = handle.latest_checkpoint().unwrap();
            checkpoints.push((newest.tree_size, newest.root));
        }
        for (at, (new, new_root)) in checkpoints.iter().enumerate() {
            assert_eq!(handle.root(*new).unwrap(), *new_root);
            for (old, old_root) in &checkpoints[..at] {
                let proof = handle.consistency(*old, *new).unwrap();
                assert!(is_consistent(*old, old_root, *new, new_root, &proof), "{old} {new}");
            }
        }
        log.close().unwrap();
    }
    assert_eq!(checkpoints.last().unwrap().0, 4 * 5 * 90);
}

#[test]
fn closing_makes_durable_what_was_never_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut appenders) = open(dir.path(), 1);
    append(&mut appenders[0], 0..5000);
    log.close().unwrap();
    assert_eq!(appenders[0].free(), 0, "a closed log has no room");
    let (log, _) = open(dir.path(), 0);
    assert_eq!(log.handle().latest_checkpoint().unwrap().tree_size, 5000);
    log.close().unwrap();
    let (log, _) = open(dir.path(), 0);
    log.close().unwrap();
}

#[test]
fn more_waits_than_allowed_are_refused_and_answered_ones_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let config = LogConfig { max_waiting_ids: 100, ..config(dir.path()) };
    let (log, mut appenders) = Log::open(config, key(), 1).unwrap();
    let handle = log.handle();
    // Appended without a wake-up: the committer sleeps, so the wait stays.
    wait(&handle, vec![id(5)], Stage::Durable);
    appenders[0].append(&leaf(1)).unwrap();
    let (send, receive) = mpsc::channel();
    let reply = {
        let send = send.clone();
        Box::new(move |states: ReceiptStates| send.send(states).unwrap())
    };
    handle.await_receipts(vec![id(1); 100], Stage::Durable, reply).unwrap();
    let refused = handle.await_receipts(vec![id(1)], Stage::Durable, Box::new(|_| unreachable!()));
    assert_eq!(refused, Err(haca_settle::Busy));
    appenders[0].wake();
    assert_eq!(receive.recv().unwrap().entries.len(), 100);
    wait(&handle, vec![id(1); 100], Stage::Durable);
    log.close().unwrap();
    assert!(handle.await_receipts(vec![id(1)], Stage::Durable, Box::new(|_| unreachable!())).is_err());
}

#[test]
fn a_log_that_is_open_elsewhere_or_not_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let (log, _) = open(path, 0);
    let locked = Log::open(config(path), key(), 0).unwrap_err();
    assert!(matches!(&locked, OpenError::Locked { .. }), "{locked}");
    let text = locked.to_string();
    assert!(
        text.contains(path.to_str().unwrap()) && text.contains(&std::process::id().to_string()),
        "{text}"
    );
    log.close().unwrap();

    let other = LogKey::from_seed(ORIGIN, &[2; 32]).unwrap();
    assert!(matches!(Log::open(config(path), other, 0), Err(OpenError::OtherKey { .. })));
    let other = LogKey::from_seed("example.org/other", &[1; 32]).unwrap();
    assert!(matches!(Log::open(config(path), other, 0), Err(OpenError::Config { setting: "origin", .. })));
    let other = LogKey::from_seed("example.org/other", &[1; 32]).unwrap();
    let renamed = LogConfig { origin: "example.org/other".into(), ..config(path) };
    assert!(matches!(Log::open(renamed, other, 0), Err(OpenError::OtherKey { .. })));

    let format = path.join("FORMAT");
    let written = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, written.replace("format 2", "format 1")).unwrap();
    assert!(matches!(Log::open(config(path), key(), 0), Err(OpenError::OtherFormat { .. })));
    std::fs::remove_file(&format).unwrap();
    assert!(matches!(Log::open(config(path), key(), 0), Err(OpenError::NotALog { .. })));
    std::fs::write(&format, written).unwrap();
    open(path, 0).0.close().unwrap();
}

/// Runs a log of `count` leaves and closes it.
fn fill(dir: &Path, count: u64) {
    let (log, mut appenders) = open(dir, 1);
    append(&mut appenders[0], 0..count);
    log.close().unwrap();
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

#[test]
fn a_store_that_lost_or_changed_what_was_promised_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, backup) = (dir.path().join("log"), dir.path().join("backup"));
    fill(&path, 400);
    copy(&path, &backup);
    let (log, mut appenders) = open(&path, 1);
    append(&mut appenders[0], 400..700);
    log.close().unwrap();

    // The store of an older day under the checkpoint of today.
    let newer = dir.path().join("newer");
    std::fs::rename(path.join("store"), &newer).unwrap();
    copy(&backup.join("store"), &path.join("store"));
    match Log::open(config(&path), key(), 0).unwrap_err() {
        OpenError::Behind { store: 400, checkpoint: 700, .. } => {}
        error => panic!("{error}"),
    }
    // The same with the checkpoint file gone: the history remembers.
    let checkpoint = std::fs::read(path.join("checkpoint")).unwrap();
    std::fs::remove_file(path.join("checkpoint")).unwrap();
    assert!(matches!(Log::open(config(&path), key(), 0), Err(OpenError::Behind { .. })));
    // No store at all.
    std::fs::remove_dir_all(path.join("store")).unwrap();
    assert!(matches!(Log::open(config(&path), key(), 0), Err(OpenError::Behind { store: 0, .. })));
    // A checkpoint that somebody touched.
    std::fs::write(path.join("checkpoint"), b"example.org/log\n700\n").unwrap();
    assert!(matches!(Log::open(config(&path), key(), 0), Err(OpenError::Checkpoint { .. })));
    // The right store again, with the right checkpoint.
    std::fs::write(path.join("checkpoint"), checkpoint).unwrap();
    std::fs::remove_dir_all(path.join("store")).unwrap();
    std::fs::rename(&newer, path.join("store")).unwrap();
    open(&path, 0).0.close().unwrap();

    // Another log's store, longer but not the same.
    let strange = dir.path().join("strange");
    let (log, mut appenders) = open(&strange, 1);
    append(&mut appenders[0], 5000..6000);
    log.close().unwrap();
    std::fs::remove_dir_all(path.join("store")).unwrap();
    copy(&strange.join("store"), &path.join("store"));
    assert!(matches!(Log::open(config(&path), key(), 0), Err(OpenError::Diverged { store: 1000, .. })));
}

#[test]
fn a_crash_while_the_log_is_created_leaves_nothing_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 0);
    // As if the process had died while the store was being made.
    std::fs::rename(dir.path().join("store"), dir.path().join("store.new")).unwrap();
    std::fs::remove_file(dir.path().join("store.new/runs/version")).unwrap();
    fill(dir.path(), 10);
    assert_eq!(open(dir.path(), 0).0.handle().status().tree_size, 10);
}

#[test]
fn while_the_index_cannot_be_written_the_log_stalls_and_then_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    // As little memory as there can be, so that two runs fill it.
    let small = LogConfig { max_group: 256, id_bytes: 0, queue_capacity: 1024, ..config(dir.path()) };
    let (log, mut appenders) = Log::open(small.clone(), key(), 1).unwrap();
    let (handle, appender) = (log.handle(), &mut appenders[0]);
    let tables: Vec<_> = std::fs::read_dir(dir.path().join("store/runs/keyspaces"))
        .unwrap()
        .map(|keyspace| keyspace.unwrap().path().join("tables"))
        .collect();
    let elsewhere = |tables: &Path| tables.with_extension("elsewhere");
    tables.iter().for_each(|tables| std::fs::rename(tables, elsewhere(tables)).unwrap());
    let mut next = 0;
    while !(handle.status().stalled && appender.free() == 0) {
        if appender.free() > 0 {
            appender.append(&leaf(next)).unwrap();
            next += 1;
        }
        appender.wake();
    }
    let status = handle.status();
    assert!(status.error.unwrap().contains("index takes no run"));
    // What is durable stays to be found, from memory.
    for number in 0..status.tree_size {
        assert_eq!(handle.index_of(&id(number)).unwrap(), Some(number));
    }
    for tables in &tables {
        let _ = std::fs::remove_dir(tables);
        std::fs::rename(elsewhere(tables), tables).unwrap();
    }
    append(appender, next..next + 3000);
    let states = wait(&handle, (0..next + 3000).map(id).collect(), Stage::Durable);
    assert!(states.entries.iter().all(|entry| entry.outcome == LogOutcome::Logged));
    assert!(!handle.status().stalled);
    log.close().unwrap();
    let (log, _) = Log::open(LogConfig { audit: Audit::Whole, ..small }, key(), 0).unwrap();
    assert_eq!(log.handle().status().tree_size, next + 3000);
}
