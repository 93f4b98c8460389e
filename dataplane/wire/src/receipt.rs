//! The receipt: a leaf, its path to the root of the batch it was answered in, and the node's signature over that root;
//! and the receipt file, which also keeps the evidence, the proof that the log holds the leaf and, in mode `zk`, that of the output.

use crate::event::{ProofEvent, VerdictEvent};
use crate::fb;
use crate::ids::Digest;
use crate::leaf::{Leaf, LeafError};
use crate::merkle;
use crate::message::proof::{proof_event, verdict_event};
use crate::message::{DecodeError, Encoder, decode_root, digests_to_bytes, required_path};
use crate::sign::{self, SIGNATURE_LEN};
use flatbuffers::{FlatBufferBuilder, WIPOffset};

/// A batch has at most this many leaves, so that a path has at most ten digests.
pub const MAX_BATCH: u32 = 1024;

/// What a response carries, and what its caller keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The leaf's bytes.
    pub leaf: [u8; Leaf::LEN],
    /// Where the leaf stands in its batch.
    pub index: u32,
    /// How many leaves the batch has.
    pub batch_size: u32,
    /// The path from the leaf to the batch's root, nearest sibling first.
    pub path: Vec<Digest>,
    /// The node's signature over the root; `None` where the node does not sign such answers.
    pub signature: Option<[u8; SIGNATURE_LEN]>,
}

/// Why a receipt does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// The leaf does not read.
    #[error(transparent)]
    Leaf(#[from] LeafError),
    /// Index, size and path do not belong together.
    #[error(
        "a path of {path} digests does not lead from leaf {index} to the root of a batch of {batch_size}"
    )]
    Path {
        /// Where the leaf says it stands.
        index: u32,
        /// How large the batch is said to be.
        batch_size: u32,
        /// Digests in the path.
        path: usize,
    },
    /// The signature is not the node's over this root.
    #[error("the signature does not verify under the leaf's node key over the batch root {0}")]
    Signature(Digest),
}

impl Receipt {
    /// The leaf, read.
    ///
    /// # Errors
    /// If its bytes are not a leaf.
    pub fn leaf(&self) -> Result<Leaf, LeafError> {
        Leaf::decode(&self.leaf)
    }

    /// The root of the batch, as the path gives it.
    ///
    /// # Errors
    /// [`ReceiptError::Path`].
    pub fn batch_root(&self) -> Result<Digest, ReceiptError> {
        let leaf = merkle::leaf_hash(&self.leaf);
        merkle::root_from_path(&leaf, self.index.into(), self.batch_size.into(), &self.path).ok_or(
            ReceiptError::Path { index: self.index, batch_size: self.batch_size, path: self.path.len() },
        )
    }

    /// Checks path and signature under the node key that the leaf names. That the key is the right node's, and that
    /// the leaf says what was asked and answered, is the caller's to check.
    ///
    /// # Errors
    /// The first thing that does not hold. An unsigned receipt passes: see [`Receipt::signature`].
    pub fn verify(&self) -> Result<Leaf, ReceiptError> {
        let leaf = self.leaf()?;
        let root = self.batch_root()?;
        match &self.signature {
            Some(signature) if !sign::verify_batch(&leaf.node, self.batch_size, &root, signature) => {
                Err(ReceiptError::Signature(root))
            }
            _ => Ok(leaf),
        }
    }

    pub(crate) fn from_fb(receipt: fb::Receipt<'_>) -> Result<Self, DecodeError> {
        let leaf = receipt.leaf().bytes();
        let batch_size = receipt.batch_size();
        if batch_size > MAX_BATCH {
            return Err(DecodeError::Field("receipt.batch_size", "a batch has at most 1024 leaves"));
        }
        Ok(Self {
            leaf: leaf.try_into().map_err(|_| DecodeError::Field("receipt.leaf", "a leaf has 264 bytes"))?,
            index: receipt.index(),
            batch_size,
            path: required_path("receipt.path", receipt.path())?,
            signature: match receipt.signature().map(|s| s.bytes()) {
                None | Some([]) => None,
                Some(bytes) => Some(
                    bytes
                        .try_into()
                        .map_err(|_| DecodeError::Field("receipt.signature", "a signature has 64 bytes"))?,
                ),
            },
        })
    }

    fn to_fb<'b>(&self, builder: &mut FlatBufferBuilder<'b>) -> WIPOffset<fb::Receipt<'b>> {
        let path = digests_to_bytes(&self.path);
        encode(
            builder,
            &ReceiptParts {
                leaf: &self.leaf,
                index: self.index,
                batch_size: self.batch_size,
                path: &path,
                signature: self.signature.as_ref(),
            },
        )
    }
}

/// A receipt whose parts lie in the shard's own buffers, on their way out.
#[derive(Debug, Clone, Copy)]
pub struct ReceiptParts<'a> {
    /// The leaf's bytes.
    pub leaf: &'a [u8; Leaf::LEN],
    /// Where the leaf stands in its batch.
    pub index: u32,
    /// How many leaves the batch has.
    pub batch_size: u32,
    /// The path, as concatenated digests.
    pub path: &'a [u8],
    /// The signature, if there is one.
    pub signature: Option<&'a [u8; SIGNATURE_LEN]>,
}

