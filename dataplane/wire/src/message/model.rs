//! The model table, and how a model gets into it.
//!
//! A push is one stream: `PushModel`, then the file as `ModelChunk` frames, then the node's `Pushed` or `Refusal`.

use super::{DecodeError, Encoder, decode_root};
use crate::fb;
use crate::frame::{self, FrameKind};
use crate::ids::ModelId;
use crate::sign::SIGNATURE_LEN;
use crate::tensor::Shape;
use flatbuffers::{FlatBufferBuilder, ForwardsUOffset, Vector, WIPOffset};

/// The longest model name, in bytes.
pub const MAX_NAME: usize = 128;

/// One line of a node's model table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEntry {
    /// What requests say for it. Never used again for another model of this process.
    pub handle: u32,
    /// Its name; a later push under the same name takes the name over.
    pub name: String,
    /// SHA-256 of the compiled file.
    pub id: ModelId,
    /// Shape of one row of input.
    pub input_shape: Shape,
    /// Shape of one row of output.
    pub output_shape: Shape,
    /// Whether requests may carry the model's own i16 numbers.
    pub accepts_i16: bool,
    /// The most requests that run together.
    pub max_batch: u32,
    /// Shape of one time step, of a model that takes streams of them.
    pub step_shape: Option<Shape>,
    /// Why mode `zk` is not to be had for it; `None`: it is.
    pub zk_refused: Option<String>,
    /// Why mode `zk` takes no sealed inputs for it, where it is to be had; `None`: it does.
    pub sealed_refused: Option<String>,
}

/// The table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelList {
    /// Every model that is served.
    pub models: Vec<ModelEntry>,
}

/// Announces a model file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushModel {
    /// The name to serve it under.
    pub name: String,
    /// SHA-256 of the file.
    pub id: ModelId,
    /// Length of the file in bytes.
    pub length: u64,
    /// The operator's permit for this session; see [`OperatorKey::permit_push`](crate::sign::OperatorKey::permit_push).
    pub operator_signature: [u8; SIGNATURE_LEN],
}

/// The pushed model is being served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Its line in the table.
    pub model: ModelEntry,
}

/// Says whether a model may have this name: 1 to [`MAX_NAME`] letters, digits, `.`, `_` and `-`, a letter or digit
/// first. So a name is a file name, a metric label and a word on a command line as it is.
pub fn is_valid_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.len() <= MAX_NAME && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(word)
}

/// Appends the frame that asks for the model table.
pub fn encode_list_models(encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder
        .frame(FrameKind::ListModels, out, |builder| fb::ListModels::create(builder, &fb::ListModelsArgs {}));
}

/// Appends one frame of a model file.
pub fn encode_chunk(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&frame::header(FrameKind::ModelChunk, bytes.len()));
    out.extend_from_slice(bytes);
}

impl ModelList {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(FrameKind::ModelList, out, |builder| {
            let models = Some(models_to_fb(builder, &self.models));
            fb::ModelList::create(builder, &fb::ModelListArgs { models })
        });
    }

    /// Reads the payload of a `ModelList` frame.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let list = decode_root::<fb::ModelList<'_>>(payload)?;
        Ok(Self { models: models_from_fb(list.models())? })
    }
}

impl PushModel {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(FrameKind::PushModel, out, |builder| {
            let name = Some(builder.create_string(&self.name));
            let operator_signature = Some(builder.create_vector(&self.operator_signature));
            let args = fb::PushModelArgs {
                name,
                id: Some(&fb::Digest::new(&self.id.0)),
                length: self.length,
                operator_signature,
            };
            fb::PushModel::create(builder, &args)
        });
    }

    /// Reads the payload of a `PushModel` frame.
    ///
    /// # Errors
    /// If it is none, or the name is not [valid](is_valid_name).
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        let push = decode_root::<fb::PushModel<'_>>(payload)?;
        if !is_valid_name(push.name()) {
            let rule = "1 to 128 letters, digits, '.', '_', '-', beginning with a letter or digit";
            return Err(DecodeError::Field("model name", rule));
        }
        Ok(Self {
            name: push.name().to_owned(),
            id: ModelId(push.id().bytes().into()),
            length: push.length(),
            operator_signature: (push.operator_signature().bytes())
                .try_into()
                .map_err(|_| DecodeError::Field("operator signature", "a signature has 64 bytes"))?,
        })
    }
}

impl Pushed {
    /// Appends the frame to `out`.
    pub fn encode(&self, encoder: &mut Encoder, out: &mut Vec<u8>) {
        encoder.frame(FrameKind::Pushed, out, |builder| {
            let model = Some(entry_to_fb(builder, &self.model));
            fb::Pushed::create(builder, &fb::PushedArgs { model })
        });
    }

    /// Reads the payload of a `Pushed` frame.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { model: entry_from_fb(decode_root::<fb::Pushed<'_>>(payload)?.model())? })
    }
}

type Entries<'b> = Vector<'b, ForwardsUOffset<fb::Model<'b>>>;

pub(super) fn models_to_fb<'b>(
    builder: &mut FlatBufferBuilder<'b>,
    models: &[ModelEntry],
) -> WIPOffset<Entries<'b>> {
    let entries: Vec<_> = models.iter().map(|model| entry_to_fb(builder, model)).collect();
    builder.create_vector(&entries)
}

pub(super) fn models_from_fb(models: Entries<'_>) -> Result<Vec<ModelEntry>, DecodeError> {
    models.iter().map(entry_from_fb).collect()
}

fn entry_to_fb<'b>(builder: &mut FlatBufferBuilder<'b>, model: &ModelEntry) -> WIPOffset<fb::Model<'b>> {
    let name = Some(builder.create_string(&model.name));
    let input_shape = Some(builder.create_vector(model.input_shape.dims()));
    let output_shape = Some(builder.create_vector(model.output_shape.dims()));
    let step_shape = model.step_shape.map(|shape| builder.create_vector(shape.dims()));
    let zk_refused = model.zk_refused.as_ref().map(|why| builder.create_string(why));
    let sealed_refused = model.sealed_refused.as_ref().map(|why| builder.create_string(why));
    let args = fb::ModelArgs {
        handle: model.handle,
        name,
        id: Some(&fb::Digest::new(&model.id.0)),
        input_shape,
        output_shape,
        accepts_i16: model.accepts_i16,
        max_batch: model.max_batch,
        step_shape,
        zk_refused,
        sealed_refused,
    };
    fb::Model::create(builder, &args)
}

fn entry_from_fb(model: fb::Model<'_>) -> Result<ModelEntry, DecodeError> {
    let shape = |dims: Vector<'_, u32>| {
        Shape::new(dims.iter()).ok_or(DecodeError::Field("model shape", "at most 8 dimensions"))
    };
    Ok(ModelEntry {
        handle: model.handle(),
        name: model.name().to_owned(),
        id: ModelId(model.id().bytes().into()),
        input_shape: shape(model.input_shape())?,
        output_shape: shape(model.output_shape())?,
        accepts_i16: model.accepts_i16(),
        max_batch: model.max_batch(),
        step_shape: model.step_shape().map(shape).transpose()?,
        zk_refused: model.zk_refused().map(str::to_owned),
        sealed_refused: model.sealed_refused().map(str::to_owned),
    })
}
