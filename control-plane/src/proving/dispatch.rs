//! Hands out what is to be proven, and keeps what comes back: in the store first, then in the log as an event of the
//! request's leaf.
//!
//! Owns one thread, of low priority; the only one that reads openings, writes records of proofs and moves their cursor. It
//! may be killed at any time: a proof is in the store before its event goes to the log, the event's id follows from the
//! leaf, and the cursor moves only past openings that have a record. Workers ask it for work and are told through a
//! channel each; it never waits for one.

use super::ProofMetrics;
use super::attempt::Made;
use super::damaged;
use super::events::EventLog;
use super::judge;
use super::queue::{Announced, Job, Queue, Task, WorkerId};
use super::store::{Record, State, Store, StoreError};
use super::workers::Said;
use crossbeam_channel::{Receiver, Sender};
use haca_dataplane::Backlog;
use haca_dataplane::clock::unix_now;
use haca_settle::{Opening as StoredOpening, OpeningPosition, ReadError};
use haca_wire::event::{self, ProofEvent};
use haca_wire::{Digest, Leaf, Mode, RequestId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Why nothing is handed out or kept now. Trying again may help.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Log(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "{damage}; where the next opening begins is not certain. Restore the file from a copy; or set \
         zk.skip_damaged_segments = true and start the node again: requests whose openings are behind this place in this \
         file then stay without proof"
    )]
    Damaged { damage: ReadError },
}

pub(super) struct Dispatcher {
    pub(super) log: EventLog,
    pub(super) store: Arc<Store>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) metrics: Arc<ProofMetrics>,
    /// How long a worker has for one proof before another gets the request too.
    pub(super) patience: Duration,
    /// Whether the rest of a damaged segment is given up where nothing is certain.
    pub(super) skip_damaged_segments: bool,
    pub(super) said: Receiver<(WorkerId, Said)>,
    /// There may be new openings.
    pub(super) opened: Receiver<()>,
    /// Models that are served: their keys are made before somebody waits for them.
    pub(super) announced: Receiver<Announced>,
    /// Told when there is a new record.
    pub(super) recorded: Sender<()>,
    pub(super) state: Dispatch,
}

/// What the dispatcher remembers.
pub(super) struct Dispatch {
    /// Openings before this were read.
    read: OpeningPosition,
    /// Openings before this are through; the store may know an earlier place.
    through: OpeningPosition,
    saved: (OpeningPosition, Instant),
    /// The damaged opening that was counted last.
    damaged: Option<OpeningPosition>,
    queue: Queue,
    workers: BTreeMap<WorkerId, Hand>,
    /// Models that were announced, for workers that join later.
    models: VecDeque<Announced>,
}

/// What is known of a worker.
#[derive(Default)]
struct Hand {
    last_word: bool,
    /// It had a job for too long, and has said nothing since.
    overdue: bool,
    hungry: Option<oneshot::Sender<Task>>,
    to_make_ready: VecDeque<Announced>,
}

impl Dispatch {
    pub(super) fn new(from: OpeningPosition) -> Self {
        let saved = (from, Instant::now());
        let (queue, workers, models) = (Queue::default(), BTreeMap::new(), VecDeque::new());
        Self { read: from, through: from, saved, damaged: None, queue, workers, models }
    }

    /// Whose word is awaited before a job is given up. Who is overdue may never say one; only of the node's own prover it
    /// is certain that it will.
    fn present(&self) -> BTreeSet<WorkerId> {
        let present = self.workers.iter().filter(|(_, hand)| hand.last_word || !hand.overdue);
        present.map(|(worker, _)| *worker).collect()
    }

    /// Whether more is to be read: nothing waits, or somebody who is hungry has declined all that does.
    fn wants_more(&self) -> bool {
        let Self { queue, workers, .. } = self;
        let mut hungry = workers.iter().filter(|(_, hand)| hand.hungry.is_some());
        queue.len() < MAX_QUEUED
            && (!queue.has_waiting()
                || queue.bytes() < MAX_QUEUED_BYTES && hungry.any(|(worker, _)| !queue.has_for(*worker)))
    }
}

impl Dispatcher {
    /// Until the service stops and all workers have left: what they were doing is kept.
    pub(super) fn run(mut self) {
        while !self.log.is_stopping() || !self.state.workers.is_empty() {
            if let Err(fault) = self.turn() {
                tracing::error!(%fault, "nothing is handed out to be proven; trying again");
                self.log.sleep(RETRY);
            }
        }
        if let Err(fault) = self.save() {
            tracing::warn!(%fault, "the cursor of proofs stays where it was; what is before it is not proven again");
        }
    }

