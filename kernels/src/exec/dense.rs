//! Weights of a dense layer in the order in which vector multiply-adds read them.
//!
//! One vector holds, for 8 outputs, the weights of two neighbouring inputs; a pair of inputs is broadcast against it.
//! Eight outputs are a tile; up to four tiles are a group, whose vectors for one pair of inputs lie together, so that
//! a group is read as a single stream. Missing outputs and an odd last input are zeros.

use super::scratch::Scratch;
use crate::model::graph::{Activation, Dense, Tensor};
use crate::model::plan::{Arena, Region};
use crate::model::validate::Proof;

/// Outputs in a vector.
pub(crate) const TILE: usize = 8;
/// Tiles in a group: with two rows that is eight accumulators, half of the registers.
pub(crate) const GROUP: usize = 4;

/// One vector of weights; vector kernels read it through a pointer.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
pub(crate) struct Lanes(#[allow(dead_code)] [i16; 16]);

/// Two of them, as one vector of 512 bits.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code)] [Lanes; 2]);

/// Where results go.
#[derive(Clone, Copy)]
pub(super) enum Output {
    I16(*mut i16),
    I32(*mut i32),
}

#[derive(Debug)]
pub(crate) struct PackedDense {
    /// Pairs of inputs.
    pub(crate) pairs: usize,
    pub(crate) outputs: usize,
    /// `[group][pair][tile of the group]`.
    weights: Vec<Line>,
    /// Bias plus the half of the rounding shift, for each output, padded to whole tiles.
    pub(crate) biases: Vec<i64>,
    /// The same in 32 bits, if the sums are proven to fit.
    pub(crate) narrow_biases: Vec<i32>,
    pub(crate) shifts: Vec<i32>,
    pub(crate) activation: Activation,
    /// Exponent of the output.
    pub(crate) exponent: i32,
    /// Bounds of the requantised value.
    pub(crate) minimum: i64,
    pub(crate) maximum: i64,
}

impl PackedDense {
    pub(crate) fn new(dense: &Dense, input: &Tensor, output: &Tensor, proof: Proof) -> PackedDense {
        let (inputs, outputs) = (input.len(), output.len());
        let (pairs, tiles) = (inputs.div_ceil(2), outputs.div_ceil(TILE));
        let (argument, minimum, maximum) = dense.activation.argument(output);
        let weight = |channel: usize, index: usize| {
            let within = channel < outputs && index < inputs;
            if within { dense.weights.get(channel * inputs + index) } else { 0 }
        };
        let mut weights = Vec::with_capacity(tiles * pairs);
        for first in (0..tiles).step_by(GROUP) {
            for pair in 0..pairs {
                for tile in first..tiles.min(first + GROUP) {
                    let lane = |lane: usize| weight(tile * TILE + lane / 2, pair * 2 + lane % 2);
                    weights.push(Lanes(std::array::from_fn(lane)));
                }
            }
        }
        if weights.len() % 2 != 0 {
            weights.push(Lanes([0; 16]));
        }
        let weights = weights.as_chunks().0.iter().map(|&pair| Line(pair)).collect();
        let mut biases = vec![0; tiles * TILE];
        let mut shifts = vec![0; tiles * TILE];
        for channel in 0..outputs {
            let shift = input.exponent + dense.weight_exponent(channel) - argument;
            shifts[channel] = shift;
            biases[channel] = dense.bias[channel] + if shift > 0 { 1 << (shift - 1) } else { 0 };
        }
        let narrow = proof.accumulator_bits == 32;
        let narrow_biases =
            if narrow { biases.iter().map(|&bias| bias as i32).collect() } else { Vec::new() };
        PackedDense {
            pairs,
            outputs,
            weights,
            biases,
            narrow_biases,
            shifts,
            activation: dense.activation,
            exponent: output.exponent,
            minimum,
            maximum,
        }
    }

    pub(super) fn tiles(&self) -> usize {
        self.outputs.div_ceil(TILE)
    }

    /// Where the first of `rows` rows is read, and where its results go. Both are good for all rows and whole tiles.
    ///
    /// They are pointers, because the regions may lie in one arena: the plan keeps them apart. Rows are padded to 16
    /// elements, so a pair of inputs and a tile of outputs never leave their row.
    pub(super) fn rows(
        &self,
        scratch: &mut Scratch,
        from: Region,
        to: Region,
        rows: usize,
    ) -> (*const i16, Output) {
        let (input, output) = (scratch.start(from, 0), scratch.start(to, 0));
        let channels = self.tiles() * TILE;
        let (i16s, i32s) = scratch.arenas_mut();
        let output_len = if to.arena == Arena::I16 { i16s.len() } else { i32s.len() };
        assert!(from.arena == Arena::I16 && to.arena != Arena::I64 && rows > 0);
        assert!(input + rows * from.stride <= i16s.len() && output + rows * to.stride <= output_len);
        assert!(self.pairs * 2 <= from.stride && channels <= to.stride && self.biases.len() == channels);
        assert!(self.shifts.len() == channels);
        let base = i16s.as_mut_ptr();
        // SAFETY: asserted above.
        let x = unsafe { base.add(input).cast_const() };
        let y = match to.arena {
            // SAFETY: asserted above.
            Arena::I16 => Output::I16(unsafe { base.add(output) }),
            // SAFETY: asserted above.
            _ => Output::I32(unsafe { i32s.as_mut_ptr().add(output) }),
        };
        (x, y)
    }

    /// The weights of `tiles` tiles from the first of a group on: `tiles * pairs` vectors.
    pub(crate) fn group(&self, first: usize, tiles: usize) -> *const Lanes {
        assert!((first + tiles) * self.pairs <= self.weights.len() * 2, "a group lies within the weights");
        self.weights.as_ptr().cast::<Lanes>().wrapping_add(first * self.pairs)
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.weights.len() * size_of::<Line>()
            + self.biases.len() * 8
            + self.shifts.len() * 4
            + self.narrow_biases.len() * 4
    }
}
