//! Work that yields to the shards: what must be done soon, and never instead of an answer.

/// Lowers the calling thread's priority as far as it goes, and takes it off the shards' cores unless there are no others.
/// Threads that it starts later inherit both.
pub fn yield_cores(shards: &[usize]) {
    // SAFETY: takes no pointers. On Linux process 0 means the calling thread alone.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
        // A priority is a wish: the work is done without.
        tracing::warn!(error = %std::io::Error::last_os_error(), "a thread keeps its priority");
    }
    let others = crate::config::allowed_cpus().into_iter().filter(|cpu| !shards.contains(cpu));
    // SAFETY: all-zero bytes are an empty set, every `cpu` is below CPU_SETSIZE, and the kernel reads no more than the
    // set's size.
    let moved = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        others.for_each(|cpu| libc::CPU_SET(cpu, &mut set));
        libc::CPU_COUNT(&set) == 0
            || libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) == 0
    };
    if !moved {
        tracing::warn!(error = %std::io::Error::last_os_error(), "a thread may run on the shards' cores");
    }
}

/// Against a shard on the same core a weight of 15 to 1024: one part in seventy.
const NICE: libc::c_int = 19;
