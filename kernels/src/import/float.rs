//! The model in double precision: what the ONNX file means, with the batch dimension and all moves of data removed.
//!
//! Calibration runs it to find ranges, and the report compares with it.

mod attention;
mod window;

use super::recurrent::{Extent, FloatRecurrent};
use crate::model::graph::MatMul;
pub(crate) use window::{FloatConv, FloatPool};

/// Index of a value of the float graph.
pub(crate) type Value = usize;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Function {
    Relu,
    Sigmoid,
    Tanh,
    Gelu,
    /// GELU's approximation by tanh.
    GeluTanh,
    /// Negative values times a slope from 0 to below 1.
    Leaky(f64),
    /// Not below the first nor above the second; either may be infinite.
    Clip(f64, f64),
}

/// Of two values of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pairwise {
    Add,
    Subtract,
    Multiply,
}

/// What fixed point has no rule for: it must be part of a layer normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unruled {
    Root,
    Reciprocal,
    /// Of two values of one length.
    Quotient,
}

/// A tree node: goes to `when_true` if `comparison(x, threshold)`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Branch {
    pub(crate) feature: u32,
    pub(crate) threshold: f32,
    pub(crate) comparison: Comparison,
    /// A later branch of the same tree, or `!leaf`.
    pub(crate) when_true: i32,
    pub(crate) when_false: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    LessOrEqual,
    Less,
    GreaterOrEqual,
    Greater,
    Equal,
    NotEqual,
}

