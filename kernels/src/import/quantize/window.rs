//! Scales of convolutions and pools.

use super::{Width, dense, exponent_for};
use crate::import::ImportError;
use crate::import::float::{FloatConv, FloatPool, Function, Step};
use crate::model::graph::{Conv, Pool, Reduction, Tensor};
use crate::spec::rounding::{MAX_RIGHT_SHIFT, power_of_two};

/// Bits of magnitude of a sum's multiplier: as many as a float32 has.
const MULTIPLIER_BITS: u32 = 24;

/// As a dense layer of the kernel's elements.
pub(super) fn conv(
    width: Width,
    step: &Step,
    conv: &FloatConv,
    input: &Tensor,
    output: &mut Tensor,
    function: Option<Function>,
) -> Result<Conv, ImportError> {
    // Padding is zero, whatever the bounds.
    let input = Tensor { minimum: input.minimum.min(0), maximum: input.maximum.max(0), ..input.clone() };
    let product = dense::quantize(width, step, &conv.weights, &conv.bias, &input, output, function)?;
    Ok(Conv { window: conv.window, groups: conv.groups, product })
}

pub(super) fn pool(
    step: &Step,
    pool: &FloatPool,
    input: &Tensor,
    output: &Tensor,
) -> Result<Pool, ImportError> {
    let (window, reduction) = (pool.window, pool.reduction);
    if reduction == Reduction::Max {
        return Ok(Pool { window, reduction, multiplier: 1, shift: 0 });
    }
    // The sum is at the input's exponent, its product with the multiplier finer by `fine`, which is no finer than the
    // multiplier's bits and 62 bits of the product allow.
    let least = output.exponent - input.exponent;
    let most = exponent_for(window.taps() as f64 * input.bound() as f64 * pool.scale.abs(), 61);
    let fine = exponent_for(pool.scale.abs(), MULTIPLIER_BITS).min(most);
    let fine = fine.clamp(least, least + MAX_RIGHT_SHIFT);
    let multiplier = (pool.scale * power_of_two(fine)).round();
    let product = multiplier.abs() * window.taps() as f64 * input.bound() as f64;
    if multiplier.abs() > f64::from(i32::MAX) || product >= power_of_two(61) {
        let what = "its scale does not fit the ranges seen".to_owned();
        return Err(ImportError::Range { layer: step.name.clone(), what });
    }
    Ok(Pool { window, reduction, multiplier: multiplier as i32, shift: (fine - least) as u8 })
}
