//! The proof of a move.

use super::{LoadError, Proof, is_narrow};
use crate::model::graph::{Move, Node, Tensor};

/// All tensors are of one element type and one scale, and the output's bounds contain what is moved there.
pub(super) fn check(
    node: &Node,
    elements: &Move,
    inputs: &[&Tensor],
    output: &Tensor,
) -> Result<Proof, LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    let alike = |input: &&Tensor| {
        input.element == output.element
            && input.exponent == output.exponent
            && input.exponents.is_empty()
            && output.minimum <= input.minimum
            && input.maximum <= output.maximum
    };
    if !is_narrow(output) || !inputs.iter().all(alike) {
        return fail(
            "its tensors must be of one element type, i16 or i32, one scale, and its output's bounds".into(),
        );
    }
    if elements.indices.len() != output.len() {
        return fail(format!("{} indices do not give {} elements", elements.indices.len(), output.len()));
    }
    // At most as many inputs as tensors of a row each.
    let total: usize = inputs.iter().map(|input| input.len()).sum();
    let beyond = |&&index: &&i32| index < -1 || usize::try_from(index).is_ok_and(|index| index >= total);
    if let Some(index) = elements.indices.iter().find(beyond) {
        return fail(format!("index {index} is beyond the {total} elements of its inputs"));
    }
    if elements.indices.contains(&-1) && !(output.minimum..=output.maximum).contains(&elements.fill) {
        return fail(format!("its constant {} is not within its output's bounds", elements.fill));
    }
    Ok(Proof { accumulator_bits: 32, depth: 0 })
}
