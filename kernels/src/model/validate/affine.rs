//! The proof of an elementwise layer.

use super::{LoadError, Proof, SUM_LIMIT, is_narrow};
use crate::model::graph::{Affine, Node, Tensor};
use crate::spec::rounding::MAX_RIGHT_SHIFT;

pub(super) fn check(
    node: &Node,
    affine: &Affine,
    input: &Tensor,
    output: &Tensor,
) -> Result<Proof, LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    let len = output.len();
    let lengths = [input.len(), affine.multipliers.len(), affine.offsets.len(), affine.shifts.len()];
    if lengths != [len; 4] || !is_narrow(input) || !is_narrow(output) {
        return fail(format!("input and constants must be of the output's length, {len}, and i16 or i32"));
    }
    for index in 0..len {
        if i32::from(affine.shifts[index]) > MAX_RIGHT_SHIFT {
            return fail(format!(
                "shift {} of element {index} is above {MAX_RIGHT_SHIFT}",
                affine.shifts[index]
            ));
        }
        let product = i128::from(affine.multipliers[index]).abs() * i128::from(input.bound());
        if product + i128::from(affine.offsets[index]).abs() >= SUM_LIMIT {
            return fail(format!("the sum of element {index} may exceed 62 bits"));
        }
    }
    Ok(Proof { accumulator_bits: 64, depth: 0 })
}
