//! What is to be proven: which openings wait, who has which, and how far all of them are through.
//!
//! A state machine that is handed openings, workers and the time; it knows no log, no store and no thread. Jobs go out in
//! the order of the log. The cursor moves over openings that are through and have only such before them, so one that takes
//! long holds up the cursor alone. A job whose worker is gone or takes too long goes to another; of two proofs of one
//! request the first counts.

use haca_settle::OpeningPosition;
use haca_wire::{Leaf, ModelId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Who proves: a thread of this process, or a session of a prover elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WorkerId(pub(crate) u64);

/// One request to prove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    /// Where its opening is: names the job.
    pub(crate) position: OpeningPosition,
    /// Index of its leaf in the log.
    pub(crate) index: u64,
    pub(crate) leaf: Leaf,
    pub(crate) opening: Vec<u8>,
}

/// A model that is served in mode `zk`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) model: ModelId,
    /// Whether with sealed inputs too.
    pub(crate) sealed: bool,
}

/// What a worker is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    Prove(Arc<Job>),
    /// Make the keys of a model before somebody waits for them.
    MakeReady(Announced),
}

#[derive(Debug)]
struct Item {
    next: OpeningPosition,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Open {
        job: Arc<Job>,
        /// Who has it, and since when.
        out: Option<(WorkerId, Instant)>,
        /// Who of those that are there says that it cannot be proven, and why the last of them did.
        declined: BTreeSet<WorkerId>,
        why: String,
    },
    Through,
}

/// Openings that were read and are not all through.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    items: BTreeMap<OpeningPosition, Item>,
}

