//! Work that yields to the shards: what must be done soon, and never instead of an answer.

/// Lowers the calling thread's priority as far as it goes, and takes it off the shards' cores unless there are no others.
/// Threads that it starts later inherit both.
pub fn yield_cores(shards: &[usize]) {
    // SAFETY: takes no pointers. On Linux process 0 means the calling thread alone.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) } != 0 {
        // A priority is a wish: the work is done without.
        tracing::warn!(error = %std::io::Error::last_os_error(), "a thread keeps its priority");
    }
    leave_cores(shards);
}

/// Takes the calling thread off the shards' cores unless there are no others. Threads that it starts later inherit that.
///
/// A shard is pinned. What the scheduler puts on its core while it is parked is in its way when a packet comes.
fn leave_cores(shards: &[usize]) {
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

/// Runs `start` so that the threads it starts are off the shards' cores: see [`leave_cores`]. The calling thread stays.
pub(crate) fn off_cores<T: Send>(shards: &[usize], start: impl FnOnce() -> T + Send) -> T {
    // A thread of its own, because that is whom a set of cores belongs to.
    let started = std::thread::scope(|scope| {
        let starter = scope.spawn(|| {
            leave_cores(shards);
            start()
        });
        starter.join()
    });
    started.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Against a shard on the same core a weight of 15 to 1024: one part in seventy.
const NICE: libc::c_int = 19;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::allowed_cpus;

    #[test]
    fn what_is_started_off_the_shards_cores_starts_its_threads_there_too() {
        let before = allowed_cpus();
        let shards = &before[..1];
        let cores = off_cores(shards, || std::thread::spawn(allowed_cpus).join().unwrap());
        let others: Vec<_> = before.iter().copied().filter(|cpu| !shards.contains(cpu)).collect();
        assert_eq!(cores, if others.is_empty() { before.clone() } else { others });
        assert_eq!(allowed_cpus(), before, "the caller stays where it was");
    }
}
