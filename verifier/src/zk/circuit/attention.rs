//! Products of computed matrices, softmax and layer normalisation (`SPEC.md`, sections 7.13 to 7.15).

use haca_kernels::spec::inverse::{INVERSE_ROOT_EXPONENT, RECIPROCAL_EXPONENT};
use haca_kernels::spec::layer_norm::NORMALIZED_EXPONENT;
use haca_kernels::spec::softmax::Scale;
use haca_kernels::view::{LayerNorm, MatMul, Requantize, Softmax};

use super::builder::{Builder, Number};

/// Two terms of a sum of products take one product, because `(a + d)·(b + c) = a·c + b·d + a·b + c·d`, where `a·b` is of
/// the row and `c·d` of the column alone: each is multiplied once for all sums.
pub(super) fn matmul(
    builder: &mut Builder,
    matmul: &MatMul<'_>,
    [left, right]: [&[Number]; 2],
) -> Vec<Number> {
    let (rows, inner, columns) = (matmul.rows(), matmul.inner(), matmul.columns());
    let mut shared =
        |x: &[Number], uses: usize| -> Vec<Number> { x.iter().map(|x| builder.shared(x, uses)).collect() };
    let (left, right) = (&shared(left, columns), &shared(right, rows));
    let mut outputs = vec![Number::constant(0); matmul.matrices() * rows * columns];
    // Below that the products of rows and columns are more than are saved.
    let paired = if rows * columns > rows + columns { inner - inner % 2 } else { 0 };
    for matrix in 0..matmul.matrices() {
        let lines =
            |count: usize, element: &dyn Fn(usize, usize) -> usize, from: &[Number]| -> Vec<Vec<Number>> {
                (0..count).map(|line| (0..inner).map(|k| from[element(line, k)].clone()).collect()).collect()
            };
        let row_values = lines(rows, &|row, k| matmul.left(matrix, row, k), left);
        let column_values = lines(columns, &|column, k| matmul.right(matrix, k, column), right);
        let mut own = |values: &[Vec<Number>]| -> Vec<Number> {
            values.iter().map(|values| builder.pairs(&values[..paired])).collect()
        };
        let (of_rows, of_columns) = (own(&row_values), own(&column_values));
        for (row, (x, of_row)) in row_values.iter().zip(&of_rows).enumerate() {
            for (column, (z, of_column)) in column_values.iter().zip(&of_columns).enumerate() {
                let own = of_row.plus(of_column);
                let sum = builder.dot(x, z, paired, &own);
                outputs[matmul.output(matrix, row, column)] = builder.requantize(&sum, matmul.requantize());
            }
        }
    }
    outputs
}

/// Section 7.14, group by group.
pub(super) fn softmax(builder: &mut Builder, layer: Softmax, x: &[Number]) -> Vec<Number> {
    x.chunks_exact(layer.group).flat_map(|group| shares(builder, layer, group)).collect()
}

fn shares(builder: &mut Builder, layer: Softmax, group: &[Number]) -> Vec<Number> {
    let exponentials: Vec<Number> = builder
        .distances(group)
        .iter()
        .map(|distance| builder.exponential(&distance.times(layer.multiplier.into()), layer.shift))
        .collect();
    let mut sum = Number::constant(0);
    exponentials.iter().for_each(|exponential| sum.add(exponential, 1));
    // That of the largest is one.
    let scale = Scale { multiplier: layer.multiplier as i32, shift: layer.shift as i32 };
    let one = i128::from(scale.exponential(0));
    let lows = || exponentials.iter().map(|exponential| exponential.low);
    let least = one + lows().sum::<i128>() - lows().max().expect("a group has an element");
    let sum = sum.within(least, i128::MAX);
    let inverse = builder.reciprocal(&sum);
    let shift = RECIPROCAL_EXPONENT + inverse.most as i32 - layer.exponent;
    let rule = Requantize { shift, minimum: 0, maximum: layer.maximum };
    exponentials
        .iter()
        .map(|exponential| {
            let product = builder.product(exponential, &inverse.factor);
            builder.requantize(&product, rule)
        })
        .collect()
}

