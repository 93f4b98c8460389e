//! The log's threads yield to the shards.

/// Lowers the calling thread's priority, and that of the threads it starts later.
///
/// Where a shard and the log share a core, the shard then gets the larger part of it while both want it (the kernel's
/// weights are 1024 and 820), and the log still gets what a shard at full speed needs of it: at 300,000 answers a second
/// about a tenth of the core. With nice 5 a shard that never slept once got three quarters of the core, the rings filled
/// within seconds and requests were refused; the log needed eight times as much then, but a log that cannot catch up
/// after a stall costs more than its share. Not `SCHED_IDLE`, for the same reason and more so.
pub(crate) fn yield_to_shards() {
    // SAFETY: takes no pointers. On Linux process 0 means the calling thread alone.
    let outcome = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    if outcome != 0 {
        // A priority is a wish: the log works without.
        tracing::warn!(error = %std::io::Error::last_os_error(), "a thread of the log keeps its priority");
    }
}

const NICE: libc::c_int = 1;
