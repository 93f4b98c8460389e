//! The log as prover and verifier use it: they read receipts, and append events.

use haca_settle::{Appender, LogHandle};
use haca_wire::message::log::{LogEntry, ReceiptStates};
use haca_wire::vocabulary::LogOutcome;
use haca_wire::{Digest, Leaf, RequestId, Stage};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// The log as one service reads it.
pub(super) struct LogView {
    pub(super) handle: LogHandle,
    stopping: Arc<AtomicBool>,
}

/// The same for a service that also appends.
pub(super) struct EventLog {
    view: LogView,
    appender: Appender,
}

impl std::ops::Deref for EventLog {
    type Target = LogView;

    fn deref(&self) -> &LogView {
        &self.view
    }
}

impl EventLog {
    pub(super) fn new(view: LogView, appender: Appender) -> Self {
        Self { view, appender }
    }

    /// Hands events to the log. Where the log takes none, waits; the end of the service ends that, and what was not
    /// taken is appended when the service starts again.
    pub(super) fn append(&mut self, events: &[[u8; Leaf::LEN]]) {
        for event in events {
            while self.appender.append(event).is_err() {
                if self.is_stopping() {
                    return;
                }
                self.appender.wake();
                std::thread::sleep(NAP);
            }
        }
        self.appender.wake();
    }
}

impl LogView {
    pub(super) fn new(handle: LogHandle, stopping: Arc<AtomicBool>) -> Self {
        Self { handle, stopping }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Sleeps, or returns early when the service is to stop.
    pub(super) fn sleep(&self, time: Duration) {
        let mut left = time;
        while !left.is_zero() && !self.is_stopping() {
            let nap = left.min(NAP);
            std::thread::sleep(nap);
            left -= nap;
        }
    }

    /// Waits until the log holds leaves of these ids durably or is known not to; where each is, and its hash: somebody
    /// may have taken the id for a request. `None` if the service is to stop, or the log answers nobody now.
    pub(super) fn settled(&self, ids: &[RequestId]) -> Option<Vec<Option<(u64, Digest)>>> {
        let (sender, receiver) = crossbeam_channel::bounded::<ReceiptStates>(1);
        let reply = move |states| drop(sender.send(states));
        self.handle.await_receipts(ids.to_vec(), Stage::Durable, Box::new(reply)).ok()?;
        loop {
            match receiver.recv_timeout(NAP) {
                Ok(states) => {
                    let place = |entry: &LogEntry| {
                        (entry.outcome == LogOutcome::Logged).then_some((entry.index, entry.leaf_hash))
                    };
                    return Some(states.entries.iter().map(place).collect());
                }
                Err(crossbeam_channel::RecvTimeoutError::Timeout) if !self.is_stopping() => {}
                Err(_) => return None,
            }
        }
    }
}

/// How soon a service notices that it is to stop.
const NAP: Duration = Duration::from_millis(50);
