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
        word.copy_from_slice(&word_of(sequence, index));
    }
    bytes
}

/// Whether `bytes` are message number `sequence`. Compared word by word as the words are made: writing the message out
/// first and reading it back at another width would stall the client for longer than all else it does with it.
pub(crate) fn is_message(bytes: &[u8], sequence: u64) -> bool {
    let (words, rest) = bytes.as_chunks();
    let is_word = |(index, word): (usize, &[u8; 8])| *word == word_of(sequence, index);
    bytes.len() == MESSAGE && rest.is_empty() && words.iter().enumerate().all(is_word)
}

fn word_of(sequence: u64, index: usize) -> [u8; 8] {
    sequence.wrapping_add((index as u64) << 56).to_le_bytes()
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

    /// Appends the message to send for a request that was due at `intended`.
    pub(crate) fn send(&mut self, intended: Nanos, to: &mut Vec<u8>) {
        self.waiting.push_back(intended);
        let start = to.len();
        to.resize(start + MESSAGE, 0);
        for (index, word) in to[start..].as_chunks_mut().0.iter_mut().enumerate() {
            *word = word_of(self.next_sent, index);
        }
        self.next_sent += 1;
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
            if self.filled == 0
                && let Some((whole, rest)) = bytes.split_first_chunk::<MESSAGE>()
            {
                self.complete(whole, &mut answered)?;
                bytes = rest;
                continue;
            }
            let take = bytes.len().min(MESSAGE - self.filled);
            let (head, rest) = bytes.split_at(take);
            self.partial[self.filled..self.filled + take].copy_from_slice(head);
            self.filled += take;
            bytes = rest;
            if self.filled == MESSAGE {
                self.filled = 0;
                let whole = self.partial;
                self.complete(&whole, &mut answered)?;
            }
        }
        Ok(())
    }

    fn complete(
        &mut self,
        message: &[u8; MESSAGE],
        answered: &mut impl FnMut(Nanos),
    ) -> Result<(), NotAnEcho> {
        let expected = self.next_expected;
        let intended = self.waiting.pop_front().ok_or(NotAnEcho { expected })?;
        if !is_message(message, expected) {
            return Err(NotAnEcho { expected });
        }
        self.next_expected += 1;
        answered(intended);
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
            let mut bytes = Vec::new();
            (0..16).for_each(|due| stream.send(Nanos(due), &mut bytes));
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
            let mut bytes = Vec::new();
            stream.send(Nanos(0), &mut bytes);
            bytes[at] ^= flip;
            prop_assert_eq!(stream.receive(&bytes, |_| ()), Err(NotAnEcho { expected: 0 }));
        }
    }

    #[test]
    fn a_message_is_itself_and_no_other() {
        let bytes = message(7);
        assert!(is_message(&bytes, 7) && !is_message(&bytes, 8));
        assert!(!is_message(&bytes[..MESSAGE - 8], 7) && !is_message(&bytes[..MESSAGE - 1], 7));
    }

    #[test]
    fn an_answer_nobody_asked_for_is_refused() {
        let mut stream = InOrder::with_depth(1);
        assert!(stream.receive(&message(0), |_| ()).is_err());
    }
}
