//! The fixed-point graph: what a model file says, as plain data.
//!
//! The importer builds one, the file holds one, [`super::validate`] proves one. Executors see proven graphs only.

pub(crate) use super::attention::{LayerNorm, MatMul, Softmax};
use crate::spec::recurrence::States;
use crate::spec::{activation, curve, gate};

/// Storage and meaning of a tensor's integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    I16,
    I32,
    I64,
    /// [`crate::spec::rounding::key`] of a float32.
    Key,
}

/// One row of values; the batch dimension is not part of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<u32>,
    pub(crate) element: Element,
    /// Value = integer · 2^-exponent.
    pub(crate) exponent: i32,
    /// The model's input may convert each element at an exponent of its own; the factor between that and `exponent`
    /// is then part of the consumer's constants.
    pub(crate) exponents: Vec<i32>,
    /// Every element lies in `minimum..=maximum`: requantisation saturates there.
    pub(crate) minimum: i64,
    pub(crate) maximum: i64,
}

impl Tensor {
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().map(|&dimension| dimension as usize).product()
    }

    pub(crate) fn exponent_of(&self, element: usize) -> i32 {
        self.exponents.get(element).copied().unwrap_or(self.exponent)
    }

    pub(crate) fn bound(&self) -> u64 {
        self.minimum.unsigned_abs().max(self.maximum.unsigned_abs())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    None,
    Sigmoid,
    Tanh,
    /// Negative values times a slope at exponent 15.
    Leaky(i16),
    Gelu,
    /// GELU's approximation by tanh.
    GeluTanh,
}

impl Activation {
    /// Exponent and bounds of the requantised value that goes into the activation on its way to `output`.
    pub(crate) fn argument(self, output: &Tensor) -> (i32, i64, i64) {
        let i16_range = (i64::from(i16::MIN), i64::from(i16::MAX));
        match self {
            Activation::None | Activation::Leaky(_) => (output.exponent, output.minimum, output.maximum),
            Activation::Sigmoid => (activation::SIGMOID_INPUT_EXPONENT, i16_range.0, i16_range.1),
            Activation::Tanh => (activation::TANH_INPUT_EXPONENT, i16_range.0, i16_range.1),
            // The result is nowhere above the argument.
            Activation::Gelu | Activation::GeluTanh => (output.exponent, i16_range.0, output.maximum),
        }
    }

    /// Applies the activation to a requantised value, for an output at `exponent`.
    pub(crate) fn apply(self, value: i64, exponent: i32) -> i64 {
        match self {
            Activation::None => value,
            Activation::Sigmoid => activation::sigmoid(value as i16, exponent).into(),
            Activation::Tanh => activation::tanh(value as i16, exponent).into(),
            Activation::Leaky(slope) => activation::leaky(value as i16, slope).into(),
            Activation::Gelu => curve::gelu(value as i16, exponent).into(),
            Activation::GeluTanh => curve::gelu_tanh(value as i16, exponent).into(),
        }
    }
}

/// Row-major `[outputs, inputs]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Weights {
    I8(Vec<i8>),
    I16(Vec<i16>),
}

impl Weights {
    pub(crate) fn len(&self) -> usize {
        match self {
            Weights::I8(values) => values.len(),
            Weights::I16(values) => values.len(),
        }
    }

    pub(crate) fn get(&self, index: usize) -> i16 {
        match self {
            Weights::I8(values) => values[index].into(),
            Weights::I16(values) => values[index],
        }
    }

