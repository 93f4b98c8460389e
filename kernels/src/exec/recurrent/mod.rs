//! Recurrent layers (SPEC.md, section 7.6), and their weights in the order in which vectors read them.
//!
//! Sixteen hidden units with all their gates are a group: when a group's sums are done, its units are finished while
//! they are still in registers. The products with the input do not wait for the recurrence, so those of many steps run
//! as one matrix product before it, and leave one 32-bit share of each gate's argument for each step.
//!
//! At batch 1 the recurrence is bound by reading its matrix from the second-level cache at each step. Steps go through
//! the groups in alternating direction, so that what the last step read last, and is still in the first-level cache, is
//! read first.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
mod reference;
#[cfg(target_arch = "x86_64")]
pub(super) mod steps;

use crate::model::graph::{Cell, Recurrent, Tensor};
use crate::model::validate::Proof;
use crate::spec::coefficients::GATE;
use crate::spec::recurrence::States;

pub(super) use reference::execute;

/// Hidden units in a group.
pub(super) const UNITS: usize = 16;
/// Rows that go through the steps together: their products share each load of the weights.
pub(super) const BLOCK: usize = 8;
/// Products with the input that are made before the recurrence goes on: rows × steps. Their shares take 200 KiB for
/// 200 hidden units, which leaves most of a second-level cache to the weights.
pub(super) const POSITIONS: usize = 64;

/// One 512-bit vector of weights: for 16 units, those of two neighbouring inputs.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Pairs(#[allow(dead_code)] pub(super) [i16; 2 * UNITS]);

/// One 512-bit vector of 32-bit values.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
pub(crate) struct Words(pub(super) [i32; UNITS]);

impl Words {
    /// The values one after the other.
    pub(super) fn flat(words: &mut [Words]) -> &mut [i32] {
        let len = words.len() * UNITS;
        // SAFETY: `Words` is sixteen values of four bytes and has their size, so the slice covers the same memory.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), len) }
    }
}

/// Constants of a group, a vector for each gate. An LSTM has four, a GRU leaves the last unused.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Constants {
    /// Bias of the products with the input, with the half of the shift to the recurrent scale.
    pub(super) bias: [Words; 4],
    pub(super) input_shift: [Words; 4],
    /// The half of the shift to the gate's argument; for a GRU's hidden gate that of the shift after the reset gate.
    pub(super) half: [Words; 4],
    pub(super) shift: [Words; 4],
    /// GRU: what the hidden gate's recurrent sum starts from.
    pub(super) recurrent_bias: Words,
}

/// A layer whose sums are proven to fit 32 bits.
#[derive(Debug)]
pub(crate) struct PackedRecurrent {
    pub(super) cell: Cell,
    pub(super) steps: usize,
    pub(super) features: usize,
    pub(super) hidden: usize,
    /// `[group][pair of features][gate]`.
    pub(super) input: Vec<Pairs>,
    /// `[group][pair of hidden units][gate]`.
    pub(super) recurrent: Vec<Pairs>,
    pub(super) constants: Vec<Constants>,
    pub(super) states: States,
    /// Padded to whole groups.
    pub(super) initial_hidden: Vec<i16>,
    pub(super) initial_cell: Vec<i32>,
    pub(super) last_only: bool,
}

impl PackedRecurrent {
    /// Packs a layer, unless its sums need 64 bits: such are left to the reference.
    pub(crate) fn new(layer: &Recurrent, input: &Tensor, output: &Tensor, proof: Proof) -> Option<Self> {
        if proof.accumulator_bits != 32 {
            return None;
        }
        let (hidden, features) = (layer.hidden(), layer.features());
        let groups = hidden.div_ceil(UNITS);
        let mut initial_hidden = vec![0; groups * UNITS];
        let mut initial_cell = vec![0; groups * UNITS];
        for unit in 0..hidden {
            (initial_hidden[unit], initial_cell[unit]) = initial(layer, output, unit);
        }
        Some(PackedRecurrent {
            cell: layer.cell,
            steps: input.len() / features,
            features,
            hidden,
            input: pack(layer, &layer.input_weights, features),
            recurrent: pack(layer, &layer.recurrent_weights, hidden),
            constants: (0..groups).map(|group| constants(layer, input, output, group)).collect(),
            states: layer.states(output),
            initial_hidden,
            initial_cell,
            last_only: layer.last_only,
        })
    }

    pub(super) fn groups(&self) -> usize {
        self.constants.len()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        (self.input.len() + self.recurrent.len()) * size_of::<Pairs>()
            + self.constants.len() * size_of::<Constants>()
            + self.initial_cell.len() * 6
    }

