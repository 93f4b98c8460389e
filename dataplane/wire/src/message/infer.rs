//! Inference: `Request` and `Response`. These are read in place and written from the shard's own buffers.

use super::{DecodeError, Encoder, decode_root, status};
use crate::fb;
use crate::frame::FrameKind;
use crate::ids::{Digest, RequestId};
use crate::receipt::{self, Receipt, ReceiptParts};
use crate::seal::{Salt, Seal};
use crate::tensor::{Shape, TensorView};
use crate::vocabulary::{Dtype, Mode, Status};
use flatbuffers::{FlatBufferBuilder, WIPOffset};

/// A request, lying in its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestView<'a> {
    /// Names the request; the log is idempotent by it.
    pub id: RequestId,
    /// Handle out of the model table.
    pub model: u32,
    /// Where on the verification spectrum.
    pub mode: Mode,
    /// The answer is worth nothing this many microseconds after the node read the request; zero: no deadline.
    pub deadline_us: u32,
    /// One row, or one step. The output comes in the same element type.
    pub input: TensorView<'a>,
    /// The stream that the input is the next step of; `None`: it is a whole row.
    pub step: Option<Step>,
    /// What the input is sealed with; `None`: the leaf carries its hash.
    pub seal: Option<Seal>,
}

/// A step's place: the next of the stream of its session, model and symbol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The caller's name for the stream.
    pub symbol: u64,
    /// It is the first step: what the stream held before is forgotten.
    pub reset: bool,
}

impl<'a> RequestView<'a> {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(FrameKind::Request, out, |builder| {
            let input = Some(tensor_to_fb(builder, &self.input));
            let step = self
                .step
                .map(|Step { symbol, reset }| fb::Step::create(builder, &fb::StepArgs { symbol, reset }));
            let seal = self.seal.map(|Seal { salt, commitment }| {
                let (salt, commitment) = (fb::Digest::new(&salt.0), fb::Digest::new(&commitment.0));
                fb::Seal::create(builder, &fb::SealArgs { salt: Some(&salt), commitment: Some(&commitment) })
            });
            let args = fb::RequestArgs {
                id: Some(&fb::RequestId::new(&self.id.0)),
                model: self.model,
                mode: self.mode.to_fb(),
                deadline_us: self.deadline_us,
                input,
                step,
                seal,
            };
            fb::Request::create(builder, &args)
        });
    }

    /// Reads the payload of a `Request` frame in place.
    ///
    /// # Errors
    /// If it is none, or shape and data of the tensor do not fit.
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let request = decode_root::<fb::Request<'_>>(payload)?;
        let mode = request.mode().0;
        Ok(Self {
            id: RequestId(request.id().bytes().into()),
            model: request.model(),
            mode: Mode::from_wire(mode).ok_or(DecodeError::Field("mode", "0 vanilla, 1 tee, 2 zk"))?,
            deadline_us: request.deadline_us(),
            input: tensor_from_fb(request.input())?,
            step: request.step().map(|step| Step { symbol: step.symbol(), reset: step.reset() }),
            seal: request.seal().map(|seal| Seal {
                salt: Salt(seal.salt().bytes().into()),
                commitment: Digest(seal.commitment().bytes().into()),
            }),
        })
    }

    /// The id alone, of a request whose tensor does not fit itself: what it takes to refuse it.
    ///
    /// # Errors
    /// If the payload is no `Request`.
    pub fn id_of(payload: &[u8]) -> Result<RequestId, DecodeError> {
        Ok(RequestId(decode_root::<fb::Request<'_>>(payload)?.id().bytes().into()))
    }
}

/// The answer to a request, lying in the shard's buffers or in its frame.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The request.
    pub id: RequestId,
    /// The output.
    pub output: TensorView<'a>,
    /// The receipt.
    pub receipt: ReceiptParts<'a>,
    /// In mode `zk`: milliseconds until the proof is expected to be in the log; else zero.
    pub proof_delay_ms: u32,
}

impl Answer<'_> {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(FrameKind::Response, out, |builder| {
            let output = Some(tensor_to_fb(builder, &self.output));
            let receipt = Some(receipt::encode(builder, &self.receipt));
            let args = fb::ResponseArgs {
                id: Some(&fb::RequestId::new(&self.id.0)),
                status: Status::Ok.to_fb(),
                output,
                receipt,
                detail: None,
                retry_after_us: 0,
                proof_delay_ms: self.proof_delay_ms,
            };
            fb::Response::create(builder, &args)
        });
    }
}

/// Appends a `Response` frame that refuses a request.
pub fn encode_refused(
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
    id: RequestId,
    status: Status,
    detail: &str,
    retry_after_us: u32,
) {
    debug_assert_ne!(status, Status::Ok, "a refusal has a reason");
    encoder.frame(FrameKind::Response, out, |builder| {
        let detail = Some(builder.create_string(detail));
        let args = fb::ResponseArgs {
            id: Some(&fb::RequestId::new(&id.0)),
            status: status.to_fb(),
            output: None,
            receipt: None,
            detail,
            retry_after_us,
            proof_delay_ms: 0,
        };
        fb::Response::create(builder, &args)
    });
}

