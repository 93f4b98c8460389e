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
mod split;
#[cfg(target_arch = "x86_64")]
pub(super) mod steps;

use super::Backend;
use crate::model::Model;
use crate::model::graph::{Cell, Node, Recurrent, Tensor};
use crate::spec::coefficients::GATE;
use crate::spec::recurrence::States;
use split::{Meeting, Splits, parts};

pub(super) use reference::execute;

/// Hidden units in a group.
pub(super) const UNITS: usize = 16;
/// Rows that go through the steps together: their products share each load of the weights.
pub(super) const BLOCK: usize = 8;
/// Products with the input that are made before the recurrence goes on: rows × steps. Their shares take 200 KiB for
/// 200 hidden units, which leaves most of a second-level cache to the weights.
pub(super) const POSITIONS: usize = 64;

/// How far a layer is taken, and from which states.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk {
    pub(super) steps: usize,
    /// Where the layer's states lie among those that a slot carries from call to call: for each unit of an LSTM the hidden
    /// state, then for each unit of either kind the cell. Without, every walk starts from the layer's own states.
    pub(super) carried: Option<usize>,
}

impl Walk {
    pub(super) fn new(model: &Model, node: &Node, layer: &Recurrent) -> Walk {
        let steps = model.graph.tensors[node.inputs[0]].len() / layer.features();
        Walk { steps, carried: model.carried.get(node.output).copied().flatten() }
    }
}

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
    /// Bias of the products with the input, with the half of the shift to the recurrent scale; of split sums the low part.
    pub(super) bias: [Words; 4],
    /// Of split sums: the bias's high part, and how the parts meet.
    pub(super) bias_high: [Words; 4],
    pub(super) input_limit: [Words; 4],
    pub(super) input_left: [Words; 4],
    pub(super) input_low: [Words; 4],
    /// The shift to the recurrent scale, after the parts have met.
    pub(super) input_shift: [Words; 4],
    /// The half of the shift to the gate's argument; for a GRU's hidden gate that of the shift after the reset gate.
    pub(super) half: [Words; 4],
    /// For split sums the shift after the parts have met.
    pub(super) shift: [Words; 4],
    /// GRU: what the hidden gate's recurrent sum starts from; of split sums the low part, and the high part.
    pub(super) recurrent_bias: Words,
    pub(super) recurrent_high: Words,
}

/// A layer whose sums are proven to fit 32 bits, or twice 32 bits ([`split`]).
#[derive(Debug)]
pub(crate) struct PackedRecurrent {
    pub(super) cell: Cell,
    pub(super) features: usize,
    pub(super) hidden: usize,
    pub(super) splits: Splits,
    /// Whether the halves of a group's weights lie apart.
    pub(super) is_halved: bool,
    /// `[group][pair of features][gate]`, or `[group][half][pair of features][gate]`.
    pub(super) input: Vec<Pairs>,
    /// Likewise, of pairs of hidden units.
    pub(super) recurrent: Vec<Pairs>,
    pub(super) constants: Vec<Constants>,
    pub(super) states: States,
    /// Padded to whole groups.
    pub(super) initial_hidden: Vec<i16>,
    pub(super) initial_cell: Vec<i32>,
    pub(super) last_only: bool,
}

impl PackedRecurrent {
    /// Packs a layer, unless its sums do not even fit when split: such are left to the reference.
    pub(crate) fn new(layer: &Recurrent, input: &Tensor, output: &Tensor) -> Option<Self> {
        let splits = Splits::new(layer, input, output)?;
        let (hidden, features) = (layer.hidden(), layer.features());
        let groups = hidden.div_ceil(UNITS);
        // Vectors of 256 bits read one half after the other: a group's weights may fill the first-level cache, a half's
        // do not.
        let is_halved = Backend::detect() == Backend::Avx2;
        let mut initial_hidden = vec![0; groups * UNITS];
        let mut initial_cell = vec![0; groups * UNITS];
        for unit in 0..hidden {
            (initial_hidden[unit], initial_cell[unit]) = initial(layer, output, unit);
        }
        Some(PackedRecurrent {
            cell: layer.cell,
            features,
            hidden,
            splits,
            is_halved,
            input: pack(layer, &layer.input_weights, features, is_halved),
            recurrent: pack(layer, &layer.recurrent_weights, hidden, is_halved),
            constants: (0..groups).map(|group| constants(layer, input, output, splits, group)).collect(),
            states: layer.states(output),
            initial_hidden,
            initial_cell,
            last_only: layer.last_only,
        })
    }

