//! Scales of elementwise layers.

use super::exponent_for;
use crate::import::ImportError;
use crate::import::float::Step;
use crate::model::graph::{Affine, Tensor};
use crate::spec::rounding::{MAX_RIGHT_SHIFT, power_of_two};

/// Bits of magnitude of an elementwise multiplier: as many as a float32 has.
const MULTIPLIER_BITS: u32 = 24;

pub(super) fn quantize(
    step: &Step,
    scale: &[f64],
    offset: &[f64],
    input: &Tensor,
    output: &Tensor,
) -> Result<Affine, ImportError> {
    let mut affine = Affine { multipliers: Vec::new(), offsets: Vec::new(), shifts: Vec::new() };
    for (element, (&scale, &offset)) in scale.iter().zip(offset).enumerate() {
        let from = input.exponent_of(element);
        // The sum is at exponent `from + fine`; at least the output's, so that the shift is to the right.
        let least = output.exponent - from;
        let fine = if scale == 0.0 { least } else { exponent_for(scale.abs(), MULTIPLIER_BITS) };
        let fine = fine.clamp(least, least + MAX_RIGHT_SHIFT);
        let multiplier = (scale * power_of_two(fine)).round();
        let offset = (offset * power_of_two(from + fine)).round();
        let bound = multiplier.abs() * input.bound() as f64 + offset.abs();
        if multiplier.abs() > f64::from(i32::MAX) || bound >= power_of_two(61) {
            let what = format!("element {element}: scale {scale} and offset do not fit the ranges seen");
            return Err(ImportError::Range { layer: step.name.clone(), what });
        }
        affine.multipliers.push(multiplier as i32);
        affine.offsets.push(offset as i64);
        affine.shifts.push((from + fine - output.exponent) as u8);
    }
    Ok(affine)
}
