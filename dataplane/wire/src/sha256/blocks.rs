//! A message as the blocks that SHA-256 takes in.

use super::Message;

/// Bytes of a block.
pub(super) const BLOCK: usize = 64;

/// One block that holds the seam between head and body, whole ones out of the body, and the tail: the message's end,
/// one bit, zeros, its length.
#[derive(Clone, Copy)]
pub(super) struct Blocks<'a> {
    seam: [u8; BLOCK],
    has_seam: bool,
    whole: &'a [[u8; BLOCK]],
    tail: [[u8; BLOCK]; 2],
    tail_blocks: usize,
}

impl<'a> Blocks<'a> {
    /// No message at all: no blocks.
    pub(super) const NONE: Blocks<'static> =
        Blocks { seam: [0; BLOCK], has_seam: false, whole: &[], tail: [[0; BLOCK]; 2], tail_blocks: 0 };

    /// Makes these the blocks of a message. Says `false` if its head is longer than one.
    pub(super) fn set(&mut self, message: Message<'a>) -> bool {
        let Message { head, body } = message;
        let length = head.len() + body.len();
        let Some(room) = BLOCK.checked_sub(head.len()) else { return false };
        self.seam[..head.len()].copy_from_slice(head);
        match body.split_first_chunk::<BLOCK>() {
            // The seam takes less of it than there is. A copy of a whole block is the quickest there is.
            Some((start, _)) => {
                self.seam[head.len()..].copy_from_slice(&start[..room]);
                let (whole, end) = body[room..].as_chunks();
                (self.has_seam, self.whole) = (true, whole);
                self.end_with(end, length);
            }
            None if body.len() >= room => {
                self.seam[head.len()..].copy_from_slice(&body[..room]);
                (self.has_seam, self.whole) = (true, &[]);
                self.end_with(&body[room..], length);
            }
            None => {
                self.seam[head.len()..length].copy_from_slice(body);
                (self.has_seam, self.whole) = (false, &[]);
                let seam = self.seam;
                self.end_with(&seam[..length], length);
            }
        }
        true
    }

    fn end_with(&mut self, end: &[u8], length: usize) {
        let bytes = self.tail.as_flattened_mut();
        bytes[..end.len()].copy_from_slice(end);
        bytes[end.len()] = 0x80;
        self.tail_blocks = (end.len() + 1 + 8).div_ceil(BLOCK);
        let length_at = self.tail_blocks * BLOCK - 8;
        bytes[length_at..length_at + 8].copy_from_slice(&(8 * length as u64).to_be_bytes());
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        usize::from(self.has_seam) + self.whole.len() + self.tail_blocks
    }

    /// Block `index`; beyond the last any block.
    pub(super) fn get(&self, index: usize) -> &[u8; BLOCK] {
        let Some(index) = index.checked_sub(usize::from(self.has_seam)) else { return &self.seam };
        match self.whole.get(index) {
            Some(block) => block,
            None => &self.tail[(index - self.whole.len()).min(1)],
        }
    }
}
