//! Who waits for receipts, and the thread that answers them.

use crate::error::ReadError;
use crate::shared::Shared;
use crate::tree::{TileCache, Tree};
use crossbeam_channel::{Receiver, Sender, bounded};
use haca_wire::message::log::{LogEntry, ReceiptStates};
use haca_wire::vocabulary::LogOutcome;
use haca_wire::{Digest, RequestId, Stage};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

/// Too many ids are waited for already, or the log is closed. Try again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log answers no more waits now; try again later")]
pub struct Busy;

type Reply = Box<dyn FnOnce(ReceiptStates) + Send>;

/// Memory for each id that is waited for: itself, where it was found, and its share of the wait.
pub(crate) const BYTES_PER_ID: usize = 64;
/// Memory of the answering thread's tiles.
pub(crate) const CACHE_BYTES: usize = CACHED_TILES * TileCache::TILE_BYTES;

struct Wait {
    ids: Vec<RequestId>,
    stage: Stage,
    reply: Reply,
    /// Where each ring stood when this was asked: past these, an id that is not in the log will not come.
    targets: Box<[u64]>,
    /// The ids' indices, once they are known, and the tree size that covers them all.
    found: Option<(Vec<Option<u64>>, u64)>,
    admission: Admission,
}

/// A wait's share of what may wait, given back when it is answered or dropped.
struct Admission {
    shared: Arc<Shared>,
    ids: u64,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.shared.counters.waiting_ids.fetch_sub(self.ids, Relaxed);
    }
}

/// The asking end.
#[derive(Clone)]
pub(crate) struct WaitSender {
    shared: Arc<Shared>,
    sender: Sender<Wait>,
    max_ids: u64,
}

pub(crate) struct WaitReceiver(Receiver<Wait>);

pub(crate) fn channel(shared: &Arc<Shared>, max_ids: usize) -> (WaitSender, WaitReceiver) {
    let (sender, receiver) = bounded(UNREAD_WAITS);
    (WaitSender { shared: Arc::clone(shared), sender, max_ids: max_ids as u64 }, WaitReceiver(receiver))
}

impl WaitSender {
    pub(crate) fn send(&self, ids: Vec<RequestId>, stage: Stage, reply: Reply) -> Result<(), Busy> {
        let admission =
            Admission { shared: Arc::clone(&self.shared), ids: (ids.len() as u64).max(LEAST_SHARE) };
        let before = self.shared.counters.waiting_ids.fetch_add(admission.ids, Relaxed);
        if before + admission.ids > self.max_ids {
            return Err(Busy);
        }
        let targets = self.shared.rings.iter().map(|ring| ring.appended.load(Acquire)).collect();
        let wait = Wait { ids, stage, reply, targets, found: None, admission };
        self.sender.try_send(wait).map_err(|_| Busy)
    }
}

/// The thread that answers.
pub(crate) struct Receipts {
    shared: Arc<Shared>,
    asked: WaitReceiver,
    /// Something has become durable or checkpointed. Closed when nothing will any more.
    progress: Receiver<()>,
    waits: Vec<Wait>,
    cache: TileCache,
}

impl Receipts {
    pub(crate) fn new(shared: Arc<Shared>, asked: WaitReceiver, progress: Receiver<()>) -> Self {
        Self { shared, asked, progress, waits: Vec::new(), cache: TileCache::new(CACHED_TILES) }
    }

    pub(crate) fn run(mut self) {
        let mut retry = false;
        loop {
            let timeout = if retry { RETRY } else { Duration::MAX };
            crossbeam_channel::select! {
                recv(self.asked.0) -> wait => {
                    self.waits.extend(wait);
                    self.waits.extend(self.asked.0.try_iter());
                }
                recv(self.progress) -> progress => if progress.is_err() {
                    self.waits.extend(self.asked.0.try_iter());
                    if let Err(error) = self.answer() {
                        tracing::error!(%error, "the log closes with waits unanswered");
                    }
                    return;
                },
                default(timeout) => {}
            }
            retry = self.answer().is_err();
        }
    }

