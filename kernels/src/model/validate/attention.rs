//! The proofs of softmax and layer normalisation.

use super::{LoadError, Proof, SUM_LIMIT, check_shift, is_narrow};
use crate::model::graph::{Element, LayerNorm, Node, Softmax, Tensor};
use crate::spec::activation::one;
use crate::spec::rounding::{EXPONENTS, MAX_RIGHT_SHIFT};
use crate::spec::{layer_norm, softmax};

pub(super) fn softmax(
    node: &Node,
    softmax: &Softmax,
    input: &Tensor,
    output: &Tensor,
) -> Result<Proof, LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    check_groups(node, softmax.group, softmax::MAX_GROUP, input, output)?;
    // So that the distance of any two values fits 31 bits.
    if !is_narrow(input) || input.bound() >= 1 << 30 {
        return fail("its input must be i16, or i32 of magnitudes below 2^30".into());
    }
    let exponents = softmax::OUTPUT_EXPONENTS;
    let fits = output.element == Element::I16 && exponents.contains(&output.exponent);
    if !fits || (output.minimum, output.maximum) != (0, one(output.exponent)) {
        return fail(format!("its output must be i16 at an exponent in {exponents:?}, from zero to one"));
    }
    if !(1..=1 << 30).contains(&softmax.multiplier) || i32::from(softmax.shift) > MAX_RIGHT_SHIFT {
        let (multiplier, shift) = (softmax.multiplier, softmax.shift);
        return fail(format!(
            "multiplier {multiplier} or shift {shift} is not in 1..=2^30 or 0..={MAX_RIGHT_SHIFT}"
        ));
    }
    Ok(Proof { accumulator_bits: 32, depth: 0 })
}

pub(super) fn layer_norm(
    node: &Node,
    norm: &LayerNorm,
    input: &Tensor,
    output: &Tensor,
) -> Result<Proof, LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    let group = norm.multipliers.len();
    check_groups(node, group, layer_norm::MAX_GROUP, input, output)?;
    if input.element != Element::I16 || !is_narrow(output) || norm.offsets.len() != group {
        return fail(
            "its input must be i16, its output i16 or i32, its constants one for each element".into(),
        );
    }
    if !(1..=1 << 60).contains(&norm.epsilon) || !EXPONENTS.contains(&norm.exponent) {
        return fail(format!("epsilon {} or exponent {} is out of range", norm.epsilon, norm.exponent));
    }
    let shift = layer_norm::NORMALIZED_EXPONENT + norm.exponent - output.exponent;
    check_shift(node, shift)?;
    // Where the shifted sum fits 32 bits, and the sum with the half of the shift 62, it is computed in vectors.
    let mut accumulator_bits = if (1..=60).contains(&shift) { 32 } else { 64 };
    for (&multiplier, &offset) in norm.multipliers.iter().zip(&norm.offsets) {
        let product = i128::from(multiplier).abs() * i128::from(layer_norm::NORMALIZED_BOUND);
        let bound = product + i128::from(offset).abs();
        if bound >= SUM_LIMIT {
            return fail("a sum may exceed 62 bits".into());
        }
        if bound >= SUM_LIMIT / 2 || (shift > 0 && (bound >> shift) + 1 >= 1 << 31) {
            accumulator_bits = 64;
        }
    }
    Ok(Proof { accumulator_bits, depth: 0 })
}

/// Whole groups of a bounded length, of as many elements out as in.
fn check_groups(
    node: &Node,
    group: usize,
    most: usize,
    input: &Tensor,
    output: &Tensor,
) -> Result<(), LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    if !(1..=most).contains(&group) || !input.len().is_multiple_of(group) || input.len() != output.len() {
        return fail(format!(
            "{} inputs and {} outputs are not groups of {group}, at most {most}",
            input.len(),
            output.len()
        ));
    }
    if !input.exponents.is_empty() {
        return fail("an input with exponents by element can only go into Dense, Affine or Recurrent".into());
    }
    Ok(())
}