impl Queue {
    /// Adds an opening behind those that are there; without a job if nothing is to be proven.
    pub(crate) fn push(&mut self, position: OpeningPosition, next: OpeningPosition, job: Option<Job>) {
        let stage = match job {
            Some(job) => {
                let (job, declined, why) = (Arc::new(job), BTreeSet::new(), String::new());
                Stage::Open { job, out: None, declined, why }
            }
            None => Stage::Through,
        };
        self.items.insert(position, Item { next, stage });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether a job is with nobody.
    pub(crate) fn has_waiting(&self) -> bool {
        self.items.values().any(|item| matches!(item.stage, Stage::Open { out: None, .. }))
    }

    /// Whether a job is with nobody that this worker has not declined.
    pub(crate) fn has_for(&self, worker: WorkerId) -> bool {
        self.items.values().any(|item| match &item.stage {
            Stage::Open { out: None, declined, .. } => !declined.contains(&worker),
            _ => false,
        })
    }

    /// Bytes of openings that are kept.
    pub(crate) fn bytes(&self) -> usize {
        let kept = |item: &Item| match &item.stage {
            Stage::Open { job, .. } => job.opening.len(),
            Stage::Through => 0,
        };
        self.items.values().map(kept).sum()
    }

    /// Jobs that somebody has.
    pub(crate) fn out(&self) -> usize {
        self.items.values().filter(|item| matches!(item.stage, Stage::Open { out: Some(_), .. })).count()
    }

    /// Gives a worker the oldest job that is with nobody and that it has not declined.
    pub(crate) fn take(&mut self, worker: WorkerId, now: Instant) -> Option<Arc<Job>> {
        self.items.values_mut().find_map(|item| match &mut item.stage {
            Stage::Open { job, out: out @ None, declined, .. } if !declined.contains(&worker) => {
                *out = Some((worker, now));
                Some(Arc::clone(job))
            }
            _ => None,
        })
    }

    /// The job of this position, unless it is through.
    pub(crate) fn job(&self, position: OpeningPosition) -> Option<&Arc<Job>> {
        match &self.items.get(&position)?.stage {
            Stage::Open { job, .. } => Some(job),
            Stage::Through => None,
        }
    }

    /// Nothing more is to be done for this job.
    pub(crate) fn finish(&mut self, position: OpeningPosition) {
        if let Some(item) = self.items.get_mut(&position) {
            item.stage = Stage::Through;
        }
    }

    /// A worker says that a job cannot be proven: others may have it.
    pub(crate) fn decline(&mut self, worker: WorkerId, position: OpeningPosition, reason: String) {
        let Some(Item { stage: Stage::Open { out, declined, why, .. }, .. }) = self.items.get_mut(&position)
        else {
            return;
        };
        declined.insert(worker);
        *why = reason;
        *out = out.filter(|(holder, _)| *holder != worker);
    }

    /// Jobs with nobody that all of `present` declined, and why. None where nobody is present: who comes may prove them.
    pub(crate) fn given_up(&self, present: &BTreeSet<WorkerId>) -> Vec<(OpeningPosition, String)> {
        let given_up = |(position, item): (&OpeningPosition, &Item)| match &item.stage {
            Stage::Open { out: None, declined, why, .. } if present.is_subset(declined) => {
                Some((*position, why.clone()))
            }
            _ => None,
        };
        if present.is_empty() { Vec::new() } else { self.items.iter().filter_map(given_up).collect() }
    }

    /// A worker has gone: what it has goes to others, and what it declined is kept no longer.
    pub(crate) fn leave(&mut self, worker: WorkerId) {
        self.give_back(worker);
        for item in self.items.values_mut() {
            if let Stage::Open { declined, .. } = &mut item.stage {
                declined.remove(&worker);
            }
        }
    }

    /// What a worker has goes to others.
    pub(crate) fn give_back(&mut self, worker: WorkerId) {
        for item in self.items.values_mut() {
            if let Stage::Open { out, .. } = &mut item.stage {
                *out = out.filter(|(holder, _)| *holder != worker);
            }
        }
    }

    /// What has been out for longer than `patience` may go to others; who had it, and what. Its worker may still be first.
    pub(crate) fn overdue(&mut self, now: Instant, patience: Duration) -> Vec<(WorkerId, Arc<Job>)> {
        let late = |item: &mut Item| match &mut item.stage {
            Stage::Open { job, out, .. } => {
                let (worker, _) =
                    out.take_if(|(_, since)| now.saturating_duration_since(*since) >= patience)?;
                Some((worker, Arc::clone(job)))
            }
            Stage::Through => None,
        };
        self.items.values_mut().filter_map(late).collect()
    }

    /// Forgets the openings in front that are through; where the first one behind them is, if there were any.
    pub(crate) fn settle(&mut self) -> Option<OpeningPosition> {
        let mut until = None;
        while let Some(first) = self.items.first_entry() {
            if !matches!(first.get().stage, Stage::Through) {
                break;
            }
            until = Some(first.remove().next);
        }
        until
    }

    /// When the oldest request that is not through was read, in nanoseconds since 1970-01-01 UTC.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.items.values().find_map(|item| match &item.stage {
            Stage::Open { job, .. } => Some(job.leaf.received),
            Stage::Through => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use haca_wire::{Digest, Mode, NodeId, PayerId, RequestId, SessionId};

    const A: WorkerId = WorkerId(1);
    const B: WorkerId = WorkerId(2);

    fn job(position: u64) -> Job {
        let leaf = Leaf {
            mode: Mode::Zk,
            sealed: false,
            policy_epoch: 0,
            request: RequestId([position as u8; 16]),
            session: SessionId::default(),
            payer: PayerId::default(),
            node: NodeId::default(),
            model: ModelId::default(),
            input: Digest::default(),
            output: Digest::default(),
            evidence: Digest::default(),
            sequence: 0,
            received: position,
            completed: position,
            price: 0,
        };
        Job { position: OpeningPosition(position), index: position, leaf, opening: Vec::new() }
    }

    fn queue(positions: std::ops::Range<u64>) -> Queue {
        let mut queue = Queue::default();
        for at in positions {
            queue.push(OpeningPosition(at), OpeningPosition(at + 1), Some(job(at)));
        }
        queue
    }

    fn at(position: u64) -> OpeningPosition {
        OpeningPosition(position)
    }

    #[test]
    fn the_cursor_moves_over_what_is_through_and_stops_at_what_is_not() {
        let (mut queue, now) = (queue(0..3), Instant::now());
        queue.push(at(3), at(9), None);
        let taken: Vec<u64> =
            [A, B, A].iter().map(|worker| queue.take(*worker, now).unwrap().position.0).collect();
        assert_eq!(taken, [0, 1, 2]);
        assert!(queue.take(B, now).is_none() && !queue.has_waiting());
        queue.finish(at(1));
        assert_eq!((queue.settle(), queue.oldest(), queue.out()), (None, Some(0), 2));
        queue.finish(at(0));
        assert_eq!(queue.settle(), Some(at(2)));
        queue.finish(at(2));
        assert_eq!((queue.settle(), queue.is_empty(), queue.oldest()), (Some(at(9)), true, None));
    }

    #[test]
    fn what_a_worker_leaves_goes_to_another_and_the_first_proof_counts() {
        let (mut queue, now) = (queue(0..2), Instant::now());
        assert_eq!(queue.take(A, now).unwrap().position, at(0));
        queue.give_back(A);
        assert_eq!(queue.take(B, now).unwrap().position, at(0));
        let late = queue.overdue(now + Duration::from_secs(1), Duration::from_secs(1));
        assert_eq!(late, [(B, Arc::new(job(0)))]);
        assert_eq!(queue.take(A, now).unwrap().position, at(0));
        assert!(queue.job(at(0)).is_some());
        queue.finish(at(0));
        assert!(queue.job(at(0)).is_none(), "a second proof finds no job");
        queue.finish(at(7));
        queue.give_back(A);
        assert_eq!((queue.settle(), queue.len()), (Some(at(1)), 1));
    }

    #[test]
    fn a_job_is_given_up_when_all_that_are_there_decline_it() {
        let (mut queue, now) = (queue(0..1), Instant::now());
        let both = BTreeSet::from([A, B]);
        assert_eq!(queue.given_up(&both), []);
        queue.take(A, now).unwrap();
        queue.decline(A, at(0), "a".to_owned());
        assert_eq!(queue.given_up(&both), []);
        assert!(queue.take(A, now).is_none(), "it is not offered to who declined it");
        queue.take(B, now).unwrap();
        assert_eq!(queue.given_up(&BTreeSet::from([A])), [], "somebody has it");
        queue.decline(B, at(0), "b".to_owned());
        assert_eq!(queue.given_up(&both), [(at(0), "b".to_owned())]);
        queue.decline(B, at(5), "c".to_owned());
        queue.finish(at(0));
        assert_eq!(queue.given_up(&both), []);
    }

    #[test]
    fn a_job_that_one_declined_is_given_up_when_the_others_leave_and_kept_for_others_when_it_leaves() {
        let (mut queue, now) = (queue(0..2), Instant::now());
        queue.take(A, now).unwrap();
        queue.decline(A, at(0), "no".to_owned());
        queue.take(A, now).unwrap();
        queue.take(B, now).unwrap();
        queue.leave(B);
        assert_eq!(queue.given_up(&BTreeSet::from([A])), [(at(0), "no".to_owned())]);
        queue.leave(A);
        assert_eq!(queue.given_up(&BTreeSet::new()), [], "nobody is there who says so");
        assert_eq!(queue.given_up(&BTreeSet::from([B])), []);
        assert_eq!(queue.take(B, now).unwrap().position, at(0));
    }

    #[test]
    fn what_a_worker_declined_is_no_work_for_it() {
        let (mut queue, now) = (queue(0..1), Instant::now());
        queue.take(A, now).unwrap();
        queue.decline(A, at(0), "no".to_owned());
        assert!(queue.has_waiting() && queue.has_for(B) && !queue.has_for(A));
        queue.push(at(1), at(2), Some(job(1)));
        assert!(queue.has_for(A));
        assert_eq!(queue.take(A, now).unwrap().position, at(1));
    }
}
