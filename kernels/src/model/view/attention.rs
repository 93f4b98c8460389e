//! Products of computed matrices, softmax and layer normalisation (`SPEC.md`, sections 7.13 to 7.15).

use super::Requantize;
use crate::model::graph;

/// Section 7.13: `requantize(left · right)` of several pairs of matrices.
#[derive(Debug, Clone, Copy)]
pub struct MatMul<'a> {
    pub(super) layer: &'a graph::MatMul,
    pub(super) requantize: Requantize,
}

impl MatMul<'_> {
    /// Pairs of matrices.
    pub fn matrices(&self) -> usize {
        self.layer.matrices
    }

    /// Rows of the left ones.
    pub fn rows(&self) -> usize {
        self.layer.rows
    }

    /// Columns of the left ones, rows of the right ones.
    pub fn inner(&self) -> usize {
        self.layer.inner
    }

    /// Columns of the right ones.
    pub fn columns(&self) -> usize {
        self.layer.columns
    }

    /// The element of the first input that is at a row and column.
    pub fn left(&self, matrix: usize, row: usize, column: usize) -> usize {
        let [first, by_matrix, by_row, by_column] = self.layer.left;
        first + matrix * by_matrix + row * by_row + column * by_column
    }

    /// The element of the second input.
    pub fn right(&self, matrix: usize, row: usize, column: usize) -> usize {
        let [first, by_matrix, by_row, by_column] = self.layer.right;
        first + matrix * by_matrix + row * by_row + column * by_column
    }

    /// The element of the output.
    pub fn output(&self, matrix: usize, row: usize, column: usize) -> usize {
        let [first, by_matrix, by_row] = self.layer.output;
        first + matrix * by_matrix + row * by_row + column
    }

    /// What is done to each sum.
    pub fn requantize(&self) -> Requantize {
        self.requantize
    }
}

/// Section 7.14: shares of each group of neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Softmax {
    /// Neighbours.
    pub group: usize,
    /// Of the distance from the largest.
    pub multiplier: i64,
    /// The shift to the right after it.
    pub shift: u32,
    /// Exponent of the result.
    pub exponent: i32,
    /// The greatest result.
    pub maximum: i64,
}

/// Section 7.15: each group of neighbours less its mean, over its deviation, scaled and shifted.
#[derive(Debug, Clone, Copy)]
pub struct LayerNorm<'a> {
    /// At the scale of the group's variance times the square of its length.
    pub epsilon: i64,
    /// One for each element of a group.
    pub multipliers: &'a [i32],
    /// Likewise.
    pub offsets: &'a [i64],
    /// What is done to each scaled and shifted value.
    pub requantize: Requantize,
}
