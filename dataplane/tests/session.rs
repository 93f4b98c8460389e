//! A whole node, and callers that break the rules one by one: each is told what is wrong, and the node goes on.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails there.

mod tls;

use haca_dataplane::{Config, Node};
use haca_kernels::import::{self, CompileOptions};
use haca_kernels::npy;
use haca_wire::frame::{Frame, FrameKind, FrameReader, header};
use haca_wire::message::infer::{RequestView, Response, Step};
use haca_wire::message::log::{AwaitReceipts, ReceiptStates};
use haca_wire::message::model::{PushModel, Pushed, encode_chunk};
use haca_wire::message::session::{Hello, Welcome};
use haca_wire::message::{Encoder, Refusal};
use haca_wire::sign::OperatorKey;
use haca_wire::tensor::{Shape, TensorView};
use haca_wire::vocabulary::LogOutcome;
use haca_wire::{ALPN, Digest, Dtype, Mode, ModelId, PROTOCOL_VERSION, RequestId, Stage, Status};
use std::path::Path;
use tempfile::TempDir;

struct TestNode {
    node: Option<Node>,
    data: TempDir,
}

impl TestNode {
    fn start(change: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let node = Some(Node::start(data.path(), &config(change), None).unwrap());
        Self { node, data }
    }

    async fn caller(&self) -> Caller {
        let mut caller = self.stranger().await;
        let mut hello = Vec::new();
        Hello { protocol_version: PROTOCOL_VERSION, software: "test".into() }
            .encode(&mut caller.encoder, &mut hello);
        let welcome = caller.ask(&hello, FrameKind::Welcome).await;
        caller.welcome = Some(Welcome::decode(&welcome).unwrap());
        caller
    }

    /// A caller that has not said hello.
    async fn stranger(&self) -> Caller {
        let certificate = std::fs::read(self.data.path().join("tls.crt")).unwrap();
        let endpoint = tls::trusting(certificate.into(), ALPN);
        let address = self.node.as_ref().unwrap().connect().address;
        let connection = endpoint.connect(address, "haca-node").unwrap().await.unwrap();
        Caller { connection, _endpoint: endpoint, encoder: Encoder::new(), welcome: None }
    }

    async fn with_model(self) -> Self {
        self.caller().await.push(self.data.path(), "mlp", &compiled(), None).await.unwrap();
        self
    }

    fn stop(mut self) {
        self.node.take().unwrap().stop().unwrap();
    }
}

fn config(change: impl FnOnce(&mut Config)) -> Config {
    // Port 0, one core that every machine has, and no polling: tests share the machine.
    let mut config =
        Config { listen: "127.0.0.1:0".parse().unwrap(), spin_us: 0, cpus: vec![0], ..Config::default() };
    change(&mut config);
    config
}

struct Caller {
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
    encoder: Encoder,
    welcome: Option<Welcome>,
}

impl Caller {
    /// Sends bytes on a stream of their own and returns the payload of the one frame that answers.
    async fn ask(&self, bytes: &[u8], expected: FrameKind) -> Vec<u8> {
        let (kind, payload) = self.ask_any(bytes).await.unwrap();
        assert_eq!(kind, expected);
        payload
    }

    async fn ask_any(&self, bytes: &[u8]) -> Result<(FrameKind, Vec<u8>), quinn::ConnectionError> {
        let (mut send, mut receive) = self.connection.open_bi().await?;
        let _ = send.write_all(bytes).await;
        let _ = send.finish();
        match receive.read_to_end(1 << 20).await {
            Ok(answer) => {
                let mut reader = FrameReader::new(1 << 20);
                let mut rest = &answer[..];
                let Frame { kind, payload } = reader.next(&mut rest).unwrap().expect("one whole frame");
                Ok((kind, payload.to_vec()))
            }
            Err(_) => Err(self.connection.closed().await),
        }
    }

    /// Sends bytes that break the protocol and returns how the node closed the connection.
    async fn offend(&self, bytes: &[u8]) -> (Status, String) {
        match self.ask_any(bytes).await {
            Err(quinn::ConnectionError::ApplicationClosed(close)) => {
                let status = Status::from_wire(u64::from(close.error_code) as u8).unwrap();
                (status, String::from_utf8(close.reason.to_vec()).unwrap())
            }
            other => panic!("the connection should be closed with a reason: {other:?}"),
        }
    }

