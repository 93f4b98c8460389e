//! The seeds of each target: files of its folder, and what encoders make.

use std::path::{Path, PathBuf};

use haca_kernels::npy::{self, Array};
use haca_wire::evidence::{Binding, DevelopmentEvidence};
use haca_wire::frame::HEADER_LEN;
use haca_wire::leaf::Leaf;
use haca_wire::merkle::BatchTree;
use haca_wire::message::infer::{Answer, RequestView, Step, encode_refused};
use haca_wire::message::log::{AwaitReceipts, LogEntry, ReceiptStates};
use haca_wire::message::model::{self, ModelEntry, ModelList, PushModel, Pushed};
use haca_wire::message::session::{Hello, Limits, Welcome};
use haca_wire::message::{Encoder, Refusal};
use haca_wire::receipt::{Receipt, ReceiptFile, ReceiptParts};
use haca_wire::sign::NodeKey;
use haca_wire::tensor::{Shape, TensorView};
use haca_wire::vocabulary::LogOutcome;
use haca_wire::{
    Digest, Dtype, Mode, ModelId, NodeId, PayerId, RequestId, Salt, Seal, SessionId, Stage, Status,
};

use crate::targets::{Target, compiled};

/// The key that signed `corpus/checkpoint/log.note`.
pub const LOG_KEY: &str = "haca.example/log+13178618+Af0XJDhaoMdbZPt4zWAvodmR/ev3axPFjtcC6sg16fYY";

/// All seeds of a target, named.
///
/// # Panics
/// If the files cannot be read.
pub fn of(target: &Target) -> Vec<(String, Vec<u8>)> {
    let mut seeds = files(target.name);
    let made = match target.name {
        "haca" => models(),
        "npy" => arrays(),
        "frame" => frames(),
        "message" => messages().into_iter().map(|frame| frame[HEADER_LEN..].to_vec()).collect(),
        "receipt" => {
            vec![
                ReceiptFile { receipt: receipt(), evidence: Some(evidence()), inclusion: None, proof: None }
                    .encode(),
            ]
        }
        "evidence" => vec![evidence()],
        _ => Vec::new(),
    };
    seeds.extend(made.into_iter().enumerate().map(|(index, bytes)| (format!("made-{index}"), bytes)));
    seeds
}

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

fn files(target: &str) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(folder(target)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.expect("the folder can be listed").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (name, std::fs::read(&path).expect("a seed can be read"))
    };
    paths.into_iter().map(read).collect()
}

/// What the ONNX seeds compile to.
fn models() -> Vec<Vec<u8>> {
    files("onnx").iter().filter_map(|(_, onnx)| compiled(onnx).ok()).map(|compiled| compiled.file).collect()
}

fn arrays() -> Vec<Vec<u8>> {
    let array = |shape: &[usize]| {
        let data = (0..shape.iter().product()).map(|i| i as f32).collect();
        npy::to_bytes(&Array { shape: shape.to_vec(), data }).expect("the data fill the shape")
    };
    vec![array(&[]), array(&[0]), array(&[7]), array(&[3, 4]), array(&[2, 3, 2])]
}

/// All messages in one stream, in two kinds of pieces.
fn frames() -> Vec<Vec<u8>> {
    [7, 255].map(|piece| [vec![piece], messages().concat()].concat()).to_vec()
}

fn node() -> NodeKey {
    NodeKey::from_seed(&[3; 32])
}

fn evidence() -> Vec<u8> {
    let binding = Binding {
        nonce: Digest([0; 32]),
        signing_key: node().node(),
        tls_key: Digest([4; 32]),
        gpu_set: Digest([0; 32]),
        policy: Digest([6; 32]),
    };
    DevelopmentEvidence::issue(&[8; 32], binding, 1_000, 2_000).encode().to_vec()
}

/// Of the only leaf of a batch.
fn receipt() -> Receipt {
    let leaf = Leaf {
        mode: Mode::Tee,
        sealed: false,
        policy_epoch: 1,
        request: RequestId([1; 16]),
        session: SessionId([2; 16]),
        payer: PayerId([0; 32]),
        node: node().node(),
        model: ModelId([5; 32]),
        input: Digest([6; 32]),
        output: Digest([7; 32]),
        evidence: haca_wire::evidence::digest(&evidence()),
        sequence: 7,
        received: 1_500,
        completed: 1_600,
        price: 3,
    };
    let root = BatchTree::with_capacity(1).build(&[leaf.hash()]);
    let signature = Some(node().sign_batch(1, &root));
    Receipt { leaf: leaf.encode(), index: 0, batch_size: 1, path: Vec::new(), signature }
}

