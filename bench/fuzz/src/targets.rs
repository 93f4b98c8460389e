//! The targets: one for each kind of bytes that come from outside.

use std::sync::Arc;

use haca_kernels::import::{CompileOptions, Compiled, ImportError, compile};
use haca_kernels::npy::{self, Array};
use haca_kernels::{Backend, Dtype, Executor, Model, StreamExecutor};
use haca_verifier::receipt::{Given, check_bytes};
use haca_verifier::{LogKey, Policy, TreeHead};
use haca_wire::evidence::DevelopmentEvidence;
use haca_wire::frame::FrameReader;
use haca_wire::message::Refusal;
use haca_wire::message::infer::{RequestView, Response};
use haca_wire::message::log::{AwaitReceipts, ReceiptStates};
use haca_wire::message::model::{ModelList, PushModel, Pushed};
use haca_wire::message::session::{Hello, Welcome};
use haca_wire::{Leaf, merkle};

use crate::memory::most_held;
use crate::seeds;

/// What runs on any bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, on the command line and of its folder of seeds.
    pub name: &'static str,
    parse: fn(&[u8]),
    /// Bytes that it may hold whatever the input.
    memory: usize,
    /// Bytes that it may hold for each byte of input.
    memory_per_byte: usize,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    // Few bytes may declare rows of 2^23 elements in all, which the compiler holds as doubles.
    Target { name: "onnx", parse: onnx, memory: 1 << 30, memory_per_byte: 256 },
    Target { name: "haca", parse: haca, memory: 1 << 28, memory_per_byte: 256 },
    Target { name: "npy", parse: npy, memory: 1 << 16, memory_per_byte: 4 },
    Target { name: "frame", parse: frame, memory: 1 << 16, memory_per_byte: 64 },
    Target { name: "message", parse: message, memory: 1 << 16, memory_per_byte: 64 },
    Target { name: "receipt", parse: receipt, memory: 1 << 18, memory_per_byte: 64 },
    Target { name: "checkpoint", parse: checkpoint, memory: 1 << 16, memory_per_byte: 64 },
    Target { name: "evidence", parse: evidence, memory: 1 << 16, memory_per_byte: 64 },
];

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Runs it on these bytes.
    ///
    /// # Panics
    /// Where the code under test panics, or holds more memory than the input can be worth.
    pub fn run(&self, bytes: &[u8]) {
        let most = most_held(|| (self.parse)(bytes));
        let limit = self.memory + self.memory_per_byte * bytes.len();
        assert!(most <= limit, "{} held {most} bytes for an input of {}", self.name, bytes.len());
    }
}

/// Length of the rows that the seeds of `onnx` take.
const ROW: usize = 12;

/// The compiler, with three rows to calibrate with.
pub(crate) fn compiled(onnx: &[u8]) -> Result<Compiled, ImportError> {
    let data = (0..3 * ROW).map(|i| ((i * 37) % 101) as f32 / 25.0 - 2.0).collect();
    compile(onnx, &Array { shape: vec![3, ROW], data }, &CompileOptions::default(), &mut |_| ())
}

/// Import and compilation. What compiles must load, and all executors must agree on its bits.
fn onnx(bytes: &[u8]) {
    if let Ok(compiled) = compiled(bytes) {
        execute(Arc::new(Model::load(&compiled.file).expect("what was compiled loads")));
    }
}

/// A compiled model. One that loads runs, and all executors agree on its bits.
fn haca(bytes: &[u8]) {
    if let Ok(model) = Model::load(bytes) {
        execute(Arc::new(model));
    }
}

