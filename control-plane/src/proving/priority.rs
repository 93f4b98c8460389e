//! Prover and verifier yield to everybody else.

use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Lowers the calling thread's priority and takes it off the shards' cores, unless there are no others. Threads that it
/// starts later inherit both.
pub(super) fn yield_cores(shards: &[usize]) {
    // Both are wishes: the services work without. Of a Linux thread the kernel takes either for that thread alone.
    if let Err(error) = setpriority_process(None, NICE) {
        tracing::warn!(%error, "the prover keeps its priority");
    }
    let Ok(allowed) = sched_getaffinity(None) else { return };
    let mut rest = CpuSet::new();
    let cores = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu) && !shards.contains(cpu));
    cores.for_each(|cpu| rest.set(cpu));
    if rest.count() > 0
        && let Err(error) = sched_setaffinity(None, &rest)
    {
        tracing::warn!(%error, "the prover may run on the shards' cores");
    }
}

/// Against a shard on the same core a weight of 15 to 1024: one part in seventy.
const NICE: i32 = 19;
