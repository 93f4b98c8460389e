//! The reference executor: `SPEC.md`, section by section, in plain loops. Speed is not its purpose.

mod attention;
mod window;

use super::scratch::Scratch;
use super::{recurrent, slide};
use crate::model::Model;
use crate::model::graph::{Activation, Affine, Dense, Finish, Move, Node, Operator, Tensor, Trees, Weights};
use crate::model::plan::Region;
use crate::spec::activation::{WIDE_INPUT_EXPONENT, wide_sigmoid};
use crate::spec::rounding::requantize;

/// Computes `node` for rows `0..rows`.
pub(crate) fn execute(model: &Model, node: &Node, scratch: &mut Scratch, rows: usize) {
    let tensors = &model.graph.tensors;
    let (output, to) = (&tensors[node.output], model.plan.regions[node.output]);
    let (input, from) = (&tensors[node.inputs[0]], model.plan.regions[node.inputs[0]]);
    for row in 0..rows {
        match &node.operator {
            Operator::Dense(layer) => dense(layer, input, output, scratch, from, to, row),
            Operator::Affine(constants) => affine(constants, output, scratch, from, to, row),
            &Operator::Add { subtract } => {
                let (other, other_from) = (&tensors[node.inputs[1]], model.plan.regions[node.inputs[1]]);
                add([input, other], subtract, output, scratch, [from, other_from], to, row);
            }
            Operator::Multiply => {
                let (other, other_from) = (&tensors[node.inputs[1]], model.plan.regions[node.inputs[1]]);
                multiply([input, other], output, scratch, [from, other_from], to, row);
            }
            Operator::Map(activation) => map(*activation, input, output, scratch, from, to, row),
            Operator::Recurrent(layer) => {
                let walk = recurrent::Walk::new(model, node, layer);
                recurrent::execute(layer, walk, [input, output], scratch, [from, to], row);
            }
            Operator::Trees(ensemble) => trees(ensemble, scratch, from, to, row),
            Operator::Move(elements) => moves(elements, model, node, scratch, row),
            Operator::Conv(layer) => window::conv(layer, input, output, scratch, from, to, row),
            Operator::Pool(pool) => window::pool(pool, output, scratch, from, to, row),
            &Operator::ArgMax { length, inner } => {
                arg_max([length, inner], output.len(), scratch, from, to, row);
            }
            Operator::MatMul(factors) => {
                let (right, right_from) = (&tensors[node.inputs[1]], model.plan.regions[node.inputs[1]]);
                let shift = input.exponent + right.exponent - output.exponent;
                attention::matmul(factors, shift, output, scratch, [from, right_from], to, row);
            }
            Operator::Softmax(layer) => attention::softmax(layer, output, scratch, from, to, row),
            Operator::LayerNorm(layer) => attention::layer_norm(layer, output, scratch, from, to, row),
            Operator::Slide => slide::execute(model, node, scratch, row),
        }
    }
}

/// Section 7.1: an exact sum, one requantisation, the activation.
fn dense(
    layer: &Dense,
    input: &Tensor,
    output: &Tensor,
    scratch: &mut Scratch,
    from: Region,
    to: Region,
    row: usize,
) {
    let inputs = input.len();
    let (exponent, minimum, maximum) = layer.activation.argument(output);
    for channel in 0..output.len() {
        let x = &scratch.i16_row(from, row)[..inputs];
        let row_weights = channel * inputs..(channel + 1) * inputs;
        let sum = layer.bias[channel]
            + match &layer.weights {
                Weights::I8(weights) => dot(x, &weights[row_weights]),
                Weights::I16(weights) => dot(x, &weights[row_weights]),
            };
        let shift = input.exponent + layer.weight_exponent(channel) - exponent;
        let value = requantize(sum, shift, minimum, maximum);
        scratch.set(to, row, channel, layer.activation.apply(value, output.exponent));
    }
}

fn dot<W: Copy + Into<i64>>(x: &[i16], weights: &[W]) -> i64 {
    x.iter().zip(weights).map(|(&x, &weight)| i64::from(x) * weight.into()).sum()
}

/// Section 7.2.
fn affine(constants: &Affine, output: &Tensor, scratch: &mut Scratch, from: Region, to: Region, row: usize) {
    for element in 0..output.len() {
        let product = scratch.get(from, row, element) * i64::from(constants.multipliers[element]);
        let sum = product + constants.offsets[element];
        let value = requantize(sum, constants.shifts[element].into(), output.minimum, output.maximum);
        scratch.set(to, row, element, value);
    }
}

