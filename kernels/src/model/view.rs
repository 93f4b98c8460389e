//! What a model computes, for those that compute it another way: a circuit, an auditor.
//!
//! Exponents are already resolved into the shifts of `SPEC.md`, so that each operation reads as its section does. The
//! views borrow from the model, and the model is proven: every rule of `SPEC.md` holds of what they show.

mod attention;
mod window;

use super::Model;
use super::graph::{self, Finish, Operator};
use crate::spec::activation::{self, WIDE_INPUT_EXPONENT};
use crate::spec::layer_norm::NORMALIZED_EXPONENT;
use crate::spec::{gate, recurrence};
pub use attention::{LayerNorm, MatMul, Softmax};
pub use window::{Conv, Reduction, Window};

/// How a tensor's integers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 16 bits.
    I16,
    /// 32 bits.
    I32,
    /// 64 bits.
    I64,
    /// [`crate::spec::rounding::key`] of a float32.
    Key,
}

/// A tensor: one row of integers, each in `minimum..=maximum`.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a>(&'a graph::Tensor);

impl<'a> Tensor<'a> {
    /// Its name in the source graph.
    pub fn name(&self) -> &'a str {
        &self.0.name
    }

    /// Elements of a row.
    pub fn elements(&self) -> usize {
        self.0.len()
    }

    /// How they are stored.
    pub fn element(&self) -> Element {
        match self.0.element {
            graph::Element::I16 => Element::I16,
            graph::Element::I32 => Element::I32,
            graph::Element::I64 => Element::I64,
            graph::Element::Key => Element::Key,
        }
    }

    /// Exponent at which an element of the model's input is converted.
    pub fn exponent_of(&self, element: usize) -> i32 {
        self.0.exponent_of(element)
    }

    /// Least and greatest integer.
    pub fn bounds(&self) -> (i64, i64) {
        (self.0.minimum, self.0.maximum)
    }
}

/// Section 2 of `SPEC.md`: `requantize(v, shift, minimum, maximum)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requantize {
    /// Bits to the right; to the left if negative.
    pub shift: i32,
    /// Least result.
    pub minimum: i64,
    /// Greatest result.
    pub maximum: i64,
}

/// Section 6 of `SPEC.md`, applied to a requantised value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// The value itself.
    None,
    /// `sigmoid`, with the exponent of its result.
    Sigmoid(i32),
    /// `tanh`, likewise.
    Tanh(i32),
    /// `leaky`, with its slope.
    Leaky(i16),
    /// `gelu`, with the exponent of its argument and result.
    Gelu(i32),
    /// `gelu_tanh`, likewise.
    GeluTanh(i32),
}

/// Section 7.1: `act(requantize(bias + Σ weights · x))` for each output.
#[derive(Debug, Clone, Copy)]
pub struct Dense<'a> {
    layer: &'a graph::Dense,
    input: &'a graph::Tensor,
    output: &'a graph::Tensor,
}

impl Dense<'_> {
    /// Weights of an output, one for each input.
    pub fn weights(&self, output: usize) -> impl Iterator<Item = i64> {
        let inputs = self.layer.weights.len() / self.layer.bias.len();
        (output * inputs..(output + 1) * inputs).map(|index| self.layer.weights.get(index).into())
    }

    /// Bias of an output.
    pub fn bias(&self, output: usize) -> i64 {
        self.layer.bias[output]
    }

    /// What brings the sum of an output to the activation's argument.
    pub fn requantize(&self, output: usize) -> Requantize {
        let (exponent, minimum, maximum) = self.layer.activation.argument(self.output);
        let shift = self.input.exponent + self.layer.weight_exponent(output) - exponent;
        Requantize { shift, minimum, maximum }
    }

    /// What is applied last.
    pub fn activation(&self) -> Activation {
        activation_of(self.layer.activation, self.output)
    }
}

/// Section 7.5: trees, and what becomes of the sums of their leaves.
#[derive(Debug, Clone, Copy)]
pub struct Trees<'a>(&'a graph::Trees);

/// Where a branch leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Child {
    /// A later node of the same tree.
    Node(usize),
    /// A leaf.
    Leaf(usize),
}

impl Child {
    fn new(index: i32) -> Child {
        usize::try_from(index).map_or(Child::Leaf(!index as usize), Child::Node)
    }
}

