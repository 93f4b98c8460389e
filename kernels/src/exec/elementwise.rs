//! Sums and affine layers, in loops that the compiler turns into vectors.

use super::scratch::Scratch;
use crate::model::graph::{Affine, Node, Operator, Tensor};
use crate::model::plan::{Arena, Plan, Region};

/// Computes a node for rows `0..rows`, if it is one of these layers and its tensors are `i16`.
///
/// # Safety
/// The processor must have AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn execute(
    tensors: &[Tensor],
    plan: &Plan,
    node: &Node,
    scratch: &mut Scratch,
    rows: usize,
) -> bool {
    let regions = || node.inputs.iter().chain([&node.output]).map(|&tensor| plan.regions[tensor]);
    if regions().any(|region| region.arena != Arena::I16) {
        return false;
    }
    let output = &tensors[node.output];
    let (len, to) = (output.len(), plan.regions[node.output]);
    let bounds = (output.minimum as i32, output.maximum as i32);
    match (&node.operator, &node.inputs[..]) {
        (Operator::Affine(affine), &[input]) => {
            for row in 0..rows {
                let ([x], y) = slices(scratch, [plan.regions[input]], to, row, len);
                scale(affine, x, y, bounds);
            }
            true
        }
        (&Operator::Add { subtract }, &[a, b]) => {
            let exponents = [a, b].map(|input| tensors[input].exponent);
            let common = exponents[0].max(exponents[1]);
            let shifts = exponents.map(|exponent| common - exponent);
            let shift = common - output.exponent;
            // With the half of the shift, both terms must fit 32 bits.
            if shifts.iter().any(|&shift| shift > 13) || !(0..=28).contains(&shift) {
                return false;
            }
            for row in 0..rows {
                let (x, y) = slices(scratch, [a, b].map(|input| plan.regions[input]), to, row, len);
                if subtract {
                    sum::<true>(x, shifts, shift, y, bounds);
                } else {
                    sum::<false>(x, shifts, shift, y, bounds);
                }
            }
            true
        }
        _ => false,
    }
}

/// The first `len` elements of a row of some inputs, and of the output.
fn slices<const N: usize>(
    scratch: &mut Scratch,
    from: [Region; N],
    to: Region,
    row: usize,
    len: usize,
) -> ([&[i16]; N], &mut [i16]) {
    let (inputs, output) = (from.map(|region| scratch.start(region, row)), scratch.start(to, row));
    let (values, _, _) = scratch.parts_mut();
    let apart = |&input: &usize| input + len <= output || output + len <= input;
    assert!(output + len <= values.len() && inputs.iter().all(|input| input + len <= values.len()));
    assert!(inputs.iter().all(apart), "the plan keeps an output apart from its inputs");
    let base = values.as_mut_ptr();
    // SAFETY: asserted above: all lie within the arena, whose borrow they take over, and what is written is read by none.
    unsafe {
        let inputs = inputs.map(|input| std::slice::from_raw_parts(base.add(input).cast_const(), len));
        (inputs, std::slice::from_raw_parts_mut(base.add(output), len))
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn scale(affine: &Affine, x: &[i16], y: &mut [i16], (minimum, maximum): (i32, i32)) {
    let constants = affine.multipliers.iter().zip(&affine.offsets).zip(&affine.shifts);
    for ((y, &x), ((&multiplier, &offset), &shift)) in y.iter_mut().zip(x).zip(constants) {
        let half = (1i64 << shift) >> 1;
        let value = (i64::from(x) * i64::from(multiplier) + offset + half) >> shift;
        *y = value.clamp(minimum.into(), maximum.into()) as i16;
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum<const SUBTRACT: bool>(
    [a, b]: [&[i16]; 2],
    shifts: [i32; 2],
    shift: i32,
    y: &mut [i16],
    (minimum, maximum): (i32, i32),
) {
    let half = (1i32 << shift) >> 1;
    for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
        let (a, b) = (i32::from(a) << shifts[0], i32::from(b) << shifts[1]);
        let total = if SUBTRACT { a - b } else { a + b };
        *y = ((total + half) >> shift).clamp(minimum, maximum) as i16;
    }
}
