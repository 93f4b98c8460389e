//! Frames: how messages are cut out of a QUIC stream.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | length of the payload, `u32`, little-endian |
//! | 4 | kind, see [`FrameKind`] |
//! | 5..8 | zero |
//! | 8.. | payload: a FlatBuffer, or raw bytes for [`FrameKind::ModelChunk`] |
//!
//! Eight bytes keep a FlatBuffer that follows another one on its natural alignment.

/// Bytes before the payload.
pub const HEADER_LEN: usize = 8;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// Caller to node, first frame of a session.
    Hello = 1,
    /// Node to caller, the answer to `Hello`.
    Welcome = 2,
    /// An inference request.
    Request = 3,
    /// Its answer.
    Response = 4,
    /// Asks how far receipts have come.
    AwaitReceipts = 5,
    /// Its answer.
    ReceiptStates = 6,
    /// Asks for the model table.
    ListModels = 7,
    /// Its answer.
    ModelList = 8,
    /// Announces a model file; `ModelChunk`s follow on the same stream.
    PushModel = 9,
    /// Raw bytes of a model file.
    ModelChunk = 10,
    /// The pushed model is being served.
    Pushed = 11,
    /// The call on this stream, or the whole session, was refused.
    Refusal = 12,
    /// Asks for the proofs of requests of mode `zk`.
    AwaitProofs = 13,
    /// Its answer.
    ProofStates = 14,
}

impl FrameKind {
    const ALL: [FrameKind; 14] = [
        FrameKind::Hello,
        FrameKind::Welcome,
        FrameKind::Request,
        FrameKind::Response,
        FrameKind::AwaitReceipts,
        FrameKind::ReceiptStates,
        FrameKind::ListModels,
        FrameKind::ModelList,
        FrameKind::PushModel,
        FrameKind::ModelChunk,
        FrameKind::Pushed,
        FrameKind::Refusal,
        FrameKind::AwaitProofs,
        FrameKind::ProofStates,
    ];

    fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// Why bytes are not a frame. The stream cannot be read on after any of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is over the limit that was agreed.
    #[error("frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// Length the header states.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The kind is none of [`FrameKind`], or the padding is not zero.
    #[error("frame header {0:02x?} names no known kind")]
    UnknownKind([u8; HEADER_LEN]),
    /// The stream ended inside a frame.
    #[error("stream ended {missing} bytes before the end of a frame")]
    Truncated {
        /// How many bytes are missing.
        missing: usize,
    },
}

/// The header of a frame with a payload of `length` bytes.
///
/// # Panics
/// If `length` does not fit 32 bits: no encoder here makes such a payload.
pub fn header(kind: FrameKind, length: usize) -> [u8; HEADER_LEN] {
    let length = u32::try_from(length).expect("payloads are bounded far below 4 GiB");
    let mut header = [0; HEADER_LEN];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4] = kind as u8;
    header
}

fn parse_header(bytes: [u8; HEADER_LEN], limit: usize) -> Result<(FrameKind, usize), FrameError> {
    let [l0, l1, l2, l3, kind, 0, 0, 0] = bytes else {
        return Err(FrameError::UnknownKind(bytes));
    };
    let kind = FrameKind::from_wire(kind).ok_or(FrameError::UnknownKind(bytes))?;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    Ok((kind, length))
}

/// Cuts frames out of one stream. Holds at most one incomplete frame; whole frames are read where they lie.
///
/// Feed it what arrived, in order; take frames until there is none:
///
/// ```
/// use haca_wire::frame::{FrameKind, FrameReader, header};
/// let mut reader = FrameReader::new(1024);
/// let mut bytes = header(FrameKind::ModelChunk, 2).to_vec();
/// bytes.extend(b"ab");
/// let mut rest = &bytes[..];
/// let frame = reader.next(&mut rest).unwrap().unwrap();
/// assert_eq!((frame.kind, frame.payload), (FrameKind::ModelChunk, &b"ab"[..]));
/// assert!(reader.next(&mut rest).unwrap().is_none());
/// ```
#[derive(Debug)]
pub struct FrameReader {
    limit: usize,
    partial: Vec<u8>,
    /// Set while the caller looks at `partial`: it is emptied on the next call.
    delivered: bool,
}

/// One whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it carries.
    pub kind: FrameKind,
    /// Its payload.
    pub payload: &'a [u8],
}

