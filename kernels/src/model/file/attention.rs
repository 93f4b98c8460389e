//! Products, softmax and layer normalisation in the file.

use flatbuffers::{FlatBufferBuilder, Vector, WIPOffset};

use super::{list, schema};
use crate::model::LoadError;
use crate::model::graph::{LayerNorm, MatMul, Softmax};

pub(super) fn encode_matmul<'a>(
    b: &mut FlatBufferBuilder<'a>,
    matmul: &MatMul,
) -> WIPOffset<schema::MatMul<'a>> {
    let narrow = |places: &[usize]| places.iter().map(|&place| place as u32).collect::<Vec<_>>();
    let arguments = schema::MatMulArgs {
        matrices: matmul.matrices as u32,
        rows: matmul.rows as u32,
        inner: matmul.inner as u32,
        columns: matmul.columns as u32,
        left: Some(b.create_vector(&narrow(&matmul.left))),
        right: Some(b.create_vector(&narrow(&matmul.right))),
        output: Some(b.create_vector(&narrow(&matmul.output))),
    };
    schema::MatMul::create(b, &arguments)
}

pub(super) fn decode_matmul(matmul: schema::MatMul<'_>) -> Result<MatMul, LoadError> {
    Ok(MatMul {
        matrices: matmul.matrices() as usize,
        rows: matmul.rows() as usize,
        inner: matmul.inner() as usize,
        columns: matmul.columns() as usize,
        left: places(matmul.left())?,
        right: places(matmul.right())?,
        output: places(matmul.output())?,
    })
}

fn places<const N: usize>(vector: Option<Vector<'_, u32>>) -> Result<[usize; N], LoadError> {
    let places: Vec<usize> = vector.into_iter().flatten().map(|place| place as usize).collect();
    let malformed = |places: Vec<usize>| {
        LoadError::Malformed(format!("an operand of a product has {} places, not {N}", places.len()))
    };
    places.try_into().map_err(malformed)
}

pub(super) fn encode_softmax<'a>(
    b: &mut FlatBufferBuilder<'a>,
    softmax: &Softmax,
) -> WIPOffset<schema::Softmax<'a>> {
    let arguments = schema::SoftmaxArgs {
        group: softmax.group as u32,
        multiplier: softmax.multiplier,
        shift: softmax.shift,
    };
    schema::Softmax::create(b, &arguments)
}

pub(super) fn decode_softmax(softmax: schema::Softmax<'_>) -> Softmax {
    Softmax { group: softmax.group() as usize, multiplier: softmax.multiplier(), shift: softmax.shift() }
}

pub(super) fn encode_layer_norm<'a>(
    b: &mut FlatBufferBuilder<'a>,
    norm: &LayerNorm,
) -> WIPOffset<schema::LayerNorm<'a>> {
    let arguments = schema::LayerNormArgs {
        epsilon: norm.epsilon,
        multipliers: Some(b.create_vector(&norm.multipliers)),
        exponent: norm.exponent as i16,
        offsets: Some(b.create_vector(&norm.offsets)),
    };
    schema::LayerNorm::create(b, &arguments)
}

pub(super) fn decode_layer_norm(norm: schema::LayerNorm<'_>) -> LayerNorm {
    LayerNorm {
        epsilon: norm.epsilon(),
        multipliers: list(norm.multipliers()),
        exponent: norm.exponent().into(),
        offsets: list(norm.offsets()),
    }
}
