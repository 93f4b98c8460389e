//! The prover within the node: asks the dispatcher for work, as one apart does, and proves it.
//!
//! Owns one thread, and a pool of its own for the arithmetic, both of low priority and off the shards' cores where there
//! are others. It keeps nothing: what it was doing when it was killed is given out again.

use super::attempt;
use super::events::LogView;
use super::queue::Task;
use super::workbench::Workbench;
use super::workers::Worker;
use std::time::{Duration, Instant};

pub(super) struct ProverThread {
    pub(super) worker: Worker,
    pub(super) log: LogView,
    pub(super) workbench: Workbench,
    pub(super) pool: rayon::ThreadPool,
}

impl ProverThread {
    /// Until the dispatcher gives out nothing more.
    pub(super) fn run(mut self) {
        while let Ok(task) = self.worker.ask().blocking_recv() {
            let job = match task {
                Task::Prove(job) => job,
                Task::MakeReady(announced) => {
                    attempt::make_ready(&mut self.workbench, &self.pool, announced);
                    continue;
                }
            };
            let begun = Instant::now();
            match attempt::prove(&mut self.workbench, &self.pool, &job.leaf, &job.opening) {
                Ok(made) => self.worker.proven(job.position, made, begun.elapsed()),
                Err(reason) if reason.may_pass() => {
                    // The disk, most likely.
                    tracing::error!(request = %job.leaf.request, %reason, "not proven yet; trying again");
                    self.worker.give_back();
                    self.log.sleep(RETRY);
                }
                Err(reason) => {
                    tracing::error!(request = %job.leaf.request, model = %job.leaf.model, %reason, "cannot be proven");
                    self.worker.cannot_be_proven(job.position, reason.to_caller());
                }
            }
        }
    }
}

const RETRY: Duration = Duration::from_secs(1);
