//! From a batch's outputs to its receipts: one leaf each, one tree over them, one signature for all.

use crate::clock::Clock;
use haca_wire::merkle::{self, BatchTree};
use haca_wire::receipt::ReceiptParts;
use haca_wire::sign::{NodeKey, SIGNATURE_LEN};
use haca_wire::{Digest, Leaf, Mode, ModelId, NodeId, PayerId, RequestId, SessionId};
use std::sync::Arc;

/// What a shard signs with, and what its leaves say of the node.
#[derive(Debug, Clone)]
pub struct Signing {
    /// The node's key.
    pub key: Arc<NodeKey>,
    /// Whether `vanilla` answers are signed too.
    pub sign_vanilla: bool,
    /// Epoch of the policy in force.
    pub policy_epoch: u32,
    /// Digest of the attestation evidence; zero where there is none.
    pub evidence: Digest,
}

/// What a leaf says of one request.
#[derive(Debug, Clone, Copy)]
pub struct Served {
    /// The request.
    pub request: RequestId,
    /// Its session.
    pub session: SessionId,
    /// Its mode.
    pub mode: Mode,
    /// Whether its input is sealed.
    pub sealed: bool,
    /// Hash of its input, or the commitment to it.
    pub input: Digest,
    /// Hash of its output.
    pub output: Digest,
    /// When it was read, in nanoseconds since 1970-01-01 UTC.
    pub received: u64,
}

/// Makes the receipts of one batch at a time. Its memory is reused.
#[derive(Debug)]
pub struct BatchSigner {
    signing: Signing,
    node: NodeId,
    sequence: u64,
    leaves: Vec<[u8; Leaf::LEN]>,
    hashes: Vec<Digest>,
    tree: BatchTree,
    path: Vec<u8>,
    signature: Option<[u8; SIGNATURE_LEN]>,
    must_sign: bool,
}

impl BatchSigner {
    /// The signer of shard `shard`, for batches of up to `max_batch`.
    pub fn new(signing: Signing, shard: u8, clock: &Clock, max_batch: usize) -> Self {
        // The counter starts at the time, counted in 1/2^14 ms, so it does not repeat after a restart; at that pace it
        // would take 16 million answers a second to catch up with the clock.
        let milliseconds = clock.unix(std::time::Instant::now()) / 1_000_000;
        let counter = (milliseconds << 14) & ((1 << 56) - 1);
        Self {
            node: signing.key.node(),
            signing,
            sequence: u64::from(shard) << 56 | counter,
            leaves: Vec::with_capacity(max_batch),
            hashes: Vec::with_capacity(max_batch),
            tree: BatchTree::with_capacity(max_batch),
            path: Vec::with_capacity(32 * merkle::MAX_PATH),
            signature: None,
            must_sign: false,
        }
    }

    /// Forgets the batch before.
    pub fn begin(&mut self) {
        self.leaves.clear();
        self.hashes.clear();
        self.signature = None;
        self.must_sign = false;
    }

    /// Adds the next answer of the batch.
    pub fn add(&mut self, model: ModelId, served: &Served, completed: u64) {
        let leaf = Leaf {
            mode: served.mode,
            sealed: served.sealed,
            policy_epoch: self.signing.policy_epoch,
            request: served.request,
            session: served.session,
            payer: PayerId::default(),
            node: self.node,
            model,
            input: served.input,
            output: served.output,
            evidence: if served.mode == Mode::Vanilla { Digest::default() } else { self.signing.evidence },
            sequence: self.sequence,
            received: served.received,
            completed,
            price: 0,
        };
        self.sequence += 1;
        self.must_sign |= served.mode != Mode::Vanilla || self.signing.sign_vanilla;
        self.leaves.push(leaf.encode());
    }

    /// Signs what was added, if any of it is to be signed.
    pub fn finish(&mut self) {
        merkle::leaf_hash_each(self.leaves.iter().map(<[u8; Leaf::LEN]>::as_slice), |hash| {
            self.hashes.push(hash)
        });
        let root = self.tree.build(&self.hashes);
        if self.must_sign {
            self.signature = Some(self.signing.key.sign_batch(self.hashes.len() as u32, &root));
        }
    }

    /// The leaves, in the order they were added.
    pub fn leaves(&self) -> &[[u8; Leaf::LEN]] {
        &self.leaves
    }

    /// Their hashes in the log's tree.
    pub fn hashes(&self) -> &[Digest] {
        &self.hashes
    }

    /// The receipt of the answer that was added as number `index`.
    pub fn receipt(&mut self, index: usize) -> ReceiptParts<'_> {
        self.path.clear();
        self.tree.path(index, &mut self.path);
        ReceiptParts {
            leaf: &self.leaves[index],
            index: index as u32,
            batch_size: self.leaves.len() as u32,
            path: &self.path,
            signature: self.signature.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use haca_wire::receipt::Receipt;

    fn receipts(modes: &[Mode], sign_vanilla: bool) -> Vec<Receipt> {
        let signing = Signing {
            key: Arc::new(NodeKey::from_seed(&[1; 32])),
            sign_vanilla,
            policy_epoch: 4,
            evidence: Digest([9; 32]),
        };
        let mut signer = BatchSigner::new(signing, 3, &Clock::new(), 8);
        signer.begin();
        for (i, mode) in modes.iter().enumerate() {
            let served = Served {
                request: RequestId([i as u8; 16]),
                session: SessionId([2; 16]),
                mode: *mode,
                sealed: false,
                input: Digest([3; 32]),
                output: Digest([4; 32]),
                received: 5,
            };
            signer.add(ModelId([6; 32]), &served, 7);
        }
        signer.finish();
        (0..modes.len())
            .map(|index| {
                let parts = signer.receipt(index);
                Receipt {
                    leaf: *parts.leaf,
                    index: parts.index,
                    batch_size: parts.batch_size,
                    path: merkle::parse_path(parts.path).unwrap(),
                    signature: parts.signature.copied(),
                }
            })
            .collect()
    }

    #[test]
    fn one_signature_covers_every_receipt_of_a_batch() {
        let receipts = receipts(&[Mode::Tee, Mode::Vanilla, Mode::Tee], false);
        for receipt in &receipts {
            assert_eq!(receipt.signature, receipts[0].signature);
            let leaf = receipt.verify().unwrap();
            assert_eq!(leaf.evidence == Digest::default(), leaf.mode == Mode::Vanilla);
            assert_eq!(leaf.sequence >> 56, 3);
        }
    }

    #[test]
    fn vanilla_is_signed_only_where_the_node_says_so() {
        assert!(receipts(&[Mode::Vanilla], false)[0].signature.is_none());
        assert!(receipts(&[Mode::Vanilla], true)[0].signature.is_some());
    }
}
