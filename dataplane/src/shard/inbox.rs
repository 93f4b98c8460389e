//! What other threads tell a shard. Messages are few (a model table, a log's answer, "drain"), so each costs its sender
//! a system call; the shard learns of it through its ring, polling or parked.
//!
//! The bell is a pipe and not an eventfd: a parked ring signals an eventfd of its own, and on Linux 6.18 a signal that
//! is raised from within another eventfd's write was delivered once and then never again, so the second letter to a
//! parked shard was not heard.

use crossbeam_queue::ArrayQueue;
use std::io::{self, PipeReader, PipeWriter, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

/// Something for a shard.
#[derive(Debug)]
pub enum Letter<M> {
    /// Shut down in good order.
    Drain,
    /// For the application.
    Application(M),
}

/// The bounded queue in front of one shard.
#[derive(Debug)]
pub struct Inbox<M> {
    queue: ArrayQueue<Letter<M>>,
    bell: PipeWriter,
    ear: PipeReader,
}

impl<M> Inbox<M> {
    /// An inbox that holds up to `capacity` messages.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let (ear, bell) = io::pipe()?;
        Ok(Self { queue: ArrayQueue::new(capacity), bell, ear })
    }

    /// Puts a message in and rings.
    ///
    /// # Errors
    /// Gives the message back if the inbox is full.
    pub fn send(&self, letter: Letter<M>) -> Result<(), Letter<M>> {
        self.queue.push(letter)?;
        // A pipe holds 64 KiB, far more rings than the queue has places. The reading end is ours, so it is open.
        let _ = (&self.bell).write(&[0]);
        Ok(())
    }

    /// The next message.
    pub fn take(&self) -> Option<Letter<M>> {
        self.queue.pop()
    }

    /// What the shard's ring reads to hear the bell.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn listen(&self) -> io::Result<OwnedFd> {
        self.ear.as_fd().try_clone_to_owned()
    }
}
