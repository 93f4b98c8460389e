//! Our side: requests of the wire protocol, pipelined on one stream of each connection, every answer with its
//! signed receipt. Where proofs are asked for, some of the requests are of mode `zk`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddrV4;

use anyhow::{Context, bail};
use haca_wire::frame::{FrameKind, FrameReader};
use haca_wire::message::infer::{RequestView, Response};
use haca_wire::message::session::{Hello, Welcome};
use haca_wire::message::{Encoder, Refusal};
use haca_wire::receipt::Receipt;
use haca_wire::tensor::{Shape, TensorView};
use haca_wire::vocabulary::Status;
use haca_wire::{ALPN, Digest, Dtype, Mode, NodeId, PROTOCOL_VERSION, RequestId};
use quinn_proto::{Connection, Dir, StreamEvent, StreamId, WriteError};

use super::shipped::Shipped;
use crate::load::{Nanos, Plan};
use crate::rpc::client::quic::{self, Dialogue};
use crate::rpc::client::{self, Run, Sockets, read_stream};
use crate::rpc::transport::Endpoint;
use crate::server_process::ServerProcess;

/// The name the model is served under.
pub(super) const MODEL_NAME: &str = "mlp";
/// How far its answers may be from the float reference, as a share of the reference's range: it computes in fixed
/// point, and the compiler aims at less than half of this.
const TOLERANCE: f32 = 2e-3;
/// Longest frame we take; an answer with its receipt is below a kilobyte.
const FRAME_LIMIT: usize = 64 << 10;
/// One receipt of so many is kept and verified after the run. Verifying all of them during it would measure the
/// client.
const SAMPLE_EVERY: u64 = 1024;

/// Runs `plan` against a node, a connection for each lane. With `zk_every`, one request of so many on each connection is
/// of mode `zk`; the node may refuse these as overloaded. Returns the ids of those that it answered, and how many it
/// refused.
///
/// # Errors
/// When the node cannot be reached, refuses a request, answers wrongly, or gives a receipt that does not hold.
pub(super) fn load(
    process: &ServerProcess,
    plan: Plan,
    zk_every: Option<u64>,
) -> anyhow::Result<(Run, ToProve)> {
    let Endpoint { address, pin } = process.announcement().parse()?;
    let config = quic::client_config(pin.context("the node announced no certificate")?, ALPN)?;
    let shipped = Shipped::load(TOLERANCE)?;
    let questions = Questions::new(&shipped)?;
    let taken = Taken { zk_every, kept: RefCell::default(), to_prove: RefCell::default() };
    let run = drive(address, &config, &questions, &taken, process, plan)?;
    let kept = taken.kept.into_inner();
    anyhow::ensure!(!kept.is_empty(), "the run was too short to keep a single receipt");
    kept.iter().try_for_each(|kept| kept.verify(&questions))?;
    Ok((run, taken.to_prove.into_inner()))
}

fn drive(
    address: SocketAddrV4,
    config: &quinn_proto::ClientConfig,
    questions: &Questions<'_>,
    taken: &Taken,
    process: &ServerProcess,
    plan: Plan,
) -> anyhow::Result<Run> {
    let mut session = 0;
    let mut client =
        quic::Client::connect(address, config, Sockets::OnePerConnection, plan.lanes, |connection| {
            session += 1;
            Session::open(connection, session, questions, taken)
        })?;
    if plan.kernel_times {
        client.take_kernel_times()?;
    }
    client::drive(&mut client, process, plan)
}

/// The shipped rows as they travel.
#[derive(Debug)]
struct Questions<'a> {
    shipped: &'a Shipped,
    shape: Shape,
    rows: Vec<Vec<u8>>,
}

impl<'a> Questions<'a> {
    fn new(shipped: &'a Shipped) -> anyhow::Result<Self> {
        let columns = u32::try_from(shipped.columns())?;
        let shape = Shape::new([columns]).context("one dimension is too many for a tensor")?;
        let bytes = |row| shipped.input(row).iter().flat_map(|value: &f32| value.to_le_bytes()).collect();
        Ok(Self { shipped, shape, rows: (0..shipped.rows()).map(bytes).collect() })
    }

