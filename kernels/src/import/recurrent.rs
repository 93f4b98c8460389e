//! LSTM and GRU: from ONNX to the float graph, in double precision, and to fixed point.

use super::ImportError;
use super::array::Array;
use super::constant::Constant;
use super::float::{Operation, Step, Value};
use super::graph::{Known, NO_OUTPUT, Reader, refuse};
use super::onnx::NodeProto;
use super::quantize::exponent_for;
use crate::model::graph::{Cell, Recurrent, Tensor};
use crate::spec::activation::one;
use crate::spec::recurrence::{STATE_BOUND, STATE_EXPONENTS};
use crate::spec::rounding::{EXPONENTS, power_of_two};

/// A recurrent layer in floats. Rows of the matrices are `[gates][hidden]`, in ONNX's order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FloatRecurrent {
    pub(crate) cell: Cell,
    pub(crate) features: usize,
    pub(crate) hidden: usize,
    pub(crate) input_weights: Vec<f64>,
    pub(crate) recurrent_weights: Vec<f64>,
    /// Of both products; of the input's alone in a GRU's hidden gate.
    pub(crate) bias: Vec<f64>,
    /// GRU: of the recurrent product of the hidden gate.
    pub(crate) recurrent_bias: Vec<f64>,
    pub(crate) initial_hidden: Vec<f64>,
    /// LSTM only.
    pub(crate) initial_cell: Vec<f64>,
    pub(crate) last_only: bool,
}

/// The largest magnitudes that a layer met on the calibration rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Extent {
    pub(crate) cell: f64,
    /// The input's share of each row's sum.
    pub(crate) shares: Vec<f64>,
}

