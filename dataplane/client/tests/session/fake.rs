//! A node on loopback that speaks the wire with real keys, and lies on request.
//!
//! It serves one model, `double`: four numbers in, the same four doubled out.

use ed25519_dalek::{Signer as _, SigningKey};
use haca_client::{Client, ClientError, ClientOptions};
use haca_wire::connect::Connect;
use haca_wire::event::{self, PROOF_LEN, ProofEvent, VerifierKey};
use haca_wire::evidence::{self, Binding, DevelopmentEvidence};
use haca_wire::frame::{FrameKind, FrameReader};
use haca_wire::merkle::{self, BatchTree};
use haca_wire::message::infer::{Answer, RequestView, encode_refused};
use haca_wire::message::log::{AwaitReceipts, LogEntry, ReceiptStates};
use haca_wire::message::model::{ModelEntry, ModelList, PushModel, Pushed};
use haca_wire::message::proof::{AwaitProofs, ProofState, ProofStates};
use haca_wire::message::session::{Hello, Limits, Welcome};
use haca_wire::message::{Encoder, Refusal};
use haca_wire::receipt::ReceiptParts;
use haca_wire::sign::{self, NodeKey, OperatorKey};
use haca_wire::tensor::{Shape, TensorView};
use haca_wire::vocabulary::{LogOutcome, ProofOutcome};
use haca_wire::{
    Digest, Dtype, Leaf, Mode, ModelId, PROTOCOL_VERSION, PayerId, RequestId, SessionId, Stage, Status,
};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{RecvStream, SendStream};
use rcgen::PublicKeyData as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, Mutex};

pub(crate) const LOG_NAME: &str = "haca.test/log";
pub(crate) const OPERATOR: [u8; 32] = [4; 32];
const NODE: [u8; 32] = [3; 32];
const ISSUER: [u8; 32] = [5; 32];
const LOG: [u8; 32] = [6; 32];
pub(crate) const VERIFIER: [u8; 32] = [7; 32];
/// The bytes of the verification key. The fake's proofs prove nothing.
pub(crate) const KEY: [u8; 3] = [1, 2, 3];
/// When a proof is expected.
pub(crate) const PROOF_DELAY_MS: u32 = 40;

/// What the node does other than it should. `Default` is an honest node.
#[derive(Clone, Copy)]
pub(crate) struct Behaviour {
    pub(crate) alpn: &'static [u8],
    /// The TLS key that signs the handshake is another one than that of the certificate.
    pub(crate) certificate_is_stolen: bool,
    /// What `Welcome` says is changed before it is sent.
    pub(crate) welcome: fn(&mut Welcome),
    /// The leaf is changed before it is signed: a lie under a good signature.
    pub(crate) leaf: fn(&mut Leaf),
    /// The answer is changed after it was signed.
    pub(crate) answer: fn(&mut Forged),
    pub(crate) on_request: OnRequest,
    /// Requests that are answered together, last one first.
    pub(crate) batch: usize,
    /// What the log says is changed before it is sent.
    pub(crate) states: fn(&mut ReceiptStates),
    /// What it says of proofs is changed before it is sent.
    pub(crate) proofs: fn(&mut ProofStates),
    pub(crate) log_name: &'static str,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum OnRequest {
    Answer,
    Refuse(Status),
    RefuseSession,
    EndStream,
    EndStreamInsideFrame,
    CloseConnection(u32),
    Garbage,
    AnswerTwice,
    Nothing,
}

/// The parts of an answer.
pub(crate) struct Forged {
    pub(crate) id: RequestId,
    pub(crate) output: Vec<u8>,
    pub(crate) leaf: [u8; Leaf::LEN],
    pub(crate) index: u32,
    pub(crate) path: Vec<u8>,
    pub(crate) signature: Option<[u8; 64]>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            alpn: haca_wire::ALPN,
            certificate_is_stolen: false,
            welcome: |_| {},
            leaf: |_| {},
            answer: |_| {},
            on_request: OnRequest::Answer,
            batch: 1,
            states: |_| {},
            proofs: |_| {},
            log_name: LOG_NAME,
        }
    }
}

/// Connects to a new node that behaves so.
pub(crate) async fn connect(behaviour: Behaviour) -> Result<Client, ClientError> {
    Client::connect(&start(behaviour), ClientOptions::default()).await
}

