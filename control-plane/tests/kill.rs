//! `haca up` is killed with SIGKILL at random moments while it answers. Whatever the client was told is durable must be
//! in the log after the restart, exactly once, and every checkpoint must extend every older one. Likewise on a full disk:
//! requests are refused, and those that were answered are in the log once there is room.
//!
//! By default a short run, so that it belongs to the ordinary tests. The full one:
//!
//! ```sh
//! HACA_KILLS=50 HACA_RECEIPTS=200000 cargo test --release -p haca-control-plane --test kill -- --nocapture
//! ```
#![allow(clippy::unwrap_used)] // A test that cannot go on fails there.

mod node;
#[path = "../../settle/tests/small_disk/mod.rs"]
mod small_disk;

use haca_client::{Client, ClientOptions};
use haca_control_plane::shipped::SHIPPED;
use haca_settle::{Checkpoint, LogHandle};
use haca_wire::connect::Connect;
use haca_wire::merkle::{self, is_consistent};
use haca_wire::vocabulary::LogOutcome;
use haca_wire::{Digest, Leaf, Mode, RequestId, Stage};
use node::{Node, client, model_file, open_log, operator, push};
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Requests one line asks about before it waits until they are durable.
const CHUNK: usize = 256;

/// What the client was told, over all lives of the node.
#[derive(Default)]
struct Told {
    /// Request to leaf hash and index, as of the moment the log said "durable".
    durable: Mutex<HashMap<RequestId, (Digest, u64)>>,
    checkpoints: Mutex<Vec<Checkpoint>>,
}

#[test]
fn what_was_called_durable_survives_kill_9() {
    let setting = |name: &str, default: usize| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number of kills or receipts"))
    };
    let (kills, receipts) = (setting("HACA_KILLS", 3), setting("HACA_RECEIPTS", 3_000));
    let seed = setting("HACA_SEED", std::process::id() as usize) as u64;
    println!("seed {seed} (HACA_SEED={seed} repeats the moments of the kills)");
    let mut random = Random(seed | 1);
    let data = tempfile::tempdir().unwrap();
    let told = Arc::new(Told::default());
    let runtime = tokio::runtime::Runtime::new().unwrap();

    for life in 0..kills {
        let node = Node::up(data.path(), "");
        if life == 0 {
            runtime.block_on(push(data.path()));
        }
        let before = told.durable.lock().unwrap().len();
        let target = receipts * (life + 1) / kills;
        let asking = runtime.spawn(ask(data.path().to_owned(), Arc::clone(&told)));
        // Killed as soon as this life has done its share, and then some at random: in the middle of whatever it does.
        while told.durable.lock().unwrap().len() < target {
            assert!(
                !asking.is_finished(),
                "the client gave up while the node ran: {:?}",
                runtime.block_on(asking)
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(random.next() % 30_000));
        drop(node);
        let outcome = runtime.block_on(asking).unwrap();
        assert!(outcome.is_err(), "a client of a killed node is told so");
        let now = told.durable.lock().unwrap().len();
        println!("life {}: {} receipts durable, {} in all", life + 1, now - before, now);
    }
    // The last start must come up on what the last kill left, through the ordinary command.
    drop(Node::up(data.path(), ""));
    audit(data.path(), &told, receipts);
}

#[test]
fn a_full_disk_refuses_requests_and_loses_none_that_were_answered() {
    small_disk::run_on_it("on_a_small_disk");
}

/// Not a test of its own: what runs on the small disk.
#[test]
fn on_a_small_disk() {
    let Some(disk) = small_disk::folder() else { return };
    let (data, ballast) = (disk.join("data"), disk.join("ballast"));
    let node = Node::up(&data, "max_batch = 64\n[log]\nqueue_capacity = 256\n[zk]\nenabled = false\n");
    let told = Told::default();
    let minute = Duration::from_secs(60);
    let filling = async {
        tokio::time::timeout(minute, fill_the_disk_and_make_room(&data, &ballast, &told)).await.unwrap()
    };
    let answered = tokio::runtime::Runtime::new().unwrap().block_on(filling);
    drop(node);
    assert!(answered > 0);
    audit(&data, &told, answered);
}