impl FloatRecurrent {
    /// All steps' hidden states, or the last one's.
    pub(crate) fn run(&self, x: &[f64], extent: &mut Extent) -> Vec<f64> {
        let rows = self.bias.len();
        extent.shares.resize(rows, 0.0);
        let mut hidden = self.initial_hidden.clone();
        let mut cell = self.initial_cell.clone();
        let mut outputs = Vec::new();
        for inputs in x.chunks_exact(self.features) {
            let mut shares = self.bias.clone();
            for ((share, weights), most) in
                shares.iter_mut().zip(self.input_weights.chunks_exact(self.features)).zip(&mut extent.shares)
            {
                *share += dot(weights, inputs);
                *most = most.max(share.abs());
            }
            let states: Vec<f64> = self
                .recurrent_weights
                .chunks_exact(self.hidden)
                .map(|weights| dot(weights, &hidden))
                .collect();
            for unit in 0..self.hidden {
                let [share, state] =
                    [&shares, &states].map(|of| move |gate: usize| of[gate * self.hidden + unit]);
                let gate = |gate: usize| sigmoid(share(gate) + state(gate));
                hidden[unit] = match self.cell {
                    Cell::Lstm => {
                        let candidate = (share(3) + state(3)).tanh();
                        cell[unit] = gate(2) * cell[unit] + gate(0) * candidate;
                        extent.cell = extent.cell.max(cell[unit].abs());
                        gate(1) * cell[unit].tanh()
                    }
                    Cell::Gru => {
                        let state = state(2) + self.recurrent_bias[unit];
                        let candidate = (share(2) + gate(1) * state).tanh();
                        (1.0 - gate(0)) * candidate + gate(0) * hidden[unit]
                    }
                };
            }
            if !self.last_only {
                outputs.extend_from_slice(&hidden);
            }
        }
        if self.last_only { hidden } else { outputs }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Reader {
    /// LSTM and GRU, forward, with ONNX's default activations.
    pub(super) fn recurrent(&mut self, node: &NodeProto) -> Result<(), ImportError> {
        let cell = if node.op_type.as_deref() == Some("LSTM") { Cell::Lstm } else { Cell::Gru };
        check_attributes(node, cell)?;
        let mut x = self.any_value(node, 0)?;
        let batch_first = node.int("layout", 0) != 0;
        if batch_first {
            x = self.steps_first(node, x)?;
        }
        let [Some(steps), None, Some(features)] = self.dimensions(x)[..] else {
            return refuse(node, "its input must have the dimensions steps, batch, features");
        };
        let (features, gates) = (features as usize, cell.gates());
        let input = self.constant(node, 1)?.clone();
        let recurrent = self.constant(node, 2)?.clone();
        let &[1, rows, width] = &input.shape[..] else {
            return refuse(
                node,
                format!("its weights have shape {:?}: one direction is needed", input.shape),
            );
        };
        let hidden = rows / gates;
        let fits = rows.is_multiple_of(gates)
            && hidden > 0
            && width == features
            && recurrent.shape == [1, rows, hidden]
            && [0, hidden as i64].contains(&node.int("hidden_size", 0));
        if !fits {
            let what = format!(
                "weights of {:?} and {:?} do not fit {features} features",
                input.shape, recurrent.shape
            );
            return refuse(node, what);
        }
        match self.optional(node, 4)? {
            Some(Known::Constant(lengths)) if lengths.values.iter().all(|&len| len == f64::from(steps)) => {}
            None => {}
            Some(_) => {
                return refuse(node, "sequence_lens is not supported: all windows have one length");
            }
        }
        let bias = self.state_or_zeros(node, 3, 2 * rows)?;
        let (mut bias, second) = (bias[..rows].to_vec(), &bias[rows..]);
        let merged = if cell == Cell::Gru { 2 * hidden } else { rows };
        bias[..merged].iter_mut().zip(second).for_each(|(bias, second)| *bias += second);
        let recurrent_bias = second[merged..].to_vec();
        let initial_hidden = self.state_or_zeros(node, 5, hidden)?;
        let initial_cell = match cell {
            Cell::Lstm => self.state_or_zeros(node, 6, hidden)?,
            Cell::Gru => Vec::new(),
        };
        if cell == Cell::Lstm && self.optional(node, 7)?.is_some() {
            return refuse(node, "peepholes are not supported");
        }
        if node.output.get(2).is_some_and(|name| !name.is_empty() && self.is_read(name)) {
            return refuse(
                node,
                "its last cell state is an output that is not supported: the hidden state is",
            );
        }
        let layer = FloatRecurrent {
            cell,
            features,
            hidden,
            input_weights: input.values,
            recurrent_weights: recurrent.values,
            bias,
            recurrent_bias,
            initial_hidden,
            initial_cell,
            last_only: false,
        };
        let operation = Operation::Recurrent(Box::new(layer));
        self.step(node, 0, operation, vec![x], vec![steps, 1, hidden as u32])?;
        self.set_batch_axis(if batch_first { 0 } else { 2 });
        if node.output.get(1).is_some_and(|name| !name.is_empty()) {
            let all = self.graph.steps.last().expect("a step was just added").output;
            let first = (steps as usize - 1) * hidden;
            let indices = (first..first + hidden).map(|index| index as i32).collect();
            let last = Operation::Move { indices, fill: 0.0 };
            self.step(node, 1, last, vec![all], vec![1, hidden as u32])?;
            self.set_batch_axis(if batch_first { 0 } else { 1 });
        }
        Ok(())
    }

    /// An input of layout 1 in the order of layout 0.
    fn steps_first(&mut self, node: &NodeProto, x: Value) -> Result<Value, ImportError> {
        let dimensions = self.dimensions(x);
        if dimensions.len() != 3 {
            return refuse(node, "its input must have the dimensions batch, steps, features");
        }
        let Some(array) = Array::whole(dimensions).and_then(|array| array.transposed(&[1, 0, 2])) else {
            return refuse(node, "its input has too many elements");
        };
        self.moved_values(node, NO_OUTPUT, vec![x], array, 0.0)?;
        Ok(self.last_value())
    }

    /// An optional input of `len` values for all rows of the batch alike.
    fn state_or_zeros(&self, node: &NodeProto, index: usize, len: usize) -> Result<Vec<f64>, ImportError> {
        match self.optional(node, index)? {
            None => Ok(vec![0.0; len]),
            Some(Known::Constant(Constant { values, .. })) if values.len() == len => Ok(values.clone()),
            Some(Known::Constant(Constant { shape, .. })) => {
                refuse(node, format!("its input {index} has shape {shape:?}; {len} values are needed"))
            }
            Some(Known::Value(_)) => {
                refuse(node, format!("its input {index} must be a constant: the same state for all rows"))
            }
        }
    }
}

fn check_attributes(node: &NodeProto, cell: Cell) -> Result<(), ImportError> {
    if node.text("direction").is_some_and(|direction| direction != "forward") {
        return refuse(node, "its direction must be forward");
    }
    if node.attribute("clip").is_some() || node.int("input_forget", 0) != 0 {
        return refuse(node, "clip and input_forget are not supported");
    }
    let defaults: &[&[u8]] = match cell {
        Cell::Lstm => &[b"sigmoid", b"tanh", b"tanh"],
        Cell::Gru => &[b"sigmoid", b"tanh"],
    };
    let activations = node.attribute("activations").map_or(&[][..], |attribute| &attribute.strings);
    let lower: Vec<Vec<u8>> = activations.iter().map(|name| name.to_ascii_lowercase()).collect();
    if !lower.is_empty() && lower != defaults {
        return refuse(node, "only the default activations are supported");
    }
    if cell == Cell::Gru && node.int("linear_before_reset", 0) != 1 {
        return refuse(node, "linear_before_reset must be 1, as PyTorch and Keras export it");
    }
    Ok(())
}

/// Bits of the input's share of a sum.
const SHARE_BITS: u32 = 30;

/// Chooses the scales of every row: for the recurrent products the finest at which weights fit 16 bits, the sum its
/// accumulator, and the shares seen in calibration, with headroom, their bound; for the input's products likewise.
pub(crate) fn quantize(
    step: &Step,
    layer: &FloatRecurrent,
    extent: &Extent,
    headroom: f64,
    narrow: bool,
    input: &Tensor,
    output: &Tensor,
) -> Result<Recurrent, ImportError> {
    let fail = |what: String| Err(ImportError::Range { layer: step.name.clone(), what });
    let cell_exponent = match layer.cell {
        Cell::Lstm => {
            let initial = layer.initial_cell.iter().fold(0f64, |most, cell| most.max(cell.abs()));
            exponent_for((extent.cell * headroom).max(initial), SHARE_BITS)
        }
        Cell::Gru => *STATE_EXPONENTS.end(),
    };
    let cell_exponent = cell_exponent.clamp(*STATE_EXPONENTS.start(), *STATE_EXPONENTS.end());
    if layer.initial_hidden.iter().any(|state| state.abs() > 1.0) {
        return fail("an initial hidden state exceeds 1, which no later one can".into());
    }
    let mut quantized = Recurrent {
        cell: layer.cell,
        input_weights: Vec::new(),
        input_exponents: Vec::new(),
        recurrent_weights: Vec::new(),
        recurrent_exponents: Vec::new(),
        bias: Vec::new(),
        recurrent_bias: Vec::new(),
        cell_exponent,
        initial_hidden: Vec::new(),
        initial_cell: Vec::new(),
        last_only: layer.last_only,
    };
    let most = one(output.exponent);
    let hidden = layer.initial_hidden.iter();
    let cells = |values: &[f64]| {
        let scaled = |value: &f64| (value * power_of_two(cell_exponent)).round();
        let bound = f64::from(STATE_BOUND);
        values.iter().map(|value| scaled(value).clamp(-bound, bound) as i32).collect::<Vec<_>>()
    };
    if layer.initial_hidden.iter().chain(&layer.initial_cell).any(|&state| state != 0.0) {
        match layer.cell {
            Cell::Lstm => {
                let scaled = |state: &f64| (state * power_of_two(output.exponent)).round() as i64;
                quantized.initial_hidden =
                    hidden.map(|state| scaled(state).clamp(-most, most) as i16).collect();
                quantized.initial_cell = cells(&layer.initial_cell);
            }
            Cell::Gru => quantized.initial_cell = cells(&layer.initial_hidden),
        }
    }
    for row in 0..layer.bias.len() {
        let share = extent.shares.get(row).copied().unwrap_or(0.0) * headroom;
        let Some(scaled) = Row::choose(layer, row, share, narrow, input, output) else {
            return fail(format!("the weights or bias of row {row} are too large for any scale"));
        };
        quantized.input_weights.extend(scaled.input);
        quantized.recurrent_weights.extend(scaled.recurrent);
        quantized.input_exponents.push(scaled.input_exponent);
        quantized.recurrent_exponents.push(scaled.sum_exponent - output.exponent);
        quantized.bias.push(scaled.bias);
        quantized.recurrent_bias.extend(scaled.recurrent_bias);
    }
    Ok(quantized)
}

/// The integers of one row.
struct Row {
    input: Vec<i16>,
    input_exponent: i32,
    recurrent: Vec<i16>,
    sum_exponent: i32,
    bias: i64,
    /// In a GRU's hidden gate.
    recurrent_bias: Option<i64>,
}

impl Row {
    fn choose(
        layer: &FloatRecurrent,
        row: usize,
        share: f64,
        narrow: bool,
        input: &Tensor,
        output: &Tensor,
    ) -> Option<Row> {
        let gate = row / layer.hidden;
        let argument = layer.cell.argument_exponent(gate);
        let inputs = &layer.input_weights[row * layer.features..(row + 1) * layer.features];
        let states = &layer.recurrent_weights[row * layer.hidden..(row + 1) * layer.hidden];
        let resets = layer.cell == Cell::Gru && gate == 2;
        let recurrent_bias = resets.then(|| layer.recurrent_bias[row - 2 * layer.hidden]);
        let limit = if narrow { f64::from(i32::MAX) } else { power_of_two(44) };
        let longest = if narrow { 30 } else { 44 };

        let finest = exponent_for(largest(inputs), 15).min(argument + 2 * longest - input.exponent);
        let input_exponent = (*EXPONENTS.start()..=finest).rev().find(|&exponent| {
            let half = power_of_two((input.exponent + exponent - argument - 1).clamp(-1, longest - 1));
            let products = absolute_sum(inputs, exponent) * input.bound() as f64;
            products + (layer.bias[row] * power_of_two(input.exponent + exponent)).abs() + half + 1.0 <= limit
        })?;
        // A shift to the left is for 64 bits only, and would gain nothing.
        let most = exponent_for(largest(states), 15) + output.exponent;
        let most = most.min(exponent_for(share, SHARE_BITS)).min(input.exponent + input_exponent);
        let most = most.min(if resets { 29 } else { argument + 30 });
        let least = if resets { 14 } else { argument };
        let sum_exponent = (least..=most).rev().find(|&exponent| {
            let start = match recurrent_bias {
                Some(bias) => (bias * power_of_two(exponent)).abs() + 1.0,
                None => f64::from(STATE_BOUND) + power_of_two((exponent - argument - 1).max(0)),
            };
            start + absolute_sum(states, exponent - output.exponent) * output.bound() as f64 <= limit
        })?;
        // No longer than a shift to the right may be.
        let input_exponent = input_exponent.min(sum_exponent + longest - input.exponent);
        Some(Row {
            input: scaled(inputs, input_exponent),
            input_exponent,
            recurrent: scaled(states, sum_exponent - output.exponent),
            sum_exponent,
            bias: (layer.bias[row] * power_of_two(input.exponent + input_exponent)).round() as i64,
            recurrent_bias: recurrent_bias.map(|bias| (bias * power_of_two(sum_exponent)).round() as i64),
        })
    }
}

fn largest(weights: &[f64]) -> f64 {
    weights.iter().fold(0f64, |most, weight| most.max(weight.abs()))
}

/// The sum of the magnitudes of the weights as integers.
fn absolute_sum(weights: &[f64], exponent: i32) -> f64 {
    let scale = power_of_two(exponent);
    weights.iter().map(|weight| (weight * scale).round().abs()).sum()
}

fn scaled(weights: &[f64], exponent: i32) -> Vec<i16> {
    let scale = power_of_two(exponent);
    weights.iter().map(|weight| (weight * scale).round() as i16).collect()
}
