//! Which core a thread runs on.

use std::io;
use std::mem;

use anyhow::Context;

/// Keeps the calling thread, and every thread it starts from now on, on core `cpu`.
///
/// # Errors
/// When there is no such core or this process may not use it.
pub(crate) fn pin_to(cpu: usize) -> anyhow::Result<()> {
    let advice =
        || format!("cannot run on core {cpu}; `nproc` says how many cores there are, choose another");
    anyhow::ensure!(cpu < libc::CPU_SETSIZE as usize, advice());
    // SAFETY: cpu_set_t is a plain bit set; all zeroes is the empty one.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `cpu` is below CPU_SETSIZE, so the bit lies within the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: pid 0 is the calling thread; `set` outlives the call and its size is given.
    let done = unsafe { libc::sched_setaffinity(0, mem::size_of_val(&set), &raw const set) };
    if done != 0 {
        return Err(io::Error::last_os_error()).with_context(advice);
    }
    Ok(())
}
