//! `haca verify` and `haca zk export` on a proven receipt of mode zk, made as node, prover and verifier make it.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod log_signer;
mod tool;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use haca_kernels::npy::{self, Array};
use haca_kernels::{Executor, Model};
use haca_verifier::zk::{Binding, Circuit, Prover, StatementKind, eip2537::Calls, export::Export, setup};
use haca_wire::connect::Connect;
use haca_wire::event::{ProofEvent, VerifierKey, proof_id};
use haca_wire::merkle::{self, BatchTree};
use haca_wire::receipt::{Inclusion, Receipt, ReceiptFile, ReceiptProof};
use haca_wire::sign::NodeKey;
use haca_wire::{Digest, Dtype, Leaf, Mode, ModelId, PayerId, RequestId, SessionId, tensor};
use log_signer::{LogSigner, ORIGIN};
use rand_core::OsRng;
use tempfile::TempDir;
use tool::{Ran, haca, shipped};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/tests/golden").join(name)
}

/// The places of three leaves in a log that holds nothing else.
fn logged(log: &LogSigner, leaves: [Digest; 3]) -> [Inclusion; 3] {
    let mut tree = BatchTree::with_capacity(leaves.len());
    let root = tree.build(&leaves);
    let checkpoint = log.checkpoint(3, &root);
    [0, 1, 2].map(|index| {
        let mut path = Vec::new();
        tree.path(index, &mut path);
        let path = merkle::parse_path(&path).unwrap();
        Inclusion { index: index as u64, tree_size: 3, path, checkpoint: checkpoint.clone() }
    })
}

/// A directory with a proven receipt, its output and the keys to trust.
struct Handed {
    dir: TempDir,
    file: ReceiptFile,
}

impl Handed {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, file: &ReceiptFile) {
        std::fs::write(self.path(name), file.encode()).unwrap();
    }

    fn verify(&self, receipt: &str, extra: &[&str]) -> Ran {
        let mut args: Vec<OsString> = vec!["verify".into(), self.path(receipt).into()];
        for (flag, file) in [
            ("--connect-keys", self.path("connect.toml")),
            ("--model", golden("dense0.haca")),
            ("--input", golden("dense0_input.npy")),
            ("--output", self.path("y.npy")),
        ] {
            args.extend([flag.into(), file.into()]);
        }
        args.extend(extra.iter().map(OsString::from));
        haca(args)
    }

    fn export(&self, receipt: &str, format: &str) -> Ran {
        let (model, input) = (golden("dense0.haca"), golden("dense0_input.npy"));
        let (receipt, output) = (self.path(receipt), self.path("proof.json"));
        haca!("zk", "export", receipt, "--model", model, "--input", input, "--format", format, "-o", output)
    }

    fn exported(&self) -> String {
        std::fs::read_to_string(self.path("proof.json")).unwrap()
    }
}