    pub(crate) fn bits(&self) -> u32 {
        match self {
            Weights::I8(_) => 8,
            Weights::I16(_) => 16,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dense {
    pub(crate) weights: Weights,
    /// One, or one for each output.
    pub(crate) weight_exponents: Vec<i32>,
    pub(crate) bias: Vec<i64>,
    pub(crate) activation: Activation,
}

impl Dense {
    pub(crate) fn weight_exponent(&self, output: usize) -> i32 {
        self.weight_exponents[if self.weight_exponents.len() == 1 { 0 } else { output }]
    }
}

/// Elementwise `x · multiplier + offset`, then a rounding shift to the right.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Affine {
    pub(crate) multipliers: Vec<i32>,
    pub(crate) offsets: Vec<i64>,
    pub(crate) shifts: Vec<u8>,
}

/// What an ensemble does to its leaf sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The sums themselves.
    Sum,
    /// Of one sum `s`: `1 - s, s`.
    Complement,
    /// Of one sum `s`: `-s, s`.
    Negate,
    /// Sigmoid of each sum.
    Logistic,
    /// Of one sum `s`: `sigmoid(-s), sigmoid(s)`.
    LogisticPair,
}

impl Finish {
    /// Elements of the result for `targets` sums.
    pub(crate) fn outputs(self, targets: usize) -> usize {
        match self {
            Finish::Sum | Finish::Logistic => targets,
            Finish::Complement | Finish::Negate | Finish::LogisticPair => 2 * targets,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trees {
    /// First node of each tree, then the number of nodes.
    pub(crate) tree_nodes: Vec<u32>,
    /// A node's absolute index, or `!leaf`; likewise the children.
    pub(crate) roots: Vec<i32>,
    pub(crate) features: Vec<u32>,
    pub(crate) thresholds: Vec<i32>,
    pub(crate) when_true: Vec<i32>,
    pub(crate) when_false: Vec<i32>,
    /// First entry of each leaf, then the number of entries.
    pub(crate) leaf_entries: Vec<u32>,
    pub(crate) entry_targets: Vec<u16>,
    pub(crate) entry_values: Vec<i32>,
    pub(crate) base: Vec<i64>,
    pub(crate) sum_exponent: i32,
    pub(crate) finish: Finish,
}

impl Trees {
    /// No trees yet.
    pub(crate) fn new(base: Vec<i64>, sum_exponent: i32, finish: Finish) -> Trees {
        Trees {
            tree_nodes: vec![0],
            roots: Vec::new(),
            features: Vec::new(),
            thresholds: Vec::new(),
            when_true: Vec::new(),
            when_false: Vec::new(),
            leaf_entries: vec![0],
            entry_targets: Vec::new(),
            entry_values: Vec::new(),
            base,
            sum_exponent,
            finish,
        }
    }

    pub(crate) fn trees(&self) -> usize {
        self.roots.len()
    }

    pub(crate) fn leaves(&self) -> usize {
        self.leaf_entries.len().saturating_sub(1)
    }
}

/// Which recurrent unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cell {
    /// Gates input, output, forget, cell.
    Lstm,
    /// Gates update, reset, hidden; the reset gate comes after the product.
    Gru,
}

impl Cell {
    pub(crate) fn gates(self) -> usize {
        match self {
            Cell::Lstm => 4,
            Cell::Gru => 3,
        }
    }

    /// Exponent of a gate's argument.
    pub(crate) fn argument_exponent(self, gate: usize) -> i32 {
        if gate + 1 == self.gates() { gate::TANH_INPUT_EXPONENT } else { gate::SIGMOID_INPUT_EXPONENT }
    }
}

/// A forward recurrent layer over the first dimension of its input. Rows of both matrices are `[gates][hidden]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Recurrent {
    pub(crate) cell: Cell,
    pub(crate) input_weights: Vec<i16>,
    pub(crate) input_exponents: Vec<i32>,
    pub(crate) recurrent_weights: Vec<i16>,
    pub(crate) recurrent_exponents: Vec<i32>,
    /// One for each row, at the scale of the input's products.
    pub(crate) bias: Vec<i64>,
    /// GRU: one for each hidden unit, of its hidden gate, at the scale of the recurrent products.
    pub(crate) recurrent_bias: Vec<i64>,
    pub(crate) cell_exponent: i32,
    /// LSTM only; empty is zero.
    pub(crate) initial_hidden: Vec<i16>,
    /// Empty is zero.
    pub(crate) initial_cell: Vec<i32>,
    /// Whether the output is the last step's hidden state, and not every step's.
    pub(crate) last_only: bool,
}

impl Recurrent {
    pub(crate) fn hidden(&self) -> usize {
        self.bias.len() / self.cell.gates()
    }

    /// Features of a step.
    pub(crate) fn features(&self) -> usize {
        self.input_weights.len() / self.bias.len()
    }

    /// Exponent of the sum of row `row`.
    pub(crate) fn sum_exponent(&self, row: usize, output: &Tensor) -> i32 {
        output.exponent + self.recurrent_exponents[row]
    }

