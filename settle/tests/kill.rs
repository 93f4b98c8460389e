//! kill -9 at random moments: what was called durable is there afterwards, once, with its opening, and no checkpoint is
//! contradicted.
//!
//! The test starts its own binary as the victim. The victim appends without end and prints what it was told; the
//! test kills it, opens the log, compares, and starts the next victim on the same folder.
//!
//! A kill leaves the page cache alone, so the power cut has tests of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use haca_settle::{Appender, Audit, Log, LogConfig, LogHandle, LogKey, OpeningPosition};
use haca_wire::merkle::{is_consistent, leaf_hash};
use haca_wire::{Digest, Leaf, RequestId, Stage};
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const ORIGIN: &str = "example.org/log";
const VICTIM_DIR: &str = "HACA_SETTLE_VICTIM_DIR";
const VICTIM_FIRST: &str = "HACA_SETTLE_VICTIM_FIRST";
const SEED: &str = "HACA_SETTLE_SEED";
const KILLS: u32 = 8;

fn open(dir: &Path, audit: Audit, appenders: usize) -> (Log, Vec<haca_settle::Appender>) {
    let config = LogConfig {
        checkpoint_interval: Duration::from_millis(3),
        // Small, so that runs are written and merged within the test.
        id_bytes: 0,
        max_group: 256,
        opening_segment_bytes: 64 << 10,
        audit,
        ..LogConfig::new(dir, ORIGIN)
    };
    Log::open(config, LogKey::from_seed(ORIGIN, &[1; 32]).unwrap(), appenders).unwrap()
}

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

/// Every third leaf has none.
fn opening(number: u64) -> Option<Vec<u8>> {
    (!number.is_multiple_of(3)).then(|| vec![number as u8; number as usize % 200])
}

fn append(appender: &mut Appender, number: u64) {
    let leaf = leaf(number);
    match opening(number) {
        Some(opening) => appender.append_opened(&leaf, &leaf_hash(&leaf), &[&opening]).unwrap(),
        None => appender.append(&leaf).unwrap(),
    }
}

/// Not a test of its own: the process that is killed.
#[test]
fn victim() {
    let Ok(dir) = std::env::var(VICTIM_DIR) else { return };
    let first: u64 = std::env::var(VICTIM_FIRST).unwrap().parse().unwrap();
    let (log, mut appenders) = open(Path::new(&dir), Audit::Tail, 2);
    let handle = log.handle();
    let mut number = first;
    for batch in 1u64.. {
        let appender = &mut appenders[(batch % 2) as usize];
        let ids: Vec<RequestId> = (number..number + 1 + batch % 60).map(id).collect();
        let range = (number, number + ids.len() as u64);
        while appender.free() < ids.len() {
            std::thread::yield_now();
        }
        (range.0..range.1).for_each(|number| append(appender, number));
        appender.wake();
        number = range.1;
        let asker = handle.clone();
        let reply = Box::new(move |_| {
            let mut said = format!("durable {} {}\n", range.0, range.1);
            if let Some(checkpoint) = asker.latest_checkpoint() {
                said += &format!("checkpoint {} {}\n", checkpoint.tree_size, checkpoint.root);
            }
            std::io::stdout().write_all(said.as_bytes()).unwrap();
        });
        handle.await_receipts(ids, Stage::Durable, reply).unwrap();
        // Neither so few in flight that groups hold one batch, nor so many that the end is far from what is durable.
        while handle.status().queued > 600 {
            std::thread::yield_now();
        }
    }
}

/// xorshift64*, so that a failing run can be repeated from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit
    }
}

fn random() -> Random {
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse().expect("the seed is a number"),
        Err(_) => std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1,
    };
    println!("{SEED}={seed}");
    Random(seed)
}

/// What victims said before they died.
#[derive(Default)]
struct Said {
    durable: HashSet<u64>,
    checkpoints: Vec<(u64, Digest)>,
}

impl Said {
    fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["durable", from, to] => {
                self.durable.extend(from.parse::<u64>().unwrap()..to.parse::<u64>().unwrap());
            }
            ["checkpoint", size, root] => {
                self.checkpoints.push((size.parse().unwrap(), root.parse().unwrap()));
            }
            _ => {} // The test runner's own lines.
        }
    }

    fn check(&self, handle: &LogHandle) {
        let newest = handle.status().tree_size;
        let root = handle.root(newest).unwrap();
        let openings: HashMap<_, _> = handle
            .openings(OpeningPosition::default(), usize::MAX)
            .unwrap()
            .into_iter()
            .map(|opening| (opening.leaf_hash, opening.bytes))
            .collect();
        let mut places = HashSet::new();
        for number in &self.durable {
            let index = handle.index_of(&id(*number)).unwrap();
            let index = index.unwrap_or_else(|| panic!("{number} was durable and is gone"));
            assert_eq!(handle.leaf(index).unwrap(), Some(leaf(*number)));
            assert!(places.insert(index), "two at {index}");
            assert_eq!(openings.get(&leaf_hash(&leaf(*number))), opening(*number).as_ref(), "{number}");
        }
        for (size, old) in &self.checkpoints {
            assert!(*size <= newest, "a checkpoint of {size} was published, the log has {newest}");
            let proof = handle.consistency(*size, newest).unwrap();
            assert!(is_consistent(*size, old, newest, &root, &proof), "{size} {newest}");
        }
    }
}

#[test]
fn what_was_durable_survives_a_kill_at_any_moment_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = random();
    let mut said = Said::default();
    for round in 0..KILLS {
        let last = said.durable.iter().max().copied().unwrap_or(0);
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["victim", "--exact", "--nocapture"])
            .env(VICTIM_DIR, dir.path())
            // Sends some again, as a node does whose caller retries.
            .env(VICTIM_FIRST, last.saturating_sub(100).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(victim.stdout.take().unwrap());
        let mut line = String::new();
        for _ in 0..1 + random.below(400) {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "the victim ended by itself");
            said.note(line.trim_end());
        }
        // Not always just after a line was written.
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        victim.kill().unwrap();
        victim.wait().unwrap();
        // What it said last: each line went into the pipe whole, being shorter than PIPE_BUF.
        lines.lines().for_each(|line| said.note(&line.unwrap()));

        let (log, _) = open(dir.path(), Audit::Whole, 0);
        let handle = log.handle();
        said.check(&handle);
        let status = handle.status();
        println!("kill {round}: {} durable as told, {} in the log", said.durable.len(), status.tree_size);
        assert!(status.tree_size >= said.durable.len() as u64);
        log.close().unwrap();
    }
    assert!(said.durable.len() > 100 && said.checkpoints.len() > 1);
}
