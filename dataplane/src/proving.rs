//! Mode `zk` as the data plane sees it: it answers at once, keeps the opening of each leaf in the log, and knows of the
//! prover only how far it is behind.
//!
//! A prover that falls behind makes the node refuse requests of mode `zk`, and those alone, with the time after which it
//! will have caught up; what was answered is proven.

use haca_kernels::Model;
use haca_wire::message::proof::ProofStates;
use haca_wire::{Digest, RequestId};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Takes the answer to an `AwaitProofs`. Called on a thread of the prover's.
pub type ProofReply = Box<dyn FnOnce(Result<ProofStates, String>) + Send>;

/// Too many requests for proofs wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many callers wait for proofs; try again later")]
pub struct ProofsBusy;

/// What of mode `zk` is to be had for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// Why sealed inputs are not taken; `None`: they are.
    pub sealed_refused: Option<String>,
}

/// Says whether mode `zk` is to be had for a model that is about to be served, given also its file; or why not.
pub type AdmitModel = dyn Fn(&Arc<Model>, &[u8]) -> Result<Admitted, String> + Send + Sync;

/// Answers once these requests are proven or will not be.
pub type AwaitProven = dyn Fn(Vec<RequestId>, ProofReply) -> Result<(), ProofsBusy> + Send + Sync;

/// What a node must have of a prover to offer mode `zk`.
#[derive(Clone)]
pub struct Proving {
    /// Called on the registry's thread, before requests for the model are taken.
    pub admit: Arc<AdmitModel>,
    /// Called on a shard; must not block.
    pub ask: Arc<AwaitProven>,
    /// How far the prover is behind.
    pub backlog: Arc<Backlog>,
    /// Public key of the verifier.
    pub verifier: Digest,
    /// Where provers and verifiers that run apart connect.
    pub services: Option<SocketAddr>,
}

/// Requests that were answered and are not proven yet. Shards add, the prover takes away.
#[derive(Debug)]
pub struct Backlog {
    max: u64,
    pending: AtomicU64,
    /// Running mean of what a proof takes.
    pace_nanos: AtomicU64,
}

impl Backlog {
    /// A backlog of at most `max`, with a guess of what a proof takes.
    pub fn new(max: u64, pace: Duration) -> Self {
        Self { max, pending: AtomicU64::new(0), pace_nanos: AtomicU64::new(nanos(pace)) }
    }

    /// Takes a place for one request.
    ///
    /// # Errors
    /// If all are taken: after how long one is expected to be free.
    pub fn enter(&self) -> Result<(), Duration> {
        if self.pending.fetch_add(1, Relaxed) < self.max {
            return Ok(());
        }
        self.leave(1);
        Err(Duration::from_nanos(self.pace_nanos.load(Relaxed)))
    }

    /// Takes places for what an earlier run left, even if there are more of these than places.
    pub fn resume(&self, count: u64) {
        self.pending.fetch_add(count, Relaxed);
    }

    /// Gives places back: the requests are proven, or were not answered after all.
    pub fn leave(&self, count: u64) {
        let before = self.pending.fetch_sub(count, Relaxed);
        debug_assert!(before >= count, "a place is given back once");
    }

    /// Requests that wait for their proofs.
    pub fn pending(&self) -> u64 {
        self.pending.load(Relaxed)
    }

    /// When the proof of a request that is answered now is expected.
    pub fn delay(&self) -> Duration {
        Duration::from_nanos(self.pace_nanos.load(Relaxed).saturating_mul(self.pending()))
    }

    /// Says what proofs took of late, each. One thread does.
    pub fn set_pace(&self, pace: Duration) {
        let mean = self.pace_nanos.load(Relaxed);
        self.pace_nanos.store(mean - mean / WEIGHT + nanos(pace) / WEIGHT, Relaxed);
    }
}

/// Weight of the newest time in the running mean: one eighth.
const WEIGHT: u64 = 8;

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_backlog_refuses_until_a_place_is_given_back() {
        let backlog = Backlog::new(2, Duration::from_millis(10));
        assert_eq!((backlog.enter(), backlog.enter()), (Ok(()), Ok(())));
        assert_eq!(backlog.delay(), Duration::from_millis(20));
        assert_eq!(backlog.enter(), Err(Duration::from_millis(10)));
        assert_eq!(backlog.pending(), 2);
        backlog.leave(1);
        assert_eq!(backlog.enter(), Ok(()));
    }
}
