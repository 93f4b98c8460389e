//! What a service that runs apart counts.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Of one service, since it was started.
#[derive(Debug, Default)]
#[allow(missing_docs)] // Where they are exported, each has a line of explanation.
pub struct Counts {
    /// 1 while the node gives work, else 0.
    pub connected: AtomicU64,
    pub sessions: AtomicU64,
    /// Proofs or verdicts that were handed in.
    pub results: AtomicU64,
    /// Requests of which the service said that it cannot prove or judge them.
    pub declined: AtomicU64,
    /// What proving or judging took together, in nanoseconds.
    pub work_nanos: AtomicU64,
}

impl Counts {
    pub(super) fn worked(&self, time: Duration) {
        self.work_nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}
