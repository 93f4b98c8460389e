//! Products of computed matrices, softmax and layer normalisation.

use crate::exec::scratch::Scratch;
use crate::model::graph::{LayerNorm, MatMul, Softmax, Tensor};
use crate::model::plan::Region;
use crate::spec::layer_norm::{Moments, NORMALIZED_EXPONENT};
use crate::spec::rounding::requantize;
use crate::spec::softmax;

/// Section 7.13.
pub(super) fn matmul(
    matmul: &MatMul,
    shift: i32,
    output: &Tensor,
    scratch: &mut Scratch,
    [left, right]: [Region; 2],
    to: Region,
    row: usize,
) {
    for matrix in 0..matmul.matrices {
        for i in 0..matmul.rows {
            for j in 0..matmul.columns {
                let mut sum = 0;
                for k in 0..matmul.inner {
                    let [at, by_matrix, by_row, by_column] = matmul.left;
                    let a = scratch.get(left, row, at + matrix * by_matrix + i * by_row + k * by_column);
                    let [at, by_matrix, by_row, by_column] = matmul.right;
                    let b = scratch.get(right, row, at + matrix * by_matrix + k * by_row + j * by_column);
                    sum += a * b;
                }
                let value = requantize(sum, shift, output.minimum, output.maximum);
                let [at, by_matrix, by_row] = matmul.output;
                scratch.set(to, row, at + matrix * by_matrix + i * by_row + j, value);
            }
        }
    }
}

/// Section 7.14, group by group.
pub(super) fn softmax(
    layer: &Softmax,
    output: &Tensor,
    scratch: &mut Scratch,
    from: Region,
    to: Region,
    row: usize,
) {
    let scale = softmax::Scale { multiplier: layer.multiplier, shift: layer.shift.into() };
    for first in (0..output.len()).step_by(layer.group) {
        let elements = first..first + layer.group;
        let largest = elements.clone().map(|element| scratch.get(from, row, element)).max().unwrap_or(0);
        let exponential = |scratch: &Scratch, element: usize| {
            i64::from(scale.exponential(largest - scratch.get(from, row, element)))
        };
        let sum: i64 = elements.clone().map(|element| exponential(scratch, element)).sum();
        let (factor, shift) = softmax::share(sum as u64, output.exponent);
        for element in elements {
            let product = exponential(scratch, element) * i64::from(factor);
            scratch.set(to, row, element, requantize(product, shift, output.minimum, output.maximum));
        }
    }
}

/// Section 7.15.
pub(super) fn layer_norm(
    layer: &LayerNorm,
    output: &Tensor,
    scratch: &mut Scratch,
    from: Region,
    to: Region,
    row: usize,
) {
    let group = layer.multipliers.len();
    let length = group as i64;
    let shift = NORMALIZED_EXPONENT + layer.exponent - output.exponent;
    for first in (0..output.len()).step_by(group) {
        let values = || (first..first + group).map(|element| scratch.get(from, row, element));
        let (sum, squares) = (values().sum(), values().map(|x| x * x).sum());
        let moments = Moments::new(length, sum, squares, layer.epsilon);
        for (index, (&multiplier, &offset)) in layer.multipliers.iter().zip(&layer.offsets).enumerate() {
            let normalized = moments.normalized(length, scratch.get(from, row, first + index));
            let sum = normalized * i64::from(multiplier) + offset;
            let value = requantize(sum, shift, output.minimum, output.maximum);
            scratch.set(to, row, first + index, value);
        }
    }
}