pub(crate) fn encode<'b>(
    builder: &mut FlatBufferBuilder<'b>,
    parts: &ReceiptParts<'_>,
) -> WIPOffset<fb::Receipt<'b>> {
    let leaf = Some(builder.create_vector(&parts.leaf[..]));
    let path = Some(builder.create_vector(parts.path));
    let signature = parts.signature.map(|signature| builder.create_vector(&signature[..]));
    let args = fb::ReceiptArgs { leaf, index: parts.index, batch_size: parts.batch_size, path, signature };
    fb::Receipt::create(builder, &args)
}

/// The proof that a checkpoint of the log covers a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inclusion {
    /// The leaf's index in the log.
    pub index: u64,
    /// Size of the tree that the path leads to.
    pub tree_size: u64,
    /// The path, nearest sibling first.
    pub path: Vec<Digest>,
    /// The checkpoint, a C2SP signed note.
    pub checkpoint: String,
}

/// The proof of a receipt of mode `zk`, and what the log says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptProof {
    /// The proof.
    pub proof: ProofEvent,
    /// That the log holds it.
    pub proof_inclusion: Inclusion,
    /// What a verifier said of it.
    pub verdict: VerdictEvent,
    /// That the log holds that.
    pub verdict_inclusion: Inclusion,
    /// The output's integers, row-major: what the proof says, before they become floats.
    pub output: Vec<i64>,
    /// The verification key's bytes.
    pub key: Vec<u8>,
}

/// What `haca infer --receipts` stores and `haca verify` reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptFile {
    /// The receipt.
    pub receipt: Receipt,
    /// The evidence whose digest the leaf carries, as the node sent it.
    pub evidence: Option<Vec<u8>>,
    /// The log's proof, once there is one.
    pub inclusion: Option<Inclusion>,
    /// The proof, of a receipt of mode `zk`, once there is one.
    pub proof: Option<ReceiptProof>,
}

/// Begins every receipt file.
pub const FILE_MAGIC: &[u8; 8] = b"hacarcp1";

/// A longer file is not a receipt.
pub const MAX_FILE: usize = 64 * 1024;

impl ReceiptFile {
    /// The file's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut file = FILE_MAGIC.to_vec();
        Encoder::new().root(&mut file, |builder| {
            let receipt = Some(self.receipt.to_fb(builder));
            let evidence = self.evidence.as_ref().map(|evidence| builder.create_vector(evidence));
            let inclusion = self.inclusion.as_ref().map(|inclusion| inclusion.to_fb(builder));
            let proof = self.proof.as_ref().map(|proof| proof.to_fb(builder));
            let args = fb::ReceiptFileArgs { receipt, evidence, inclusion, proof };
            fb::ReceiptFile::create(builder, &args)
        });
        file
    }

    /// Reads a receipt file. Nothing is verified yet.
    ///
    /// # Errors
    /// Other bytes than [`ReceiptFile::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let body = bytes
            .strip_prefix(FILE_MAGIC)
            .ok_or(DecodeError::Field("receipt file", "it does not begin with \"hacarcp1\""))?;
        if bytes.len() > MAX_FILE {
            return Err(DecodeError::Field("receipt file", "it is longer than 64 KiB"));
        }
        let file = decode_root::<fb::ReceiptFile<'_>>(body)?;
        Ok(Self {
            receipt: Receipt::from_fb(file.receipt())?,
            evidence: file.evidence().map(|evidence| evidence.bytes().to_vec()),
            inclusion: file.inclusion().map(Inclusion::from_fb).transpose()?,
            proof: file.proof().map(ReceiptProof::from_fb).transpose()?,
        })
    }
}

impl Inclusion {
    fn to_fb<'b>(&self, builder: &mut FlatBufferBuilder<'b>) -> WIPOffset<fb::Inclusion<'b>> {
        let path = Some(builder.create_vector(&digests_to_bytes(&self.path)));
        let checkpoint = Some(builder.create_string(&self.checkpoint));
        let args = fb::InclusionArgs { index: self.index, tree_size: self.tree_size, path, checkpoint };
        fb::Inclusion::create(builder, &args)
    }

    fn from_fb(inclusion: fb::Inclusion<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            index: inclusion.index(),
            tree_size: inclusion.tree_size(),
            path: required_path("inclusion.path", inclusion.path())?,
            checkpoint: inclusion.checkpoint().to_owned(),
        })
    }
}