impl FrameReader {
    /// A reader that refuses payloads of more than `limit` bytes before it makes room for them.
    pub fn new(limit: usize) -> Self {
        Self { limit, partial: Vec::new(), delivered: false }
    }

    /// The next whole frame of this stream, from what is kept and what `input` holds; `input` is moved on past what
    /// was taken. `None`: all of `input` was taken and the frame is not complete yet.
    ///
    /// # Errors
    /// A header that is over the limit or names no kind.
    pub fn next<'f, 'i: 'f>(&'f mut self, input: &mut &'i [u8]) -> Result<Option<Frame<'f>>, FrameError> {
        if self.delivered {
            self.partial.clear();
            self.delivered = false;
        }
        if self.partial.is_empty() {
            if let Some((head, rest)) = input.split_first_chunk::<HEADER_LEN>() {
                let (kind, length) = parse_header(*head, self.limit)?;
                if rest.len() >= length {
                    let (payload, rest) = rest.split_at(length);
                    *input = rest;
                    return Ok(Some(Frame { kind, payload }));
                }
            }
            if input.is_empty() {
                return Ok(None);
            }
        }
        self.take(HEADER_LEN, input);
        let Some(head) = self.partial.first_chunk::<HEADER_LEN>().copied() else {
            return Ok(None);
        };
        let (kind, length) = parse_header(head, self.limit)?;
        self.take(HEADER_LEN + length, input);
        if self.partial.len() < HEADER_LEN + length {
            return Ok(None);
        }
        self.delivered = true;
        Ok(Some(Frame { kind, payload: &self.partial[HEADER_LEN..] }))
    }

    /// Says whether the stream may end here.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] inside a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.delivered || self.partial.is_empty() {
            return Ok(());
        }
        let whole = match self.partial.first_chunk::<HEADER_LEN>() {
            Some(head) => HEADER_LEN + parse_header(*head, self.limit)?.1,
            None => HEADER_LEN,
        };
        Err(FrameError::Truncated { missing: whole - self.partial.len() })
    }

    /// Bytes held for a frame that is not complete.
    pub fn buffered(&self) -> usize {
        self.partial.capacity()
    }

    /// Moves bytes over until `partial` has `target` of them or `input` is empty.
    fn take(&mut self, target: usize, input: &mut &[u8]) {
        let wanted = target.saturating_sub(self.partial.len()).min(input.len());
        let (taken, rest) = input.split_at(wanted);
        self.partial.extend_from_slice(taken);
        *input = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
        [&header(kind, payload.len())[..], payload].concat()
    }

    fn read_all(reader: &mut FrameReader, mut input: &[u8]) -> Result<Vec<(FrameKind, Vec<u8>)>, FrameError> {
        let mut frames = Vec::new();
        // A frame borrows the reader, so it is copied out before the next is asked for.
        while let Some(Frame { kind, payload }) = reader.next(&mut input)? {
            frames.push((kind, payload.to_vec()));
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..8),
            cuts in prop::collection::vec(1usize..40, 1..200),
        ) {
            let stream: Vec<u8> = payloads.iter().flat_map(|p| frame(FrameKind::Request, p)).collect();
            let mut reader = FrameReader::new(80);
            let mut got = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                got.extend(read_all(&mut reader, piece).unwrap().into_iter().map(|(_, p)| p));
                rest = after;
                if rest.is_empty() { break }
            }
            prop_assert_eq!(got, payloads);
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = FrameReader::new(64);
            let _ = read_all(&mut reader, &bytes);
            prop_assert!(reader.buffered() <= 2 * (64 + HEADER_LEN));
        }
    }

    #[test]
    fn a_long_frame_is_refused_before_it_is_held() {
        let mut reader = FrameReader::new(100);
        let head = header(FrameKind::Request, 101);
        let error = read_all(&mut reader, &head).unwrap_err();
        assert_eq!(error, FrameError::TooLong { length: 101, limit: 100 });
    }

    #[test]
    fn the_end_inside_a_frame_is_an_error() {
        let mut reader = FrameReader::new(100);
        let bytes = frame(FrameKind::Request, &[0; 10]);
        assert!(read_all(&mut reader, &bytes[..12]).unwrap().is_empty());
        assert_eq!(reader.finish(), Err(FrameError::Truncated { missing: 6 }));
    }
}
