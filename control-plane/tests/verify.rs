//! `haca verify` on receipts of a real model's real answers, signed and logged as a node does it.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod log_signer;
mod tool;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use ed25519_dalek::SigningKey;
use haca_kernels::npy::{self, Array};
use haca_wire::connect::Connect;
use haca_wire::evidence::{self, Binding, DevelopmentEvidence};
use haca_wire::merkle::{self, BatchTree};
use haca_wire::receipt::{Inclusion, Receipt, ReceiptFile};
use haca_wire::sign::NodeKey;
use haca_wire::{Digest, Dtype, Leaf, Mode, ModelId, PayerId, RequestId, SessionId, tensor};
use log_signer::{LogSigner, ORIGIN};
use tempfile::TempDir;
use tool::{Ran, haca, shipped};

const BATCH: usize = 16;

/// A directory with everything an auditor can be handed: receipts, keys, model, inputs and outputs.
struct Handed {
    dir: TempDir,
    files: Vec<ReceiptFile>,
}

impl Handed {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn verify<S: AsRef<OsStr>>(&self, receipts: &str, extra: impl IntoIterator<Item = S>) -> Ran {
        let mut args: Vec<OsString> = vec!["verify".into(), self.path(receipts).into()];
        args.extend(extra.into_iter().map(|arg| arg.as_ref().to_owned()));
        haca(args)
    }

    /// With everything that can be given.
    fn verify_fully(&self, receipts: &str, extra: &[&str]) -> Ran {
        let mut args: Vec<OsString> = Vec::new();
        for (flag, file) in [
            ("--connect-keys", self.path("connect.toml")),
            ("--model", self.path("mlp.haca")),
            ("--input", shipped("mlp_input.npy")),
            ("--output", self.path("y.npy")),
        ] {
            args.extend([flag.into(), file.into()]);
        }
        args.extend(extra.iter().map(OsString::from));
        self.verify(receipts, args)
    }

    fn replace(&self, index: usize, file: &ReceiptFile) {
        std::fs::write(self.path("receipts").join(format!("{index}.receipt")), file.encode()).unwrap();
    }
}

fn hashes(array: &Array) -> Vec<Digest> {
    let dims: Vec<u32> = array.shape[1..].iter().map(|dim| *dim as u32).collect();
    let bytes = |row: &[f32]| -> Vec<u8> { row.iter().flat_map(|value| value.to_le_bytes()).collect() };
    (0..array.rows()).map(|row| tensor::hash(Dtype::F32, &dims, &bytes(array.row(row)))).collect()
}

fn path_in(tree: &BatchTree, index: usize) -> Vec<Digest> {
    let mut path = Vec::new();
    tree.path(index, &mut path);
    merkle::parse_path(&path).unwrap()
}

/// The C2SP signed note over a tree head, made from its specification.
/// Compiles the shipped perceptron, runs it on its rows, and makes the receipt of every answer.
fn handed() -> Handed {
    let dir = TempDir::new().unwrap();
    let (model, output) = (dir.path().join("mlp.haca"), dir.path().join("y.npy"));
    let input = shipped("mlp_input.npy");
    let (onnx, rows) = (shipped("mlp.onnx"), shipped("mlp_calibration.npy"));
    haca!("model", "compile", onnx, "--calibrate", rows, "-o", model).done();
    haca!("model", "run", model, "--input", input, "-o", output).done();
    let compiled = haca_kernels::Model::load(&std::fs::read(&model).unwrap()).unwrap();

    let (node, log, root_seed) =
        (NodeKey::from_seed(&[1; 32]), LogSigner(SigningKey::from_bytes(&[2; 32])), [3; 32]);
    let connect = Connect {
        address: "127.0.0.1:4433".parse().unwrap(),
        key_pin: Digest([4; 32]),
        node_key: node.node(),
        log_key: signed_note::new_ed25519_verifier_key(ORIGIN, &log.0.verifying_key()),
        development_issuer: Some(Digest(SigningKey::from_bytes(&root_seed).verifying_key().to_bytes())),
        verifier_key: None,
        services: None,
    };
    connect.write(&dir.path().join("connect.toml")).unwrap();
    let binding = Binding {
        nonce: Digest::default(),
        signing_key: node.node(),
        tls_key: connect.key_pin,
        gpu_set: Digest::default(),
        policy: Digest::default(),
    };
    let evidence = DevelopmentEvidence::issue(&root_seed, binding, 0, u64::MAX).encode().to_vec();

    let inputs = hashes(&npy::read(input).unwrap());
    let outputs = hashes(&npy::read(output).unwrap());
    let leaf = |(index, (input, output)): (usize, (&Digest, &Digest))| Leaf {
        sealed: false,
        mode: Mode::Tee,
        policy_epoch: 1,
        request: RequestId((index as u128).to_le_bytes()),
        session: SessionId([5; 16]),
        payer: PayerId::default(),
        node: node.node(),
        model: ModelId(compiled.id()),
        input: *input,
        output: *output,
        evidence: evidence::digest(&evidence),
        sequence: index as u64,
        received: 1_790_000_000_000_000_000,
        completed: 1_790_000_000_000_020_000,
        price: 0,
    };
    let leaves: Vec<Leaf> = inputs.iter().zip(&outputs).enumerate().map(leaf).collect();
    let leaf_hashes: Vec<Digest> = leaves.iter().map(Leaf::hash).collect();
    let mut logged = BatchTree::with_capacity(leaves.len());
    let checkpoint = log.checkpoint(leaves.len() as u64, &logged.build(&leaf_hashes));
    let mut files = Vec::new();
    for (batch, hashes) in leaf_hashes.chunks(BATCH).enumerate() {
        let mut tree = BatchTree::with_capacity(BATCH);
        let batch_size = hashes.len() as u32;
        let signature = Some(node.sign_batch(batch_size, &tree.build(hashes)));
        for index in 0..hashes.len() {
            let row = batch * BATCH + index;
            files.push(ReceiptFile {
                receipt: Receipt {
                    leaf: leaves[row].encode(),
                    index: index as u32,
                    batch_size,
                    path: path_in(&tree, index),
                    signature,
                },
                evidence: Some(evidence.clone()),
                inclusion: Some(Inclusion {
                    index: row as u64,
                    tree_size: leaves.len() as u64,
                    path: path_in(&logged, row),
                    checkpoint: checkpoint.clone(),
                }),
                proof: None,
            });
        }
    }
    std::fs::create_dir(dir.path().join("receipts")).unwrap();
    let handed = Handed { dir, files };
    for (index, file) in handed.files.iter().enumerate() {
        handed.replace(index, file);
    }
    handed
}