    fn request<'a>(&mut self, id: u8, change: impl FnOnce(&mut RequestView<'a>)) -> Vec<u8> {
        let model = &self.welcome.as_ref().unwrap().models;
        let input = TensorView { dtype: Dtype::F32, shape: Shape::new([64]).unwrap(), data: &[0; 256] };
        let mut request = RequestView {
            id: RequestId([id; 16]),
            model: model.first().map_or(1, |model| model.handle),
            mode: Mode::Vanilla,
            deadline_us: 0,
            input,
            step: None,
            seal: None,
        };
        change(&mut request);
        let mut bytes = Vec::new();
        request.encode(&mut self.encoder, &mut bytes);
        bytes
    }

    /// Sends one request and returns why it was refused.
    async fn refused(&self, request: &[u8]) -> (Status, String) {
        let answer = self.ask(request, FrameKind::Response).await;
        let refusal = Response::decode(&answer).unwrap().result.expect_err("a refusal");
        (refusal.status, refusal.detail)
    }

    async fn push(
        &mut self,
        data: &Path,
        name: &str,
        file: &[u8],
        id: Option<ModelId>,
    ) -> Result<Pushed, Refusal> {
        let seed: Digest =
            std::fs::read_to_string(data.join("operator.key")).unwrap().trim().parse().unwrap();
        let id = id.unwrap_or_else(|| ModelId(sha256(file)));
        let challenge = self.welcome.as_ref().unwrap().operator_challenge;
        let operator_signature = OperatorKey::from_seed(&seed.0).permit_push(&challenge, &Digest(id.0), name);
        self.push_signed(name, file, id, operator_signature).await
    }

    async fn push_signed(
        &mut self,
        name: &str,
        file: &[u8],
        id: ModelId,
        operator_signature: [u8; 64],
    ) -> Result<Pushed, Refusal> {
        let mut bytes = Vec::new();
        PushModel { name: name.to_owned(), id, length: file.len() as u64, operator_signature }
            .encode(&mut self.encoder, &mut bytes);
        file.chunks(60_000).for_each(|chunk| encode_chunk(chunk, &mut bytes));
        match self.ask_any(&bytes).await.unwrap() {
            (FrameKind::Pushed, payload) => Ok(Pushed::decode(&payload).unwrap()),
            (FrameKind::Refusal, payload) => Err(Refusal::decode(&payload).unwrap()),
            other => panic!("{other:?}"),
        }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}

fn compiled() -> Vec<u8> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/models");
    let onnx = std::fs::read(models.join("mlp.onnx")).unwrap();
    let calibration = npy::read(models.join("mlp_calibration.npy")).unwrap();
    import::compile(&onnx, &calibration, &CompileOptions::default(), &mut |_| {}).unwrap().file
}

#[tokio::test]
async fn a_request_is_answered_signed_and_logged_once() {
    let node = TestNode::start(|_| {}).with_model().await;
    let mut caller = node.caller().await;
    for mode in [Mode::Vanilla, Mode::Tee] {
        let request = caller.request(mode as u8 + 1, |request| request.mode = mode);
        let answer = caller.ask(&request, FrameKind::Response).await;
        let (output, receipt) = Response::decode(&answer).unwrap().result.unwrap();
        let leaf = receipt.verify().unwrap();
        assert_eq!((leaf.output, leaf.mode), (output.hash(), mode));
        assert_eq!(leaf.evidence == Digest::default(), mode == Mode::Vanilla);
        let mut ask = Vec::new();
        let ids = vec![leaf.request, RequestId([99; 16])];
        AwaitReceipts { stage: Stage::Checkpointed, ids }.encode(&mut caller.encoder, &mut ask);
        let states = ReceiptStates::decode(&caller.ask(&ask, FrameKind::ReceiptStates).await).unwrap();
        assert_eq!(states.entries[0].leaf_hash, leaf.hash());
        assert_eq!(states.entries[1].outcome, LogOutcome::Unknown);
    }
    let log = node.node.as_ref().unwrap().log();
    assert_eq!(log.status().tree_size, 2);
    node.stop();
}