fn handed() -> Handed {
    let model = Arc::new(Model::load(&std::fs::read(golden("dense0.haca")).unwrap()).unwrap());
    let input = npy::read(golden("dense0_input.npy")).unwrap();
    let row: Vec<u8> = input.row(0).iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut executor = Executor::new(Arc::clone(&model), 1);
    executor.stage(0, haca_kernels::Dtype::F32, &row).unwrap();
    executor.execute(1);
    let mut output = vec![0; 4 * model.output_len()];
    executor.write_output(0, haca_kernels::Dtype::F32, &mut output);

    let (node, log) = (NodeKey::from_seed(&[1; 32]), LogSigner(SigningKey::from_bytes(&[2; 32])));
    let verifier = VerifierKey::from_seed(&[3; 32]);
    let leaf = Leaf {
        mode: Mode::Zk,
        sealed: false,
        policy_epoch: 1,
        request: RequestId([4; 16]),
        session: SessionId([5; 16]),
        payer: PayerId::default(),
        node: node.node(),
        model: ModelId(model.id()),
        input: tensor::hash(Dtype::F32, model.input_shape(), &row),
        output: tensor::hash(Dtype::F32, model.output_shape(), &output),
        evidence: Digest::default(),
        sequence: 0,
        received: 1_790_000_000_000_000_000,
        completed: 1_790_000_000_000_020_000,
        price: 0,
    };
    let circuit = Circuit::new(Arc::clone(&model), StatementKind::Open).unwrap();
    let key = setup::development(circuit.system(), model.id(), circuit.statement(), &mut OsRng).unwrap();
    let prover = Prover::new(Arc::clone(circuit.system()), key).unwrap();
    let key = prover.verifying_key();
    let witness = circuit.witness(&executor.staged(0), &Binding::new(&leaf, &key.id()));
    let proof = prover.prove(&witness.assignment, &mut OsRng).unwrap().to_bytes();
    let proof = ProofEvent { id: proof_id(&leaf.hash()), index: 0, time: 7, key: key.id(), proof };
    let verdict = verifier.verdict(&proof, 1, true, 8);
    let hashes = [leaf.hash(), proof.hash(), merkle::leaf_hash(&verdict.encode())];
    let [inclusion, proof_inclusion, verdict_inclusion] = logged(&log, hashes);
    let file = ReceiptFile {
        receipt: Receipt {
            leaf: leaf.encode(),
            index: 0,
            batch_size: 1,
            path: Vec::new(),
            signature: Some(node.sign_batch(1, &BatchTree::with_capacity(1).build(&[leaf.hash()]))),
        },
        evidence: None,
        inclusion: Some(inclusion),
        proof: Some(ReceiptProof {
            proof,
            proof_inclusion,
            verdict,
            verdict_inclusion,
            output: witness.output,
            key: key.to_bytes(),
        }),
    };

    let handed = Handed { dir: TempDir::new().unwrap(), file };
    let connect = Connect {
        address: "127.0.0.1:4433".parse().unwrap(),
        key_pin: Digest::default(),
        node_key: node.node(),
        log_key: signed_note::new_ed25519_verifier_key(ORIGIN, &log.0.verifying_key()),
        development_issuer: None,
        verifier_key: Some(verifier.public()),
        services: None,
    };
    connect.write(&handed.path("connect.toml")).unwrap();
    let mut shape = vec![1];
    shape.extend(model.output_shape().iter().map(|dim| *dim as usize));
    let data = output.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    npy::write(handed.path("y.npy"), &Array { shape, data }).unwrap();
    std::fs::write(handed.path("key"), key.to_bytes()).unwrap();
    handed.write("0.receipt", &handed.file);
    handed
}

#[test]
fn a_proven_receipt_is_verified_exported_and_every_tampering_found() {
    let handed = handed();
    let text = handed.verify("0.receipt", &["--strict"]).done();
    assert!(text.contains("development key: whoever made it could forge"), "{text}");
    let json = handed.verify("0.receipt", &["--strict", "--json"]).json();
    for (index, check) in [(11, "proof"), (12, "verdict")] {
        let line = &json["receipts"][0]["checks"][index];
        assert_eq!((&line["check"], &line["outcome"]), (&check.into(), &"held".into()), "{line}");
    }
    handed.verify("0.receipt", &["--production"]).failed(&["proof", "development key"]);
    let key = handed.path("key");
    handed.verify("0.receipt", &["--strict", "--key", key.to_str().unwrap()]).done();
    handed
        .verify("0.receipt", &["--key", handed.path("0.receipt").to_str().unwrap()])
        .failed(&["0.receipt", "not a verification key"]);

    handed.export("0.receipt", "json").done();
    let export: Export = serde_json::from_str(&handed.exported()).unwrap();
    assert_eq!((export.curve.as_str(), export.vk.ic.len()), ("bls12-381", export.public_inputs.len() + 1));
    handed.export("0.receipt", "eip2537").done();
    let calls: Calls = serde_json::from_str(&handed.exported()).unwrap();
    assert_eq!(calls.g1msm.len(), 2 + 2 * 160 * export.vk.ic.len());
    assert_eq!(calls.pairing.len(), 2 + 2 * 4 * 384);

    let mut other = handed.file.clone();
    other.proof.as_mut().unwrap().proof.proof.copy_within(144..192, 0);
    handed.write("other.receipt", &other);
    handed.verify("other.receipt", &[]).failed(&["other.receipt", "proof"]);
    handed.export("other.receipt", "json").failed(&["other.receipt", "does not hold"]);

    let mut other = handed.file.clone();
    other.proof.as_mut().unwrap().output[0] ^= 1 << 8;
    handed.write("other.receipt", &other);
    handed.verify("other.receipt", &[]).failed(&["other.receipt", "output"]);
    handed.export("other.receipt", "json").failed(&["other.receipt", "output"]);

    let mut other = handed.file.clone();
    other.proof = None;
    handed.write("other.receipt", &other);
    handed.verify("other.receipt", &["--strict"]).failed(&["--strict"]);
    handed.export("other.receipt", "json").failed(&["other.receipt", "--wait proved"]);
}

#[test]
fn proofs_of_another_mode_are_not_waited_for() {
    let input = shipped("mlp_input.npy");
    haca!("infer", "--connect", "none.toml", "--model", "m", "--input", input, "--wait", "proved")
        .failed(&["--wait proved", "--mode zk"]);
}
