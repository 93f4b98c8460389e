//! The receipt leaf: what a node says it did for one request, in a layout that will still read the same in ten years.
//!
//! Version 1 is exactly [`Leaf::LEN`] bytes, every number little-endian:
//!
//! | bytes | field | |
//! |---|---|---|
//! | 0..2 | version | `u16`, 1 |
//! | 2 | mode | 0 `vanilla`, 1 `tee`, 2 `zk` |
//! | 3 | sealed | 1 if the input is sealed, which is so in mode `zk` alone; else 0 |
//! | 4..8 | policy epoch | `u32`, of the policy the node served under |
//! | 8..24 | request id | chosen by the caller |
//! | 24..40 | session id | drawn by the node |
//! | 40..72 | payer | all zero: nobody pays |
//! | 72..104 | node | Ed25519 public key |
//! | 104..136 | model id | SHA-256 of the compiled model file |
//! | 136..168 | input hash | see [`tensor`](crate::tensor); of a sealed input its commitment, see [`seal`](crate::seal) |
//! | 168..200 | output hash | see [`tensor`](crate::tensor) |
//! | 200..232 | evidence digest | SHA-256 of the attestation evidence; all zero: none |
//! | 232..240 | sequence | `u64`: shard in the top 8 bits, then a counter that never repeats |
//! | 240..248 | received | `u64`, nanoseconds since 1970-01-01 UTC, by the node's clock |
//! | 248..256 | completed | `u64`, likewise |
//! | 256..264 | price | `u64`, millionths of the unit of account |
//!
//! Its hash in every tree is `SHA-256(0x00 ‖ leaf)`.

use crate::ids::{Digest, ModelId, NodeId, PayerId, RequestId, SessionId};
use crate::merkle;
use crate::vocabulary::Mode;

/// What a node says it did for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// Where on the verification spectrum the request was.
    pub mode: Mode,
    /// The input is sealed: `input` is the caller's commitment to it. In mode `zk` alone.
    pub sealed: bool,
    /// Epoch of the policy the node served under.
    pub policy_epoch: u32,
    /// The request.
    pub request: RequestId,
    /// The session it came in.
    pub session: SessionId,
    /// Who pays.
    pub payer: PayerId,
    /// The node that answered.
    pub node: NodeId,
    /// The model that was run.
    pub model: ModelId,
    /// Hash of the input tensor; of a step of a stream, of all steps since its reset; of a sealed input, its commitment.
    pub input: Digest,
    /// Hash of the output tensor.
    pub output: Digest,
    /// Hash of the node's attestation evidence; zero where there is none.
    pub evidence: Digest,
    /// The node's sequence number.
    pub sequence: u64,
    /// When the request was read, in nanoseconds since 1970-01-01 UTC.
    pub received: u64,
    /// When its output was there, likewise.
    pub completed: u64,
    /// Price in millionths of the unit of account.
    pub price: u64,
}

/// Why bytes are not a leaf.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// Wrong length.
    #[error("a leaf has {expected} bytes, this has {0}", expected = Leaf::LEN)]
    Length(usize),
    /// A version this code does not read.
    #[error("leaf version {0} is not known here; this reads version 1")]
    Version(u16),
    /// The mode byte is none of the known ones.
    #[error("leaf mode {0} is not known")]
    Mode(u8),
    /// The flag of a sealed input is none, or is set in another mode than `zk`.
    #[error("leaf byte 3 is {0}; it is 1 for a sealed input, in mode zk alone, and else 0")]
    Sealed(u8),
}

impl Leaf {
    /// Bytes of an encoded leaf.
    pub const LEN: usize = 264;
    const VERSION: u16 = 1;

    /// The leaf's bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0u8; Self::LEN];
        let mut rest = &mut bytes[..];
        let mut put = |field: &[u8]| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(field.len());
            head.copy_from_slice(field);
            rest = tail;
        };
        put(&Self::VERSION.to_le_bytes());
        debug_assert!(!self.sealed || self.mode == Mode::Zk, "only mode zk seals inputs");
        put(&[self.mode as u8, self.sealed.into()]);
        put(&self.policy_epoch.to_le_bytes());
        put(&self.request.0);
        put(&self.session.0);
        put(&self.payer.0);
        put(&self.node.0);
        put(&self.model.0);
        put(&self.input.0);
        put(&self.output.0);
        put(&self.evidence.0);
        put(&self.sequence.to_le_bytes());
        put(&self.received.to_le_bytes());
        put(&self.completed.to_le_bytes());
        put(&self.price.to_le_bytes());
        debug_assert!(rest.is_empty());
        bytes
    }

    /// Reads a leaf.
    ///
    /// # Errors
    /// Anything that [`Leaf::encode`] does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, LeafError> {
        let bytes: &[u8; Self::LEN] = bytes.try_into().map_err(|_| LeafError::Length(bytes.len()))?;
        let mut fields = Fields(bytes);
        let version = u16::from_le_bytes(fields.take());
        if version != Self::VERSION {
            return Err(LeafError::Version(version));
        }
        let [mode, sealed] = fields.take();
        let mode = Mode::from_wire(mode).ok_or(LeafError::Mode(mode))?;
        Ok(Self {
            mode,
            sealed: match sealed {
                0 => false,
                1 if mode == Mode::Zk => true,
                _ => return Err(LeafError::Sealed(sealed)),
            },
            policy_epoch: u32::from_le_bytes(fields.take()),
            request: RequestId(fields.take()),
            session: SessionId(fields.take()),
            payer: PayerId(fields.take()),
            node: NodeId(fields.take()),
            model: ModelId(fields.take()),
            input: Digest(fields.take()),
            output: Digest(fields.take()),
            evidence: Digest(fields.take()),
            sequence: u64::from_le_bytes(fields.take()),
            received: u64::from_le_bytes(fields.take()),
            completed: u64::from_le_bytes(fields.take()),
            price: u64::from_le_bytes(fields.take()),
        })
    }

    /// The leaf's hash in every tree.
    pub fn hash(&self) -> Digest {
        merkle::leaf_hash(&self.encode())
    }
}

