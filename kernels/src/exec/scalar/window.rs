//! Convolutions and pools: sections 7.9 and 7.10 of `SPEC.md`.

use super::super::scratch::Scratch;
use crate::model::graph::{Conv, Pool, Reduction, Tensor, Window};
use crate::model::plan::Region;
use crate::spec::rounding::requantize;

/// The taps of a place that meet the image: which tap of the kernel, and where on the image.
fn taps(window: &Window, place: [usize; 2]) -> impl Iterator<Item = (usize, usize)> {
    let [kernel_width, width] = [window.kernel[1], window.image[1]].map(|length| length as usize);
    let (rows, columns) = (window.taps_within(0, place[0]), window.taps_within(1, place[1]));
    (rows.0..rows.1).flat_map(move |i| (columns.0..columns.1).map(move |j| [i, j])).filter_map(
        move |[i, j]| {
            let (y, x) = (window.tap(0, place[0], i)?, window.tap(1, place[1], j)?);
            Some((i * kernel_width + j, y * width + x))
        },
    )
}

/// All places, row by row.
fn places(window: &Window) -> impl Iterator<Item = [usize; 2]> {
    let [rows, columns] = window.places();
    (0..rows).flat_map(move |row| (0..columns).map(move |column| [row, column]))
}

/// Section 7.9: as a dense layer, at each place.
pub(super) fn conv(
    layer: &Conv,
    input: &Tensor,
    output: &Tensor,
    scratch: &mut Scratch,
    from: Region,
    to: Region,
    row: usize,
) {
    let (channels, outputs) = (layer.window.channels as usize, layer.product.bias.len());
    let (group_channels, group_outputs) = (channels / layer.groups, outputs / layer.groups);
    let (exponent, minimum, maximum) = layer.product.activation.argument(output);
    for (place, at) in places(&layer.window).enumerate() {
        for channel in 0..outputs {
            let first = channel / group_outputs * group_channels;
            let weights = channel * layer.inputs();
            let mut sum = layer.product.bias[channel];
            for (tap, pixel) in taps(&layer.window, at) {
                let x = &scratch.i16_row(from, row)[pixel * channels + first..][..group_channels];
                for (index, &x) in x.iter().enumerate() {
                    let weight = layer.product.weights.get(weights + tap * group_channels + index);
                    sum += i64::from(weight) * i64::from(x);
                }
            }
            let shift = input.exponent + layer.product.weight_exponent(channel) - exponent;
            let value = requantize(sum, shift, minimum, maximum);
            let value = layer.product.activation.apply(value, output.exponent);
            scratch.set(to, row, place * outputs + channel, value);
        }
    }
}

/// Section 7.10.
pub(super) fn pool(
    pool: &Pool,
    output: &Tensor,
    scratch: &mut Scratch,
    from: Region,
    to: Region,
    row: usize,
) {
    let channels = pool.window.channels as usize;
    for (place, at) in places(&pool.window).enumerate() {
        for channel in 0..channels {
            let values =
                taps(&pool.window, at).map(|(_, pixel)| scratch.get(from, row, pixel * channels + channel));
            let value = match pool.reduction {
                Reduction::Max => values.max().expect("the loader has found an element for each place"),
                Reduction::Sum => requantize(
                    values.sum::<i64>() * i64::from(pool.multiplier),
                    pool.shift.into(),
                    output.minimum,
                    output.maximum,
                ),
            };
            scratch.set(to, row, place * channels + channel, value);
        }
    }
}