#[tokio::test]
async fn a_batch_of_pipelined_requests_shares_one_signature() {
    let node = TestNode::start(|config| config.max_delay_us = 2_000).with_model().await;
    let mut caller = node.caller().await;
    let stream: Vec<u8> = (0..40).flat_map(|id| caller.request(id, |_| {})).collect();
    let (mut send, mut receive) = caller.connection.open_bi().await.unwrap();
    send.write_all(&stream).await.unwrap();
    send.finish().unwrap();
    let answers = receive.read_to_end(1 << 20).await.unwrap();
    let mut reader = FrameReader::new(1 << 20);
    let (mut rest, mut largest, mut count) = (&answers[..], 0, 0);
    while let Some(frame) = reader.next(&mut rest).unwrap() {
        let response = Response::decode(frame.payload).unwrap();
        let (_, receipt) = response.result.unwrap();
        receipt.verify().unwrap();
        largest = largest.max(receipt.batch_size);
        count += 1;
    }
    assert_eq!(count, 40);
    assert!(largest > 1, "requests that wait together run together");
    node.stop();
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_with_the_reason() {
    let node = TestNode::start(|_| {}).with_model().await;
    let mut caller = node.caller().await;
    let nan: Vec<u8> = [f32::NAN; 64].iter().flat_map(|value| value.to_le_bytes()).collect();
    let short = [0; 128];
    let vector = |elements| Shape::new([elements]).unwrap();
    let cases: [(Vec<u8>, Status, &str); 7] = [
        (caller.request(1, |request| request.model = 77), Status::UnknownModel, "handle 77"),
        (caller.request(2, |request| request.mode = Mode::Zk), Status::ModeUnavailable, "no prover"),
        (caller.request(3, |request| request.input.data = &nan), Status::BadTensor, "NaN"),
        (
            caller.request(4, |request| {
                request.input = TensorView { dtype: Dtype::F32, shape: vector(32), data: &short };
            }),
            Status::BadTensor,
            "takes rows of shape [64], got [32]",
        ),
        (
            caller.request(5, |request| request.input.data = &short),
            Status::BadTensor,
            "needs 256 bytes of data, got 128",
        ),
        (
            caller.request(6, |request| {
                request.input = TensorView { dtype: Dtype::I16, shape: vector(64), data: &short };
            }),
            Status::BadTensor,
            "takes f32, got i16",
        ),
        (
            caller.request(7, |request| request.step = Some(Step { symbol: 1, reset: true })),
            Status::BadTensor,
            "takes whole rows only",
        ),
    ];
    for (request, status, words) in cases {
        let (got, detail) = caller.refused(&request).await;
        assert!(got == status && detail.contains(words), "{got}: {detail}");
    }
    let infinite: Vec<u8> = [f32::INFINITY; 64].iter().flat_map(|value| value.to_le_bytes()).collect();
    let request = caller.request(8, |request| request.input.data = &infinite);
    let answer = caller.ask(&request, FrameKind::Response).await;
    assert!(Response::decode(&answer).unwrap().result.is_ok(), "infinities saturate");
    node.stop();
}

#[tokio::test]
async fn a_deadline_that_cannot_be_met_is_refused_not_computed() {
    // The batch would wait a second for company, but runs when the deadline asks for it.
    let node = TestNode::start(|config| config.max_delay_us = 1_000_000).with_model().await;
    let mut caller = node.caller().await;
    // On a machine that stands still for a while a try may come too late, and is then refused as it should be.
    let mut answered = false;
    for id in 10..30 {
        let request = caller.request(id, |request| request.deadline_us = 200_000);
        let answer = caller.ask(&request, FrameKind::Response).await;
        answered |= Response::decode(&answer).unwrap().result.is_ok();
        if answered {
            break;
        }
    }
    assert!(answered);
    // Now the node knows what a run takes, and a microsecond is less.
    let request = caller.request(2, |request| request.deadline_us = 1);
    let (status, detail) = caller.refused(&request).await;
    assert!(status == Status::DeadlineMissed && detail.contains("not computed"), "{status}: {detail}");
    node.stop();
}

#[tokio::test]
async fn the_limit_of_unanswered_requests_is_kept() {
    let limits = |config: &mut Config| {
        config.max_in_flight = 3;
        config.max_delay_us = 20_000;
    };
    let node = TestNode::start(limits).with_model().await;
    let mut caller = node.caller().await;
    let stream: Vec<u8> = (0..6).flat_map(|id| caller.request(id, |_| {})).collect();
    let (mut send, mut receive) = caller.connection.open_bi().await.unwrap();
    send.write_all(&stream).await.unwrap();
    send.finish().unwrap();
    let answers = receive.read_to_end(1 << 20).await.unwrap();
    let (mut reader, mut rest, mut statuses) = (FrameReader::new(1 << 20), &answers[..], Vec::new());
    while let Some(frame) = reader.next(&mut rest).unwrap() {
        let result = Response::decode(frame.payload).unwrap().result;
        statuses.push(result.map_or_else(|refusal| refusal.status, |_| Status::Ok));
    }
    assert_eq!(statuses.iter().filter(|status| **status == Status::Ok).count(), 3, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == Status::LimitExceeded).count(), 3, "{statuses:?}");
    node.stop();
}