/// Takes fixed-size fields off the front of bytes whose total length was checked.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("Leaf::LEN is the sum of its fields");
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        pub(crate) fn any_leaf()(
            mode in prop::sample::select(Mode::ALL),
            sealed: bool,
            policy_epoch: u32,
            ids: ([u8; 16], [u8; 16], [u8; 32], [u8; 32], [u8; 32]),
            hashes: ([u8; 32], [u8; 32], [u8; 32]),
            numbers: (u64, u64, u64, u64),
        ) -> Leaf {
            Leaf {
                mode,
                sealed: sealed && mode == Mode::Zk,
                policy_epoch,
                request: RequestId(ids.0),
                session: SessionId(ids.1),
                payer: PayerId(ids.2),
                node: NodeId(ids.3),
                model: ModelId(ids.4),
                input: Digest(hashes.0),
                output: Digest(hashes.1),
                evidence: Digest(hashes.2),
                sequence: numbers.0,
                received: numbers.1,
                completed: numbers.2,
                price: numbers.3,
            }
        }
    }

    proptest! {
        #[test]
        fn leaves_round_trip(leaf in any_leaf()) {
            prop_assert_eq!(Leaf::decode(&leaf.encode()), Ok(leaf));
        }

        #[test]
        fn any_bytes_are_a_leaf_or_an_error(
            mut bytes in prop::collection::vec(any::<u8>(), 0..300), head in prop::option::of([0u8..4, 0u8..3]),
        ) {
            if let (Some([mode, sealed]), [first, second, third, fourth, ..]) = (head, &mut bytes[..]) {
                [*first, *second, *third, *fourth] = [1, 0, mode, sealed];
            }
            if let Ok(leaf) = Leaf::decode(&bytes) {
                prop_assert_eq!(&leaf.encode()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn fields_lie_where_the_table_says() {
        let leaf = Leaf {
            mode: Mode::Zk,
            sealed: false,
            policy_epoch: 0x0403_0201,
            request: RequestId([1; 16]),
            session: SessionId([2; 16]),
            payer: PayerId([3; 32]),
            node: NodeId([4; 32]),
            model: ModelId([5; 32]),
            input: Digest([6; 32]),
            output: Digest([7; 32]),
            evidence: Digest([8; 32]),
            sequence: 9,
            received: 10,
            completed: 11,
            price: 12,
        };
        let bytes = leaf.encode();
        assert_eq!(bytes[..8], [1, 0, 2, 0, 1, 2, 3, 4]);
        for (range, value) in [
            (8..24, 1),
            (24..40, 2),
            (40..72, 3),
            (72..104, 4),
            (104..136, 5),
            (136..168, 6),
            (168..200, 7),
            (200..232, 8),
        ] {
            assert!(bytes[range.clone()].iter().all(|b| *b == value), "{range:?}");
        }
        for (at, value) in [(232, 9), (240, 10), (248, 11), (256, 12)] {
            assert_eq!(bytes[at..at + 8], u64::to_le_bytes(value));
        }
        let sealed = Leaf { sealed: true, ..leaf }.encode();
        assert_eq!((&sealed[..3], sealed[3], &sealed[4..]), (&bytes[..3], 1, &bytes[4..]));
    }

    #[test]
    fn only_mode_zk_seals_inputs() {
        let mut bytes = [0; Leaf::LEN];
        for (mode, sealed) in [(0, 1), (1, 1), (2, 2), (2, 255)] {
            bytes[..4].copy_from_slice(&[1, 0, mode, sealed]);
            assert_eq!(Leaf::decode(&bytes), Err(LeafError::Sealed(sealed)));
        }
        bytes[..4].copy_from_slice(&[1, 0, 2, 1]);
        assert!(Leaf::decode(&bytes).unwrap().sealed);
    }
}