    fn tensor(&self, row: usize) -> TensorView<'_> {
        TensorView { dtype: Dtype::F32, shape: self.shape, data: &self.rows[row] }
    }
}

/// What the sessions of a run share, and leave behind.
#[derive(Debug)]
struct Taken {
    zk_every: Option<u64>,
    kept: RefCell<Vec<Kept>>,
    to_prove: RefCell<ToProve>,
}

/// Requests of mode `zk`.
#[derive(Debug, Default)]
pub(super) struct ToProve {
    /// Those that were answered: each is to have its proof.
    pub(super) answered: Vec<RequestId>,
    /// How many were refused as overloaded.
    pub(super) refused: u64,
}

/// A receipt to be verified after the run.
#[derive(Debug)]
struct Kept {
    node: NodeId,
    id: RequestId,
    row: usize,
    output: Digest,
    receipt: Receipt,
}

impl Kept {
    fn verify(&self, questions: &Questions<'_>) -> anyhow::Result<()> {
        let leaf = self.receipt.verify().context("a receipt does not hold")?;
        anyhow::ensure!(self.receipt.signature.is_some(), "a receipt is not signed");
        let says = (leaf.node, leaf.request, leaf.input, leaf.output);
        let happened = (self.node, self.id, questions.tensor(self.row).hash(), self.output);
        anyhow::ensure!(says == happened, "a receipt says {says:?}, but what happened is {happened:?}");
        Ok(())
    }
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Asked {
    intended: Nanos,
    row: usize,
}

/// One session, on one stream.
struct Session<'a> {
    questions: &'a Questions<'a>,
    taken: &'a Taken,
    number: u64,
    stream: StreamId,
    reader: FrameReader,
    encoder: Encoder,
    /// Written with the next [`Dialogue::write`]: all frames of a turn in one piece.
    outgoing: Vec<u8>,
    /// The node and the handle of the model, once it has welcomed us.
    welcome: Option<(NodeId, u32)>,
    next_sequence: u64,
    asked: HashMap<u64, Asked>,
}

impl<'a> Session<'a> {
    /// Opens the stream and greets the node. `number` is the session's own among all of the run.
    fn open(
        connection: &mut Connection,
        number: u64,
        questions: &'a Questions<'a>,
        taken: &'a Taken,
    ) -> anyhow::Result<Self> {
        let stream = connection.streams().open(Dir::Bi).context("the node allows no stream")?;
        let (mut encoder, mut outgoing) = (Encoder::new(), Vec::new());
        let software = concat!("haca-bench ", env!("CARGO_PKG_VERSION")).to_owned();
        Hello { protocol_version: PROTOCOL_VERSION, software }.encode(&mut encoder, &mut outgoing);
        Ok(Self {
            questions,
            taken,
            number,
            stream,
            reader: FrameReader::new(FRAME_LIMIT),
            encoder,
            outgoing,
            welcome: None,
            next_sequence: 0,
            asked: HashMap::new(),
        })
    }

    /// The log is idempotent by the id, so it is one of its own for each request.
    fn id(&self, sequence: u64) -> RequestId {
        let mut id = [0; RequestId::LEN];
        id[..8].copy_from_slice(&self.number.to_le_bytes());
        id[8..].copy_from_slice(&sequence.to_le_bytes());
        RequestId(id)
    }

    fn mode(&self, sequence: u64) -> Mode {
        match self.taken.zk_every {
            Some(every) if sequence.is_multiple_of(every) => Mode::Zk,
            _ => Mode::Tee,
        }
    }

    /// Whether `id` is one of ours that has no answer yet; if so, which.
    fn take_asked(&mut self, id: RequestId) -> Option<(u64, Asked)> {
        let sequence = u64::from_le_bytes(*id.0.last_chunk()?);
        let asked = self.asked.remove(&sequence).filter(|_| self.id(sequence) == id)?;
        Some((sequence, asked))
    }

    fn welcomed(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let welcome = Welcome::decode(payload)?;
        let served = welcome.models.iter().find(|model| model.name == MODEL_NAME);
        let model = served.with_context(|| format!("the node does not serve {MODEL_NAME}"))?;
        self.welcome = Some((welcome.node, model.handle));
        Ok(())
    }