    pub(crate) fn states(&self, output: &Tensor) -> States {
        States { cell: self.cell_exponent, hidden: output.exponent }
    }
}

/// Places at which a kernel lies on an image `[height, width, channels]`; pairs are height and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) image: [u32; 2],
    pub(crate) channels: u32,
    pub(crate) kernel: [u32; 2],
    pub(crate) strides: [u32; 2],
    pub(crate) dilations: [u32; 2],
    /// Before the first row and column.
    pub(crate) before: [u32; 2],
    /// After the last.
    pub(crate) after: [u32; 2],
}

impl Window {
    /// A kernel of one place at a time, without padding.
    pub(crate) fn point(image: [u32; 2], channels: u32) -> Window {
        Window {
            image,
            channels,
            kernel: [1; 2],
            strides: [1; 2],
            dilations: [1; 2],
            before: [0; 2],
            after: [0; 2],
        }
    }

    /// Rows and columns of places. [`super::validate`] has checked that the kernel fits the padded image.
    pub(crate) fn places(&self) -> [usize; 2] {
        [0, 1].map(|axis| {
            let padded = self.before[axis] + self.image[axis] + self.after[axis];
            let reach = (self.kernel[axis] - 1) * self.dilations[axis] + 1;
            ((padded - reach) / self.strides[axis]) as usize + 1
        })
    }

    /// Elements of the kernel, for one channel.
    pub(crate) fn taps(&self) -> usize {
        self.kernel[0] as usize * self.kernel[1] as usize
    }

    /// The row or column of the image that a tap of the kernel meets at a place, if it is not padding.
    pub(crate) fn tap(&self, axis: usize, place: usize, tap: usize) -> Option<usize> {
        let at = place * self.strides[axis] as usize + tap * self.dilations[axis] as usize;
        at.checked_sub(self.before[axis] as usize).filter(|&at| at < self.image[axis] as usize)
    }

    /// The taps along an axis that meet the image at a place: the first, and one after the last.
    pub(crate) fn taps_within(&self, axis: usize, place: usize) -> (usize, usize) {
        let [stride, dilation, before, length] =
            [self.strides, self.dilations, self.before, self.image].map(|pair| pair[axis] as usize);
        let start = place * stride;
        let first = before.saturating_sub(start).div_ceil(dilation);
        let end = (length + before).saturating_sub(start).div_ceil(dilation);
        (first, end.min(self.kernel[axis] as usize))
    }

    /// Taps of a place that lie before the end of the image and `after` elements behind it.
    pub(crate) fn taps_before_end(&self, axis: usize, place: usize, after: u32) -> usize {
        let [stride, dilation, before, length] =
            [self.strides, self.dilations, self.before, self.image].map(|pair| pair[axis] as usize);
        let end = (before + length + after as usize).saturating_sub(place * stride);
        end.div_ceil(dilation).min(self.kernel[axis] as usize)
    }
}

/// A dense layer at each place of a window.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conv {
    pub(crate) window: Window,
    pub(crate) groups: usize,
    /// Its inputs are the kernel's `[height, width, channels of the group]`.
    pub(crate) product: Dense,
}

impl Conv {
    /// Inputs of each output: what one row of weights has.
    pub(crate) fn inputs(&self) -> usize {
        self.window.taps() * (self.window.channels as usize / self.groups)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reduction {
    Max,
    Sum,
}

/// One number for each channel and place of a window.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pool {
    pub(crate) window: Window,
    pub(crate) reduction: Reduction,
    /// Of sums, as is the rounding shift to the right after it.
    pub(crate) multiplier: i32,
    pub(crate) shift: u8,
}

/// Elements of the inputs, one after the other, in another order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Move {
    /// -1 is the constant.
    pub(crate) indices: Vec<i32>,
    pub(crate) fill: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operator {
    Dense(Dense),
    Affine(Affine),
    /// Of two tensors: their sum, or difference.
    Add {
        subtract: bool,
    },
    Map(Activation),
    Trees(Trees),
    Recurrent(Recurrent),
    Move(Move),
    Conv(Conv),
    Pool(Pool),
    Multiply,
    /// Along the middle of `[outer, length, inner]`.
    ArgMax {
        length: usize,
        inner: usize,
    },
    MatMul(MatMul),
    Softmax(Softmax),
    LayerNorm(LayerNorm),
    /// The newest columns of a tensor, of which the input is the newest: in the form of a stream, and in no file.
    Slide,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// Operators of the source graph that became this node.
    pub(crate) source: String,
    pub(crate) inputs: Vec<usize>,
    pub(crate) output: usize,
    pub(crate) operator: Operator,
}

/// A graph in order of execution. The input tensor has no producer; every other tensor has one, before its use.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Graph {
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) input: usize,
    pub(crate) output: usize,
}
