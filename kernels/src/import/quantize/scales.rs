//! What is chosen for all values before any layer: bits, scales that several values share, and which are served.

use super::{Width, Widths, exponent_for};
use crate::import::CompileOptions;
use crate::import::attention;
use crate::import::calibrate::Ranges;
use crate::import::float::{FloatGraph, Function, Operation, Step, Value};
use crate::import::recurrent::FloatRecurrent;
use crate::model::graph::Reduction;

/// By value.
pub(super) struct Scales {
    /// Bits of magnitude of an `i16` tensor.
    pub(super) bits: Vec<u32>,
    /// Its largest magnitude: of that many bits, or some more where only products of computed matrices read it.
    pub(super) limits: Vec<i64>,
    /// The exponent that values share because a move or a maximum brings them together.
    pub(super) shared: Vec<Option<i32>>,
    /// Whether only the output is made of it: it is then of 32 bits.
    pub(super) served: Vec<bool>,
}

/// Bits of magnitude of activations that go into sums of `inputs` products in 32 bits.
///
/// With `b` bits of activations, weights get about `31 - b - log2(inputs)` on average. The relative errors of the two
/// roundings are then equal where `2^(2b)` is about `2^33 / inputs`, if activations use their whole range; headroom costs
/// them one bit more, which the 35 gives back (measured on the shipped perceptron: 33 has 1.6 times the error).
pub(super) fn activation_bits(inputs: usize) -> u32 {
    let log = inputs.next_power_of_two().trailing_zeros();
    (35u32.saturating_sub(log) / 2).clamp(8, 15)
}

/// Bits of a recurrent layer's own states, which go into its products.
pub(super) fn recurrent_bits(layer: &FloatRecurrent, width: Width) -> u32 {
    if width == Width::Narrow { activation_bits(layer.hidden) } else { 15 }
}

/// Whether a step's result has the scale of its inputs.
fn keeps_scale(step: &Step) -> bool {
    match &step.operation {
        Operation::Move { .. } => true,
        Operation::Pool(pool) => pool.reduction == Reduction::Max,
        _ => false,
    }
}

impl Scales {
    pub(super) fn choose(
        float: &FloatGraph,
        ranges: &Ranges,
        options: &CompileOptions,
        widths: &Widths,
    ) -> Scales {
        let count = float.shapes.len();
        let mut bits = vec![15; count];
        let mut limits = vec![i64::from(i16::MAX); count];
        let mut served = vec![false; count];
        served[float.output] = !options.i16_boundary;
        let mut read = vec![false; count];
        // From the last step to the first: what reads a value is known before the value.
        for step in float.steps.iter().rev() {
            let narrow = widths.of(step) == Width::Narrow;
            let own = match &step.operation {
                Operation::Dense { bias, weights } if narrow => activation_bits(weights.len() / bias.len()),
                Operation::Conv(conv) if narrow => activation_bits(conv.inputs()),
                Operation::Recurrent(layer) if narrow => activation_bits(layer.features),
                Operation::MatMul(matmul) if narrow => {
                    let maker = float.steps.iter().find(|maker| maker.output == step.inputs[0]);
                    match maker.map(|maker| &maker.operation) {
                        // What a softmax makes adds up to one.
                        Some(&Operation::Softmax { group, .. }) if group == matmul.inner => 15,
                        _ => attention::quantize::operand_bits(matmul.inner),
                    }
                }
                _ if keeps_scale(step) => bits[step.output],
                _ => 15,
            };
            let serves = keeps_scale(step) && served[step.output];
            let limit = match &step.operation {
                Operation::MatMul(matmul) if own < 15 => attention::quantize::operand_limit(matmul.inner),
                _ => (1 << own) - 1,
            };
            for &input in &step.inputs {
                bits[input] = own.min(bits[input]);
                limits[input] = limit.min(limits[input]);
                served[input] = serves && (served[input] || !read[input]) && input != 0;
                read[input] = true;
            }
        }
        let mut scales = Scales { bits, limits, shared: vec![None; count], served };
        scales.share(float, ranges, options, widths);
        scales
    }

    /// Gives each group of values that moves and maxima bring together one exponent, and one element type.
    fn share(&mut self, float: &FloatGraph, ranges: &Ranges, options: &CompileOptions, widths: &Widths) {
        let mut groups: Vec<Value> = (0..float.shapes.len()).collect();
        let mut grouped = vec![false; groups.len()];
        fn root(groups: &[Value], mut value: Value) -> Value {
            while groups[value] != value {
                value = groups[value];
            }
            value
        }
        for step in float.steps.iter().filter(|step| keeps_scale(step)) {
            for value in step.inputs.iter().copied().chain([step.output]) {
                let (a, b) = (root(&groups, value), root(&groups, step.output));
                groups[a.max(b)] = a.min(b);
                grouped[value] = true;
            }
        }
        // The bound and bits of a group, and the largest exponent that those have which take no other scale.
        let mut bounds = vec![0f64; groups.len()];
        let mut bits = vec![15; groups.len()];
        let mut most = vec![i32::MAX; groups.len()];
        let mut wide = vec![true; groups.len()];
        let members: Vec<Value> = (0..groups.len()).filter(|&value| grouped[value]).collect();
        for &value in &members {
            let group = root(&groups, value);
            bounds[group] = bounds[group].max(ranges.bound(value));
            bits[group] = bits[group].min(self.bits[value]);
            wide[group] &= self.served[value];
        }
        for step in float.steps.iter().filter(|step| grouped[step.output]) {
            let group = root(&groups, step.output);
            let fixed = match &step.operation {
                Operation::Function(
                    Function::Sigmoid | Function::Tanh | Function::Gelu | Function::GeluTanh,
                )
                | Operation::Softmax { .. } => Some(15),
                Operation::Recurrent(layer) => Some(recurrent_bits(layer, widths.of(step))),
                Operation::ArgMax { .. } => Some(0),
                _ => None,
            };
            if let Some(fixed) = fixed {
                most[group] = most[group].min(fixed.min(bits[group]) as i32);
                wide[group] = false;
            }
            if let Operation::Function(Function::Leaky(_)) = &step.operation {
                bounds[group] = bounds[group].max(ranges.bound(step.inputs[0]));
                wide[group] = false;
            }
        }
        for value in members {
            let group = root(&groups, value);
            self.bits[value] = bits[group];
            self.limits[value] = (1 << bits[group]) - 1;
            self.served[value] = wide[group];
            let bits = if wide[group] { super::WIDE_OUTPUT_BITS } else { bits[group] };
            self.shared[value] = Some(exponent_for(bounds[group] * options.headroom, bits).min(most[group]));
        }
    }
}
