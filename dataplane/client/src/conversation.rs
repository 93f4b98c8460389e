//! One connection, and calls on it that have a stream of their own: one frame out, one frame back.

use crate::error::ClientError;
use haca_wire::Status;
use haca_wire::frame::{Frame, FrameKind, FrameReader};
use haca_wire::message::Refusal;
use quinn::{ApplicationClose, ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use std::net::SocketAddr;
use std::sync::OnceLock;

/// A longer answer is refused before room is made for it. The largest one that is meant to be, the states of many
/// receipts with their paths, is well below.
pub(crate) const MAX_ANSWER: usize = 4 << 20;

/// A connection, and why it ended if it did.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) address: SocketAddr,
    connection: quinn::Connection,
    ended: OnceLock<ClientError>,
}

impl Session {
    pub(crate) fn new(address: SocketAddr, connection: quinn::Connection) -> Self {
        Self { address, connection, ended: OnceLock::new() }
    }

    /// Ends the connection, unless it has ended. Returns why it ended first: that is what every call reports.
    pub(crate) fn end(&self, error: ClientError) -> ClientError {
        let cause = self.ended.get_or_init(|| error).clone();
        let reason: &[u8] = match cause {
            ClientError::Closed | ClientError::Disconnected { .. } | ClientError::Refused { .. } => b"",
            _ => b"the client does not accept what this node says",
        };
        self.connection.close(VarInt::from_u32(0), reason);
        cause
    }

    pub(crate) async fn open(&self) -> Result<(SendStream, RecvStream), ClientError> {
        self.connection.open_bi().await.map_err(|error| self.lost(&error))
    }

    /// Sends whole frames on a stream of their own, and returns the payload of the one frame that answers them.
    pub(crate) async fn ask(&self, request: &[u8], expected: FrameKind) -> Result<Vec<u8>, ClientError> {
        let (mut send, mut recv) = self.open().await?;
        match send.write_all(request).await {
            // Whoever stops the stream has answered on it.
            Ok(()) | Err(WriteError::Stopped(_)) => {}
            Err(error) => return Err(self.write_failed(&error)),
        }
        // Fails only where the node has stopped the stream.
        let _ = send.finish();
        self.answer(&mut recv, expected).await
    }

    /// Reads the one frame that answers what was sent on this stream, and returns its payload.
    pub(crate) async fn answer(
        &self,
        recv: &mut RecvStream,
        expected: FrameKind,
    ) -> Result<Vec<u8>, ClientError> {
        let mut frames = FrameReader::new(MAX_ANSWER);
        loop {
            let chunk = recv.read_chunk(usize::MAX, true).await.map_err(|error| self.read_failed(&error))?;
            let Some(chunk) = chunk else {
                let error = match frames.finish() {
                    Err(error) => ClientError::frame(self.address, error),
                    Ok(()) => ClientError::protocol(
                        self.address,
                        format!("it ended the stream where {expected:?} belongs"),
                    ),
                };
                return Err(self.end(error));
            };
            let mut rest = &chunk.bytes[..];
            let Frame { kind, payload } = match frames.next(&mut rest) {
                Ok(Some(frame)) => frame,
                Ok(None) => continue,
                Err(error) => return Err(self.end(ClientError::frame(self.address, error))),
            };
            if !rest.is_empty() {
                let error = ClientError::protocol(self.address, "more than one answer came to one call");
                return Err(self.end(error));
            }
            if kind == expected {
                return Ok(payload.to_vec());
            }
            return Err(match kind {
                FrameKind::Refusal => self.refusal(payload),
                _ => self.end(ClientError::unexpected(self.address, kind, expected)),
            });
        }
    }

    pub(crate) fn refusal(&self, payload: &[u8]) -> ClientError {
        match Refusal::decode(payload) {
            Ok(refusal) => ClientError::refused(refusal),
            Err(error) => self.end(ClientError::decode(self.address, FrameKind::Refusal, error)),
        }
    }

    pub(crate) fn read_failed(&self, error: &ReadError) -> ClientError {
        match error {
            ReadError::ConnectionLost(error) => self.lost(error),
            other => self.end(ClientError::protocol(self.address, other.to_string())),
        }
    }

    pub(crate) fn write_failed(&self, error: &WriteError) -> ClientError {
        match error {
            WriteError::ConnectionLost(error) => self.lost(error),
            other => self.end(ClientError::protocol(self.address, other.to_string())),
        }
    }

    /// The connection was lost; the first cause stays.
    fn lost(&self, error: &ConnectionError) -> ClientError {
        self.end(disconnected(self.address, error))
    }

    /// Runs until the node has acknowledged the end of the connection, or it can no longer matter.
    pub(crate) async fn ended(&self) {
        self.connection.closed().await;
    }
}

/// What the loss of a connection is called. A node that closes one says why with a `Status` as the error code.
pub(crate) fn disconnected(address: SocketAddr, error: &ConnectionError) -> ClientError {
    let reason = match error {
        ConnectionError::LocallyClosed => return ClientError::Closed,
        ConnectionError::ApplicationClosed(close) if let Some(status) = status(close) => {
            let detail = String::from_utf8_lossy(&close.reason).into_owned();
            return match status {
                Status::VersionMismatch => ClientError::Version { address, detail },
                _ => ClientError::Refused { status, detail, retry_after: None },
            };
        }
        ConnectionError::TimedOut => "nothing was heard from it for the idle timeout".to_owned(),
        ConnectionError::Reset => "it does not know the connection any more; was it restarted?".to_owned(),
        ConnectionError::ApplicationClosed(close) => match close.reason.is_empty() {
            true => format!("the node closed it (code {})", close.error_code),
            false => format!(
                "the node closed it: {} (code {})",
                String::from_utf8_lossy(&close.reason),
                close.error_code
            ),
        },
        other => other.to_string(),
    };
    ClientError::Disconnected { address, reason }
}

fn status(close: &ApplicationClose) -> Option<Status> {
    let code = u8::try_from(close.error_code.into_inner()).ok()?;
    Status::from_wire(code).filter(|status| *status != Status::Ok)
}
