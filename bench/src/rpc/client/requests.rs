//! Requests of one connection, as messages on one stream or as streams of their own.

use std::collections::VecDeque;

use anyhow::{Context, bail};
use quinn_proto::{Connection, Dir, ReadError, Side, StreamEvent, StreamId, WriteError};

use super::Streams;
use super::quic::Dialogue;
use crate::load::Nanos;
use crate::rpc::message::{InOrder, MESSAGE, is_message, message};

/// The requests of one connection.
pub(super) enum Requests {
    OneStream {
        stream: StreamId,
        messages: InOrder,
        /// Written with the next [`Dialogue::write`]: all messages of a turn in one piece.
        outgoing: Vec<u8>,
    },
    StreamEach {
        /// Due, and not written yet.
        waiting: VecDeque<Nanos>,
        exchanges: Vec<Exchange>,
        next_sequence: u64,
    },
}

/// A request on a stream of its own.
pub(super) struct Exchange {
    stream: StreamId,
    intended: Nanos,
    sequence: u64,
    received: [u8; MESSAGE],
    filled: usize,
}

impl Requests {
    /// For a connection whose handshake is done.
    pub(super) fn new(streams: Streams, depth: usize, connection: &mut Connection) -> anyhow::Result<Self> {
        Ok(match streams {
            Streams::OnePerConnection => Self::OneStream {
                stream: connection.streams().open(Dir::Bi).context("the server allows no stream")?,
                messages: InOrder::with_depth(depth),
                outgoing: Vec::with_capacity(depth * MESSAGE),
            },
            Streams::OnePerRequest => Self::StreamEach {
                waiting: VecDeque::with_capacity(depth),
                exchanges: Vec::with_capacity(depth),
                next_sequence: 0,
            },
        })
    }
}

impl Dialogue for Requests {
    fn is_ready(&self) -> bool {
        true
    }

    fn start(&mut self, intended: Nanos) {
        match self {
            Self::OneStream { messages, outgoing, .. } => {
                messages.send(intended, outgoing);
            }
            Self::StreamEach { waiting, .. } => waiting.push_back(intended),
        }
    }

    fn write(&mut self, connection: &mut Connection) -> anyhow::Result<()> {
        match self {
            Self::OneStream { stream, outgoing, .. } => {
                if !outgoing.is_empty() {
                    match connection.send_stream(*stream).write(outgoing) {
                        Ok(written) => drop(outgoing.drain(..written)),
                        Err(WriteError::Blocked) => {}
                        Err(error) => return Err(error).context("the server refused the stream"),
                    }
                }
            }
            Self::StreamEach { waiting, exchanges, next_sequence } => {
                while let Some(&intended) = waiting.front() {
                    let Some(stream) = connection.streams().open(Dir::Bi) else { break };
                    waiting.pop_front();
                    let sequence = *next_sequence;
                    *next_sequence += 1;
                    let mut send = connection.send_stream(stream);
                    let written = send.write(&message(sequence)).context("cannot write a request")?;
                    anyhow::ensure!(
                        written == MESSAGE,
                        "flow control cut a request of 64 bytes to {written}"
                    );
                    send.finish().context("cannot finish a request's stream")?;
                    exchanges.push(Exchange {
                        stream,
                        intended,
                        sequence,
                        received: [0; MESSAGE],
                        filled: 0,
                    });
                }
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        connection: &mut Connection,
        event: &StreamEvent,
        mut answered: impl FnMut(Nanos),
    ) -> anyhow::Result<()> {
        let id = match event {
            StreamEvent::Readable { id } => *id,
            StreamEvent::Stopped { id, error_code } => bail!("the server stopped {id}: {error_code}"),
            // Room to write or to open is tried on every write.
            StreamEvent::Opened { .. }
            | StreamEvent::Writable { .. }
            | StreamEvent::Finished { .. }
            | StreamEvent::Available { .. } => return Ok(()),
        };
        match self {
            Self::OneStream { messages, .. } => {
                let finished = read_stream(connection, id, |bytes| {
                    messages.receive(bytes, &mut answered).map_err(anyhow::Error::from)
                })?;
                anyhow::ensure!(!finished, "the server finished {id} before we did");
            }
            Self::StreamEach { exchanges, .. } => {
                let position = exchanges.iter().position(|exchange| exchange.stream == id);
                let Some(position) = position else {
                    // Said once for each packet, and the first reading took what both brought.
                    anyhow::ensure!(id.initiator() == Side::Client, "the server opened {id} unasked");
                    return Ok(());
                };
                let exchange = &mut exchanges[position];
                if read_stream(connection, id, |bytes| exchange.receive(bytes))? {
                    let exchange = exchanges.swap_remove(position);
                    exchange.check()?;
                    answered(exchange.intended);
                }
            }
        }
        Ok(())
    }

    fn unanswered(&self) -> Vec<Nanos> {
        match self {
            Self::OneStream { messages, .. } => messages.unanswered().collect(),
            Self::StreamEach { waiting, exchanges, .. } => {
                let flying = exchanges.iter().map(|exchange| exchange.intended);
                flying.chain(waiting.iter().copied()).collect()
            }
        }
    }
}

impl Exchange {
    fn receive(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let room = self.received.get_mut(self.filled..self.filled + bytes.len());
        let room = room.context("the server answered with more bytes than it was sent")?;
        room.copy_from_slice(bytes);
        self.filled += bytes.len();
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        let whole = self.filled == MESSAGE && is_message(&self.received, self.sequence);
        anyhow::ensure!(whole, "the echo on {} came back changed or cut short", self.stream);
        Ok(())
    }
}

/// Reads all there is; says whether the stream is finished.
pub(crate) fn read_stream(
    connection: &mut Connection,
    id: StreamId,
    mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    let mut stream = connection.recv_stream(id);
    let mut chunks = stream.read(true).with_context(|| format!("cannot read {id}"))?;
    let finished = loop {
        match chunks.next(usize::MAX) {
            Ok(Some(chunk)) => take(&chunk.bytes)?,
            Ok(None) => break true,
            Err(ReadError::Blocked) => break false,
            Err(ReadError::Reset(code)) => bail!("the server reset {id}: {code}"),
        }
    };
    // Window updates leave with the flush that follows every receive.
    let _ = chunks.finalize();
    Ok(finished)
}