/// Starts a node that lives as long as the runtime.
pub(crate) fn start(behaviour: Behaviour) -> Connect {
    let certified = rcgen::generate_simple_self_signed(vec!["haca-node".into()]).unwrap();
    let key_pin = Digest(Sha256::digest(certified.signing_key.subject_public_key_info()).into());
    let signing = match behaviour.certificate_is_stolen {
        true => rcgen::KeyPair::generate().unwrap(),
        false => certified.signing_key,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(signing.serialize_der()));
    let chain = vec![CertificateDer::from(certified.cert)];
    let certified =
        rustls::sign::CertifiedKey::new(chain, provider.key_provider.load_private_key(key).unwrap());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    tls.alpn_protocols = vec![behaviour.alpn.to_vec()];
    let config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let address = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                if let Ok(connection) = incoming.await {
                    serve(connection, Arc::new(Node::new(behaviour, key_pin))).await;
                }
            });
        }
    });
    Connect {
        address,
        key_pin,
        node_key: NodeKey::from_seed(&NODE).node(),
        log_key: signed_note::new_ed25519_verifier_key(
            LOG_NAME,
            &SigningKey::from_bytes(&LOG).verifying_key(),
        ),
        development_issuer: Some(Digest(SigningKey::from_bytes(&ISSUER).verifying_key().to_bytes())),
        verifier_key: Some(VerifierKey::from_seed(&VERIFIER).public()),
        services: None,
    }
}

struct Node {
    behaviour: Behaviour,
    key: NodeKey,
    welcome: Welcome,
    logged: Mutex<Vec<(RequestId, Digest)>>,
}

async fn serve(connection: quinn::Connection, node: Arc<Node>) {
    while let Ok((send, recv)) = connection.accept_bi().await {
        let stream = Stream {
            node: node.clone(),
            connection: connection.clone(),
            send,
            push: None,
            batch: Vec::new(),
        };
        tokio::spawn(stream.serve(recv));
    }
}

impl Node {
    fn new(behaviour: Behaviour, key_pin: Digest) -> Self {
        let key = NodeKey::from_seed(&NODE);
        let binding = Binding {
            nonce: Digest([0; 32]),
            signing_key: key.node(),
            tls_key: key_pin,
            gpu_set: Digest([0; 32]),
            policy: Digest([0; 32]),
        };
        let evidence = DevelopmentEvidence::issue(&ISSUER, binding, 1_000, 2_000);
        let mut welcome = Welcome {
            protocol_version: PROTOCOL_VERSION,
            software: "fake".into(),
            node: key.node(),
            session: SessionId([9; 16]),
            limits: Limits {
                max_frame_bytes: 4096,
                max_in_flight: 64,
                max_await_ids: 10,
                max_model_bytes: 100_000,
                idle_timeout_ms: 30_000,
            },
            models: vec![model()],
            policy_epoch: 7,
            signs_vanilla: true,
            evidence: Some(evidence.encode().to_vec()),
            operator_challenge: Digest([8; 32]),
        };
        (behaviour.welcome)(&mut welcome);
        Self { behaviour, key, welcome, logged: Mutex::default() }
    }

    /// Answers a batch, last request first, and logs it.
    fn answer(&self, requests: &[(RequestId, Mode, Vec<u8>)], out: &mut Vec<u8>) {
        let shape = Shape::new([4]).unwrap();
        let outputs: Vec<Vec<u8>> = (requests.iter())
            .map(|(_, _, input)| {
                let numbers = input.as_chunks::<4>().0.iter();
                numbers.flat_map(|bytes| (2.0 * f32::from_le_bytes(*bytes)).to_le_bytes()).collect()
            })
            .collect();
        let leaves: Vec<Leaf> = (requests.iter().zip(&outputs))
            .map(|((id, mode, input), output)| {
                let mut leaf = Leaf {
                    mode: *mode,
                    sealed: false,
                    policy_epoch: 7,
                    request: *id,
                    session: self.welcome.session,
                    payer: PayerId::default(),
                    node: self.key.node(),
                    model: model().id,
                    input: TensorView::new(Dtype::F32, shape, input).unwrap().hash(),
                    output: TensorView::new(Dtype::F32, shape, output).unwrap().hash(),
                    evidence: match mode {
                        Mode::Tee => evidence::digest(self.welcome.evidence.as_deref().unwrap_or_default()),
                        _ => Digest::default(),
                    },
                    sequence: 0,
                    received: 1_500,
                    completed: 1_600,
                    price: 0,
                };
                (self.behaviour.leaf)(&mut leaf);
                leaf
            })
            .collect();
        let hashes: Vec<Digest> = leaves.iter().map(Leaf::hash).collect();
        self.logged.lock().unwrap().extend(requests.iter().map(|request| request.0).zip(hashes.clone()));
        let mut tree = BatchTree::with_capacity(hashes.len());
        let root = tree.build(&hashes);
        let batch_size = hashes.len() as u32;
        let signature = self.key.sign_batch(batch_size, &root);
        for (index, output) in outputs.into_iter().enumerate().rev() {
            let (id, leaf) = (requests[index].0, leaves[index].encode());
            let (index, mut path) = (index as u32, Vec::new());
            tree.path(index as usize, &mut path);
            let mut forged = Forged { id, output, leaf, index, path, signature: Some(signature) };
            (self.behaviour.answer)(&mut forged);
            let elements = forged.output.len() as u32 / 4;
            let shape = Shape::new([elements]).unwrap();
            let answer = Answer {
                id: forged.id,
                output: TensorView::new(Dtype::F32, shape, &forged.output).unwrap(),
                receipt: ReceiptParts {
                    leaf: &forged.leaf,
                    index: forged.index,
                    batch_size,
                    path: &forged.path,
                    signature: forged.signature.as_ref(),
                },
                proof_delay_ms: PROOF_DELAY_MS,
            };
            answer.encode(&mut Encoder::new(), out);
        }
    }

