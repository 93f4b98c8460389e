//! A receipt file in which everything holds, made from fixed seeds, for the tests of this crate.

use std::path::Path;

use ed25519_dalek::{Signer as _, SigningKey};
use haca_wire::connect::Connect;
use haca_wire::event::{self, PROOF_LEN, ProofEvent, VerifierKey};
use haca_wire::evidence::{self, Binding, DevelopmentEvidence};
use haca_wire::merkle::{self, BatchTree};
use haca_wire::receipt::{Inclusion, Receipt, ReceiptFile, ReceiptProof};
use haca_wire::sign::NodeKey;
use haca_wire::{Digest, Dtype, Leaf, Mode, ModelId, PayerId, RequestId, SessionId, tensor};
use sha2::{Digest as _, Sha256};

use crate::receipt::Given;
use crate::{Policy, Rows, Trust};

pub(crate) const LOG_NAME: &str = "haca.example/log";
pub(crate) const MODEL: ModelId = ModelId([5; 32]);
/// The specimen's rows are in the middle of their arrays.
pub(crate) const ROW: usize = 1;
const INPUTS: [[f32; 3]; 3] = [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0]];
const OUTPUTS: [[f32; 2]; 3] = [[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]];

pub(crate) fn inputs() -> Rows {
    Rows::new(Path::new("X.npy"), &[3], 3, INPUTS.as_flattened()).unwrap()
}

pub(crate) fn outputs() -> Rows {
    Rows::new(Path::new("Y.npy"), &[2], 3, OUTPUTS.as_flattened()).unwrap()
}

/// What a model does that maps each of `INPUTS` to its place in `OUTPUTS`.
pub(crate) fn rerun(_: usize, row: &[u8]) -> Result<Digest, String> {
    let index = (0..3).find(|index| inputs().row(*index) == row).ok_or("no such row")?;
    Ok(tensor::hash(Dtype::F32, &[2], outputs().row(index)))
}

pub(crate) fn leaf() -> Leaf {
    Leaf {
        mode: Mode::Tee,
        sealed: false,
        policy_epoch: 1,
        request: RequestId([1; 16]),
        session: SessionId([2; 16]),
        payer: PayerId([0; 32]),
        node: node().node(),
        model: MODEL,
        input: tensor::hash(Dtype::F32, &[3], inputs().row(ROW)),
        output: tensor::hash(Dtype::F32, &[2], outputs().row(ROW)),
        evidence: evidence::digest(&evidence()),
        sequence: 7,
        received: 1_500,
        completed: 1_600,
        price: 3,
    }
}

fn node() -> NodeKey {
    NodeKey::from_seed(&[3; 32])
}

pub(crate) fn evidence() -> Vec<u8> {
    let binding = Binding {
        nonce: Digest([0; 32]),
        signing_key: node().node(),
        tls_key: Digest([4; 32]),
        gpu_set: Digest([0; 32]),
        policy: Digest([6; 32]),
    };
    DevelopmentEvidence::issue(&[8; 32], binding, 1_000, 2_000).encode().to_vec()
}

pub(crate) fn connect() -> Connect {
    Connect {
        address: "127.0.0.1:4433".parse().unwrap(),
        key_pin: Digest([4; 32]),
        node_key: node().node(),
        log_key: log_key(),
        development_issuer: Some(Digest(SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes())),
        verifier_key: Some(verifier().public()),
        services: None,
    }
}

pub(crate) fn trust() -> Trust {
    Trust::from_connect(&connect()).unwrap()
}

/// Everything a verifier can have.
pub(crate) struct Shelf {
    pub(crate) trust: Trust,
    pub(crate) input: Rows,
    pub(crate) output: Rows,
}

impl Shelf {
    pub(crate) fn new() -> Shelf {
        Shelf { trust: trust(), input: inputs(), output: outputs() }
    }

    pub(crate) fn given(&self) -> Given<'_> {
        Given {
            trust: Some(&self.trust),
            policy: Policy::DEVELOPMENT,
            input: Some(&self.input),
            output: Some(&self.output),
            model: Some(MODEL),
            keys: &[],
            opened: None,
        }
    }
}

