//! Inference: one row in, one row and a verified receipt out.

use crate::check::Asked;
use crate::client::Client;
use crate::error::ClientError;
use crate::lane::Reply;
use haca_wire::message::infer::{RequestView, Step};
use haca_wire::message::model::ModelEntry;
use haca_wire::receipt::Receipt;
use haca_wire::tensor::{self, Shape, TensorView};
use haca_wire::{Digest, Dtype, Leaf, Mode, RequestId, Seal};
use std::time::{Duration, Instant};

/// A tensor of one's own: element type, shape, little-endian row-major data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    dtype: Dtype,
    shape: Shape,
    data: Vec<u8>,
}

impl Tensor {
    /// Element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Dimensions, outermost first.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The elements as they travelled.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The elements of an `f32` tensor; `None` for one of another type.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let elements =
            || self.data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        (self.dtype == Dtype::F32).then(elements)
    }

    /// The elements of an `i16` tensor; `None` for one of another type.
    pub fn to_i16(&self) -> Option<Vec<i16>> {
        let elements =
            || self.data.as_chunks::<2>().0.iter().map(|bytes| i16::from_le_bytes(*bytes)).collect();
        (self.dtype == Dtype::I16).then(elements)
    }

    /// The hash that a leaf carries of it.
    pub fn hash(&self) -> Digest {
        haca_wire::tensor::hash(self.dtype, self.shape.dims(), &self.data)
    }
}

impl From<TensorView<'_>> for Tensor {
    fn from(view: TensorView<'_>) -> Self {
        Self { dtype: view.dtype, shape: view.shape, data: view.data.to_vec() }
    }
}

/// One request, with everything about it that can be chosen.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The model, out of the node's table.
    pub model: &'a ModelEntry,
    /// Where on the verification spectrum.
    pub mode: Mode,
    /// One row, of the model's input shape.
    pub input: TensorView<'a>,
    /// The request's id: the log keeps one leaf per id for ever. `None`: drawn at random, as it should be.
    pub id: Option<RequestId>,
    /// The answer is worth nothing this long after the node read the request; it is then refused instead of
    /// computed. Counted in whole microseconds, of which there are at most 2³²−1.
    pub deadline: Option<Duration>,
    /// In mode `zk`: seals the input, so that neither leaf nor proof tell of it. The node still sees the row and the salt.
    pub seal: Option<Seal>,
}

/// An answer that stood up.
#[derive(Debug, Clone, PartialEq)]
pub struct Inference {
    /// The output, of the model's output shape and the input's element type.
    pub output: Tensor,
    /// The receipt. It was verified against request, output and node key.
    pub receipt: Receipt,
    /// The receipt's leaf, read.
    pub leaf: Leaf,
    /// From handing the request to the transport until its answer was read; without the verification.
    pub latency: Duration,
    /// When the answer was read.
    pub arrived: Instant,
    /// In mode `zk`: when the node expects the proof to be in the log, counted from its answer.
    pub proof_delay: Option<Duration>,
    /// What the input was sealed with. Keep the salt as long as somebody may have to be shown the input, and as private.
    pub seal: Option<Seal>,
}

impl Client {
    /// Sends one row of `f32`, and returns the answer once its receipt was verified.
    ///
    /// # Errors
    /// [`ClientError::Refused`] if the node refuses; [`ClientError::Dishonest`] if its answer does not stand up; and
    /// whatever ends a connection.
    pub async fn infer(&self, model: &ModelEntry, mode: Mode, row: &[f32]) -> Result<Inference, ClientError> {
        let data = to_bytes(row);
        let input = of_shape(model, model.input_shape, &data)?;
        self.call(Call { model, mode, input, id: None, deadline: None, seal: None }).await
    }