/// A response as its caller reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response<'a> {
    /// The request.
    pub id: RequestId,
    /// Output and receipt, or why there are none.
    pub result: Result<(TensorView<'a>, Receipt), super::Refusal>,
    /// In mode `zk`: milliseconds until the proof is expected to be in the log; else zero.
    pub proof_delay_ms: u32,
}

impl<'a> Response<'a> {
    /// Reads the payload of a `Response` frame in place. Nothing is verified yet.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let response = decode_root::<fb::Response<'_>>(payload)?;
        let id = RequestId(response.id().bytes().into());
        let result = match status(response.status())? {
            Status::Ok => {
                let output = response.output().ok_or(DecodeError::Field("output", "missing"))?;
                let receipt = response.receipt().ok_or(DecodeError::Field("receipt", "missing"))?;
                Ok((tensor_from_fb(output)?, Receipt::from_fb(receipt)?))
            }
            status => Err(super::Refusal {
                status,
                detail: response.detail().unwrap_or_default().to_owned(),
                retry_after_us: response.retry_after_us(),
            }),
        };
        Ok(Self { id, result, proof_delay_ms: response.proof_delay_ms() })
    }
}

fn tensor_to_fb<'b>(
    builder: &mut FlatBufferBuilder<'b>,
    tensor: &TensorView<'_>,
) -> WIPOffset<fb::Tensor<'b>> {
    let shape = Some(builder.create_vector(tensor.shape.dims()));
    let data = Some(builder.create_vector(tensor.data));
    fb::Tensor::create(builder, &fb::TensorArgs { dtype: tensor.dtype.to_fb(), shape, data })
}

fn tensor_from_fb(tensor: fb::Tensor<'_>) -> Result<TensorView<'_>, DecodeError> {
    let dtype = tensor.dtype().0;
    let dtype = Dtype::from_wire(dtype).ok_or(crate::tensor::TensorError::Dtype(dtype))?;
    let dims = tensor.shape();
    let shape = Shape::new(dims.iter()).ok_or(crate::tensor::TensorError::Rank(dims.len()))?;
    Ok(TensorView::new(dtype, shape, tensor.data().bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, FrameReader};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn requests_round_trip(
            id: [u8; 16],
            model: u32,
            deadline_us: u32,
            step: Option<(u64, bool)>,
            seal: Option<([u8; 32], [u8; 32])>,
            data in prop::collection::vec(any::<[u8; 4]>(), 0..40),
        ) {
            let bytes = data.concat();
            let shape = Shape::new([data.len() as u32]).unwrap();
            let request = RequestView {
                id: RequestId(id),
                model,
                mode: Mode::Tee,
                deadline_us,
                input: TensorView::new(Dtype::F32, shape, &bytes).unwrap(),
                step: step.map(|(symbol, reset)| Step { symbol, reset }),
                seal: seal.map(|(salt, commitment)| Seal { salt: Salt(salt), commitment: Digest(commitment) }),
            };
            let (mut encoder, mut out) = (Encoder::new(), Vec::new());
            request.encode(&mut encoder, &mut out);
            let mut reader = FrameReader::new(4096);
            let mut rest = &out[..];
            let Frame { kind, payload } = reader.next(&mut rest).unwrap().unwrap();
            prop_assert_eq!(kind, FrameKind::Request);
            prop_assert_eq!(RequestView::decode(payload), Ok(request));
        }

        #[test]
        fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = RequestView::decode(&bytes);
            let _ = Response::decode(&bytes);
            let _ = super::super::Refusal::decode(&bytes);
            let _ = super::super::session::Hello::decode(&bytes);
            let _ = super::super::session::Welcome::decode(&bytes);
            let _ = super::super::model::ModelList::decode(&bytes);
            let _ = super::super::model::PushModel::decode(&bytes);
            let _ = super::super::log::AwaitReceipts::decode(&bytes);
            let _ = super::super::log::ReceiptStates::decode(&bytes);
        }

        #[test]
        fn a_changed_request_is_refused_or_reads_without_a_panic(at in any::<prop::sample::Index>(), byte: u8) {
            let data = [0u8; 16];
            let shape = Shape::new([4]).unwrap();
            let input = TensorView::new(Dtype::F32, shape, &data).unwrap();
            let request = RequestView {
                id: RequestId([1; 16]),
                model: 1,
                mode: Mode::Vanilla,
                deadline_us: 0,
                input,
                step: Some(Step { symbol: 7, reset: true }),
                seal: Some(Seal { salt: Salt([8; 32]), commitment: Digest([9; 32]) }),
            };
            let (mut encoder, mut out) = (Encoder::new(), Vec::new());
            request.encode(&mut encoder, &mut out);
            let payload = &mut out[crate::frame::HEADER_LEN..];
            let at = at.index(payload.len());
            payload[at] = byte;
            let _ = RequestView::decode(payload);
        }
    }

    #[test]
    fn a_refusal_names_its_reason() {
        let (mut encoder, mut out) = (Encoder::new(), Vec::new());
        encode_refused(
            &mut encoder,
            &mut out,
            RequestId([1; 16]),
            Status::Overloaded,
            "queue of 64 is full",
            500,
        );
        let response = Response::decode(&out[crate::frame::HEADER_LEN..]).unwrap();
        let refusal = response.result.unwrap_err();
        assert_eq!((refusal.status, refusal.retry_after_us), (Status::Overloaded, 500));
        assert_eq!(refusal.detail, "queue of 64 is full");
    }
}
