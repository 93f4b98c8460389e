//! Frames of the services' protocol: cut as the wire's are, on one QUIC stream, of kinds of their own.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | length of the payload, `u32`, little-endian |
//! | 4 | kind, see [`Kind`] |
//! | 5..8 | zero |
//! | 8.. | payload, see `message` |

use quinn::{ReadError, RecvStream, SendStream};

/// What a frame carries. Who sends it, and what answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Service, first frame of a session: who it is. Answered by `Welcome` or `Refusal`.
    Hello = 1,
    /// Node.
    Welcome = 2,
    /// Node, at any time: the session ends, and why.
    Refusal = 3,
    /// Service: give me work. Answered, when there is some, by `Prove` or `MakeReady`, or by `Judge`.
    Ask = 4,
    /// Node, to a prover: an opening. Answered by `Proven` or `Unprovable`.
    Prove = 5,
    /// Node, to a prover: make the key of this model. Answered by the next `Ask`.
    MakeReady = 6,
    /// Prover.
    Proven = 7,
    /// Prover.
    Unprovable = 8,
    /// Node, to a verifier: proofs. Answered by `Rulings`.
    Judge = 9,
    /// Verifier.
    Rulings = 10,
    /// Service, on a stream of its own: a model's file. Answered by `Model` or `Refusal`.
    GetModel = 11,
    /// Node.
    Model = 12,
}

const KINDS: [Kind; 12] = [
    Kind::Hello,
    Kind::Welcome,
    Kind::Refusal,
    Kind::Ask,
    Kind::Prove,
    Kind::MakeReady,
    Kind::Proven,
    Kind::Unprovable,
    Kind::Judge,
    Kind::Rulings,
    Kind::GetModel,
    Kind::Model,
];

/// Why no frame was read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the connection ended: {0}")]
    Lost(String),
    #[error("a frame of {length} bytes came, the limit is {limit}")]
    TooLong { length: usize, limit: usize },
    #[error("the frame header {0:02x?} names no known kind")]
    UnknownKind([u8; HEADER_LEN]),
    #[error("the stream ended within a frame")]
    Truncated,
}

const HEADER_LEN: usize = 8;

fn parse_header(bytes: [u8; HEADER_LEN], limit: usize) -> Result<(Kind, usize), FrameError> {
    let [l0, l1, l2, l3, kind, 0, 0, 0] = bytes else { return Err(FrameError::UnknownKind(bytes)) };
    let kind = usize::from(kind).checked_sub(1).and_then(|at| KINDS.get(at)).copied();
    let kind = kind.ok_or(FrameError::UnknownKind(bytes))?;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > limit { Err(FrameError::TooLong { length, limit }) } else { Ok((kind, length)) }
}

/// Sends a frame.
pub(super) async fn send(stream: &mut SendStream, kind: Kind, payload: &[u8]) -> Result<(), FrameError> {
    let length = u32::try_from(payload.len()).expect("payloads are bounded far below 4 GiB");
    let mut header = [0; HEADER_LEN];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = kind as u8;
    let lost = |error: quinn::WriteError| FrameError::Lost(error.to_string());
    stream.write_all(&header).await.map_err(lost)?;
    stream.write_all(payload).await.map_err(lost)
}

/// Reads the next frame; `None` if the stream ends before one. Room is made for bytes that have come, not for those that
/// the header promises.
pub(super) async fn receive(
    stream: &mut RecvStream,
    limit: usize,
) -> Result<Option<(Kind, Vec<u8>)>, FrameError> {
    let lost = |error: ReadError| FrameError::Lost(error.to_string());
    let mut header = [0; HEADER_LEN];
    let mut filled = 0;
    while filled < HEADER_LEN {
        match stream.read(&mut header[filled..]).await.map_err(lost)? {
            Some(count) => filled += count,
            None if filled == 0 => return Ok(None),
            None => return Err(FrameError::Truncated),
        }
    }
    let (kind, length) = parse_header(header, limit)?;
    let mut payload = Vec::new();
    while payload.len() < length {
        let chunk = stream.read_chunk(length - payload.len(), true).await.map_err(lost)?;
        payload.extend_from_slice(&chunk.ok_or(FrameError::Truncated)?.bytes);
    }
    Ok(Some((kind, payload)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_a_kind_and_a_length_within_the_limit() {
        for (at, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, at + 1);
            let header = [9, 0, 0, 0, kind as u8, 0, 0, 0];
            assert!(matches!(parse_header(header, 9), Ok((read, 9)) if read == kind));
            assert!(matches!(parse_header(header, 8), Err(FrameError::TooLong { length: 9, limit: 8 })));
        }
        for header in [[0; 8], [0, 0, 0, 0, 13, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 1]] {
            assert!(matches!(parse_header(header, 9), Err(FrameError::UnknownKind(_))), "{header:?}");
        }
    }
}