    fn states(&self, ask: &AwaitReceipts) -> ReceiptStates {
        let logged = self.logged.lock().unwrap();
        let mut tree = BatchTree::with_capacity(logged.len());
        let leaves: Vec<Digest> = logged.iter().map(|(_, hash)| *hash).collect();
        let root = tree.build(&leaves);
        let checkpointed = ask.stage == Stage::Checkpointed;
        let entry = |id: &RequestId| {
            let Some(index) = logged.iter().position(|(logged, _)| logged == id) else {
                let (outcome, leaf_hash) = (LogOutcome::Unknown, Digest::default());
                return LogEntry { outcome, index: 0, leaf_hash, path: Vec::new() };
            };
            let mut path = Vec::new();
            if checkpointed {
                tree.path(index, &mut path);
            }
            let path = merkle::parse_path(&path).unwrap();
            LogEntry { outcome: LogOutcome::Logged, index: index as u64, leaf_hash: leaves[index], path }
        };
        let size = leaves.len() as u64;
        let mut states = ReceiptStates {
            entries: ask.ids.iter().map(entry).collect(),
            tree_size: if checkpointed { size } else { 0 },
            checkpoint: match checkpointed {
                true => checkpoint(self.behaviour.log_name, size, &root),
                false => String::new(),
            },
        };
        (self.behaviour.states)(&mut states);
        states
    }

    /// Logs, once, a proof of each request that was answered, and a verdict on it.
    fn proofs(&self, ask: &AwaitProofs) -> ProofStates {
        let mut logged = self.logged.lock().unwrap();
        let key = Digest(Sha256::digest(KEY).into());
        let mut entry = |id: &RequestId| {
            let Some(index) = logged.iter().position(|(logged, _)| logged == id) else {
                let (outcome, detail) = (ProofOutcome::Unknown, String::new());
                return ProofState { outcome, events: None, output: Vec::new(), detail };
            };
            let id = event::proof_id(&logged[index].1);
            let proof = ProofEvent { id, index: index as u64, time: 1_700, key, proof: [9; PROOF_LEN] };
            let known = logged.iter().position(|(logged, _)| *logged == id);
            let index = known.unwrap_or(logged.len()) as u64;
            let verdict = VerifierKey::from_seed(&VERIFIER).verdict(&proof, index, true, 1_800);
            if known.is_none() {
                logged.extend([(id, proof.hash()), (verdict.id, merkle::leaf_hash(&verdict.encode()))]);
            }
            let (outcome, detail) = (ProofOutcome::Proved, String::new());
            ProofState { outcome, events: Some((proof, verdict)), output: vec![-1, 2], detail }
        };
        let entries = ask.ids.iter().map(&mut entry).collect();
        let mut states = ProofStates { entries, keys: vec![KEY.to_vec()] };
        (self.behaviour.proofs)(&mut states);
        states
    }

    fn take(&self, push: &PushModel, file: &[u8], out: &mut Vec<u8>) {
        let operator = OperatorKey::from_seed(&OPERATOR).public();
        let id = Digest(push.id.0);
        let challenge = self.welcome.operator_challenge;
        let refused = if !sign::verify_push(&operator, &challenge, &id, &push.name, &push.operator_signature)
        {
            Some((Status::NotPermitted, "the permit does not verify"))
        } else if Digest(Sha256::digest(file).into()) != id {
            Some((Status::ModelRefused, "the file is not the announced one"))
        } else {
            None
        };
        match refused {
            Some((status, detail)) => refusal(status, detail).encode(&mut Encoder::new(), out),
            None => {
                let model = ModelEntry { handle: 2, name: push.name.clone(), id: push.id, ..model() };
                Pushed { model }.encode(&mut Encoder::new(), out);
            }
        }
    }
}

struct Stream {
    node: Arc<Node>,
    connection: quinn::Connection,
    send: SendStream,
    push: Option<(PushModel, Vec<u8>)>,
    batch: Vec<(RequestId, Mode, Vec<u8>)>,
}

