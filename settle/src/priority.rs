//! The log's threads yield to the shards.

/// Lowers the calling thread's priority, and that of the threads it starts later.
///
/// Where a shard and the log share a core, the shard then gets about three quarters of it while both want it (the
/// kernel's weights are 1024 and 335), and is not kept waiting for a whole slice when it wakes. Not `SCHED_IDLE`:
/// under a shard that spins the log would hardly run at all, its rings would fill and requests would be refused.
/// Measured on one core with a process that never sleeps, at 50,000 leaves a second offered: the log keeps up, in
/// groups of 2,000 instead of 300.
pub(crate) fn yield_to_shards() {
    // SAFETY: takes no pointers. On Linux process 0 means the calling thread alone.
    let outcome = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    if outcome != 0 {
        // A priority is a wish: the log works without.
        tracing::warn!(error = %std::io::Error::last_os_error(), "a thread of the log keeps its priority");
    }
}

const NICE: libc::c_int = 5;