fn model_entry() -> ModelEntry {
    let shape = |dims: &[u32]| Shape::new(dims.iter().copied()).expect("few dimensions");
    ModelEntry {
        handle: 1,
        name: "mlp".into(),
        id: ModelId([5; 32]),
        input_shape: shape(&[8, 8]),
        output_shape: shape(&[10]),
        accepts_i16: true,
        max_batch: 64,
        step_shape: Some(shape(&[8])),
        zk_refused: Some("no gadget".into()),
        sealed_refused: Some("too large".into()),
    }
}

/// A frame of each kind.
fn messages() -> Vec<Vec<u8>> {
    let (id, data, path) = (RequestId([1; 16]), [0u8; 16], [9u8; 64]);
    let shape = Shape::new([4]).expect("few dimensions");
    let tensor = TensorView::new(Dtype::F32, shape, &data).expect("four floats");
    let step = Some(Step { symbol: 7, reset: true });
    let seal = Some(Seal { salt: Salt([8; 32]), commitment: Digest([9; 32]) });
    let request = RequestView { id, model: 1, mode: Mode::Tee, deadline_us: 100, input: tensor, step, seal };
    let refusal = Refusal { status: Status::Overloaded, detail: "full".into(), retry_after_us: 500 };
    let limits = Limits {
        max_frame_bytes: 1 << 20,
        max_in_flight: 64,
        max_await_ids: 1024,
        max_model_bytes: 1 << 30,
        idle_timeout_ms: 30_000,
    };
    let welcome = Welcome {
        protocol_version: 1,
        software: "haca".into(),
        node: NodeId([3; 32]),
        session: SessionId([2; 16]),
        limits,
        models: vec![model_entry(), model_entry()],
        policy_epoch: 1,
        signs_vanilla: true,
        evidence: Some(evidence()),
        operator_challenge: Digest([4; 32]),
    };
    let entry = LogEntry {
        outcome: LogOutcome::Logged,
        index: 3,
        leaf_hash: Digest([3; 32]),
        path: vec![Digest([4; 32]); 5],
    };
    let states =
        ReceiptStates { entries: vec![entry.clone(), entry], tree_size: 9, checkpoint: "a\nb\n".into() };
    let push = PushModel { name: "mlp".into(), id: ModelId([5; 32]), length: 9, operator_signature: [6; 64] };
    let receipt = receipt();
    let parts = ReceiptParts {
        leaf: &receipt.leaf,
        index: 1,
        batch_size: 4,
        path: &path,
        signature: receipt.signature.as_ref(),
    };
    type Encode<'a> = &'a dyn Fn(&mut Encoder, &mut Vec<u8>);
    let all: [Encode; 13] = [
        &|e, out| Hello { protocol_version: 1, software: "client".into() }.encode(e, out),
        &|e, out| welcome.encode(e, out),
        &|e, out| request.encode(e, out),
        &|e, out| Answer { id, output: tensor, receipt: parts, proof_delay_ms: 0 }.encode(e, out),
        &|e, out| encode_refused(e, out, id, Status::BadTensor, "NaN", 0),
        &|e, out| AwaitReceipts { stage: Stage::Checkpointed, ids: vec![id; 3] }.encode(e, out),
        &|e, out| states.encode(e, out),
        &|e, out| model::encode_list_models(e, out),
        &|e, out| ModelList { models: vec![model_entry()] }.encode(e, out),
        &|e, out| push.encode(e, out),
        &|_, out| model::encode_chunk(b"HACM", out),
        &|e, out| Pushed { model: model_entry() }.encode(e, out),
        &|e, out| refusal.encode(e, out),
    ];
    let frame = |encode: &Encode<'_>| {
        let mut out = Vec::new();
        encode(&mut Encoder::new(), &mut out);
        out
    };
    all.iter().map(frame).collect()
}
