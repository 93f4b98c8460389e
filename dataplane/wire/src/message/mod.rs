//! The messages. Each file holds one conversation: both directions of it, encode beside decode.
//!
//! What a shard reads or writes per request is a view on the frame ([`infer::RequestView`]) or is written straight
//! from the shard's buffers; everything else is an owned value.

pub mod infer;
pub mod log;
pub mod model;
pub mod proof;
pub mod session;

use crate::frame::{self, FrameKind, HEADER_LEN};
use crate::ids::Digest;
use crate::merkle::{self, MAX_PATH};
use crate::vocabulary::Status;
use flatbuffers::{FlatBufferBuilder, Follow, Vector, Verifiable, VerifierOptions, WIPOffset};

/// Why a payload is not the message its frame says it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not a FlatBuffer of this table.
    #[error("not a valid FlatBuffer: {0}")]
    Buffer(String),
    /// A field has a value that no encoder writes.
    #[error("{0}: {1}")]
    Field(&'static str, &'static str),
    /// The tensor is inconsistent.
    #[error(transparent)]
    Tensor(#[from] crate::tensor::TensorError),
}

/// Builds messages. Its memory is reused from message to message.
pub struct Encoder {
    builder: FlatBufferBuilder<'static>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// An encoder with room for a small response.
    pub fn new() -> Self {
        Self { builder: FlatBufferBuilder::with_capacity(4096) }
    }

    /// Appends one frame to `out`.
    pub(crate) fn frame<T>(
        &mut self,
        kind: FrameKind,
        out: &mut Vec<u8>,
        build: impl FnOnce(&mut FlatBufferBuilder<'static>) -> WIPOffset<T>,
    ) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        self.root(out, build);
        let header = frame::header(kind, out.len() - start - HEADER_LEN);
        out[start..start + HEADER_LEN].copy_from_slice(&header);
    }

    /// Appends one bare FlatBuffer to `out`.
    pub(crate) fn root<T>(
        &mut self,
        out: &mut Vec<u8>,
        build: impl FnOnce(&mut FlatBufferBuilder<'static>) -> WIPOffset<T>,
    ) {
        self.builder.reset();
        let root = build(&mut self.builder);
        self.builder.finish_minimal(root);
        out.extend_from_slice(self.builder.finished_data());
    }
}

/// A refusal: of the call on one stream, or of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub status: Status,
    /// The same for a person: which value, and what to do.
    pub detail: String,
    /// When to try again, in microseconds; zero: trying again does not help.
    pub retry_after_us: u32,
}

impl Refusal {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(FrameKind::Refusal, out, |builder| {
            let detail = Some(builder.create_string(&self.detail));
            let args = crate::fb::RefusalArgs {
                status: self.status.to_fb(),
                detail,
                retry_after_us: self.retry_after_us,
            };
            crate::fb::Refusal::create(builder, &args)
        });
    }

    /// Reads the payload of a `Refusal` frame.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let refusal = decode_root::<crate::fb::Refusal<'_>>(payload)?;
        Ok(Self {
            status: status(refusal.status())?,
            detail: refusal.detail().unwrap_or_default().to_owned(),
            retry_after_us: refusal.retry_after_us(),
        })
    }
}

/// Verifies a buffer and reads its root. The limits are far above what any encoder here writes.
pub(crate) fn decode_root<'a, T>(bytes: &'a [u8]) -> Result<T::Inner, DecodeError>
where
    T: 'a + Follow<'a> + Verifiable,
{
    let options = VerifierOptions {
        max_depth: 8,
        max_tables: 1 << 16,
        // Nothing a frame holds can be larger than the frame, unless tables are pointed at twice.
        max_apparent_size: (2 * bytes.len()).max(1 << 20),
        ignore_missing_null_terminator: false,
    };
    flatbuffers::root_with_opts::<T>(&options, bytes).map_err(|error| DecodeError::Buffer(error.to_string()))
}

pub(crate) fn status(wire: crate::fb::Status) -> Result<Status, DecodeError> {
    Status::from_wire(wire.0).ok_or(DecodeError::Field("status", "not a known status"))
}

pub(crate) fn required_path(
    field: &'static str,
    bytes: Option<Vector<'_, u8>>,
) -> Result<Vec<Digest>, DecodeError> {
    const { assert!(MAX_PATH == 64) }
    merkle::parse_path(bytes.map(|bytes| bytes.bytes()).unwrap_or_default())
        .ok_or(DecodeError::Field(field, "a path is at most 64 digests of 32 bytes"))
}

pub(crate) fn digests_to_bytes(digests: &[Digest]) -> Vec<u8> {
    digests.iter().flat_map(|digest| digest.0).collect()
}