    /// Answers every wait that can be answered. An error means that the store did not read: try again.
    fn answer(&mut self) -> Result<(), ReadError> {
        let mut outcome = Ok(());
        let mut at = 0;
        while at < self.waits.len() {
            match self.states(at) {
                Ok(Some(states)) => {
                    let Wait { reply, admission, .. } = self.waits.swap_remove(at);
                    // Before the answer: who has it may ask again at once.
                    drop(admission);
                    reply(states);
                    continue;
                }
                Ok(None) => {}
                Err(error) => outcome = Err(error),
            }
            at += 1;
        }
        outcome
    }

    /// What to answer a wait; `None` if it is not there yet.
    fn states(&mut self, at: usize) -> Result<Option<ReceiptStates>, ReadError> {
        let wait = &mut self.waits[at];
        // Read before the look-up: what is settled now is found by it.
        let settled = (self.shared.rings.iter().zip(&wait.targets))
            .all(|(ring, target)| ring.settled.load(Acquire) >= *target);
        let durable = self.shared.durable();
        let (indices, covering) = match &wait.found {
            Some(found) => found,
            None => {
                let Some(indices) = locate(&self.shared, &wait.ids, durable.size(), settled)? else {
                    return Ok(None);
                };
                let covering = indices.iter().flatten().max().map_or(0, |last| last + 1);
                wait.found.insert((indices, covering))
            }
        };
        let checkpoint = match wait.stage {
            Stage::Durable => None,
            Stage::Checkpointed => match self.shared.checkpoint() {
                Some(checkpoint) if checkpoint.tree_size >= *covering => Some(checkpoint),
                // Nothing to cover: an answer needs no checkpoint.
                None if *covering == 0 => None,
                _ => return Ok(None),
            },
        };
        let tree_size = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.tree_size);
        let cache = &mut self.cache;
        let tree = Tree::new(&self.shared.store, &durable, cache);
        let entry = |index: &Option<u64>| -> Result<LogEntry, ReadError> {
            let Some(index) = *index else { return Ok(UNKNOWN) };
            let path = if checkpoint.is_some() { tree.inclusion(index, tree_size)? } else { Vec::new() };
            Ok(LogEntry { outcome: LogOutcome::Logged, index, leaf_hash: tree.leaf_hash(index)?, path })
        };
        let entries = indices.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        let checkpoint = checkpoint.map(|checkpoint| checkpoint.note.clone()).unwrap_or_default();
        Ok(Some(ReceiptStates { entries, tree_size, checkpoint }))
    }
}

/// Where the ids' leaves are in the durable log; `None` if one is not there and may still come.
fn locate(
    shared: &Shared,
    ids: &[RequestId],
    durable: u64,
    settled: bool,
) -> Result<Option<Vec<Option<u64>>>, ReadError> {
    let mut indices = Vec::with_capacity(ids.len());
    for id in ids {
        // The index knows ids of leaves that are about to be committed.
        let index = shared.store.index_of(id)?.filter(|index| *index < durable);
        if index.is_none() && !settled {
            return Ok(None);
        }
        indices.push(index);
    }
    Ok(Some(indices))
}

const UNKNOWN: LogEntry =
    LogEntry { outcome: LogOutcome::Unknown, index: 0, leaf_hash: Digest([0; 32]), path: Vec::new() };

/// Waits that the thread has not read yet; it reads all of them at each turn.
const UNREAD_WAITS: usize = 4096;
/// What a wait counts at least, however few ids it has.
const LEAST_SHARE: u64 = 8;
/// One megabyte: leaves that are asked for together mostly lie together, 256 to a tile.
const CACHED_TILES: usize = 64;
/// How long after the store did not read it is tried again.
const RETRY: Duration = Duration::from_millis(100);