#[test]
fn receipts_are_verified_and_every_kind_of_damage_is_found() {
    let handed = handed();
    let count = handed.files.len();

    // With everything at hand, everything holds, for each of the receipts.
    let text = handed.verify_fully("receipts", &["--strict"]).done();
    assert!(text.contains(&format!("{count} receipts: {count} held")), "{text}");
    let json = handed.verify_fully("receipts", &["--json"]).json();
    assert_eq!(json["summary"]["held"], count);
    assert_eq!(json["receipts"][count - 1]["checks"][10]["outcome"], "held");

    // With the receipt alone, what could not be checked says what to give; that is a failure only when asked for.
    let text = handed.verify::<&str>("receipts/17.receipt", []).done();
    for (check, give) in [
        ("node key", "--connect-keys"),
        ("evidence", "--connect-keys"),
        ("checkpoint", "--connect-keys"),
        ("input", "--input"),
        ("output", "--output"),
        ("model", "--model"),
        ("re-execution", "--model"),
    ] {
        let line = text.lines().find(|line| line.trim_start().starts_with(check)).unwrap();
        assert!(line.contains("not checked") && line.contains(give), "{line}");
    }
    assert!(text.lines().any(|line| line.contains("evidence") && line.contains("development")), "{text}");
    handed.verify("receipts/17.receipt", ["--strict"]).failed(&["--strict", "not checked"]);

    // A production policy refuses the development issuer, whatever else holds.
    handed.verify_fully("receipts/17.receipt", &["--production"]).failed(&["evidence", "development"]);

    // A leaf that claims another answer: signed by nobody, logged by nobody, not what the model gives.
    let mut file = handed.files[3].clone();
    let other = handed.files[4].receipt.leaf;
    file.receipt.leaf[168..200].copy_from_slice(&other[168..200]);
    handed.replace(3, &file);
    let ran = handed.verify_fully("receipts", &[]).failed(&["1 of", "3.receipt"]);
    for check in ["signature", "inclusion", "output", "re-execution"] {
        assert!(ran.stdout.contains(&format!("3.receipt: {check} failed")), "{check}: {}", ran.stdout);
    }
    handed.replace(3, &handed.files[3]);

    // A damaged, a truncated, an oversized file and one that is not there: each is reported, the others go on.
    let encoded = handed.files[5].encode();
    let path = handed.path("receipts/5.receipt");
    let oversized = [&encoded[..], &[0; 70_000]].concat();
    for damaged in [&encoded[..100], b"", &oversized] {
        std::fs::write(&path, damaged).unwrap();
        let ran = handed.verify_fully("receipts", &["--json"]).failed(&["5.receipt", "leaf"]);
        assert_eq!(ran.json()["summary"]["failed"], 1);
        assert_eq!(ran.json()["summary"]["held"], count - 1);
    }
    handed.verify::<&str>("receipts/none.receipt", []).failed(&["none.receipt", "cannot be read"]);
}

#[test]
fn what_is_given_beside_the_receipts_is_checked_first() {
    let handed = handed();
    let keys = handed.path("keys.toml");
    std::fs::write(&keys, "address = 1").unwrap();
    handed.verify("receipts", ["--connect-keys".as_ref(), keys.as_os_str()]).failed(&["keys.toml"]);
    let (model, rows) = (handed.path("mlp.haca"), shipped("gbt_input.npy"));
    handed
        .verify("receipts", ["--model".as_ref(), model.as_os_str(), "--input".as_ref(), rows.as_os_str()])
        .failed(&["gbt_input.npy", "[rows, 64]"]);
    std::fs::create_dir(handed.path("empty")).unwrap();
    handed.verify::<&str>("empty", []).failed(&["empty", "no *.receipt file"]);
}
