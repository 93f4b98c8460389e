//! Dense layers in the file.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::{decode_activation, encode_activation, list, narrow, schema, widen};
use crate::model::LoadError;
use crate::model::graph::{Dense, Weights};

pub(super) fn encode<'a>(b: &mut FlatBufferBuilder<'a>, dense: &Dense) -> WIPOffset<schema::Dense<'a>> {
    let (weights8, weights16) = match &dense.weights {
        Weights::I8(values) => (Some(b.create_vector(values)), None),
        Weights::I16(values) => (None, Some(b.create_vector(values))),
    };
    let (activation, slope) = encode_activation(dense.activation);
    let arguments = schema::DenseArgs {
        weights8,
        weights16,
        weight_exponents: Some(b.create_vector(&narrow(&dense.weight_exponents))),
        bias: Some(b.create_vector(&dense.bias)),
        activation,
        slope,
    };
    schema::Dense::create(b, &arguments)
}

pub(super) fn decode(dense: schema::Dense<'_>) -> Result<Dense, LoadError> {
    let weights = match (dense.weights8(), dense.weights16()) {
        (Some(values), None) => Weights::I8(list(Some(values))),
        (None, Some(values)) => Weights::I16(list(Some(values))),
        _ => return Err(LoadError::Malformed("a dense layer needs weights of exactly one width".into())),
    };
    Ok(Dense {
        weights,
        weight_exponents: widen(dense.weight_exponents()),
        bias: list(dense.bias()),
        activation: decode_activation(dense.activation(), dense.slope())?,
    })
}