#[tokio::test]
async fn who_breaks_the_protocol_is_told_how_and_nobody_else_notices() {
    let node = TestNode::start(|_| {}).with_model().await;
    let mut bystander = node.caller().await;
    let mut encoder = Encoder::new();
    let mut old = Vec::new();
    Hello { protocol_version: 9, software: String::new() }.encode(&mut encoder, &mut old);
    let (status, reason) = node.stranger().await.offend(&old).await;
    assert!(status == Status::VersionMismatch && reason.contains("version 9"), "{status}: {reason}");

    let early = bystander.request(1, |_| {});
    let (status, reason) = node.stranger().await.offend(&early).await;
    assert!(status == Status::Malformed && reason.contains("must be Hello"), "{status}: {reason}");

    let request = bystander.request(2, |_| {});
    let limit = Config::default().max_frame_bytes as usize;
    let truncated = &request[..request.len() - 3];
    let garbled: Vec<u8> = [&header(FrameKind::Request, 40)[..], &[0xa5; 40]].concat();
    let offences: [(&[u8], &str); 4] = [
        (&header(FrameKind::Request, limit + 1), "over the limit"),
        (&[0xff; 64], "names no known kind"),
        (truncated, "3 bytes before the end of a frame"),
        (&garbled, "FlatBuffer"),
    ];
    for (bytes, words) in offences {
        let (status, reason) = node.caller().await.offend(bytes).await;
        assert!(status == Status::Malformed && reason.contains(words), "{status}: {reason}");
    }
    // Whatever a thousand random frames hold, the node answers or closes, and goes on.
    let mut state = 0x2545_f491_4f6c_dd1du64;
    for _ in 0..50 {
        let caller = node.caller().await;
        let mut noise = Vec::new();
        for _ in 0..20 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let length = (state >> 40) as usize % 64;
            noise.extend([length as u8, 0, 0, 0, (state >> 56) as u8 % 13, 0, 0, 0]);
            noise.extend((0..length).map(|i| (state >> (i % 57)) as u8));
        }
        let (mut send, _receive) = caller.connection.open_bi().await.unwrap();
        let _ = send.write_all(&noise).await;
        let _ = send.finish();
        caller.connection.closed().await;
    }
    let answer = bystander.ask(&request, FrameKind::Response).await;
    assert!(Response::decode(&answer).unwrap().result.is_ok());
    node.stop();
}

#[tokio::test]
async fn only_the_operator_pushes_and_only_good_models_are_served() {
    let node = TestNode::start(|_| {}).with_model().await;
    let data = node.data.path().to_owned();
    let mut caller = node.caller().await;
    let file = compiled();
    let id = ModelId(sha256(&file));
    let refused = caller.push_signed("other", &file, id, [7; 64]).await.unwrap_err();
    assert_eq!(refused.status, Status::NotPermitted);
    let refused = caller.push(&data, "other", &file, None).await.unwrap_err();
    assert_eq!(refused.status, Status::NotPermitted, "one wrong signature is enough for a session");

    let mut caller = node.caller().await;
    let refused = caller.push(&data, "other", &file, Some(ModelId([1; 32]))).await.unwrap_err();
    assert!(
        refused.status == Status::ModelRefused && refused.detail.contains("was announced"),
        "{refused:?}"
    );

    let mut damaged = file.clone();
    damaged.truncate(file.len() / 2);
    let refused = caller.push(&data, "other", &damaged, None).await.unwrap_err();
    assert_eq!(refused.status, Status::ModelRefused, "{refused:?}");
    assert!(!data.join("models/other.haca").exists(), "a refused model is not kept");

    // The same name again: a new handle, and callers with the old one are still served.
    let before = caller.request(1, |_| {});
    let pushed = caller.push(&data, "mlp", &file, None).await.unwrap();
    assert!(pushed.model.handle > 1);
    for request in [before, caller.request(2, |request| request.model = pushed.model.handle)] {
        let answer = caller.ask(&request, FrameKind::Response).await;
        assert!(Response::decode(&answer).unwrap().result.is_ok());
    }
    node.stop();
}

#[tokio::test]
async fn models_and_log_are_there_after_a_restart_and_the_directory_is_ours_alone() {
    let mut node = TestNode::start(|_| {}).with_model().await;
    let mut caller = node.caller().await;
    let request = caller.request(1, |_| {});
    caller.ask(&request, FrameKind::Response).await;
    let second = Node::start(node.data.path(), &config(|_| {}), None).err().expect("the directory is taken");
    assert!(second.to_string().contains("in use by another process"), "{second}");
    node.node.take().unwrap().stop().unwrap();

    node.node = Some(Node::start(node.data.path(), &config(|_| {}), None).unwrap());
    let mut caller = node.caller().await;
    assert_eq!(caller.welcome.as_ref().unwrap().models[0].name, "mlp");
    assert_eq!(node.node.as_ref().unwrap().log().status().tree_size, 1);
    // The same request id again is answered again, but the log keeps its first leaf.
    let request = caller.request(1, |_| {});
    caller.ask(&request, FrameKind::Response).await;
    let mut ask = Vec::new();
    AwaitReceipts { stage: Stage::Durable, ids: vec![RequestId([1; 16])] }
        .encode(&mut caller.encoder, &mut ask);
    let states = ReceiptStates::decode(&caller.ask(&ask, FrameKind::ReceiptStates).await).unwrap();
    assert_eq!((states.entries[0].outcome, states.entries[0].index), (LogOutcome::Logged, 0));
    node.stop();
}