    /// Vectors of working memory, for any number of rows: shares, then states of [`BLOCK`] rows.
    pub(crate) fn work_words(&self) -> usize {
        self.groups() * (POSITIONS * self.cell.gates() + BLOCK)
    }

    /// `i16` values of working memory: the hidden states of [`BLOCK`] rows, before and after a step.
    pub(crate) fn work_halves(&self) -> usize {
        2 * BLOCK * self.groups() * UNITS
    }
}

/// The states of a unit before the first step.
fn initial(layer: &Recurrent, output: &Tensor, unit: usize) -> (i16, i32) {
    let cell = layer.initial_cell.get(unit).copied().unwrap_or(0);
    match layer.cell {
        Cell::Lstm => (layer.initial_hidden.get(unit).copied().unwrap_or(0), cell),
        Cell::Gru => (layer.states(output).narrow(cell), cell),
    }
}

fn pack(layer: &Recurrent, weights: &[i16], inputs: usize) -> Vec<Pairs> {
    let (hidden, gates) = (layer.hidden(), layer.cell.gates());
    let weight = |gate: usize, unit: usize, index: usize| {
        let within = unit < hidden && index < inputs;
        if within { weights[(gate * hidden + unit) * inputs + index] } else { 0 }
    };
    let mut packed = Vec::with_capacity(hidden.div_ceil(UNITS) * inputs.div_ceil(2) * gates);
    for first in (0..hidden).step_by(UNITS) {
        for pair in 0..inputs.div_ceil(2) {
            for gate in 0..gates {
                let lane = |lane: usize| weight(gate, first + lane / 2, pair * 2 + lane % 2);
                packed.push(Pairs(std::array::from_fn(lane)));
            }
        }
    }
    packed
}

fn constants(layer: &Recurrent, input: &Tensor, output: &Tensor, group: usize) -> Constants {
    let hidden = layer.hidden();
    let mut constants = Constants::default();
    for lane in 0..UNITS.min(hidden - group * UNITS) {
        let unit = group * UNITS + lane;
        for gate in 0..layer.cell.gates() {
            let row = gate * hidden + unit;
            let exponent = layer.sum_exponent(row, output);
            let half = |shift: i32| if shift > 0 { 1i32 << (shift - 1) } else { 0 };
            let input_shift = input.exponent + layer.input_exponents[row] - exponent;
            // The proof that sums fit 32 bits includes the bias with its half.
            constants.bias[gate].0[lane] = layer.bias[row] as i32 + half(input_shift);
            constants.input_shift[gate].0[lane] = input_shift;
            let shift = exponent - layer.cell.argument_exponent(gate);
            if layer.cell == Cell::Gru && gate == 2 {
                // After the reset gate, whose result has 15 more bits; its half is made from it in 64 bits.
                constants.shift[gate].0[lane] = shift + 15;
                constants.recurrent_bias.0[lane] = layer.recurrent_bias[unit] as i32;
            } else {
                constants.shift[gate].0[lane] = shift;
                constants.half[gate].0[lane] = half(shift);
            }
        }
    }
    // Units that are not there have no weights; a shift of 17 keeps the one after the reset gate in its range.
    for lane in hidden.saturating_sub(group * UNITS).min(UNITS)..UNITS {
        constants.shift[2].0[lane] = 17;
    }
    constants
}

/// The gates' table by coefficient, each for one lookup in two vectors of 32.
#[repr(align(64))]
pub(super) struct GateTable(pub(super) [[i16; 64]; 3]);

pub(super) static GATE_TABLE: GateTable = GateTable(transposed());

const fn transposed() -> [[i16; 64]; 3] {
    let mut table = [[0; 64]; 3];
    let mut segment = 0;
    while segment < 64 {
        table[0][segment] = GATE[segment][0];
        table[1][segment] = GATE[segment][1];
        table[2][segment] = GATE[segment][2];
        segment += 1;
    }
    table
}

/// The same for lookups of 32 bits: the first coefficient, then the other two in the high and the low half.
pub(super) struct GateWords(pub(super) [[i32; 64]; 2]);

pub(super) static GATE_WORDS: GateWords = GateWords(paired());

const fn paired() -> [[i32; 64]; 2] {
    let mut table = [[0; 64]; 2];
    let mut segment = 0;
    while segment < 64 {
        let [value, linear, square] = GATE[segment];
        table[0][segment] = value as i32;
        table[1][segment] = ((linear as i32) << 16) | (square as u16 as i32);
        segment += 1;
    }
    table
}
