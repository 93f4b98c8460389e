//! Convolutions and pools in the file.

use flatbuffers::{FlatBufferBuilder, Vector, WIPOffset};

use super::{dense, list, schema};
use crate::model::LoadError;
use crate::model::graph::{Conv, Pool, Reduction, Window};

pub(super) fn encode_conv<'a>(b: &mut FlatBufferBuilder<'a>, conv: &Conv) -> WIPOffset<schema::Conv<'a>> {
    let window = Some(encode(b, &conv.window));
    let product = Some(dense::encode(b, &conv.product));
    schema::Conv::create(b, &schema::ConvArgs { window, groups: conv.groups as u32, product })
}

pub(super) fn encode_pool<'a>(b: &mut FlatBufferBuilder<'a>, pool: &Pool) -> WIPOffset<schema::Pool<'a>> {
    let arguments = schema::PoolArgs {
        window: Some(encode(b, &pool.window)),
        reduction: match pool.reduction {
            Reduction::Max => schema::Reduction::Max,
            Reduction::Sum => schema::Reduction::Sum,
        },
        multiplier: pool.multiplier,
        shift: pool.shift,
    };
    schema::Pool::create(b, &arguments)
}

fn encode<'a>(b: &mut FlatBufferBuilder<'a>, window: &Window) -> WIPOffset<schema::Window<'a>> {
    let arguments = schema::WindowArgs {
        image: Some(b.create_vector(&window.image)),
        channels: window.channels,
        kernel: Some(b.create_vector(&window.kernel)),
        strides: Some(b.create_vector(&window.strides)),
        dilations: Some(b.create_vector(&window.dilations)),
        padding: Some(b.create_vector(&[window.before, window.after].concat())),
    };
    schema::Window::create(b, &arguments)
}

pub(super) fn decode_conv(conv: schema::Conv<'_>) -> Result<Conv, LoadError> {
    let product = conv.product().ok_or_else(|| missing("a convolution's product"))?;
    Ok(Conv {
        window: decode(conv.window())?,
        groups: conv.groups() as usize,
        product: dense::decode(product)?,
    })
}

pub(super) fn decode_pool(pool: schema::Pool<'_>) -> Result<Pool, LoadError> {
    Ok(Pool {
        window: decode(pool.window())?,
        reduction: match pool.reduction() {
            schema::Reduction::Max => Reduction::Max,
            schema::Reduction::Sum => Reduction::Sum,
            other => return Err(LoadError::Malformed(format!("unknown reduction {}", other.0))),
        },
        multiplier: pool.multiplier(),
        shift: pool.shift(),
    })
}

fn decode(window: Option<schema::Window<'_>>) -> Result<Window, LoadError> {
    let window = window.ok_or_else(|| missing("a window"))?;
    let [top, left, bottom, right] = numbers(window.padding())?;
    Ok(Window {
        image: numbers(window.image())?,
        channels: window.channels(),
        kernel: numbers(window.kernel())?,
        strides: numbers(window.strides())?,
        dilations: numbers(window.dilations())?,
        before: [top, left],
        after: [bottom, right],
    })
}

fn numbers<const N: usize>(vector: Option<Vector<'_, u32>>) -> Result<[u32; N], LoadError> {
    list(vector).try_into().map_err(|_| LoadError::Malformed(format!("a window needs {N} numbers")))
}

fn missing(what: &str) -> LoadError {
    LoadError::Malformed(format!("{what} is missing"))
}