/// Section 7.15, group by group.
pub(super) fn layer_norm(builder: &mut Builder, layer: &LayerNorm<'_>, x: &[Number]) -> Vec<Number> {
    let groups = x.chunks_exact(layer.multipliers.len());
    groups.flat_map(|group| normalized(builder, layer, group)).collect()
}

fn normalized(builder: &mut Builder, layer: &LayerNorm<'_>, group: &[Number]) -> Vec<Number> {
    let length = group.len() as i128;
    let (mut sum, mut squares) = (Number::constant(0), Number::constant(0));
    for x in group {
        sum.add(x, 1);
        squares.add(&builder.product(x, x), 1);
    }
    let sum = builder.shared(&sum, group.len() + 2);
    let deviation = squares.times(length).minus(&builder.product(&sum, &sum));
    // `length^2` times the variance, which is not negative and at most that of values at both ends.
    let (low, high) =
        group.iter().fold((i128::MAX, i128::MIN), |(low, high), x| (x.low.min(low), x.high.max(high)));
    let most = (length * (high - low)).pow(2) / 4;
    let epsilon = i128::from(layer.epsilon);
    let deviation = if length == 1 {
        Number::constant(epsilon)
    } else {
        deviation.within(0, most).plus_constant(epsilon)
    };
    let inverse = builder.inverse_root(&deviation);
    let shift = (INVERSE_ROOT_EXPONENT - NORMALIZED_EXPONENT) as u32 + inverse.most;
    // No value is further from the mean than the root of the length in deviations: rounding is far from one more.
    let bound = (((length - 1).isqrt() + 2) << NORMALIZED_EXPONENT) << shift;
    let constants = layer.multipliers.iter().zip(layer.offsets);
    group
        .iter()
        .zip(constants)
        .map(|(x, (&multiplier, &offset))| {
            let distance = if length == 1 { Number::constant(0) } else { x.times(length).minus(&sum) };
            let product = builder.product(&distance, &inverse.factor).within(-bound, bound);
            let unit = builder.shift_right(&product.plus_constant(1 << (shift - 1)), shift);
            let scaled = unit.times(multiplier.into()).plus_constant(offset.into());
            builder.requantize(&scaled, layer.requantize)
        })
        .collect()
}

impl Builder {
    /// `Σ values[2p]·values[2p+1]`.
    pub(super) fn pairs(&mut self, values: &[Number]) -> Number {
        let mut sum = Number::constant(0);
        for [a, b] in values.as_chunks().0 {
            sum.add(&self.product(a, b), 1);
        }
        sum
    }

    /// `Σ x[k]·z[k]`, of which the first `paired` terms take a product for two of them: `own` is what their pairs have
    /// of their own.
    pub(super) fn dot(&mut self, x: &[Number], z: &[Number], paired: usize, own: &Number) -> Number {
        let (mut low, mut high) = (0, 0);
        for (x, z) in x.iter().zip(z) {
            let ends =
                [(x.low, z.low), (x.low, z.high), (x.high, z.low), (x.high, z.high)].map(|(x, z)| x * z);
            low += ends.into_iter().fold(i128::MAX, i128::min);
            high += ends.into_iter().fold(i128::MIN, i128::max);
        }
        let mut sum = own.times(-1);
        for ([a, b], [c, d]) in x[..paired].as_chunks().0.iter().zip(z[..paired].as_chunks().0) {
            sum.add(&self.product(&a.plus(d), &b.plus(c)), 1);
        }
        for (x, z) in x[paired..].iter().zip(&z[paired..]) {
            sum.add(&self.product(x, z), 1);
        }
        sum.within(low, high)
    }
}
