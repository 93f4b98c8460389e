//! The thread that writes runs: what has gathered in memory beside the leaves goes to disk while groups are committed.
//!
//! One run is written at a time. If the next is due before, the committer waits, and the rings fill: memory stays
//! bounded. When the store fails (a full disk, say) the run stays in memory and is tried again on a store that is opened
//! afresh. A log that closes leaves it at that: the leaves are durable, and the rest follows from them.

use crate::shared::Shared;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What the committer and the filer tell each other.
#[derive(Default)]
pub(crate) struct Filing {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// A table is sealed and not yet on disk.
    due: bool,
    /// What the store said to that last.
    failure: Option<Arc<str>>,
    closing: bool,
}

impl Filing {
    /// Says that a table is sealed.
    pub(crate) fn submit(&self) {
        self.lock().due = true;
        self.changed.notify_all();
    }

    /// Waits until no table is sealed.
    ///
    /// # Errors
    /// What the store said, if it does not take the run now.
    pub(crate) fn wait(&self) -> Result<(), Arc<str>> {
        let waits = |state: &mut State| state.due && state.failure.is_none();
        let state = self.changed.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner);
        match &state.failure {
            Some(failure) if state.due => Err(Arc::clone(failure)),
            _ => Ok(()),
        }
    }

    /// Ends the filer once it is done with what it is writing.
    pub(crate) fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the committer when the filer panics, so that it does not wait for ever.
struct Guard<'a>(&'a Filing);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().failure = Some("the log's filer panicked; restart the process".into());
            self.0.changed.notify_all();
        }
    }
}

/// Runs until the log closes.
pub(crate) fn run(shared: &Shared) {
    let filing = &shared.filing;
    let _guard = Guard(filing);
    loop {
        let idle = |state: &mut State| !state.due && !state.closing;
        let state = filing.changed.wait_while(filing.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        if !state.due {
            return;
        }
        drop(state);
        if let Err(error) = shared.store.file_sealed() {
            tracing::error!(%error, "the log's index takes no run; trying again");
            let mut state = filing.lock();
            state.failure = Some(error.to_string().into());
            filing.changed.notify_all();
            let open = |state: &mut State| !state.closing;
            let waited = filing.changed.wait_timeout_while(state, RETRY, open);
            if waited.unwrap_or_else(PoisonError::into_inner).0.closing {
                return;
            }
            if let Err(error) = shared.store.reopen_runs() {
                tracing::error!(%error, "the log's index does not open");
            }
            continue;
        }
        let mut state = filing.lock();
        (state.due, state.failure) = (false, None);
        filing.changed.notify_all();
    }
}

/// How long after a failure a run is tried again: opening the store takes some milliseconds.
const RETRY: Duration = Duration::from_millis(500);
