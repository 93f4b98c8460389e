//! Products of computed matrices, softmax, layer normalisation and GELU in double precision.

use crate::model::graph::MatMul;

pub(super) fn matmul(matmul: &MatMul, left: &[f64], right: &[f64]) -> Vec<f64> {
    let &MatMul { matrices, rows, inner, columns, .. } = matmul;
    let mut y = vec![0.0; matrices * rows * columns];
    let place = |[first, a, b, c]: [usize; 4], i: usize, j: usize, k: usize| first + i * a + j * b + k * c;
    for matrix in 0..matrices {
        for row in 0..rows {
            for column in 0..columns {
                let product = |k: usize| {
                    let a = left[place(matmul.left, matrix, row, k)];
                    a * right[place(matmul.right, matrix, k, column)]
                };
                let [first, by_matrix, by_row] = matmul.output;
                y[first + matrix * by_matrix + row * by_row + column] = (0..inner).map(product).sum();
            }
        }
    }
    y
}

pub(super) fn softmax(x: &[f64], group: usize, scale: f64) -> Vec<f64> {
    let of_group = |x: &[f64]| {
        let largest = x.iter().fold(f64::NEG_INFINITY, |most, x| most.max(x * scale));
        let values: Vec<f64> = x.iter().map(|x| (x * scale - largest).exp()).collect();
        let sum: f64 = values.iter().sum();
        values.into_iter().map(move |value| value / sum)
    };
    x.chunks_exact(group).flat_map(of_group).collect()
}

pub(super) fn layer_norm(x: &[f64], epsilon: f64, scale: &[f64], offset: &[f64]) -> Vec<f64> {
    let of_group = |x: &[f64]| {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / x.len() as f64;
        let factor = 1.0 / (variance + epsilon).sqrt();
        let constants = scale.iter().zip(offset);
        x.iter().zip(constants).map(|(x, (scale, offset))| (x - mean) * factor * scale + offset).collect()
    };
    x.chunks_exact(scale.len()).flat_map(|x| -> Vec<f64> { of_group(x) }).collect()
}

pub(super) fn gelu(x: f64) -> f64 {
    x * 0.5 * erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

pub(super) fn gelu_tanh(x: f64) -> f64 {
    let argument = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    x * 0.5 * (1.0 + argument.tanh())
}

/// The complementary error function: a series near zero, a continued fraction elsewhere.
pub(crate) fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..80 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let fraction = (1..120).rev().fold(x, |below, n| x + f64::from(n) / 2.0 / below);
    (-x * x).exp() / (fraction * std::f64::consts::PI.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_complementary_error_function_is_that_of_tables() {
        let known = [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (-1.0, 1.842_700_792_949_715),
            (2.4, 6.885_138_966_450_786e-4),
            (2.6, 2.360_344_165_293_492e-4),
            (4.0, 1.541_725_790_028_002e-8),
        ];
        for (x, expected) in known {
            assert!((erfc(x) - expected).abs() < 1e-13 + 1e-9 * expected, "{x}: {}", erfc(x));
        }
    }
}
