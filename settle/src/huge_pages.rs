//! Memory that is read at random, in few large pages.

/// Asks for large pages under memory that has not been touched yet: of a table of megabytes that is read at random, the
/// processor otherwise looks up the page more slowly than the content.
pub(crate) fn prefer<T>(memory: &mut [T]) {
    let range = memory.as_mut_ptr_range();
    // SAFETY: takes no pointers.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let start = (range.start as usize).next_multiple_of(page);
    let Some(len) = (range.end as usize / page * page).checked_sub(start) else { return };
    // SAFETY: the range lies within `memory`, and the advice changes what backs it, not what it holds.
    let outcome = unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_HUGEPAGE) };
    if outcome != 0 {
        // A wish: the kernel may have been built without.
        tracing::debug!(error = %std::io::Error::last_os_error(), "no large pages");
    }
}
