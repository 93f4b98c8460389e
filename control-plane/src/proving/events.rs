//! The log as prover and verifier use it: they read receipts, and append events.

use haca_settle::{Appender, LogHandle};
use haca_wire::message::log::{LogEntry, ReceiptStates};
use haca_wire::vocabulary::LogOutcome;
use haca_wire::{Digest, Leaf, RequestId, Stage};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The log as one service reads it.
#[derive(Clone)]
pub(super) struct LogView {
    pub(super) handle: LogHandle,
    stopping: Arc<AtomicBool>,
}

/// The same for services that also append. They share one ring: each appends seldom, and holds the lock for the copy.
#[derive(Clone)]
pub(super) struct EventLog {
    view: LogView,
    appender: Arc<Mutex<Appender>>,
}

impl std::ops::Deref for EventLog {
    type Target = LogView;

    fn deref(&self) -> &LogView {
        &self.view
    }
}

impl EventLog {
    pub(super) fn new(view: LogView, appender: Appender) -> Self {
        Self { view, appender: Arc::new(Mutex::new(appender)) }
    }

    /// Hands events to the log. Where the log takes none, waits; the end of the service ends that, and what was not
    /// taken is appended when the service starts again.
    pub(super) fn append(&self, events: &[[u8; Leaf::LEN]]) {
        // A ring is whole after each call, so a poisoned lock is as good as another.
        let appender = || self.appender.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            while appender().append(event).is_err() {
                if self.is_stopping() {
                    return;
                }
                appender().wake();
                std::thread::sleep(NAP);
            }
        }
        appender().wake();
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

    /// Tells of new openings until the service is to stop.
    pub(super) fn watch_openings(&self, opened: &crossbeam_channel::Sender<()>) {
        let mut seen = self.handle.openings_end();
        while !self.is_stopping() {
            if self.handle.wait_for_openings(seen, NAP) {
                seen = self.handle.openings_end();
                // One that is not heard yet tells of these too.
                let _ = opened.try_send(());
            }
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