impl ReceiptProof {
    fn to_fb<'b>(&self, builder: &mut FlatBufferBuilder<'b>) -> WIPOffset<fb::ReceiptProof<'b>> {
        let mut logged = |leaf: &[u8], inclusion: &Inclusion| {
            let leaf = Some(builder.create_vector(leaf));
            let inclusion = Some(inclusion.to_fb(builder));
            fb::LoggedEvent::create(builder, &fb::LoggedEventArgs { leaf, inclusion })
        };
        let proof = Some(logged(&self.proof.encode(), &self.proof_inclusion));
        let verdict = Some(logged(&self.verdict.encode(), &self.verdict_inclusion));
        let output = Some(builder.create_vector(&self.output));
        let key = Some(builder.create_vector(&self.key));
        fb::ReceiptProof::create(builder, &fb::ReceiptProofArgs { proof, verdict, output, key })
    }

    fn from_fb(proof: fb::ReceiptProof<'_>) -> Result<Self, DecodeError> {
        let (logged, judged) = (proof.proof(), proof.verdict());
        Ok(Self {
            proof: proof_event(logged.leaf())?,
            proof_inclusion: Inclusion::from_fb(logged.inclusion())?,
            verdict: verdict_event(judged.leaf())?,
            verdict_inclusion: Inclusion::from_fb(judged.inclusion())?,
            output: proof.output().iter().collect(),
            key: proof.key().bytes().to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{self, VerifierKey};
    use crate::leaf::tests::any_leaf;
    use crate::merkle::BatchTree;
    use crate::sign::NodeKey;
    use proptest::prelude::*;

    fn receipts(mut leaves: Vec<Leaf>) -> Vec<Receipt> {
        let key = NodeKey::from_seed(&[3; 32]);
        leaves.iter_mut().for_each(|leaf| leaf.node = key.node());
        let hashes: Vec<Digest> = leaves.iter().map(Leaf::hash).collect();
        let mut tree = BatchTree::with_capacity(hashes.len());
        let batch_size = hashes.len() as u32;
        let signature = key.sign_batch(batch_size, &tree.build(&hashes));
        let receipt = |(index, leaf): (usize, &Leaf)| {
            let mut path = Vec::new();
            tree.path(index, &mut path);
            Receipt {
                leaf: leaf.encode(),
                index: index as u32,
                batch_size,
                path: merkle::parse_path(&path).unwrap(),
                signature: Some(signature),
            }
        };
        leaves.iter().enumerate().map(receipt).collect()
    }

    proptest! {
        #[test]
        fn a_receipt_verifies_until_a_bit_of_it_changes(
            leaves in prop::collection::vec(any_leaf(), 1..9), at in any::<prop::sample::Index>(), bit in 0usize..8,
        ) {
            for receipt in receipts(leaves) {
                prop_assert!(receipt.verify().is_ok());
                let mut tampered = receipt.clone();
                tampered.leaf[at.index(Leaf::LEN)] ^= 1 << bit;
                prop_assert!(tampered.verify().is_err());
                let mut tampered = receipt.clone();
                tampered.signature.as_mut().unwrap()[at.index(SIGNATURE_LEN)] ^= 1 << bit;
                prop_assert!(tampered.verify().is_err());
                if !receipt.path.is_empty() {
                    let mut tampered = receipt.clone();
                    tampered.path[at.index(receipt.path.len())].0[at.index(32)] ^= 1 << bit;
                    prop_assert!(tampered.verify().is_err());
                    let mut tampered = receipt.clone();
                    tampered.path.pop();
                    prop_assert!(tampered.verify().is_err());
                }
                let mut tampered = receipt.clone();
                tampered.batch_size += 1;
                prop_assert!(tampered.verify().is_err());
            }
        }

        #[test]
        fn files_round_trip(
            leaves in prop::collection::vec(any_leaf(), 1..9), evidence: Option<Vec<u8>>, logged: bool, output: Vec<i64>,
        ) {
            for receipt in receipts(leaves) {
                let inclusion = logged.then(|| Inclusion {
                    index: 7, tree_size: 9, path: receipt.path.clone(), checkpoint: "a\nb\n".into(),
                });
                let event = ProofEvent {
                    id: event::proof_id(&Digest([1; 32])), index: 7, time: 8, key: Digest([2; 32]), proof: [3; 192],
                };
                let verdict = VerifierKey::from_seed(&[4; 32]).verdict(&event, 9, true, 10);
                let proof = inclusion.clone().map(|inclusion| ReceiptProof {
                    proof: event,
                    proof_inclusion: inclusion.clone(),
                    verdict,
                    verdict_inclusion: inclusion,
                    output: output.clone(),
                    key: vec![5; 600],
                });
                let file = ReceiptFile { receipt, evidence: evidence.clone(), inclusion, proof };
                prop_assert_eq!(ReceiptFile::decode(&file.encode()), Ok(file));
            }
        }

        #[test]
        fn any_bytes_are_a_file_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..600), magic: bool) {
            let bytes = if magic { [&FILE_MAGIC[..], &bytes].concat() } else { bytes };
            if let Ok(file) = ReceiptFile::decode(&bytes) {
                let _ = file.receipt.verify();
            }
        }

        #[test]
        fn a_changed_file_is_refused_or_reads_without_a_panic(
            leaf in any_leaf(), at in any::<prop::sample::Index>(), byte: u8,
        ) {
            let receipt = receipts(vec![leaf]).remove(0);
            let mut bytes = ReceiptFile { receipt, evidence: Some(vec![1; 30]), inclusion: None, proof: None }.encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(file) = ReceiptFile::decode(&bytes) {
                let _ = file.receipt.verify();
            }
        }
    }
}
