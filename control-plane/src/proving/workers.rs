//! Who proves, and what they say to the dispatcher.

use super::attempt::Made;
use super::queue::{Task, WorkerId};
use crossbeam_channel::{Receiver, Sender, bounded};
use haca_settle::OpeningPosition;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::oneshot;

/// What workers say.
pub(crate) enum Said {
    Joined { last_word: bool },
    Hungry(oneshot::Sender<Task>),
    Proven { position: OpeningPosition, made: Box<Made>, took: Duration },
    Unprovable { position: OpeningPosition, why: String },
    Returned,
    Left,
}

/// Where workers join.
#[derive(Clone)]
pub(crate) struct Workers {
    sender: Sender<(WorkerId, Said)>,
    joined: Arc<AtomicU64>,
}

impl Workers {
    pub(super) fn new() -> (Self, Receiver<(WorkerId, Said)>) {
        let (sender, receiver) = bounded(UNREAD);
        (Self { sender, joined: Arc::default() }, receiver)
    }

    /// One worker more. With the last word, what it cannot prove is given up; else others are asked too.
    pub(crate) fn join(&self, last_word: bool) -> Worker {
        let id = WorkerId(self.joined.fetch_add(1, Relaxed));
        let worker = Worker { id, sender: self.sender.clone() };
        worker.say(Said::Joined { last_word });
        worker
    }
}

/// A worker's end. When it is dropped, others get what it has.
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    sender: Sender<(WorkerId, Said)>,
}

impl Worker {
    /// Asks for work. No answer comes if the service stops.
    pub(crate) fn ask(&self) -> oneshot::Receiver<Task> {
        let (sender, receiver) = oneshot::channel();
        self.say(Said::Hungry(sender));
        receiver
    }

    /// Hands a proof in.
    pub(crate) fn proven(&self, position: OpeningPosition, made: Made, took: Duration) {
        self.say(Said::Proven { position, made: Box::new(made), took });
    }

    pub(crate) fn cannot_be_proven(&self, position: OpeningPosition, why: String) {
        self.say(Said::Unprovable { position, why });
    }

    /// Gives back what it has.
    pub(crate) fn give_back(&self) {
        self.say(Said::Returned);
    }

    fn say(&self, said: Said) {
        // The dispatcher is gone when the node stops; then nobody wants to know.
        let _ = self.sender.send((self.id, said));
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.say(Said::Left);
    }
}

/// Messages of workers that are not heard yet. Each has three under way at most.
const UNREAD: usize = 256;
