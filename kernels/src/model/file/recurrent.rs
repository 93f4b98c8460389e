//! Recurrent layers in the file.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::{list, narrow, schema, widen};
use crate::model::LoadError;
use crate::model::graph::{Cell, Recurrent};

pub(super) fn encode<'a>(
    b: &mut FlatBufferBuilder<'a>,
    layer: &Recurrent,
) -> WIPOffset<schema::Recurrent<'a>> {
    let arguments = schema::RecurrentArgs {
        cell: match layer.cell {
            Cell::Lstm => schema::Cell::Lstm,
            Cell::Gru => schema::Cell::Gru,
        },
        input_weights: Some(b.create_vector(&layer.input_weights)),
        input_exponents: Some(b.create_vector(&narrow(&layer.input_exponents))),
        recurrent_weights: Some(b.create_vector(&layer.recurrent_weights)),
        recurrent_exponents: Some(b.create_vector(&narrow(&layer.recurrent_exponents))),
        bias: Some(b.create_vector(&layer.bias)),
        recurrent_bias: Some(b.create_vector(&layer.recurrent_bias)),
        cell_exponent: layer.cell_exponent as i16,
        initial_hidden: Some(b.create_vector(&layer.initial_hidden)),
        initial_cell: Some(b.create_vector(&layer.initial_cell)),
        last_only: layer.last_only,
    };
    schema::Recurrent::create(b, &arguments)
}

pub(super) fn decode(layer: schema::Recurrent<'_>) -> Result<Recurrent, LoadError> {
    Ok(Recurrent {
        cell: match layer.cell() {
            schema::Cell::Lstm => Cell::Lstm,
            schema::Cell::Gru => Cell::Gru,
            other => return Err(LoadError::Malformed(format!("unknown recurrent cell {}", other.0))),
        },
        input_weights: list(layer.input_weights()),
        input_exponents: widen(layer.input_exponents()),
        recurrent_weights: list(layer.recurrent_weights()),
        recurrent_exponents: widen(layer.recurrent_exponents()),
        bias: list(layer.bias()),
        recurrent_bias: list(layer.recurrent_bias()),
        cell_exponent: layer.cell_exponent().into(),
        initial_hidden: list(layer.initial_hidden()),
        initial_cell: list(layer.initial_cell()),
        last_only: layer.last_only(),
    })
}
