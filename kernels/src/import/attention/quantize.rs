//! Scales of products, softmax and layer normalisation.

use crate::import::ImportError;
use crate::import::float::Step;
use crate::import::quantize::exponent_for;
use crate::model::graph::{LayerNorm, Softmax, Tensor};
use crate::spec::curve::EXP2_INPUT_EXPONENT;
use crate::spec::layer_norm::NORMALIZED_EXPONENT;
use crate::spec::rounding::{MAX_RIGHT_SHIFT, power_of_two};

/// Bits of magnitude of a layer normalisation's multipliers: as many as a float32 has.
const MULTIPLIER_BITS: u32 = 24;
/// Bits of the multiplier of softmax's argument.
const SCALE_BITS: i32 = 30;

/// Largest magnitude of both operands of sums of `inner` products in 32 bits, with room for the half of a shift.
pub(crate) fn operand_limit(inner: usize) -> i64 {
    let most = ((power_of_two(31) - power_of_two(26)) / inner as f64).sqrt().floor();
    (most as i64).clamp(255, i16::MAX.into())
}

/// Whole bits of that magnitude.
pub(crate) fn operand_bits(inner: usize) -> u32 {
    (operand_limit(inner) + 1).ilog2()
}

pub(crate) fn softmax(step: &Step, group: usize, scale: f64, input: &Tensor) -> Result<Softmax, ImportError> {
    let factor = scale * std::f64::consts::LOG2_E * power_of_two(EXP2_INPUT_EXPONENT - input.exponent);
    let shift = (SCALE_BITS - 1 - factor.log2().floor() as i32).min(MAX_RIGHT_SHIFT);
    let multiplier = if shift < 0 { f64::INFINITY } else { (factor * power_of_two(shift)).round() };
    if !(1.0..=power_of_two(SCALE_BITS)).contains(&multiplier) {
        let what = format!("its scale {scale} does not fit inputs at exponent {}", input.exponent);
        return Err(ImportError::Range { layer: step.name.clone(), what });
    }
    Ok(Softmax { group, multiplier: multiplier as i32, shift: shift as u8 })
}

pub(crate) fn layer_norm(
    step: &Step,
    epsilon: f64,
    scale: &[f64],
    offset: &[f64],
    input: &Tensor,
) -> Result<LayerNorm, ImportError> {
    let group = scale.len() as f64;
    let epsilon = (epsilon * group * group * power_of_two(2 * input.exponent)).round();
    let largest = scale.iter().fold(0f64, |most, scale| most.max(scale.abs()));
    let exponent = exponent_for(largest, MULTIPLIER_BITS);
    let offsets: Vec<f64> =
        offset.iter().map(|offset| (offset * power_of_two(NORMALIZED_EXPONENT + exponent)).round()).collect();
    if epsilon > power_of_two(60) || offsets.iter().any(|offset| offset.abs() >= power_of_two(60)) {
        let what = "its epsilon or offsets are too large for the ranges seen".to_owned();
        return Err(ImportError::Range { layer: step.name.clone(), what });
    }
    Ok(LayerNorm {
        epsilon: epsilon.max(1.0) as i64,
        multipliers: scale.iter().map(|scale| (scale * power_of_two(exponent)).round() as i32).collect(),
        exponent,
        offsets: offsets.into_iter().map(|offset| offset as i64).collect(),
    })
}
