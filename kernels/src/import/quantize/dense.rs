//! Scales of dense layers.

use super::{Width, activation_of, exponent_for};
use crate::import::ImportError;
use crate::import::float::{Function, Step};
use crate::model::graph::{Dense, Element, Tensor, Weights};
use crate::spec::activation::{SIGMOID_INPUT_EXPONENT, TANH_INPUT_EXPONENT};
use crate::spec::rounding::{EXPONENTS, MAX_RIGHT_SHIFT, power_of_two};

/// Chooses a scale for each output's weights: the finest at which the weights fit 16 bits and the sum fits its
/// accumulator.
pub(super) fn quantize(
    width: Width,
    step: &Step,
    weights: &[f64],
    bias: &[f64],
    input: &Tensor,
    output: &mut Tensor,
    function: Option<Function>,
) -> Result<Dense, ImportError> {
    let inputs = weights.len() / bias.len();
    // What one unit of each element is worth, in units of the input's common scale.
    let factor = |element: usize| power_of_two(input.exponent - input.exponent_of(element));
    let argument = match function {
        Some(Function::Sigmoid) => SIGMOID_INPUT_EXPONENT,
        Some(Function::Tanh) => TANH_INPUT_EXPONENT,
        _ => output.exponent,
    };
    let limit = if width == Width::Narrow { f64::from(i32::MAX) } else { power_of_two(61) };
    let mut channels = Vec::with_capacity(bias.len());
    for (weights, &bias) in weights.chunks_exact(inputs).zip(bias) {
        let weights: Vec<f64> = weights.iter().enumerate().map(|(k, weight)| weight * factor(k)).collect();
        let largest = weights.iter().fold(0f64, |most, weight| most.max(weight.abs()));
        // No finer than a shift can undo.
        let longest = if width == Width::Narrow { 30 } else { MAX_RIGHT_SHIFT };
        let finest = (argument + longest - input.exponent).clamp(*EXPONENTS.start(), *EXPONENTS.end());
        let mut exponent = exponent_for(largest, 15).min(finest);
        let channel = loop {
            let channel = Channel::new(&weights, bias, input, exponent);
            let shift = input.exponent + exponent - argument;
            let half = if shift > 0 { power_of_two(shift - 1) } else { 0.0 };
            // At the coarsest scale there is, a weight may still exceed 16 bits.
            let fits = largest * power_of_two(exponent) < 32_768.0;
            if fits && -channel.least <= limit && channel.largest + half <= limit {
                break channel;
            }
            exponent -= 1;
            if exponent < *EXPONENTS.start() {
                let what = "its weights or bias are too large for any scale".to_owned();
                return Err(ImportError::Range { layer: step.name.clone(), what });
            }
        };
        channels.push(channel);
    }
    if output.element == Element::I32 {
        // Wide outputs keep what the sums have, and round as little as may be.
        let coarsest = channels.iter().map(|channel| channel.exponent).min().unwrap_or(0);
        output.exponent = output.exponent.min(input.exponent + coarsest).max(*EXPONENTS.start());
    }
    let exponents: Vec<i32> = channels.iter().map(|channel| channel.exponent).collect();
    let uniform = exponents.iter().all(|&exponent| exponent == exponents[0]);
    Ok(Dense {
        weight_exponents: if uniform { vec![exponents[0]] } else { exponents },
        bias: channels.iter().map(|channel| channel.bias).collect(),
        weights: Weights::I16(channels.into_iter().flat_map(|channel| channel.weights).collect()),
        activation: activation_of(function),
    })
}

/// One output's integers at a scale, and the interval of its sum.
struct Channel {
    exponent: i32,
    weights: Vec<i16>,
    bias: i64,
    least: f64,
    largest: f64,
}

impl Channel {
    fn new(weights: &[f64], bias: f64, input: &Tensor, exponent: i32) -> Channel {
        let scale = power_of_two(exponent);
        let weights: Vec<i16> = weights.iter().map(|weight| (weight * scale).round() as i16).collect();
        let bias = (bias * power_of_two(input.exponent + exponent)).round();
        let (mut least, mut largest) = (bias.min(0.0), bias.max(0.0));
        for &weight in &weights {
            let ends = [input.minimum, input.maximum].map(|end| f64::from(weight) * end as f64);
            least += ends[0].min(ends[1]);
            largest += ends[0].max(ends[1]);
        }
        // A bias beyond 64 bits saturates here, and its interval is refused.
        Channel { exponent, weights, bias: bias as i64, least, largest }
    }
}