    fn turn(&mut self) -> Result<(), Fault> {
        self.listen();
        if self.log.is_stopping() {
            // Who waits for work learns that there is none.
            self.state.workers.values_mut().for_each(|hand| hand.hungry = None);
            return Ok(());
        }
        for (worker, job) in self.state.queue.overdue(Instant::now(), self.patience) {
            let (request, patience) = (job.leaf.request, self.patience);
            tracing::warn!(%request, worker = worker.0, ?patience, "not proven in time; another prover gets it too");
            if let Some(hand) = self.state.workers.get_mut(&worker) {
                hand.overdue = true;
            }
        }
        for (position, why) in self.state.queue.given_up(&self.state.present()) {
            self.keep(position, State::Failed(why), None);
        }
        let read = self.read();
        // What was read is handed out even where nothing more can be read.
        self.hand_out();
        self.metrics.oldest.store(self.state.queue.oldest().unwrap_or(0), Relaxed);
        if let Some(until) = self.state.queue.settle() {
            self.state.through = until;
        }
        let (saved, when) = self.state.saved;
        if saved < self.state.through && (self.state.queue.is_empty() || when.elapsed() >= SAVE_EVERY) {
            self.save()?;
        }
        read
    }

    fn save(&mut self) -> Result<(), Fault> {
        self.store.set_proved_until(self.state.through)?;
        self.state.saved = (self.state.through, Instant::now());
        self.log.handle.release_openings(self.state.through)?;
        Ok(())
    }

    /// Hears everything that was said, or waits for something. Of what nobody can say any more it waits as long.
    fn listen(&mut self) {
        crossbeam_channel::select! {
            recv(self.said) -> said => match said {
                Ok((worker, said)) => self.hear(worker, said),
                Err(_) => self.log.sleep(IDLE),
            },
            recv(self.opened) -> opened => if opened.is_err() {
                self.log.sleep(IDLE);
            },
            recv(self.announced) -> announced => match announced {
                Ok(announced) => self.announce(announced),
                Err(_) => self.log.sleep(IDLE),
            },
            default(IDLE) => {}
        }
        while let Ok((worker, said)) = self.said.try_recv() {
            self.hear(worker, said);
        }
    }

    fn announce(&mut self, announced: Announced) {
        let state = &mut self.state;
        for models in
            state.workers.values_mut().map(|hand| &mut hand.to_make_ready).chain([&mut state.models])
        {
            models.retain(|known| known.model != announced.model);
            models.push_back(announced);
            if models.len() > MAX_MODELS {
                // Its keys are made with its first proofs.
                models.pop_front();
            }
        }
    }

    fn hear(&mut self, worker: WorkerId, said: Said) {
        let Dispatch { queue, workers, models, .. } = &mut self.state;
        if let Some(hand) = workers.get_mut(&worker) {
            hand.overdue = false;
        }
        match said {
            Said::Joined { last_word } => {
                let to_make_ready = models.clone();
                workers.insert(worker, Hand { last_word, to_make_ready, ..Hand::default() });
            }
            Said::Hungry(reply) => {
                // Who asks has nothing under way.
                queue.give_back(worker);
                if let Some(hand) = workers.get_mut(&worker) {
                    hand.hungry = Some(reply);
                }
            }
            Said::Proven { position, made, took } => self.proven(position, *made, took),
            Said::Unprovable { position, why } => {
                if workers.get(&worker).is_some_and(|hand| hand.last_word) {
                    self.keep(position, State::Failed(why), None);
                } else {
                    queue.decline(worker, position, why);
                }
            }
            Said::Returned => queue.give_back(worker),
            Said::Left => {
                queue.leave(worker);
                workers.remove(&worker);
            }
        }
    }

    fn proven(&mut self, position: OpeningPosition, made: Made, took: Duration) {
        let Some(job) = self.state.queue.job(position) else { return };
        let Made { proof, key, key_bytes, output } = made;
        let id = event::proof_id(&job.leaf.hash());
        let proof = ProofEvent { id, index: job.index, time: unix_now(), key, proof };
        // Of several that prove at once each gives its share.
        self.backlog.set_pace(took / self.state.queue.out().max(1) as u32);
        if self.keep(position, State::Proved { proof, output }, Some(&key_bytes)) {
            self.metrics.prove_nanos.fetch_add(took.as_nanos() as u64, Relaxed);
        }
    }

    /// Gives a request its record, unless it has one. Where the disk takes none, tries again until the service stops.
    fn keep(&mut self, position: OpeningPosition, state: State, key: Option<&[u8]>) -> bool {
        let Some(job) = self.state.queue.job(position).cloned() else { return false };
        let (request, leaf_hash, model) = (job.leaf.request, job.leaf.hash(), job.leaf.model);
        let record = Record { request, index: job.index, leaf_hash, model, state };
        let is_new = loop {
            match self.record(&job, &record, key) {
                Ok(is_new) => break is_new,
                Err(_) if self.log.is_stopping() => return false,
                Err(fault) => {
                    tracing::error!(%fault, %request, "not recorded yet; trying again");
                    self.log.sleep(RETRY);
                }
            }
        };
        self.state.queue.finish(position);
        self.backlog.leave(1);
        is_new
    }

