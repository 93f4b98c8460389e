//! The proof of a dense layer.

use super::{LoadError, Proof, SUM_LIMIT, check_activation, check_shift, is_narrow};
use crate::model::graph::{Dense, Element, Node, Tensor};

pub(super) fn check(node: &Node, dense: &Dense, input: &Tensor, output: &Tensor) -> Result<Proof, LoadError> {
    check_product(node, dense, input, [input.len(), output.len()], (input.minimum, input.maximum), output)
}

/// The exact interval of every output's sum, and so the width of its accumulator. Each of `outputs` sums has `inputs`
/// products, with elements of the input within `bounds`.
pub(super) fn check_product(
    node: &Node,
    dense: &Dense,
    input: &Tensor,
    [inputs, outputs]: [usize; 2],
    bounds: (i64, i64),
    output: &Tensor,
) -> Result<Proof, LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    if input.element != Element::I16 || !is_narrow(output) {
        return fail("its input must be i16 and its output i16 or i32".into());
    }
    let exponents = dense.weight_exponents.len();
    if inputs.checked_mul(outputs) != Some(dense.weights.len())
        || dense.bias.len() != outputs
        || (exponents != 1 && exponents != outputs)
    {
        return fail(format!(
            "weights, biases or exponents do not fit {inputs} inputs and {outputs} outputs"
        ));
    }
    check_activation(node, dense.activation, output)?;
    let (argument_exponent, ..) = dense.activation.argument(output);
    let mut accumulator_bits = 32;
    for channel in 0..outputs {
        let shift = input.exponent + dense.weight_exponent(channel) - argument_exponent;
        check_shift(node, shift)?;
        let half = if shift > 0 { 1i128 << (shift - 1) } else { 0 };
        let bias = i128::from(dense.bias[channel]);
        let (mut low, mut high) = (bias.min(0), (bias + half).max(bias).max(0));
        for weight in channel * inputs..(channel + 1) * inputs {
            let weight = dense.weights.get(weight);
            // So a sum of two products fits 32 bits, whatever the inputs: what SIMD multiply-adds compute.
            if weight == i16::MIN {
                return fail(format!("a weight of output {channel} is -32768; -32767 is the least"));
            }
            let weight = i128::from(weight);
            let (a, b) = (weight * i128::from(bounds.0), weight * i128::from(bounds.1));
            low += a.min(b);
            high += a.max(b);
        }
        if low <= -SUM_LIMIT || high >= SUM_LIMIT {
            return fail(format!("the sum of output {channel} may exceed 62 bits"));
        }
        // A left shift is computed in 64 bits: it is rare, and 32 bits would need a proof of its own.
        if low < i128::from(i32::MIN) || high > i128::from(i32::MAX) || !(0..=30).contains(&shift) {
            accumulator_bits = 64;
        }
    }
    Ok(Proof { accumulator_bits, depth: 0 })
}
