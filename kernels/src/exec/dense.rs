//! Weights of a dense layer in the order in which vector multiply-adds read them.
//!
//! One vector holds, for 8 outputs, the weights of two neighbouring inputs; a pair of inputs is broadcast against it.
//! Eight outputs are a tile; up to four tiles are a group, whose vectors for one pair of inputs lie together, so that
//! a group is read as a single stream. Missing outputs and an odd last input are zeros.
//!
//! The inputs of a row are runs of neighbouring elements: one for a dense layer, some for a convolution, which is a dense
//! layer whose rows are the places of its kernel.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::Backend;
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

impl Output {
    /// # Safety
    /// As for the pointer's `add`.
    pub(super) unsafe fn add(self, elements: usize) -> Output {
        // SAFETY: the caller's condition.
        unsafe {
            match self {
                Output::I16(y) => Output::I16(y.add(elements)),
                Output::I32(y) => Output::I32(y.add(elements)),
            }
        }
    }
}

/// Rows that a kernel computes: where they are read, and where their results go.
///
/// They are pointers, because the regions may lie in one arena: the plan keeps them apart. Whoever makes one has asserted
/// that all runs of all rows can be read, each to a whole pair of elements, and that all results can be written: whole
/// tiles of them, if the layer's rows are padded.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) x: *const i16,
    pub(super) x_stride: usize,
    pub(super) y: Output,
    pub(super) y_stride: usize,
    pub(super) rows: usize,
}

impl Rows {
    /// Up to `count` of the rows from `first` on.
    ///
    /// # Safety
    /// `first` must be below the number of rows, which must be as [`Rows`] says.
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn part(&self, first: usize, count: usize) -> Rows {
        Rows {
            // SAFETY: the caller's condition: both lie where rows do.
            x: unsafe { self.x.add(first * self.x_stride) },
            // SAFETY: as above.
            y: unsafe { self.y.add(first * self.y_stride) },
            rows: count.min(self.rows - first),
            ..*self
        }
    }
}

/// The elements of a row: the starts of its runs, and the length of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Runs {
    pub(super) starts: Vec<usize>,
    pub(super) len: usize,
}

impl Runs {
    /// Elements from the start of a row to the end of the last pair that is read.
    pub(super) fn reach(&self) -> usize {
        self.starts.last().map_or(0, |start| start + self.len.next_multiple_of(2))
    }
}