/// Section 7.3: both inputs are brought to the finer scale exactly, added or subtracted, and rounded once.
fn add(
    inputs: [&Tensor; 2],
    subtract: bool,
    output: &Tensor,
    scratch: &mut Scratch,
    from: [Region; 2],
    to: Region,
    row: usize,
) {
    let exponent = inputs[0].exponent.max(inputs[1].exponent);
    for element in 0..output.len() {
        let [a, b] =
            [0, 1].map(|side| scratch.get(from[side], row, element) << (exponent - inputs[side].exponent));
        let sum = if subtract { a - b } else { a + b };
        let value = requantize(sum, exponent - output.exponent, output.minimum, output.maximum);
        scratch.set(to, row, element, value);
    }
}

/// Section 7.4.
fn map(
    activation: Activation,
    input: &Tensor,
    output: &Tensor,
    scratch: &mut Scratch,
    from: Region,
    to: Region,
    row: usize,
) {
    let (exponent, minimum, maximum) = activation.argument(output);
    for element in 0..output.len() {
        let value = scratch.get(from, row, element);
        let argument = requantize(value, input.exponent - exponent, minimum, maximum);
        scratch.set(to, row, element, activation.apply(argument, output.exponent));
    }
}

/// Section 7.11.
fn multiply(
    inputs: [&Tensor; 2],
    output: &Tensor,
    scratch: &mut Scratch,
    from: [Region; 2],
    to: Region,
    row: usize,
) {
    let shift = inputs[0].exponent + inputs[1].exponent - output.exponent;
    for element in 0..output.len() {
        let product = scratch.get(from[0], row, element) * scratch.get(from[1], row, element);
        scratch.set(to, row, element, requantize(product, shift, output.minimum, output.maximum));
    }
}

/// Section 7.8.
fn moves(elements: &Move, model: &Model, node: &Node, scratch: &mut Scratch, row: usize) {
    let to = model.plan.regions[node.output];
    for (element, &index) in elements.indices.iter().enumerate() {
        let mut value = elements.fill;
        if let Ok(mut index) = usize::try_from(index) {
            for &input in &node.inputs {
                let len = model.graph.tensors[input].len();
                if index < len {
                    value = scratch.get(model.plan.regions[input], row, index);
                    break;
                }
                index -= len;
            }
        }
        scratch.set(to, row, element, value);
    }
}

/// Section 7.12: the first of the largest.
fn arg_max(
    [length, inner]: [usize; 2],
    outputs: usize,
    scratch: &mut Scratch,
    from: Region,
    to: Region,
    row: usize,
) {
    for element in 0..outputs {
        let first = element / inner * length * inner + element % inner;
        let value = |index: usize| scratch.get(from, row, first + index * inner);
        let largest =
            (1..length).fold(0, |best, index| if value(index) > value(best) { index } else { best });
        scratch.set(to, row, element, largest as i64);
    }
}

/// Section 7.5: walks every tree, adds its leaf's entries, finishes the sums.
fn trees(ensemble: &Trees, scratch: &mut Scratch, from: Region, to: Region, row: usize) {
    let targets = ensemble.base.len();
    for target in 0..targets {
        scratch.set(to, row, target, ensemble.base[target]);
    }
    for &root in &ensemble.roots {
        let leaf = walk(ensemble, root, scratch.i32_row(from, row));
        add_leaf(ensemble, leaf, &mut scratch.i64_row_mut(to, row)[..targets]);
    }
    finish(ensemble, scratch.i64_row_mut(to, row));
}

fn walk(ensemble: &Trees, root: i32, keys: &[i32]) -> usize {
    let mut at = root;
    while let Ok(node) = usize::try_from(at) {
        let key = keys[ensemble.features[node] as usize];
        at = if key <= ensemble.thresholds[node] {
            ensemble.when_true[node]
        } else {
            ensemble.when_false[node]
        };
    }
    !at as usize
}

pub(super) fn add_leaf(ensemble: &Trees, leaf: usize, sums: &mut [i64]) {
    let entries = ensemble.leaf_entries[leaf] as usize..ensemble.leaf_entries[leaf + 1] as usize;
    for entry in entries {
        sums[usize::from(ensemble.entry_targets[entry])] += i64::from(ensemble.entry_values[entry]);
    }
}

/// Turns the sums at the head of `values` into the outputs.
pub(super) fn finish(ensemble: &Trees, values: &mut [i64]) {
    let sigmoid = |sum: i64| {
        let shift = ensemble.sum_exponent - WIDE_INPUT_EXPONENT;
        wide_sigmoid(requantize(sum, shift, -(1 << 62), 1 << 62))
    };
    let sum = values[0];
    match ensemble.finish {
        Finish::Sum => {}
        Finish::Complement => values[..2].copy_from_slice(&[(1 << ensemble.sum_exponent) - sum, sum]),
        Finish::Negate => values[..2].copy_from_slice(&[-sum, sum]),
        Finish::Logistic => {
            values[..ensemble.base.len()].iter_mut().for_each(|value| *value = sigmoid(*value))
        }
        Finish::LogisticPair => {
            let positive = sigmoid(sum);
            values[..2].copy_from_slice(&[(1 << 30) - positive, positive]);
        }
    }
}