fn execute(model: Arc<Model>) {
    // A small file may declare a large row: a fuzzer learns nothing more from it.
    if model.input_len() > 1 << 12 || model.scratch_bytes_per_row() > 1 << 20 {
        return;
    }
    let _ = model.layers().count();
    let row: Vec<u8> = (0..model.input_len()).flat_map(|i| (i as f32 * 0.37 - 3.0).to_le_bytes()).collect();
    let mut answers = Backend::available().map(|backend| {
        let mut executor = Executor::with_backend(Arc::clone(&model), 2, backend);
        executor.stage(0, Dtype::F32, &row).expect("it is a row of finite floats");
        executor.stage(1, Dtype::F32, &row).expect("it is a row of finite floats");
        executor.execute(2);
        assert_eq!(executor.output_fixed(0), executor.output_fixed(1), "{}", backend.name());
        (backend.name(), executor.output_fixed(0).to_vec())
    });
    let (_, first) = answers.next().expect("there is the scalar executor");
    answers.for_each(|(name, answer)| assert_eq!(answer, first, "{name}"));
    // Of whichever kind it is, a stream gives what the row gives once it has taken its steps.
    if let Some(stream) = model.stream().ok().filter(|stream| stream.window() <= 64) {
        let mut executor = StreamExecutor::new(Arc::new(stream), 1);
        let mut states = executor.stream().initial_states().to_vec();
        for step in row.chunks_exact(executor.stream().step_len() * 4) {
            executor.stage(0, Dtype::F32, step, &states).expect("it is a step of finite floats");
            executor.execute(1);
            states.copy_from_slice(executor.states(0));
        }
        assert_eq!(executor.output_fixed(0), first, "streamed");
    }
}

fn npy(bytes: &[u8]) {
    if let Ok(array) = npy::parse(bytes) {
        assert_eq!(array.shape.iter().product::<usize>(), array.data.len());
        let again = npy::to_bytes(&array).expect("what was read can be written");
        assert_eq!(npy::parse(&again).expect("what was written can be read").shape, array.shape);
    }
}

/// The first byte says in what pieces the others arrive; however they do, the same frames come out.
fn frame(bytes: &[u8]) {
    const LIMIT: usize = 1 << 12;
    let Some((&size, stream)) = bytes.split_first() else { return };
    let read = |piece: usize| {
        let (mut reader, mut frames, mut failed) = (FrameReader::new(LIMIT), Vec::new(), None);
        'pieces: for mut piece in stream.chunks(piece) {
            loop {
                match reader.next(&mut piece) {
                    Ok(Some(frame)) => frames.push((frame.kind, frame.payload.to_vec())),
                    Ok(None) => break,
                    Err(error) => {
                        failed = Some(error);
                        break 'pieces;
                    }
                }
            }
        }
        let end = failed.map_or_else(|| reader.finish(), Err);
        (frames, end)
    };
    assert_eq!(read(usize::from(size) + 1), read(usize::MAX));
}

fn message(bytes: &[u8]) {
    let _ = Hello::decode(bytes);
    let _ = Welcome::decode(bytes);
    let _ = RequestView::id_of(bytes);
    let _ = RequestView::decode(bytes).map(|request| request.input.hash());
    let _ = Response::decode(bytes).map(|response| response.result.map(|(_, receipt)| receipt.verify()));
    let _ = AwaitReceipts::decode(bytes);
    let _ = ReceiptStates::decode(bytes);
    let _ = ModelList::decode(bytes);
    let _ = PushModel::decode(bytes);
    let _ = Pushed::decode(bytes);
    let _ = Refusal::decode(bytes);
    let _ = Leaf::decode(bytes);
    let _ = merkle::parse_path(bytes);
}

fn receipt(bytes: &[u8]) {
    let policy = Policy::DEVELOPMENT;
    let given =
        Given { trust: None, policy, input: None, output: None, model: None, keys: &[], opened: None };
    let _ = check_bytes(bytes, &given, None, None);
}

fn checkpoint(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let key = LogKey::parse(seeds::LOG_KEY).expect("it is a key");
    if let Ok(head) = key.verify(text) {
        assert_eq!(head.origin, key.name());
    }
    let _ = TreeHead::read_unverified(text);
    let _ = LogKey::parse(text);
}

fn evidence(bytes: &[u8]) {
    let _ = DevelopmentEvidence::decode(bytes);
}