/// The path of the leaf with this hash as one of five leaves, and the root.
fn tree(hash: &Digest, at: u8, salt: u8) -> (Vec<Digest>, Digest) {
    let mut leaves: Vec<Digest> = (0..5).map(|i| merkle::leaf_hash(&[salt, i])).collect();
    leaves[usize::from(at)] = *hash;
    let (mut tree, mut path) = (BatchTree::with_capacity(5), Vec::new());
    let root = tree.build(&leaves);
    tree.path(at.into(), &mut path);
    (merkle::parse_path(&path).unwrap(), root)
}

/// The log's proof that it holds the leaf with this hash at this place.
pub(crate) fn logged(hash: &Digest, at: u8) -> Inclusion {
    let (path, root) = tree(hash, at, 1);
    Inclusion { index: at.into(), tree_size: 5, path, checkpoint: sign_checkpoint(LOG_NAME, 5, &root) }
}

/// A receipt file of `leaf`, signed and logged as if the node had answered so.
pub(crate) fn file_of(leaf: &Leaf) -> ReceiptFile {
    let (path, root) = tree(&leaf.hash(), 2, 0);
    let signature = Some(node().sign_batch(5, &root));
    let receipt = Receipt { leaf: leaf.encode(), index: 2, batch_size: 5, path, signature };
    let inclusion = Some(logged(&leaf.hash(), 2));
    let evidence = (leaf.evidence != Digest::default()).then(evidence);
    ReceiptFile { receipt, evidence, inclusion, proof: None }
}

/// Seed of the verifier that is trusted.
pub(crate) const VERIFIER: [u8; 32] = [10; 32];

fn verifier() -> VerifierKey {
    VerifierKey::from_seed(&VERIFIER)
}

/// A receipt file of `leaf` with a proof, which a verifier accepted, and both in the log.
pub(crate) fn proven(leaf: &Leaf, proof: [u8; PROOF_LEN], key: Vec<u8>, output: Vec<i64>) -> ReceiptFile {
    let (id, named) = (event::proof_id(&leaf.hash()), Digest(Sha256::digest(&key).into()));
    let event = ProofEvent { id, index: 2, time: 1_700, key: named, proof };
    let mut file = file_of(leaf);
    file.proof = Some(judged(event, &VERIFIER, true, key, output));
    file
}

/// What a file carries of this proof, after the verifier with this seed looked at it.
pub(crate) fn judged(
    proof: ProofEvent,
    verifier: &[u8; 32],
    accepted: bool,
    key: Vec<u8>,
    output: Vec<i64>,
) -> ReceiptProof {
    let verdict = VerifierKey::from_seed(verifier).verdict(&proof, 3, accepted, 1_800);
    let (proof_inclusion, verdict_inclusion) =
        (logged(&proof.hash(), 3), logged(&merkle::leaf_hash(&verdict.encode()), 4));
    ReceiptProof { proof, proof_inclusion, verdict, verdict_inclusion, output, key }
}

fn log() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

pub(crate) fn log_key() -> String {
    signed_note::new_ed25519_verifier_key(LOG_NAME, &log().verifying_key())
}

struct LogSigner;

impl signed_note::Signer for LogSigner {
    fn name(&self) -> &str {
        LOG_NAME
    }

    fn key_id(&self) -> u32 {
        // 1 is Ed25519 in the C2SP signed-note format.
        signed_note::key_id(LOG_NAME, &[&[1], &log().verifying_key().to_bytes()[..]].concat())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ed25519_dalek::SignatureError> {
        Ok(log().sign(message).to_bytes().to_vec())
    }
}

pub(crate) fn sign_checkpoint(origin: &str, size: u64, root: &Digest) -> String {
    let text = tlog_tiles::Checkpoint::new(origin, size, tlog_tiles::Hash(root.0), "").unwrap();
    let mut note = signed_note::Note::new(&text.to_bytes(), &[]).unwrap();
    note.add_sigs(&[&LogSigner]).unwrap();
    String::from_utf8(note.to_bytes()).unwrap()
}
