//! What a transformer's encoder needs besides dense layers, as plain data.

/// Products of two computed matrices, several side by side. Of each operand: its first element, and the distances of
/// neighbours from matrix to matrix, row to row and column to column, so that no operand has to be moved before.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MatMul {
    pub(crate) matrices: usize,
    pub(crate) rows: usize,
    pub(crate) inner: usize,
    pub(crate) columns: usize,
    pub(crate) left: [usize; 4],
    pub(crate) right: [usize; 4],
    /// Columns lie together.
    pub(crate) output: [usize; 3],
}

/// Softmax of each group of neighbours: of `x * multiplier * 2^-shift / log2(e)`, at exponent 16.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Softmax {
    pub(crate) group: usize,
    pub(crate) multiplier: i32,
    pub(crate) shift: u8,
}

/// Each group of neighbours less its mean, over its deviation, scaled and shifted. A group has as many elements as there
/// are multipliers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LayerNorm {
    /// At the scale of `group^2` variances; at least 1, so that no deviation is zero.
    pub(crate) epsilon: i64,
    pub(crate) multipliers: Vec<i32>,
    /// Of the multipliers.
    pub(crate) exponent: i32,
    /// At that exponent and 20 more.
    pub(crate) offsets: Vec<i64>,
}