/// A comparison: to `when_true` if the feature's key is at most the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Branch {
    /// Element of the input.
    pub feature: usize,
    /// Compared with it.
    pub threshold: i64,
    /// Where to go if it is not above the threshold.
    pub when_true: Child,
    /// Where to go otherwise.
    pub when_false: Child,
}

/// The last step of an ensemble; outputs are as in the table of section 7.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// `s[0], s[1], …`
    Sums,
    /// `one - s, s`, with the integer that is one.
    Complement(i64),
    /// `-s, s`
    Negate,
    /// `p(s[0]), p(s[1]), …`, with the shift that brings a sum to the argument of `wide_sigmoid`.
    Logistic(i32),
    /// `2^30 - p(s), p(s)`, likewise.
    LogisticPair(i32),
}

impl<'a> Trees<'a> {
    /// The root of each tree.
    pub fn roots(&self) -> impl Iterator<Item = Child> + use<'a> {
        self.0.roots.iter().map(|&root| Child::new(root))
    }

    /// Nodes of all trees.
    pub fn branches(&self) -> impl ExactSizeIterator<Item = Branch> + use<'a> {
        let trees = self.0;
        (0..trees.features.len()).map(|node| Branch {
            feature: trees.features[node] as usize,
            threshold: trees.thresholds[node].into(),
            when_true: Child::new(trees.when_true[node]),
            when_false: Child::new(trees.when_false[node]),
        })
    }

    /// What a leaf adds: target and value.
    pub fn leaf(&self, leaf: usize) -> impl Iterator<Item = (usize, i64)> + use<'a> {
        let trees = self.0;
        let entries = trees.leaf_entries[leaf] as usize..trees.leaf_entries[leaf + 1] as usize;
        entries.map(|entry| (trees.entry_targets[entry].into(), trees.entry_values[entry].into()))
    }

    /// The values with which the sums begin.
    pub fn base(&self) -> &'a [i64] {
        &self.0.base
    }

    /// The last step.
    pub fn outputs(&self) -> Outputs {
        let shift = self.0.sum_exponent - WIDE_INPUT_EXPONENT;
        match self.0.finish {
            Finish::Sum => Outputs::Sums,
            Finish::Complement => Outputs::Complement(1 << self.0.sum_exponent),
            Finish::Negate => Outputs::Negate,
            Finish::Logistic => Outputs::Logistic(shift),
            Finish::LogisticPair => Outputs::LogisticPair(shift),
        }
    }
}

/// Which recurrent unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Gates input, output, forget, cell.
    Lstm,
    /// Gates update, reset, hidden.
    Gru,
}

/// Section 7.6: a recurrent layer. Rows are `[gate][unit]`.
#[derive(Debug, Clone, Copy)]
pub struct Recurrent<'a> {
    layer: &'a graph::Recurrent,
    input: &'a graph::Tensor,
    output: &'a graph::Tensor,
}

