//! The proofs of operators that work element by element on whole tensors.

use super::{LoadError, Proof, SUM_LIMIT, check_activation, check_shift, is_narrow};
use crate::model::graph::{Activation, Element, Node, Tensor};
use crate::spec::rounding::MAX_LEFT_SHIFT;

/// What all of them ask for: tensors of the output's length, `i16` or `i32`, of one exponent each.
pub(super) fn check_operands(node: &Node, inputs: &[&Tensor], output: &Tensor) -> Result<(), LoadError> {
    let fail = |what: &str| Err(LoadError::invalid(&node.name, what.into()));
    if inputs.iter().any(|input| input.len() != output.len() || !is_narrow(input)) || !is_narrow(output) {
        return fail("inputs and output must be of one length, i16 or i32");
    }
    if inputs.iter().any(|input| !input.exponents.is_empty()) {
        return fail("an input with exponents by element can only go into Dense, Affine or Recurrent");
    }
    Ok(())
}

pub(super) fn map(
    node: &Node,
    activation: Activation,
    input: &Tensor,
    output: &Tensor,
) -> Result<Proof, LoadError> {
    // What trees make is brought to a scale of fewer bits.
    let narrows = input.element == Element::I64 && input.len() == output.len() && is_narrow(output);
    if !narrows {
        check_operands(node, &[input], output)?;
    }
    check_activation(node, activation, output)?;
    check_shift(node, input.exponent - activation.argument(output).0)?;
    Ok(Proof { accumulator_bits: 64, depth: 0 })
}

pub(super) fn add(node: &Node, inputs: [&Tensor; 2], output: &Tensor) -> Result<Proof, LoadError> {
    check_operands(node, &inputs, output)?;
    let [a, b] = inputs.map(|input| input.exponent);
    if (a - b).abs() > MAX_LEFT_SHIFT - 2 {
        let what = "the exponents of its inputs are too far apart".into();
        return Err(LoadError::invalid(&node.name, what));
    }
    check_shift(node, a.max(b) - output.exponent)?;
    Ok(Proof { accumulator_bits: 64, depth: 0 })
}

pub(super) fn multiply(node: &Node, inputs: [&Tensor; 2], output: &Tensor) -> Result<Proof, LoadError> {
    check_operands(node, &inputs, output)?;
    let [a, b] = inputs;
    if i128::from(a.bound()) * i128::from(b.bound()) >= SUM_LIMIT {
        return Err(LoadError::invalid(&node.name, "its product may exceed 62 bits".into()));
    }
    check_shift(node, a.exponent + b.exponent - output.exponent)?;
    Ok(Proof { accumulator_bits: 64, depth: 0 })
}

/// Indices are integers, at exponent 0.
pub(super) fn arg_max(
    node: &Node,
    length: usize,
    inner: usize,
    input: &Tensor,
    output: &Tensor,
) -> Result<Proof, LoadError> {
    let fail = |what: &str| Err(LoadError::invalid(&node.name, what.into()));
    if !is_narrow(input) || !is_narrow(output) || !input.exponents.is_empty() {
        return fail("its input and output must be i16 or i32, the input of one exponent");
    }
    let outer = input.len() / length.max(1) / inner.max(1);
    let whole = [length, inner].into_iter().try_fold(outer, usize::checked_mul) == Some(input.len());
    if length == 0 || inner == 0 || !whole || outer * inner != output.len() {
        return fail("its lengths do not fit its input and output");
    }
    if output.exponent != 0 || output.minimum != 0 || output.maximum != length as i64 - 1 {
        return fail("its output must hold its indices: exponent 0, from 0 to the last");
    }
    Ok(Proof { accumulator_bits: 32, depth: 0 })
}

/// The output is some columns of what the input is one of.
pub(super) fn slide(node: &Node, input: &Tensor, output: &Tensor) -> Result<Proof, LoadError> {
    let alike = is_narrow(input)
        && input.element == output.element
        && input.exponent == output.exponent
        && (input.minimum, input.maximum) == (output.minimum, output.maximum);
    if !alike || output.len() <= input.len() || !output.len().is_multiple_of(input.len()) {
        return Err(LoadError::invalid(&node.name, "its output must be columns like its input".into()));
    }
    Ok(Proof { accumulator_bits: 32, depth: 0 })
}
