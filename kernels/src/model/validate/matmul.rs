//! The proof of a product of computed matrices.

use super::{LoadError, Proof, check_shift, is_narrow};
use crate::model::graph::{Element, Graph, MatMul, Node, Operator, Tensor};

/// Products of elements in one row of the output.
const MAX_WORK: usize = 1 << 30;

pub(super) fn check(
    graph: &Graph,
    node: &Node,
    matmul: &MatMul,
    [left, right]: [&Tensor; 2],
    output: &Tensor,
) -> Result<Proof, LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    if [left, right].iter().any(|operand| operand.element != Element::I16) || !is_narrow(output) {
        return fail("its inputs must be i16 and its output i16 or i32".into());
    }
    if !left.exponents.is_empty() || !right.exponents.is_empty() {
        return fail("an input with exponents by element can only go into Dense, Affine or Recurrent".into());
    }
    // So a sum of two products fits 32 bits: what SIMD multiply-adds compute.
    let least = i64::from(i16::MIN);
    if left.minimum == least || right.minimum == least {
        return fail("the least value of an input is -32768; -32767 is the least allowed".into());
    }
    let (matrices, rows) = (matmul.matrices, matmul.rows);
    let (inner, columns) = (matmul.inner, matmul.columns);
    let counts = |operand: &[usize], counts: &[usize], len: usize| {
        let reach = counts.iter().zip(&operand[1..]).try_fold(operand[0], |reach, (&count, &distance)| {
            reach.checked_add(count.checked_sub(1)?.checked_mul(distance)?)
        });
        reach.is_some_and(|reach| reach < len)
    };
    let fits = counts(&matmul.left, &[matrices, rows, inner], left.len())
        && counts(&matmul.right, &[matrices, inner, columns], right.len())
        && counts(&matmul.output, &[matrices, rows], output.len());
    // Bounds the work: distances may be zero, so lengths alone do not.
    let work = inner.checked_mul(output.len()).is_some_and(|work| work <= MAX_WORK);
    if !fits || !work || columns == 0 || !covers(matmul, output.len()) {
        return fail(format!(
            "{matrices} products of {rows} × {inner} by {inner} × {columns} do not fit their tensors"
        ));
    }
    let shift = left.exponent + right.exponent - output.exponent;
    check_shift(node, shift)?;
    let half = if shift > 0 { 1i128 << (shift - 1) } else { 0 };
    let magnitudes = magnitudes(graph, node.inputs[0], matmul, left);
    let bound = magnitudes * i128::from(right.bound()) + half;
    // At most 2^30 products of 30 bits: never beyond 62 bits.
    let accumulator_bits = if bound < 1 << 31 && (0..=30).contains(&shift) { 32 } else { 64 };
    Ok(Proof { accumulator_bits, depth: 0 })
}

/// Whether each element of the output is written exactly once.
fn covers(matmul: &MatMul, len: usize) -> bool {
    let count = matmul.matrices.checked_mul(matmul.rows).and_then(|count| count.checked_mul(matmul.columns));
    if count != Some(len) {
        return false;
    }
    let mut written = vec![false; len];
    for matrix in 0..matmul.matrices {
        for row in 0..matmul.rows {
            let start = matmul.output[0] + matrix * matmul.output[1] + row * matmul.output[2];
            let Some(places) = written.get_mut(start..start + matmul.columns) else { return false };
            if places.iter().any(|&written| written) {
                return false;
            }
            places.fill(true);
        }
    }
    true
}

/// Bound of the sum of magnitudes of a row of the left operand. A row that is one softmax adds up to one, with less
/// than 2^-14 for the reciprocal's error and a half for each rounding.
fn magnitudes(graph: &Graph, left: usize, matmul: &MatMul, tensor: &Tensor) -> i128 {
    let whole = matmul.inner as i128 * i128::from(tensor.bound());
    let group = graph.nodes.iter().find_map(|node| match &node.operator {
        Operator::Softmax(softmax) if node.output == left => Some(softmax.group),
        _ => None,
    });
    let [first, matrix, row, column] = matmul.left;
    let rows_are_groups = group.is_some_and(|group| {
        let aligned = [first, matrix, row].iter().all(|place| place.is_multiple_of(group));
        group == matmul.inner && column == 1 && aligned
    });
    match rows_are_groups {
        true => whole.min((1 << tensor.exponent) + (1 << (tensor.exponent - 12)) + matmul.inner as i128),
        false => whole,
    }
}