#[derive(Debug)]
pub(crate) struct PackedDense {
    /// Starts of the runs of inputs, from the row's.
    pub(crate) runs: Vec<usize>,
    /// Pairs of inputs in each.
    pub(crate) run_pairs: usize,
    pub(crate) outputs: usize,
    /// Whether rows of results are padded to whole tiles, so that the last one may be written whole.
    pub(crate) padded: bool,
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
        let runs = Runs { starts: vec![0], len: input.len() };
        PackedDense {
            padded: true,
            ..PackedDense::of_runs(dense, 0..output.len(), &runs, input, output, proof)
        }
    }

    /// Packs some of the layer's outputs, whose weights are those of the runs' elements in order.
    pub(super) fn of_runs(
        dense: &Dense,
        channels: Range<usize>,
        runs: &Runs,
        input: &Tensor,
        output: &Tensor,
        proof: Proof,
    ) -> PackedDense {
        let (inputs, outputs) = (runs.starts.len() * runs.len, channels.len());
        let (run_pairs, tiles) = (runs.len.div_ceil(2), outputs.div_ceil(TILE));
        let pairs = runs.starts.len() * run_pairs;
        let (argument, minimum, maximum) = dense.activation.argument(output);
        let weight = |channel: usize, run: usize, index: usize| {
            let within = channel < outputs && index < runs.len;
            let at = (channels.start + channel) * inputs + run * runs.len + index;
            if within { dense.weights.get(at) } else { 0 }
        };
        let mut weights = Vec::with_capacity(tiles * pairs);
        for first in (0..tiles).step_by(GROUP) {
            for pair in 0..pairs {
                let (run, pair) = (pair / run_pairs, pair % run_pairs);
                for tile in first..tiles.min(first + GROUP) {
                    let lane = |lane: usize| weight(tile * TILE + lane / 2, run, pair * 2 + lane % 2);
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
        for (index, channel) in channels.enumerate() {
            let shift = input.exponent + dense.weight_exponent(channel) - argument;
            shifts[index] = shift;
            biases[index] = dense.bias[channel] + if shift > 0 { 1 << (shift - 1) } else { 0 };
        }
        let narrow = proof.accumulator_bits == 32;
        let narrow_biases =
            if narrow { biases.iter().map(|&bias| bias as i32).collect() } else { Vec::new() };
        PackedDense {
            runs: runs.starts.clone(),
            run_pairs,
            outputs,
            padded: false,
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

    /// What brings sums of `inputs` products to each of `outputs` results: their weights are the caller's.
    pub(super) fn without_weights(
        inputs: usize,
        outputs: usize,
        shift: i32,
        output: &Tensor,
        proof: Proof,
    ) -> PackedDense {
        let channels = outputs.next_multiple_of(TILE);
        let half = if shift > 0 { 1i64 << (shift - 1) } else { 0 };
        PackedDense {
            runs: vec![0],
            run_pairs: inputs.div_ceil(2),
            outputs,
            padded: false,
            weights: Vec::new(),
            biases: vec![half; channels],
            narrow_biases: if proof.accumulator_bits == 32 {
                vec![half as i32; channels]
            } else {
                Vec::new()
            },
            shifts: vec![shift; channels],
            activation: Activation::None,
            exponent: output.exponent,
            minimum: output.minimum,
            maximum: output.maximum,
        }
    }

    pub(super) fn tiles(&self) -> usize {
        self.outputs.div_ceil(TILE)
    }

    /// Pairs of inputs.
    pub(super) fn pairs(&self) -> usize {
        self.runs.len() * self.run_pairs
    }

    /// Outputs of a tile: all of it, save of the last where rows are not padded.
    pub(super) fn lanes(&self, tile: usize) -> usize {
        if self.padded { TILE } else { TILE.min(self.outputs - tile * TILE) }
    }

    /// The first `rows` slots of two regions. Rows are padded to 16 elements, so a pair of inputs and a tile of outputs
    /// never leave their row.
    pub(super) fn rows(&self, scratch: &mut Scratch, from: Region, to: Region, rows: usize) -> Rows {
        let (input, output) = (scratch.start(from, 0), scratch.start(to, 0));
        let channels = self.tiles() * TILE;
        let (i16s, i32s, _) = scratch.parts_mut();
        let output_len = if to.arena == Arena::I16 { i16s.len() } else { i32s.len() };
        assert!(from.arena == Arena::I16 && to.arena != Arena::I64 && rows > 0);
        assert!(input + rows * from.stride <= i16s.len() && output + rows * to.stride <= output_len);
        assert!(self.pairs() * 2 <= from.stride && channels <= to.stride && self.runs == [0]);
        let base = i16s.as_mut_ptr();
        // SAFETY: asserted above.
        let x = unsafe { base.add(input).cast_const() };
        let y = match to.arena {
            // SAFETY: asserted above.
            Arena::I16 => Output::I16(unsafe { base.add(output) }),
            // SAFETY: asserted above.
            _ => Output::I32(unsafe { i32s.as_mut_ptr().add(output) }),
        };
        Rows { x, x_stride: from.stride, y, y_stride: to.stride, rows }
    }

    /// Computes the rows on a backend of vectors.
    ///
    /// # Safety
    /// The processor must have the backend, and the rows must be as [`Rows`] says.
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn execute(&self, backend: Backend, rows: &Rows) {
        assert!(self.tiles() * self.pairs() <= self.weights.len() * 2);
        // SAFETY: the caller's condition; the weights are there.
        unsafe { self.execute_with(backend, self.weights.as_ptr().cast(), rows) }
    }

    /// Computes the rows with weights of the caller's, `tiles * pairs` vectors in this layer's order.
    ///
    /// # Safety
    /// As [`PackedDense::execute`]; the weights must be there.
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn execute_with(&self, backend: Backend, weights: *const Lanes, rows: &Rows) {
        let channels = self.tiles() * TILE;
        assert!(self.biases.len() == channels && self.shifts.len() == channels);
        // SAFETY: the caller's condition.
        unsafe {
            if backend == Backend::Avx512Vnni && !self.narrow_biases.is_empty() {
                super::avx512::dense(self, weights, rows);
            } else {
                super::avx2::dense(self, weights, rows);
            }
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.weights.len() * size_of::<Line>()
            + self.biases.len() * 8
            + self.shifts.len() * 4
            + self.narrow_biases.len() * 4
    }
}
