//! Dense, affine, add, map, move and multiply (`SPEC.md`, sections 7.1 to 7.4, 7.8 and 7.11): sums are linear
//! combinations, and cost nothing.

use haca_kernels::view::{Activation, Dense, Requantize};

use super::builder::{Builder, Number};

pub(super) fn dense(builder: &mut Builder, layer: &Dense<'_>, x: &[Number], outputs: usize) -> Vec<Number> {
    let x: Vec<Number> = x.iter().map(|x| builder.shared(x, outputs)).collect();
    (0..outputs)
        .map(|output| {
            let mut sum = Number::constant(layer.bias(output).into());
            x.iter().zip(layer.weights(output)).for_each(|(x, weight)| sum.add(x, weight.into()));
            builder.activate(&sum, layer.requantize(output), layer.activation())
        })
        .collect()
}

pub(super) fn affine(
    builder: &mut Builder,
    x: &[Number],
    multipliers: &[i32],
    offsets: &[i64],
    rules: &[Requantize],
) -> Vec<Number> {
    let constants = multipliers.iter().zip(offsets).zip(rules);
    x.iter()
        .zip(constants)
        .map(|(x, ((&multiplier, &offset), &rule))| {
            builder.requantize(&x.times(multiplier.into()).plus_constant(offset.into()), rule)
        })
        .collect()
}

pub(super) fn add(
    builder: &mut Builder,
    [a, b]: [&[Number]; 2],
    shifts: [u32; 2],
    subtract: bool,
    rule: Requantize,
) -> Vec<Number> {
    let [left, right] = shifts.map(|shift| 1 << shift);
    let right = if subtract { -right } else { right };
    a.iter().zip(b).map(|(a, b)| builder.requantize(&a.times(left).plus(&b.times(right)), rule)).collect()
}

pub(super) fn multiply(builder: &mut Builder, [a, b]: [&[Number]; 2], rule: Requantize) -> Vec<Number> {
    let pairs = a.iter().zip(b);
    pairs
        .map(|(a, b)| {
            let product = builder.product(a, b);
            builder.requantize(&product, rule)
        })
        .collect()
}

pub(super) fn map(
    builder: &mut Builder,
    x: &[Number],
    rule: Requantize,
    function: Activation,
) -> Vec<Number> {
    x.iter().map(|x| builder.activate(x, rule, function)).collect()
}

/// Elements of all inputs, one after the other; -1 is the constant.
pub(super) fn moved(x: &[&Number], indices: &[i32], fill: i64) -> Vec<Number> {
    let element =
        |&index: &i32| usize::try_from(index).map_or(Number::constant(fill.into()), |index| x[index].clone());
    indices.iter().map(element).collect()
}