    fn answered(&mut self, payload: &[u8]) -> anyhow::Result<Nanos> {
        let response = Response::decode(payload)?;
        let (sequence, asked) =
            self.take_asked(response.id).context("the node answered a request that nobody waits for")?;
        let mode = self.mode(sequence);
        let (output, receipt) = match response.result {
            Err(refusal) if mode == Mode::Zk && refusal.status == Status::Overloaded => {
                self.taken.to_prove.borrow_mut().refused += 1;
                return Ok(asked.intended);
            }
            result => result.map_err(refused)?,
        };
        if mode == Mode::Zk {
            self.taken.to_prove.borrow_mut().answered.push(response.id);
        }
        anyhow::ensure!(output.dtype == Dtype::F32, "the node answered in {} instead of f32", output.dtype);
        let values = output.data.as_chunks().0.iter();
        self.questions.shipped.check(asked.row, values.map(|bytes| f32::from_le_bytes(*bytes)))?;
        if sequence.is_multiple_of(SAMPLE_EVERY) {
            let (node, _) = self.welcome.context("the node answered before it welcomed us")?;
            let (id, row, output) = (response.id, asked.row, output.hash());
            self.taken.kept.borrow_mut().push(Kept { node, id, row, output, receipt });
        }
        Ok(asked.intended)
    }
}

fn refused(refusal: Refusal) -> anyhow::Error {
    anyhow::anyhow!("the node refused a request as {}: {}", refusal.status, refusal.detail)
}

impl Dialogue for Session<'_> {
    fn is_ready(&self) -> bool {
        self.welcome.is_some()
    }

    fn start(&mut self, intended: Nanos) {
        let (_, model) = self.welcome.expect("requests start only once the dialogue is ready");
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let row = (self.number + sequence) as usize % self.questions.rows.len();
        let input = self.questions.tensor(row);
        let (id, mode) = (self.id(sequence), self.mode(sequence));
        let request = RequestView { id, model, mode, deadline_us: 0, input, step: None, seal: None };
        request.encode(&mut self.encoder, &mut self.outgoing);
        self.asked.insert(sequence, Asked { intended, row });
    }

    fn write(&mut self, connection: &mut Connection) -> anyhow::Result<()> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        match connection.send_stream(self.stream).write(&self.outgoing) {
            Ok(written) => drop(self.outgoing.drain(..written)),
            Err(WriteError::Blocked) => {}
            Err(error) => return Err(error).context("the node refused the stream"),
        }
        Ok(())
    }

    fn read(
        &mut self,
        connection: &mut Connection,
        event: &StreamEvent,
        mut answered: impl FnMut(Nanos),
    ) -> anyhow::Result<()> {
        match event {
            StreamEvent::Readable { .. } => {}
            StreamEvent::Stopped { id, error_code } => bail!("the node stopped {id}: {error_code}"),
            // Room to write is tried on every write.
            StreamEvent::Opened { .. }
            | StreamEvent::Writable { .. }
            | StreamEvent::Finished { .. }
            | StreamEvent::Available { .. } => return Ok(()),
        }
        // Taken out, because a frame borrows its reader.
        let mut reader = std::mem::replace(&mut self.reader, FrameReader::new(FRAME_LIMIT));
        let finished = read_stream(connection, self.stream, |mut bytes| {
            while let Some(frame) = reader.next(&mut bytes)? {
                match frame.kind {
                    FrameKind::Response => answered(self.answered(frame.payload)?),
                    FrameKind::Welcome => self.welcomed(frame.payload)?,
                    FrameKind::Refusal => return Err(refused(Refusal::decode(frame.payload)?)),
                    kind => bail!("the node sent a frame of kind {kind:?} that nobody asked for"),
                }
            }
            Ok(())
        })?;
        self.reader = reader;
        anyhow::ensure!(!finished, "the node finished the stream before we did");
        Ok(())
    }

    fn unanswered(&self) -> Vec<Nanos> {
        self.asked.values().map(|asked| asked.intended).collect()
    }
}
