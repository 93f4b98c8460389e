//! What other threads tell a shard. Messages are few (a model table, a log's answer, "drain"), so each costs its sender
//! a system call; the shard learns of it through its ring, polling or parked.

use crate::transport::ring::eventfd;
use crossbeam_queue::ArrayQueue;
use std::fs::File;
use std::io::{self, Write as _};
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
    bell: File,
}

impl<M> Inbox<M> {
    /// An inbox that holds up to `capacity` messages.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn new(capacity: usize) -> io::Result<Self> {
        Ok(Self { queue: ArrayQueue::new(capacity), bell: eventfd()?.into() })
    }

    /// Puts a message in and rings.
    ///
    /// # Errors
    /// Gives the message back if the inbox is full.
    pub fn send(&self, letter: Letter<M>) -> Result<(), Letter<M>> {
        self.queue.push(letter)?;
        // The counter of an eventfd takes 2^64 - 2 rings before a write could fail.
        let _ = (&self.bell).write(&1u64.to_ne_bytes());
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
        self.bell.as_fd().try_clone_to_owned()
    }
}