impl Recurrent<'_> {
    /// Which unit.
    pub fn cell(&self) -> Cell {
        match self.layer.cell {
            graph::Cell::Lstm => Cell::Lstm,
            graph::Cell::Gru => Cell::Gru,
        }
    }

    /// Hidden units.
    pub fn hidden(&self) -> usize {
        self.layer.hidden()
    }

    /// Features of a step.
    pub fn features(&self) -> usize {
        self.layer.features()
    }

    /// Whether the output is the last step's hidden state, and not every step's.
    pub fn last_only(&self) -> bool {
        self.layer.last_only
    }

    /// `W[row]`.
    pub fn input_weights(&self, row: usize) -> impl Iterator<Item = i64> {
        let features = self.features();
        self.layer.input_weights[row * features..(row + 1) * features].iter().map(|&weight| weight.into())
    }

    /// `R[row]`.
    pub fn recurrent_weights(&self, row: usize) -> impl Iterator<Item = i64> {
        let hidden = self.hidden();
        self.layer.recurrent_weights[row * hidden..(row + 1) * hidden].iter().map(|&weight| weight.into())
    }

    /// `b[row]`.
    pub fn bias(&self, row: usize) -> i64 {
        self.layer.bias[row]
    }

    /// `b_R` of a GRU's unit.
    pub fn recurrent_bias(&self, unit: usize) -> i64 {
        self.layer.recurrent_bias[unit]
    }

    /// What makes `p[row]` of its sum.
    pub fn share(&self, row: usize) -> Requantize {
        let bound = i64::from(recurrence::STATE_BOUND);
        let shift = self.input.exponent + self.layer.input_exponents[row] - self.sum_exponent(row);
        Requantize { shift, minimum: -bound, maximum: bound }
    }

    /// The exponent `a[row]` of the sums.
    pub fn sum_exponent(&self, row: usize) -> i32 {
        self.layer.sum_exponent(row, self.output)
    }

    /// Exponent of a gate's argument.
    pub fn argument_exponent(&self, gate: usize) -> i32 {
        self.layer.cell.argument_exponent(gate)
    }

    /// Exponent of the state `c`.
    pub fn cell_exponent(&self) -> i32 {
        self.layer.cell_exponent
    }

    /// What makes the output: of an LSTM's product of 15-bit values, or of a GRU's state.
    pub fn narrow(&self) -> Requantize {
        match self.layer.cell {
            graph::Cell::Lstm => requantize(2 * gate::OUTPUT_EXPONENT - self.output.exponent, self.output),
            graph::Cell::Gru => {
                let one = activation::one(self.output.exponent);
                Requantize {
                    shift: self.layer.cell_exponent - self.output.exponent,
                    minimum: -one,
                    maximum: one,
                }
            }
        }
    }

    /// State and output of a unit before the first step.
    pub fn initial(&self, unit: usize) -> (i64, i64) {
        let cell = self.layer.initial_cell.get(unit).copied().unwrap_or(0);
        let hidden = match self.layer.cell {
            graph::Cell::Lstm => self.layer.initial_hidden.get(unit).copied().unwrap_or(0),
            graph::Cell::Gru => self.layer.states(self.output).narrow(cell),
        };
        (cell.into(), hidden.into())
    }
}