impl Stream {
    async fn serve(mut self, mut recv: RecvStream) {
        let mut frames = FrameReader::new(4096);
        while let Ok(Some(chunk)) = recv.read_chunk(usize::MAX, true).await {
            let (mut rest, mut out, mut goes_on) = (&chunk.bytes[..], Vec::new(), true);
            while let Some(frame) = frames.next(&mut rest).unwrap() {
                goes_on &= self.on_frame(frame.kind, frame.payload, &mut out);
            }
            let _ = self.send.write_all(&out).await;
            if !goes_on {
                break;
            }
        }
        let _ = self.send.finish();
    }

    /// Says whether the stream goes on.
    fn on_frame(&mut self, kind: FrameKind, payload: &[u8], out: &mut Vec<u8>) -> bool {
        let encoder = &mut Encoder::new();
        match kind {
            FrameKind::Hello => {
                let hello = Hello::decode(payload).unwrap();
                assert_eq!(hello.protocol_version, PROTOCOL_VERSION);
                self.node.welcome.encode(encoder, out);
            }
            FrameKind::Request => return self.on_request(&RequestView::decode(payload).unwrap(), out),
            FrameKind::AwaitReceipts => {
                self.node.states(&AwaitReceipts::decode(payload).unwrap()).encode(encoder, out);
            }
            FrameKind::AwaitProofs => {
                self.node.proofs(&AwaitProofs::decode(payload).unwrap()).encode(encoder, out);
            }
            FrameKind::ListModels => ModelList { models: vec![model()] }.encode(encoder, out),
            FrameKind::PushModel => self.push = Some((PushModel::decode(payload).unwrap(), Vec::new())),
            FrameKind::ModelChunk => self.push.as_mut().unwrap().1.extend_from_slice(payload),
            other => panic!("a client sends no {other:?}"),
        }
        if let Some((push, file)) = &self.push
            && file.len() as u64 == push.length
        {
            self.node.take(push, file, out);
        }
        true
    }

    fn on_request(&mut self, request: &RequestView<'_>, out: &mut Vec<u8>) -> bool {
        let encoder = &mut Encoder::new();
        let behaviour = self.node.behaviour;
        self.batch.push((request.id, request.mode, request.input.data.to_vec()));
        if self.batch.len() < behaviour.batch {
            return true;
        }
        match behaviour.on_request {
            OnRequest::Nothing => return true,
            OnRequest::Answer => self.node.answer(&self.batch, out),
            OnRequest::AnswerTwice => {
                self.node.answer(&self.batch, out);
                self.node.answer(&self.batch, out);
            }
            OnRequest::Refuse(status) => encode_refused(encoder, out, request.id, status, "as told", 250),
            OnRequest::RefuseSession => refusal(Status::Draining, "shutting down").encode(encoder, out),
            OnRequest::EndStream => return false,
            OnRequest::EndStreamInsideFrame => {
                self.node.answer(&self.batch, out);
                out.truncate(100);
                return false;
            }
            OnRequest::CloseConnection(code) => self.connection.close(code.into(), b"enough"),
            OnRequest::Garbage => out.extend_from_slice(&[0xa5; 64]),
        }
        self.batch.clear();
        true
    }
}

pub(crate) fn model() -> ModelEntry {
    ModelEntry {
        handle: 1,
        name: "double".into(),
        id: ModelId([1; 32]),
        input_shape: Shape::new([4]).unwrap(),
        output_shape: Shape::new([4]).unwrap(),
        accepts_i16: false,
        max_batch: 8,
        step_shape: None,
        zk_refused: None,
        sealed_refused: None,
    }
}

fn refusal(status: Status, detail: &str) -> Refusal {
    Refusal { status, detail: detail.into(), retry_after_us: 0 }
}

struct LogSigner(&'static str);

impl signed_note::Signer for LogSigner {
    fn name(&self) -> &str {
        self.0
    }

    fn key_id(&self) -> u32 {
        // 1 is Ed25519 in the C2SP signed-note format.
        let key = SigningKey::from_bytes(&LOG).verifying_key().to_bytes();
        signed_note::key_id(self.0, &[&[1], &key[..]].concat())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ed25519_dalek::SignatureError> {
        Ok(SigningKey::from_bytes(&LOG).sign(message).to_bytes().to_vec())
    }
}

fn checkpoint(name: &'static str, size: u64, root: &Digest) -> String {
    let text = tlog_tiles::Checkpoint::new(name, size, tlog_tiles::Hash(root.0), "").unwrap();
    let mut note = signed_note::Note::new(&text.to_bytes(), &[]).unwrap();
    note.add_sigs(&[&LogSigner(name)]).unwrap();
    String::from_utf8(note.to_bytes()).unwrap()
}