    fn record(&mut self, job: &Job, record: &Record, key: Option<&[u8]>) -> Result<bool, Fault> {
        if self.store.record(&record.request)?.is_some() {
            return Ok(false);
        }
        if let (State::Proved { proof, output }, Some(key)) = (&record.state, key) {
            self.store.add_key(&proof.key, key)?;
            self.add(record, Some(&judge::shown(&job.leaf, &job.opening, output)))?;
            self.log.append(&[proof.encode()]);
        } else {
            self.add(record, None)?;
        }
        Ok(true)
    }

    fn add(&self, record: &Record, opening: Option<&[u8]>) -> Result<(), Fault> {
        self.store.add(record, opening)?;
        let counter = match record.state {
            State::Proved { .. } => &self.metrics.proved,
            State::Failed(_) => &self.metrics.failed,
        };
        counter.fetch_add(1, Relaxed);
        let _ = self.recorded.try_send(());
        Ok(())
    }

    /// Reads openings until each who is hungry may have one, or there are none.
    fn read(&mut self) -> Result<(), Fault> {
        while self.state.wants_more() {
            let openings = match self.log.handle.openings(self.state.read, WINDOW_BYTES) {
                Err(damage @ ReadError::DamagedOpening { position, .. }) => {
                    self.pass(OpeningPosition(position), damage)?;
                    continue;
                }
                openings => openings?,
            };
            if openings.is_empty() {
                break;
            }
            for opening in openings {
                let (position, next) = (opening.position, opening.next);
                let job = self.job(opening)?;
                if job.is_none() {
                    self.backlog.leave(1);
                }
                self.state.queue.push(position, next, job);
                self.state.read = next;
            }
        }
        Ok(())
    }

    /// Goes on behind a damaged opening. Its request fails, if the log confirms which one it was; else who waits for it is
    /// told that its opening is lost.
    fn pass(&mut self, at: OpeningPosition, damage: ReadError) -> Result<(), Fault> {
        if self.state.damaged != Some(at) {
            self.state.damaged = Some(at);
            self.metrics.damaged.fetch_add(1, Relaxed);
        }
        let passed = damaged::pass(&self.log.handle, at, self.skip_damaged_segments)?;
        let Some((known, next)) = passed else { return Err(Fault::Damaged { damage }) };
        let request = match self.leaf(&known.request, &known.leaf_hash)? {
            None => None,
            Some((index, leaf)) => {
                let state = State::Failed("its opening was damaged on the node's disk".to_owned());
                let (request, leaf_hash) = (leaf.request, known.leaf_hash);
                let record = Record { request, index, leaf_hash, model: leaf.model, state };
                self.add(&record, None)?;
                Some(request)
            }
        };
        tracing::error!(%damage, ?request, bytes = next.0 - at.0, "a damaged opening is passed over");
        self.backlog.leave(1);
        self.state.queue.push(at, next, None);
        self.state.read = next;
        Ok(())
    }

    /// What is to be done for an opening: nothing if its leaf is not in the log, or has its record.
    fn job(&self, opening: StoredOpening) -> Result<Option<Job>, Fault> {
        let leaf = self.leaf(&opening.request, &opening.leaf_hash)?;
        let position = opening.position;
        Ok(leaf.map(|(index, leaf)| Job { position, index, leaf, opening: opening.bytes }))
    }

    /// The leaf of a request and its index, if the log holds it with this hash and it has no record.
    fn leaf(&self, request: &RequestId, hash: &Digest) -> Result<Option<(u64, Leaf)>, Fault> {
        let Some(index) = self.log.handle.index_of(request)? else { return Ok(None) };
        let Some(bytes) = self.log.handle.leaf(index)? else { return Ok(None) };
        // The log keeps the first leaf of a request: the opening may be that of another.
        let leaf = Leaf::decode(&bytes).ok().filter(|leaf| leaf.mode == Mode::Zk && leaf.hash() == *hash);
        let Some(leaf) = leaf else { return Ok(None) };
        Ok(self.store.record(request)?.is_none().then_some((index, leaf)))
    }

    fn hand_out(&mut self) {
        let Dispatch { queue, workers, .. } = &mut self.state;
        let now = Instant::now();
        for (id, hand) in workers.iter_mut().filter(|(_, hand)| hand.hungry.is_some()) {
            let task = match queue.take(*id, now) {
                Some(job) => Some(Task::Prove(job)),
                None => hand.to_make_ready.pop_front().map(Task::MakeReady),
            };
            if let Some(task) = task
                && let Some(hungry) = hand.hungry.take()
                && hungry.send(task).is_err()
            {
                // It has gone; that it left is on its way.
                queue.give_back(*id);
            }
        }
    }
}

/// Openings that are read at once.
const WINDOW_BYTES: usize = 1 << 20;
/// Openings that are read and not all through.
const MAX_QUEUED: usize = 4096;
/// Bytes of these beyond which nothing more is read for who declined them.
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// Models whose keys are made ahead.
const MAX_MODELS: usize = 64;
/// How long the thread sleeps without looking for what is overdue, or the end.
const IDLE: Duration = Duration::from_millis(200);
/// A start goes over what came later than this once more, without proving it again.
const SAVE_EVERY: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(1);
