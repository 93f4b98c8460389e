//! Random changes of a seed: what `cargo test` has in place of an engine.

/// Numbers that parsers get wrong: edges of widths and signs.
const EDGES: [u64; 10] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff];

/// Changed copies of one seed, without an end. The same number gives the same ones.
#[derive(Debug)]
pub struct Mutations<'a> {
    seed: &'a [u8],
    /// Another input, of which parts are taken.
    other: &'a [u8],
    state: u64,
}

impl<'a> Mutations<'a> {
    /// Changed copies of `seed`, some with parts of `other`.
    pub fn new(seed: &'a [u8], other: &'a [u8], number: u64) -> Mutations<'a> {
        Mutations { seed, other, state: number }
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.random() % bound.max(1) as u64) as usize
    }

    /// A place within `len` bytes and how many bytes from there on.
    fn range(&mut self, len: usize, most: usize) -> (usize, usize) {
        let start = self.below(len);
        (start, self.below((len - start).min(most)) + usize::from(start < len))
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            bytes.push(self.random() as u8);
            return;
        }
        let at = self.below(bytes.len());
        match self.below(7) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.random() as u8,
            2 => {
                let edge = EDGES[self.below(EDGES.len())].to_le_bytes();
                let width = 1 << self.below(4);
                bytes.iter_mut().skip(at).zip(&edge[..width]).for_each(|(byte, edge)| *byte = *edge);
            }
            3 => bytes.truncate(at),
            4 => {
                let (start, len) = self.range(bytes.len(), 64);
                bytes.drain(start..start + len);
            }
            5 => {
                let (start, len) = self.range(bytes.len(), 64);
                let copy = bytes[start..start + len].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                let (start, len) = self.range(self.other.len(), 256);
                let part = self.other[start..start + len].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
}

impl Iterator for Mutations<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut bytes = self.seed.to_vec();
        // Few changes mostly: a file that breaks many rules is refused for the first.
        for _ in 0..1 << self.below(4) {
            self.change(&mut bytes);
        }
        Some(bytes)
    }
}
