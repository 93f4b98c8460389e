//! What settling costs: appends leaves with random ids and prints the CPU time per leaf of each thread.
//!
//! `cargo run --release -p haca-settle --example cost -- [leaves] [offered per second, 0 for as fast as the ring takes them] [folder]`

use haca_settle::{Log, LogConfig, LogKey};
use haca_wire::Leaf;
use haca_wire::merkle::leaf_hash;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const ORIGIN: &str = "example.org/cost";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let leaves: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let offered: u64 = arguments.next().map_or(Ok(0), |text| text.parse())?;
    let dir = match arguments.next() {
        Some(dir) => std::path::PathBuf::from(dir),
        None => std::env::temp_dir().join(format!("haca-settle-cost-{}", std::process::id())),
    };
    let began = Instant::now();
    let config = LogConfig::new(&dir, ORIGIN);
    let (capacity, memory) = (config.queue_capacity, config.memory_bytes(1));
    let (log, mut appenders) = Log::open(config, LogKey::from_seed(ORIGIN, &[1; 32])?, 1)?;
    println!("opened in {:.0?} with {} leaves", began.elapsed(), log.handle().status().tree_size);
    let (appender, handle) = (&mut appenders[0], log.handle());
    let before = cpu_by_thread()?;
    let began = Instant::now();
    // Other ids in each run over the same folder.
    let mut random = std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_nanos() as u64;
    let mut leaf = [0x5a; Leaf::LEN];
    let (mut sent, mut least_free) = (0, usize::MAX);
    let (mut last_turn, mut longest_turn) = (began, Duration::ZERO);
    while sent < leaves {
        let due = match offered {
            0 => leaves,
            rate => (began.elapsed().as_nanos() as u64 * rate / 1_000_000_000).min(leaves),
        };
        longest_turn = longest_turn.max(std::mem::replace(&mut last_turn, Instant::now()).elapsed());
        let free = appender.free();
        least_free = least_free.min(free);
        let batch = (due - sent).min(BATCH).min(free as u64);
        for _ in 0..batch {
            for half in leaf[8..24].chunks_exact_mut(8) {
                half.copy_from_slice(&next(&mut random).to_le_bytes());
            }
            leaf[24..32].copy_from_slice(&sent.to_le_bytes());
            // What a shard hands over was hashed for its signature.
            appender.append_hashed(&leaf, &leaf_hash(&leaf))?;
            sent += 1;
        }
        if batch > 0 {
            appender.wake();
        } else {
            std::thread::sleep(PAUSE);
        }
    }
    while handle.status().queued > 0 {
        std::thread::sleep(PAUSE);
    }
    let took = began.elapsed();
    let after = cpu_by_thread()?;
    let status = handle.status();
    println!(
        "{leaves} leaves in {took:.2?}: {:.0}/s, {} commits of {:.0}, at most {} in the ring; this thread paused {:.1?} at most",
        leaves as f64 / took.as_secs_f64(),
        status.commits,
        leaves as f64 / status.commits as f64,
        capacity - least_free,
        longest_turn
    );
    let own = std::process::id().to_string();
    let mut total = 0.0;
    for (thread, (name, nanos)) in &after {
        let micros = (nanos - before.get(thread).map_or(0, |(_, nanos)| *nanos)) as f64 / 1e3 / leaves as f64;
        println!("{name:>16} {micros:6.3} us/leaf");
        if *thread != own {
            total += micros;
        }
    }
    println!("{:>16} {total:6.3} us/leaf without the thread that appends", "all");
    println!(
        "{:>16} {:6.1} MiB on disk, {:.1} bytes for each leaf",
        "store",
        status.disk_bytes as f64 / MIB,
        status.disk_bytes as f64 / status.tree_size as f64
    );
    println!(
        "{:>16} {:6.1} MiB, at most {:.1} MiB of it the log's",
        "resident",
        resident()? / MIB,
        memory as f64 / MIB
    );
    log.close()?;
    Ok(())
}

/// The processor time of each thread so far, nanoseconds, by thread number (the first field of `schedstat`).
fn cpu_by_thread() -> std::io::Result<BTreeMap<String, (String, u64)>> {
    let mut threads = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/task")? {
        let path = entry?.path();
        let name = std::fs::read_to_string(path.join("comm"))?.trim().to_owned();
        let schedule = std::fs::read_to_string(path.join("schedstat"))?;
        let nanos = schedule.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
        let number = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        threads.insert(number, (name, nanos));
    }
    Ok(threads)
}

/// The process's resident memory, bytes.
fn resident() -> std::io::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = field.and_then(|text| text.trim().split(' ').next()?.parse::<f64>().ok());
    Ok(kib.unwrap_or(0.0) * 1024.0)
}

/// splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Leaves between two wake-ups: a shard's batch.
const BATCH: u64 = 64;
const MIB: f64 = (1 << 20) as f64;
const PAUSE: Duration = Duration::from_micros(200);