/// How many requests were answered while the disk was full.
async fn fill_the_disk_and_make_room(data: &Path, ballast: &Path, told: &Told) -> usize {
    push(data).await;
    let client = client(data).await;
    let (entry, input) = (client.model("mlp").await.unwrap(), SHIPPED[0].input().unwrap());

    small_disk::fill_up_to(ballast, 0);
    let mut answered: Vec<Leaf> = Vec::new();
    loop {
        match client.infer(&entry, Mode::Vanilla, input.row(answered.len() % input.rows())).await {
            Ok(answer) => answered.push(answer.leaf),
            Err(error) if error.to_string().contains("the operator sees why at /readyz") => break,
            // The ring is full, and the log has not tried for long enough to say that it is stalled.
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    println!("{} answered before the first was refused", answered.len());
    let (model, operator) = (model_file(), operator(data));
    let pushed = client.push_model("other", &model, &operator, |_| {}).await;
    let error = pushed.unwrap_err().to_string();
    assert!(error.contains("could not write the model into its data directory"), "{error}");

    std::fs::remove_file(ballast).unwrap();
    for leaves in answered.chunks(CHUNK) {
        let ids: Vec<_> = leaves.iter().map(|leaf| leaf.request).collect();
        let states = client.await_receipts(Stage::Checkpointed, &ids).await.unwrap();
        for (leaf, state) in leaves.iter().zip(states) {
            assert_eq!((state.outcome, state.leaf_hash), (LogOutcome::Logged, leaf.hash()));
            told.durable.lock().unwrap().insert(state.id, (state.leaf_hash, state.index));
        }
    }
    client.infer(&entry, Mode::Vanilla, input.row(0)).await.unwrap();
    client.push_model("other", &model, &operator, |_| {}).await.unwrap();
    answered.len()
}

/// Everything the client was told holds in the log that the kills left behind.
fn audit(data: &Path, told: &Told, receipts: usize) {
    let log = open_log(data);
    let handle = log.handle();
    let size = handle.status().tree_size;

    let mut seen = HashMap::new();
    for index in 0..size {
        let bytes = handle.leaf(index).unwrap().expect("every index below the size has a leaf");
        let leaf = Leaf::decode(&bytes).unwrap();
        let earlier = seen.insert(leaf.request, (merkle::leaf_hash(&bytes), index));
        assert!(
            earlier.is_none(),
            "request {} is in the log twice: at {} and {index}",
            leaf.request,
            earlier.unwrap().1
        );
    }
    let durable = told.durable.lock().unwrap();
    assert!(durable.len() >= receipts);
    for (request, told) in durable.iter() {
        assert_eq!(seen.get(request), Some(told), "request {request} was called durable");
    }
    let mut checkpoints = told.checkpoints.lock().unwrap();
    checkpoints.push((*handle.latest_checkpoint().expect("the log has a checkpoint")).clone());
    checkpoints.sort_by_key(|checkpoint| checkpoint.tree_size);
    for pair in checkpoints.windows(2) {
        assert!(
            extends(&handle, &pair[0], &pair[1]),
            "{} does not extend {}",
            pair[1].tree_size,
            pair[0].tree_size
        );
    }
    println!(
        "{} receipts were called durable; {size} leaves are in the log, each once; {} checkpoints, each extends the \
         one before",
        durable.len(),
        checkpoints.len()
    );
    drop((durable, checkpoints));
    log.close().unwrap();
}

fn extends(log: &LogHandle, old: &Checkpoint, new: &Checkpoint) -> bool {
    let proof = log.consistency(old.tree_size, new.tree_size).unwrap();
    is_consistent(old.tree_size, &old.root, new.tree_size, &new.root, &proof)
}

/// Asks without end; returns only when the node is gone.
async fn ask(data: std::path::PathBuf, told: Arc<Told>) -> Result<(), String> {
    let connect = Connect::read(&data.join("connect.toml")).unwrap();
    let client = Client::connect(
        &connect,
        ClientOptions { idle_timeout: Duration::from_secs(2), ..Default::default() },
    );
    let client = Arc::new(client.await.map_err(|error| error.to_string())?);
    let entry = client.model("mlp").await.map_err(|error| error.to_string())?;
    let input = Arc::new(SHIPPED[0].input().unwrap());
    let next = Arc::new(AtomicUsize::new(0));
    let mut lines = tokio::task::JoinSet::new();
    for line in 0..4 {
        let (client, entry, input) = (Arc::clone(&client), entry.clone(), Arc::clone(&input));
        let (told, next, log_key) = (Arc::clone(&told), Arc::clone(&next), connect.log_key.clone());
        lines.spawn(async move {
            loop {
                let asked = (0..CHUNK).map(|_| {
                    let row = input.row(next.fetch_add(1, Ordering::Relaxed) % input.rows()).to_vec();
                    let (client, entry) = (Arc::clone(&client), entry.clone());
                    tokio::spawn(async move { client.infer(&entry, Mode::Vanilla, &row).await })
                });
                let mut answers = Vec::with_capacity(CHUNK);
                for answer in asked.collect::<Vec<_>>() {
                    answers.push(answer.await.unwrap().map_err(|error| error.to_string())?);
                }
                let ids: Vec<_> = answers.iter().map(|answer| answer.leaf.request).collect();
                // One line in four asks for proofs, whose checkpoints are kept to be compared with later ones.
                let stage = if line == 0 { Stage::Checkpointed } else { Stage::Durable };
                let states = client.await_receipts(stage, &ids).await.map_err(|error| error.to_string())?;
                let mut durable = told.durable.lock().unwrap();
                for (answer, state) in answers.iter().zip(&states) {
                    assert_eq!(state.outcome, LogOutcome::Logged);
                    assert_eq!(state.leaf_hash, answer.leaf.hash());
                    durable.insert(state.id, (state.leaf_hash, state.index));
                }
                drop(durable);
                if let Some(inclusion) = states.iter().find_map(|state| state.inclusion.as_ref()) {
                    let checkpoint = Checkpoint::verify(&inclusion.checkpoint, &log_key).unwrap();
                    told.checkpoints.lock().unwrap().push(checkpoint);
                }
            }
        });
    }
    match lines.join_next().await {
        Some(Ok(ended)) => ended,
        Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        None => Ok(()),
    }
}

/// xorshift64: moments to kill at need no more.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