/// What a node computes.
#[derive(Debug, Clone)]
pub enum Operation<'a> {
    /// A matrix product.
    Dense(Dense<'a>),
    /// Section 7.2: `requantize(x · multiplier + offset)` for each element.
    Affine {
        /// One for each element.
        multipliers: &'a [i32],
        /// One for each element.
        offsets: &'a [i64],
        /// One for each element.
        requantize: Vec<Requantize>,
    },
    /// Section 7.3: `requantize(a · 2^shifts[0] ± b · 2^shifts[1])` for each element.
    Add {
        /// Whether `b` is subtracted.
        subtract: bool,
        /// What brings both inputs to the finer scale.
        shifts: [u32; 2],
        /// The rounding of the sum.
        requantize: Requantize,
    },
    /// Section 7.4: `act(requantize(x))` for each element.
    Map {
        /// What brings an element to the activation's argument.
        requantize: Requantize,
        /// What is applied last.
        activation: Activation,
    },
    /// An ensemble of trees.
    Trees(Trees<'a>),
    /// A recurrent layer.
    Recurrent(Recurrent<'a>),
    /// Section 7.8: elements of all inputs, one after the other, or a constant.
    Move {
        /// For each element of the output; -1 is the constant.
        indices: &'a [i32],
        /// The constant.
        fill: i64,
    },
    /// Section 7.11: `requantize(a · b)` for each element.
    Multiply(Requantize),
    /// Section 7.9: a dense layer at each place of a window.
    Conv(Conv<'a>),
    /// Section 7.10: one number for each place of a window and channel.
    Pool {
        /// The places.
        window: Window<'a>,
        /// Which number.
        reduction: Reduction,
    },
    /// Section 7.12: the least index of the largest along the middle of `[outer, length, inner]`.
    ArgMax {
        /// Elements that are compared.
        length: usize,
        /// Distance of two that are compared.
        inner: usize,
    },
    /// Products of computed matrices.
    MatMul(MatMul<'a>),
    /// Section 7.14.
    Softmax(Softmax),
    /// Section 7.15.
    LayerNorm(LayerNorm<'a>),
}

/// A node, in the order of execution.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    /// Its name in the source graph.
    pub name: &'a str,
    /// The operator's name, as in [`crate::LayerInfo`].
    pub operator: &'static str,
    /// Indices of the tensors that it reads.
    pub inputs: &'a [usize],
    /// Index of the tensor that it makes.
    pub output: usize,
    /// How.
    pub operation: Operation<'a>,
}

impl Model {
    /// The tensor with an index from [`Node`], [`Model::input_index`] or [`Model::output_index`].
    pub fn tensor(&self, index: usize) -> Tensor<'_> {
        Tensor(&self.graph.tensors[index])
    }

    /// All tensors.
    pub fn tensors(&self) -> usize {
        self.graph.tensors.len()
    }

    /// Index of the model's input.
    pub fn input_index(&self) -> usize {
        self.graph.input
    }

    /// Index of the model's output.
    pub fn output_index(&self) -> usize {
        self.graph.output
    }

    /// The nodes in order of execution.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'_>> {
        self.graph.nodes.iter().zip(self.layers()).map(|(node, layer)| Node {
            name: &node.name,
            operator: layer.operator,
            inputs: &node.inputs,
            output: node.output,
            operation: self.operation(node),
        })
    }

    fn operation<'a>(&'a self, node: &'a graph::Node) -> Operation<'a> {
        let input = &self.graph.tensors[node.inputs[0]];
        let output = &self.graph.tensors[node.output];
        match &node.operator {
            Operator::Dense(layer) => Operation::Dense(Dense { layer, input, output }),
            Operator::Affine(affine) => Operation::Affine {
                multipliers: &affine.multipliers,
                offsets: &affine.offsets,
                requantize: affine.shifts.iter().map(|&shift| requantize(shift.into(), output)).collect(),
            },
            Operator::Add { subtract } => {
                let exponents = [input.exponent, self.graph.tensors[node.inputs[1]].exponent];
                let finest = exponents[0].max(exponents[1]);
                Operation::Add {
                    shifts: exponents.map(|exponent| (finest - exponent) as u32),
                    subtract: *subtract,
                    requantize: requantize(finest - output.exponent, output),
                }
            }
            Operator::Map(function) => {
                let (exponent, minimum, maximum) = function.argument(output);
                Operation::Map {
                    requantize: Requantize { shift: input.exponent - exponent, minimum, maximum },
                    activation: activation_of(*function, output),
                }
            }
            Operator::Trees(trees) => Operation::Trees(Trees(trees)),
            Operator::Recurrent(layer) => Operation::Recurrent(Recurrent { layer, input, output }),
            Operator::Move(moved) => Operation::Move { indices: &moved.indices, fill: moved.fill },
            Operator::Multiply => {
                let exponent = input.exponent + self.graph.tensors[node.inputs[1]].exponent;
                Operation::Multiply(requantize(exponent - output.exponent, output))
            }
            Operator::Conv(layer) => Operation::Conv(Conv { layer, input, output }),
            Operator::Pool(pool) => Operation::Pool {
                window: Window(&pool.window),
                reduction: match pool.reduction {
                    graph::Reduction::Max => Reduction::Max,
                    graph::Reduction::Sum => Reduction::Sum {
                        multiplier: pool.multiplier.into(),
                        requantize: requantize(pool.shift.into(), output),
                    },
                },
            },
            &Operator::ArgMax { length, inner } => Operation::ArgMax { length, inner },
            Operator::MatMul(layer) => {
                let exponent = input.exponent + self.graph.tensors[node.inputs[1]].exponent;
                Operation::MatMul(MatMul {
                    layer,
                    requantize: requantize(exponent - output.exponent, output),
                })
            }
            Operator::Softmax(layer) => Operation::Softmax(Softmax {
                group: layer.group,
                multiplier: layer.multiplier.into(),
                shift: layer.shift.into(),
                exponent: output.exponent,
                maximum: output.maximum,
            }),
            Operator::LayerNorm(layer) => Operation::LayerNorm(LayerNorm {
                epsilon: layer.epsilon,
                multipliers: &layer.multipliers,
                offsets: &layer.offsets,
                requantize: requantize(NORMALIZED_EXPONENT + layer.exponent - output.exponent, output),
            }),
            Operator::Slide => unreachable!("the form of a stream is not shown"),
        }
    }
}

fn requantize(shift: i32, output: &graph::Tensor) -> Requantize {
    Requantize { shift, minimum: output.minimum, maximum: output.maximum }
}

fn activation_of(function: graph::Activation, output: &graph::Tensor) -> Activation {
    match function {
        graph::Activation::None => Activation::None,
        graph::Activation::Sigmoid => Activation::Sigmoid(output.exponent),
        graph::Activation::Tanh => Activation::Tanh(output.exponent),
        graph::Activation::Leaky(slope) => Activation::Leaky(slope),
        graph::Activation::Gelu => Activation::Gelu(output.exponent),
        graph::Activation::GeluTanh => Activation::GeluTanh(output.exponent),
    }
}