    pub(super) fn groups(&self) -> usize {
        self.constants.len()
    }

    /// How many halves of a group have units.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn halves(&self, group: usize) -> usize {
        (self.hidden - group * UNITS).div_ceil(UNITS / 2).min(2)
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

/// The states of a unit before the first step: hidden and cell.
pub(crate) fn initial(layer: &Recurrent, output: &Tensor, unit: usize) -> (i16, i32) {
    let cell = layer.initial_cell.get(unit).copied().unwrap_or(0);
    match layer.cell {
        Cell::Lstm => (layer.initial_hidden.get(unit).copied().unwrap_or(0), cell),
        Cell::Gru => (layer.states(output).narrow(cell), cell),
    }
}

fn pack(layer: &Recurrent, weights: &[i16], inputs: usize, is_halved: bool) -> Vec<Pairs> {
    let (hidden, gates, pairs) = (layer.hidden(), layer.cell.gates(), inputs.div_ceil(2));
    let weight = |gate: usize, unit: usize, index: usize| {
        let within = unit < hidden && index < inputs;
        if within { weights[(gate * hidden + unit) * inputs + index] } else { 0 }
    };
    let halves = if is_halved { 2 } else { 1 };
    let units = UNITS / halves;
    let mut packed = Vec::with_capacity(hidden.div_ceil(UNITS) * pairs * gates);
    let mut vector = [0; 2 * UNITS];
    let mut filled = 0;
    for first in (0..hidden.next_multiple_of(UNITS)).step_by(units) {
        for pair in 0..pairs {
            for gate in 0..gates {
                for lane in 0..2 * units {
                    vector[filled] = weight(gate, first + lane / 2, pair * 2 + lane % 2);
                    filled += 1;
                }
                if filled == vector.len() {
                    packed.push(Pairs(vector));
                    filled = 0;
                }
            }
        }
    }
    packed
}

/// What rounding a shift by `shift` to the right adds before.
fn half(shift: i32) -> i64 {
    if shift > 0 { 1 << (shift - 1) } else { 0 }
}

fn constants(layer: &Recurrent, input: &Tensor, output: &Tensor, splits: Splits, group: usize) -> Constants {
    let hidden = layer.hidden();
    let mut constants = Constants::default();
    for lane in 0..UNITS.min(hidden - group * UNITS) {
        let unit = group * UNITS + lane;
        for gate in 0..layer.cell.gates() {
            let row = gate * hidden + unit;
            let exponent = layer.sum_exponent(row, output);
            let input_shift = input.exponent + layer.input_exponents[row] - exponent;
            // All that follows was found to fit 32 bits when the layer's splits were chosen.
            let (high, low) = parts(layer.bias[row] + half(input_shift), splits.input);
            constants.bias[gate].0[lane] = low as i32;
            constants.bias_high[gate].0[lane] = high as i32;
            let meeting = Meeting::new(input_shift, splits.input);
            constants.input_limit[gate].0[lane] = meeting.limit;
            constants.input_left[gate].0[lane] = meeting.left;
            constants.input_low[gate].0[lane] = meeting.low;
            constants.input_shift[gate].0[lane] = meeting.right;
            let shift = exponent - layer.cell.argument_exponent(gate);
            if layer.cell == Cell::Gru && gate == 2 {
                // After the reset gate, whose result has 15 more bits; its half is made from it in 64 bits.
                constants.shift[gate].0[lane] = shift + 15;
                let (high, low) = parts(layer.recurrent_bias[unit], splits.state);
                constants.recurrent_bias.0[lane] = low as i32;
                constants.recurrent_high.0[lane] = high as i32;
            } else {
                constants.shift[gate].0[lane] = shift - splits.state as i32;
                constants.half[gate].0[lane] = half(shift) as i32;
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