impl Comparison {
    pub(crate) fn holds(self, x: f32, threshold: f32) -> bool {
        match self {
            Comparison::LessOrEqual => x <= threshold,
            Comparison::Less => x < threshold,
            Comparison::GreaterOrEqual => x >= threshold,
            Comparison::Greater => x > threshold,
            Comparison::Equal => x == threshold,
            Comparison::NotEqual => x != threshold,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tree {
    pub(crate) branches: Vec<Branch>,
    /// A branch, or `!leaf`.
    pub(crate) root: i32,
    /// Target and value of each entry, by leaf.
    pub(crate) leaves: Vec<Vec<(u16, f64)>>,
}

impl Tree {
    pub(crate) fn leaf(&self, row: &[f64]) -> usize {
        let mut at = self.root;
        while let Ok(index) = usize::try_from(at) {
            let branch = &self.branches[index];
            // The row came from floats, so this is exact.
            let x = row[branch.feature as usize] as f32;
            at = if branch.comparison.holds(x, branch.threshold) {
                branch.when_true
            } else {
                branch.when_false
            };
        }
        !at as usize
    }
}

pub(crate) use crate::model::graph::Finish;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ensemble {
    pub(crate) trees: Vec<Tree>,
    pub(crate) base: Vec<f64>,
    pub(crate) finish: Finish,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operation {
    /// Weights `[outputs, inputs]`, row-major.
    Dense {
        weights: Vec<f64>,
        bias: Vec<f64>,
    },
    /// Elementwise `x * scale + offset`.
    Affine {
        scale: Vec<f64>,
        offset: Vec<f64>,
    },
    Function(Function),
    Pairwise(Pairwise),
    Unruled(Unruled),
    Ensemble(Ensemble),
    Recurrent(Box<FloatRecurrent>),
    /// Elements of the inputs, one after the other; the constant where the index is -1.
    Move {
        indices: Vec<i32>,
        fill: f64,
    },
    Conv(Box<FloatConv>),
    Pool(FloatPool),
    /// Index of the first largest along the middle of `[outer, length, inner]`.
    ArgMax {
        length: usize,
        inner: usize,
    },
    MatMul(MatMul),
    /// Of each group of neighbours, of its elements times the scale.
    Softmax {
        group: usize,
        scale: f64,
    },
    /// Of each group of neighbours, one for each element of the scale.
    LayerNorm {
        epsilon: f64,
        scale: Vec<f64>,
        offset: Vec<f64>,
    },
}

impl Operation {
    /// Whether its sums may be narrow or wide.
    pub(crate) fn has_sums(&self) -> bool {
        matches!(
            self,
            Operation::Dense { .. } | Operation::Conv(_) | Operation::Recurrent(_) | Operation::MatMul(_)
        )
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    pub(crate) name: String,
    /// ONNX operators it came from, joined with `+`.
    pub(crate) source: String,
    pub(crate) operation: Operation,
    pub(crate) inputs: Vec<Value>,
    pub(crate) output: Value,
}

/// Steps in order; value 0 is the input.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FloatGraph {
    pub(crate) name: String,
    pub(crate) producer: String,
    /// Shape of each value, without the batch dimension.
    pub(crate) shapes: Vec<Vec<u32>>,
    pub(crate) steps: Vec<Step>,
    pub(crate) output: Value,
}

impl FloatGraph {
    pub(crate) fn len(&self, value: Value) -> usize {
        self.shapes[value].iter().map(|&length| length as usize).product()
    }

    /// Computes all values for one row.
    pub(crate) fn run(&self, row: &[f32]) -> Vec<Vec<f64>> {
        self.run_measured(row, &mut vec![Extent::default(); self.shapes.len()])
    }

    /// Computes all values for one row, and widens the extents of the recurrent layers, by output, to theirs.
    pub(crate) fn run_measured(&self, row: &[f32], extents: &mut [Extent]) -> Vec<Vec<f64>> {
        let mut values = vec![Vec::new(); self.shapes.len()];
        values[0] = row.iter().map(|&x| f64::from(x)).collect();
        for step in &self.steps {
            let x = &values[step.inputs[0]];
            values[step.output] = match &step.operation {
                Operation::Dense { weights, bias } => {
                    let dot = |weights: &[f64]| weights.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
                    weights
                        .chunks_exact(x.len())
                        .zip(bias)
                        .map(|(weights, bias)| dot(weights) + bias)
                        .collect()
                }
                Operation::Affine { scale, offset } => x
                    .iter()
                    .zip(scale.iter().zip(offset))
                    .map(|(x, (scale, offset))| x * scale + offset)
                    .collect(),
                Operation::Function(function) => x.iter().map(|&x| function.apply(x)).collect(),
                Operation::Pairwise(pairwise) => {
                    x.iter().zip(&values[step.inputs[1]]).map(|(&a, &b)| pairwise.apply(a, b)).collect()
                }
                Operation::Unruled(Unruled::Root) => x.iter().map(|x| x.sqrt()).collect(),
                Operation::Unruled(Unruled::Reciprocal) => x.iter().map(|x| x.recip()).collect(),
                Operation::Unruled(Unruled::Quotient) => {
                    x.iter().zip(&values[step.inputs[1]]).map(|(a, b)| a / b).collect()
                }
                Operation::Ensemble(ensemble) => ensemble.run(x),
                Operation::Recurrent(layer) => layer.run(x, &mut extents[step.output]),
                Operation::Move { indices, fill } => {
                    let all: Vec<&[f64]> = step.inputs.iter().map(|&input| &values[input][..]).collect();
                    let all = all.concat();
                    indices.iter().map(|&at| usize::try_from(at).map_or(*fill, |at| all[at])).collect()
                }
                Operation::Conv(conv) => conv.run(x),
                Operation::MatMul(matmul) => attention::matmul(matmul, x, &values[step.inputs[1]]),
                &Operation::Softmax { group, scale } => attention::softmax(x, group, scale),
                Operation::LayerNorm { epsilon, scale, offset } => {
                    attention::layer_norm(x, *epsilon, scale, offset)
                }
                Operation::Pool(pool) => pool.run(x),
                &Operation::ArgMax { length, inner } => arg_max(x, length, inner),
            };
        }
        values
    }
}

impl Function {
    fn apply(self, x: f64) -> f64 {
        match self {
            Function::Relu => x.max(0.0),
            Function::Sigmoid => logistic(x),
            Function::Tanh => x.tanh(),
            Function::Gelu => attention::gelu(x),
            Function::GeluTanh => attention::gelu_tanh(x),
            Function::Leaky(slope) => {
                if x >= 0.0 {
                    x
                } else {
                    x * slope
                }
            }
            Function::Clip(low, high) => x.max(low).min(high),
        }
    }
}

impl Pairwise {
    fn apply(self, a: f64, b: f64) -> f64 {
        match self {
            Pairwise::Add => a + b,
            Pairwise::Subtract => a - b,
            Pairwise::Multiply => a * b,
        }
    }
}

fn arg_max(x: &[f64], length: usize, inner: usize) -> Vec<f64> {
    let largest = |element: usize| {
        let first = element / inner * length * inner + element % inner;
        let value = |index: usize| x[first + index * inner];
        (1..length).fold(0, |best, index| if value(index) > value(best) { index } else { best }) as f64
    };
    (0..x.len() / length).map(largest).collect()
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Ensemble {
    fn run(&self, row: &[f64]) -> Vec<f64> {
        let mut sums = self.base.clone();
        for tree in &self.trees {
            for &(target, value) in &tree.leaves[tree.leaf(row)] {
                sums[usize::from(target)] += value;
            }
        }
        match (self.finish, &sums[..]) {
            (Finish::Complement, &[sum]) => vec![1.0 - sum, sum],
            (Finish::Negate, &[sum]) => vec![-sum, sum],
            (Finish::LogisticPair, &[sum]) => vec![logistic(-sum), logistic(sum)],
            (Finish::Logistic, sums) => sums.iter().map(|&sum| logistic(sum)).collect(),
            _ => sums,
        }
    }
}