    /// Sends one row of `f32` in mode `zk` with a fresh salt and its commitment: neither the leaf nor its proof tell of the
    /// row. The node sees it.
    ///
    /// # Errors
    /// As [`Client::infer`].
    #[cfg(feature = "seal")]
    pub async fn infer_sealed(&self, model: &ModelEntry, row: &[f32]) -> Result<Inference, ClientError> {
        let data = to_bytes(row);
        let input = of_shape(model, model.input_shape, &data)?;
        let mut salt = haca_wire::Salt([0; haca_wire::Salt::LEN]);
        getrandom::fill(&mut salt.0).map_err(|error| ClientError::Random(error.to_string()))?;
        let seal = Some(Seal { salt, commitment: haca_verifier::seal::commitment(&salt, &data) });
        self.call(Call { model, mode: Mode::Zk, input, id: None, deadline: None, seal }).await
    }

    /// Sends one request, and returns the answer once its receipt was verified. Waits where as many requests are
    /// unanswered as the node allows.
    ///
    /// # Errors
    /// As [`Client::infer`].
    pub async fn call(&self, call: Call<'_>) -> Result<Inference, ClientError> {
        let (expected, got) = (call.model.input_shape, call.input.shape);
        if got != expected {
            return Err(ClientError::InputShape { model: call.model.name.clone(), expected, got });
        }
        self.ask(call, None).await
    }

    /// Sends a row whose shape was checked, or a step of a stream, with the input hash of the step before it.
    pub(crate) async fn ask(
        &self,
        call: Call<'_>,
        step: Option<(Step, Digest)>,
    ) -> Result<Inference, ClientError> {
        let model = call.model;
        if call.input.dtype == Dtype::I16 && !model.accepts_i16 {
            return Err(ClientError::InputType { model: model.name.clone(), dtype: call.input.dtype });
        }
        let id = match call.id {
            Some(id) => id,
            None => random_id()?,
        };
        // Zero says "no deadline" on the wire.
        let deadline_us =
            call.deadline.map_or(0, |left| u32::try_from(left.as_micros()).unwrap_or(u32::MAX).max(1));
        let request = RequestView {
            id,
            model: model.handle,
            mode: call.mode,
            deadline_us,
            input: call.input,
            step: step.map(|(step, _)| step),
            seal: call.seal,
        };
        let answer = self.lanes().submit(&request).await?;
        // Hashed while the answer is on its way.
        let input = match (call.seal, step) {
            (Some(seal), _) => seal.commitment,
            (None, None) => call.input.hash(),
            (None, Some((_, before))) => tensor::step_hash(&before, &call.input.hash()),
        };
        let Reply { output, receipt, latency, arrived, proof_delay_ms } = answer.wait().await?;
        let (mode, sealed) = (call.mode, call.seal.is_some());
        let asked = Asked { id, model, mode, sealed, dtype: call.input.dtype, input };
        match self.checker().check(&asked, &output, &receipt) {
            Ok(leaf) => {
                let delay = Duration::from_millis(proof_delay_ms.into());
                let proof_delay = (call.mode == Mode::Zk).then_some(delay);
                Ok(Inference { output, receipt, leaf, latency, arrived, proof_delay, seal: call.seal })
            }
            Err(fault) => Err(ClientError::Dishonest { request: id, fault }),
        }
    }
}

/// A row as it travels.
pub(crate) fn to_bytes(row: &[f32]) -> Vec<u8> {
    row.iter().flat_map(|element| element.to_le_bytes()).collect()
}

/// Elements say nothing of their shape, so it is the model's if their number is.
pub(crate) fn of_shape<'a>(
    model: &ModelEntry,
    expected: Shape,
    data: &'a [u8],
) -> Result<TensorView<'a>, ClientError> {
    TensorView::new(Dtype::F32, expected, data).map_err(|_| {
        let length = u32::try_from(data.len() / Dtype::F32.size()).unwrap_or(u32::MAX);
        let got = Shape::new([length]).expect("a shape may have one dimension");
        ClientError::InputShape { model: model.name.clone(), expected, got }
    })
}

fn random_id() -> Result<RequestId, ClientError> {
    let mut id = RequestId::default();
    getrandom::fill(&mut id.0).map_err(|error| ClientError::Random(error.to_string()))?;
    Ok(id)
}
