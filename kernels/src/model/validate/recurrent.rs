//! The proof of a recurrent layer.

use super::{LoadError, Proof, SUM_LIMIT, check_shift};
use crate::model::graph::{Cell, Element, Node, Recurrent, Tensor};
use crate::spec::activation::{OUTPUT_EXPONENTS, one};
use crate::spec::recurrence::{STATE_BOUND, STATE_EXPONENTS};
use crate::spec::rounding::EXPONENTS;

/// Bounds the sum that meets the reset gate, so that its product with it stays below [`SUM_LIMIT`].
const RESET_LIMIT: i128 = 1 << 46;
/// Exponents of sums in a GRU's hidden gate: the shift after the reset gate is then one to the right. With 32-bit sums
/// it is by 17 to 32: the result then fits 32 bits before it saturates, and a logical shift finds it.
const RESET_EXPONENTS: std::ops::RangeInclusive<i32> = 0..=42;
const NARROW_RESET_EXPONENTS: std::ops::RangeInclusive<i32> = 14..=29;

/// Checks lengths, scales and states, and bounds both sums of every row.
pub(super) fn check(
    node: &Node,
    layer: &Recurrent,
    input: &Tensor,
    output: &Tensor,
) -> Result<Proof, LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    if input.element != Element::I16 || output.element != Element::I16 || !input.exponents.is_empty() {
        return fail("its input must be i16 of one exponent, and its output i16".into());
    }
    let (rows, gates) = (layer.bias.len(), layer.cell.gates());
    let hidden = rows / gates;
    let features = layer.input_weights.len() / rows.max(1);
    let steps = input.len() / features.max(1);
    let lengths = rows > 0
        && rows.is_multiple_of(gates)
        && features > 0
        && steps * features == input.len()
        && rows.checked_mul(features) == Some(layer.input_weights.len())
        && rows.checked_mul(hidden) == Some(layer.recurrent_weights.len())
        && layer.input_exponents.len() == rows
        && layer.recurrent_exponents.len() == rows
        && layer.recurrent_bias.len() == if layer.cell == Cell::Gru { hidden } else { 0 }
        && [0, hidden].contains(&layer.initial_cell.len())
        && (layer.initial_hidden.is_empty()
            || layer.cell == Cell::Lstm && layer.initial_hidden.len() == hidden);
    if !lengths {
        return fail(format!(
            "its weights, biases, exponents or states do not fit rows of {} elements",
            input.len()
        ));
    }
    let outputs = if layer.last_only { Some(hidden) } else { steps.checked_mul(hidden) };
    if outputs != Some(output.len()) {
        return fail(format!("{hidden} hidden units do not give {} outputs", output.len()));
    }
    if !OUTPUT_EXPONENTS.contains(&output.exponent) {
        return fail(format!("its output needs an exponent in {OUTPUT_EXPONENTS:?}"));
    }
    let one = one(output.exponent);
    if (output.minimum, output.maximum) != (-one, one) {
        return fail("its output must be bounded by one".into());
    }
    if !STATE_EXPONENTS.contains(&layer.cell_exponent) {
        return fail(format!(
            "the exponent {} of its state is not in {STATE_EXPONENTS:?}",
            layer.cell_exponent
        ));
    }
    let most = if layer.cell == Cell::Gru { 1 << layer.cell_exponent } else { STATE_BOUND };
    if layer.initial_cell.iter().any(|cell| cell.unsigned_abs() > most.unsigned_abs())
        || layer.initial_hidden.iter().any(|&state| i64::from(state).abs() > one)
    {
        return fail("an initial state is beyond its bound".into());
    }
    let mut narrow = true;
    for row in 0..rows {
        narrow &= check_row(node, layer, input, output, row)?;
    }
    Ok(Proof { accumulator_bits: if narrow { 32 } else { 64 }, depth: 0 })
}

/// Whether both sums of a row fit 32 bits.
fn check_row(
    node: &Node,
    layer: &Recurrent,
    input: &Tensor,
    output: &Tensor,
    row: usize,
) -> Result<bool, LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    let (hidden, features) = (layer.hidden(), layer.features());
    let (gate, unit) = (row / hidden, row % hidden);
    let exponents = [layer.input_exponents[row], layer.recurrent_exponents[row]];
    if let Some(exponent) = exponents.iter().find(|exponent| !EXPONENTS.contains(exponent)) {
        return fail(format!("exponent {exponent} of row {row} is not in {EXPONENTS:?}"));
    }
    let exponent = layer.sum_exponent(row, output);
    let input_shift = input.exponent + layer.input_exponents[row] - exponent;
    check_shift(node, input_shift)?;
    let inputs = &layer.input_weights[row * features..(row + 1) * features];
    let recurrent = &layer.recurrent_weights[row * hidden..(row + 1) * hidden];
    if inputs.iter().chain(recurrent).any(|&weight| weight == i16::MIN) {
        return fail(format!("a weight of row {row} is -32768; -32767 is the least"));
    }
    let bounded = |weights: &[i16], bound: u64, bias: i64, shift: i32| {
        let half = if shift > 0 { 1i128 << (shift - 1) } else { 0 };
        let products = weights.iter().map(|&weight| i128::from(weight).abs() * i128::from(bound));
        products.sum::<i128>() + i128::from(bias).abs() + half
    };
    let from_input = bounded(inputs, input.bound(), layer.bias[row], input_shift);
    // What the projection adds to the recurrent sum: nothing where the reset gate comes between.
    let is_reset = layer.cell == Cell::Gru && gate == 2;
    let (share, shift) = if is_reset {
        (layer.recurrent_bias[unit], 0)
    } else {
        (STATE_BOUND.into(), exponent - layer.cell.argument_exponent(gate))
    };
    check_shift(node, shift)?;
    let from_state = bounded(recurrent, output.bound(), share, shift);
    if from_input >= SUM_LIMIT || from_state >= SUM_LIMIT || (is_reset && from_state >= RESET_LIMIT) {
        return fail(format!("a sum of row {row} is too large"));
    }
    if is_reset && !RESET_EXPONENTS.contains(&exponent) {
        return fail(format!(
            "the exponent {exponent} of the sum of row {row} is not in {RESET_EXPONENTS:?}"
        ));
    }
    let limit = i128::from(i32::MAX);
    Ok(from_input <= limit
        && from_state <= limit
        && (0..=30).contains(&input_shift)
        && (0..=30).contains(&shift)
        && (!is_reset || NARROW_RESET_EXPONENTS.contains(&exponent)))
}
