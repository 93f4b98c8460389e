//! The 64 bytes that are echoed, and the check that they came back.

use std::collections::VecDeque;

use thiserror::Error;

use crate::load::Nanos;

/// Bytes in a message.
pub(crate) const MESSAGE: usize = 64;

/// The server sent back something other than what it was sent.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the echo of message {expected} came back changed or out of order; the server is at fault")]
pub(crate) struct NotAnEcho {
    expected: u64,
}

/// Message number `sequence`: the number in the first eight bytes, the rest made from it.
pub(crate) fn message(sequence: u64) -> [u8; MESSAGE] {
    let mut bytes = [0; MESSAGE];
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&sequence.wrapping_add((index as u64) << 56).to_le_bytes());
    }
    bytes
}

/// Messages sent in order on one stream, waiting for their echoes in the same order.
#[derive(Debug)]
pub(crate) struct InOrder {
    waiting: VecDeque<Nanos>,
    next_sent: u64,
    next_expected: u64,
    partial: [u8; MESSAGE],
    filled: usize,
}

impl InOrder {
    pub(crate) fn with_depth(depth: usize) -> Self {
        Self {
            waiting: VecDeque::with_capacity(depth),
            next_sent: 0,
            next_expected: 0,
            partial: [0; MESSAGE],
            filled: 0,
        }
    }

    /// The message to send for a request that was due at `intended`.
    pub(crate) fn send(&mut self, intended: Nanos) -> [u8; MESSAGE] {
        self.waiting.push_back(intended);
        self.next_sent += 1;
        message(self.next_sent - 1)
    }

    /// Takes bytes as they come, cut anywhere; calls `answered` for each message they complete.
    ///
    /// # Errors
    /// When they are not what was sent.
    pub(crate) fn receive(
        &mut self,
        mut bytes: &[u8],
        mut answered: impl FnMut(Nanos),
    ) -> Result<(), NotAnEcho> {
        while !bytes.is_empty() {
            let take = bytes.len().min(MESSAGE - self.filled);
            let (head, rest) = bytes.split_at(take);
            self.partial[self.filled..self.filled + take].copy_from_slice(head);
            self.filled += take;
            bytes = rest;
            if self.filled == MESSAGE {
                self.filled = 0;
                let expected = self.next_expected;
                let intended = self.waiting.pop_front().ok_or(NotAnEcho { expected })?;
                if self.partial != message(expected) {
                    return Err(NotAnEcho { expected });
                }
                self.next_expected += 1;
                answered(intended);
            }
        }
        Ok(())
    }

    /// When each message still without an echo was due.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = Nanos> + '_ {
        self.waiting.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn echoes_complete_in_order_however_they_are_cut(cuts in proptest::collection::vec(1usize..200, 0..20)) {
            let mut stream = InOrder::with_depth(16);
            let mut bytes: Vec<u8> = (0..16).flat_map(|due| stream.send(Nanos(due))).collect();
            let mut answered = Vec::new();
            for cut in cuts {
                let head: Vec<u8> = bytes.drain(..cut.min(bytes.len())).collect();
                stream.receive(&head, |due| answered.push(due.0)).unwrap();
            }
            stream.receive(&bytes, |due| answered.push(due.0)).unwrap();
            prop_assert_eq!(answered, (0..16).collect::<Vec<u64>>());
            prop_assert_eq!(stream.unanswered().count(), 0);
        }

        #[test]
        fn any_changed_byte_is_noticed(at in 0usize..MESSAGE, flip in 1u8..) {
            let mut stream = InOrder::with_depth(1);
            let mut bytes = stream.send(Nanos(0));
            bytes[at] ^= flip;
            prop_assert_eq!(stream.receive(&bytes, |_| ()), Err(NotAnEcho { expected: 0 }));
        }
    }

    #[test]
    fn an_answer_nobody_asked_for_is_refused() {
        let mut stream = InOrder::with_depth(1);
        assert!(stream.receive(&message(0), |_| ()).is_err());
    }
}
