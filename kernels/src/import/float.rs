//! The model in double precision: what the ONNX file means, with the batch dimension and all moves of data removed.
//!
//! Calibration runs it to find ranges, and the report compares with it.

use super::recurrent::{Extent, FloatRecurrent};

/// Index of a value of the float graph.
pub(crate) type Value = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Relu,
    Sigmoid,
    Tanh,
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
    Add,
    Ensemble(Ensemble),
    Recurrent(Box<FloatRecurrent>),
    /// `len` elements of a row from `start` on.
    Part {
        start: usize,
        len: usize,
    },
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
                Operation::Add => x.iter().zip(&values[step.inputs[1]]).map(|(a, b)| a + b).collect(),
                Operation::Ensemble(ensemble) => ensemble.run(x),
                Operation::Recurrent(layer) => layer.run(x, &mut extents[step.output]),
                &Operation::Part { start, len } => x[start..start + len].to_vec(),
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
        }
    }
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
