//! The proofs of convolutions and pools.

use super::{LoadError, MAX_ROW, Proof, SUM_LIMIT, dense, is_narrow};
use crate::model::graph::{Conv, Node, Pool, Reduction, Tensor, Window};
use crate::spec::rounding::MAX_RIGHT_SHIFT;

/// Bounds the work on one row: elements of the kernel that are visited, for all places and channels.
const MAX_VISITS: u128 = 1 << 34;

pub(super) fn conv(node: &Node, conv: &Conv, input: &Tensor, output: &Tensor) -> Result<Proof, LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    let [rows, columns] = check(node, &conv.window, input)?;
    if !input.exponents.is_empty() {
        return fail("its input must be of one exponent".into());
    }
    let (channels, outputs) = (conv.window.channels as usize, conv.product.bias.len());
    if conv.groups == 0
        || !channels.is_multiple_of(conv.groups)
        || outputs == 0
        || !outputs.is_multiple_of(conv.groups)
    {
        return fail(format!("{} groups do not divide {channels} and {outputs} channels", conv.groups));
    }
    if (rows * columns).checked_mul(outputs) != Some(output.len()) {
        return fail(format!(
            "{outputs} channels at {rows} x {columns} places do not give {} elements",
            output.len()
        ));
    }
    let visits = (output.len() as u128) * (conv.inputs() as u128);
    if visits > MAX_VISITS {
        return fail(format!("{visits} products for one row; {MAX_VISITS} is the limit"));
    }
    // What lies outside the image counts nothing.
    let bounds = (input.minimum.min(0), input.maximum.max(0));
    dense::check_product(node, &conv.product, input, [conv.inputs(), outputs], bounds, output)
}

pub(super) fn pool(node: &Node, pool: &Pool, input: &Tensor, output: &Tensor) -> Result<Proof, LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    let window = &pool.window;
    let [rows, columns] = check(node, window, input)?;
    if !is_narrow(input) || !is_narrow(output) || !input.exponents.is_empty() {
        return fail("its input and output must be i16 or i32, the input of one exponent".into());
    }
    if (rows * columns).checked_mul(window.channels as usize) != Some(output.len()) {
        return fail(format!(
            "{} channels at {rows} x {columns} places do not give {} elements",
            window.channels,
            output.len()
        ));
    }
    let visits = (output.len() as u128) * (window.taps() as u128);
    if visits > MAX_VISITS {
        return fail(format!("{visits} elements visited for one row; {MAX_VISITS} is the limit"));
    }
    match pool.reduction {
        Reduction::Max => {
            if input.element != output.element
                || input.exponent != output.exponent
                || input.minimum < output.minimum
                || input.maximum > output.maximum
            {
                return fail("the largest must have the element type, scale and bounds of its input".into());
            }
            for (axis, places) in [rows, columns].into_iter().enumerate() {
                let empty = |&place: &usize| {
                    let (first, end) = window.taps_within(axis, place);
                    first >= end
                };
                if let Some(place) = (0..places).find(empty) {
                    return fail(format!("at place {place} its kernel meets no element of the image"));
                }
            }
        }
        Reduction::Sum => {
            let most = window.taps() as i128 * i128::from(input.bound());
            if most * i128::from(pool.multiplier).abs() >= SUM_LIMIT {
                return fail("its sums may exceed 62 bits".into());
            }
            if i32::from(pool.shift) > MAX_RIGHT_SHIFT {
                return fail(format!("shift {} is above {MAX_RIGHT_SHIFT}", pool.shift));
            }
        }
    }
    Ok(Proof { accumulator_bits: 64, depth: 0 })
}

/// Rows and columns of places.
fn check(node: &Node, window: &Window, input: &Tensor) -> Result<[usize; 2], LoadError> {
    let fail = |what: String| Err(LoadError::invalid(&node.name, what));
    let positive = [window.image, window.kernel, window.strides, window.dilations].concat();
    let lengths = positive.iter().chain(&window.before).chain(&window.after).chain([&window.channels]);
    if positive.contains(&0) || window.channels == 0 || lengths.into_iter().any(|&x| x as usize > MAX_ROW) {
        return fail(format!("a length of its window is 0 or above {MAX_ROW}"));
    }
    let [height, width] = window.image.map(|length| length as usize);
    // Three factors of at most 2^20.
    if height * width * window.channels as usize != input.len() {
        return fail(format!(
            "an image of {height} x {width} with {} channels does not have {} elements",
            window.channels,
            input.len()
        ));
    }
    for axis in 0..2 {
        let reach = u64::from(window.kernel[axis] - 1) * u64::from(window.dilations[axis]) + 1;
        let padded = window.before[axis] + window.image[axis] + window.after[axis];
        if reach > padded.into() || u64::from(window.before[axis].max(window.after[axis])) >= reach {
            return fail(format!(
                "a kernel that reaches over {reach} does not fit {padded}, or padding exceeds it"
            ));
        }
    }
    Ok(window.places())
}
