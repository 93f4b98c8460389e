//! The reference: section 7.6 of `SPEC.md` in plain loops.

use super::super::scratch::Scratch;
use super::{Walk, Words, initial};
use crate::model::graph::{Cell, Recurrent, Tensor};
use crate::model::plan::Region;
use crate::spec::recurrence::STATE_BOUND;
use crate::spec::rounding::requantize;

/// Computes one row: step by step, unit by unit.
pub(crate) fn execute(
    layer: &Recurrent,
    walk: Walk,
    [input, output]: [&Tensor; 2],
    scratch: &mut Scratch,
    [from, to]: [Region; 2],
    row: usize,
) {
    let (hidden, features, steps) = (layer.hidden(), layer.features(), walk.steps);
    let (x, y) = (scratch.start(from, row), scratch.start(to, row));
    let (i16s, work, carried) = scratch.recurrent_parts(row);
    let (before, after) = work.halves.split_at_mut(hidden);
    let cells = Words::flat(&mut work.words);
    for unit in 0..hidden {
        (before[unit], cells[unit]) = match walk.carried.map(|start| &carried[start..]) {
            None => initial(layer, output, unit),
            Some(states) if layer.cell == Cell::Lstm => (states[unit] as i16, states[hidden + unit]),
            Some(states) => (layer.states(output).narrow(states[unit]), states[unit]),
        };
    }
    for step in 0..steps {
        let inputs = &i16s[x + step * features..][..features];
        for unit in 0..hidden {
            let sums = Sums { layer, input, output, inputs, state: before };
            (cells[unit], after[unit]) = sums.unit(unit, cells[unit]);
        }
        before.copy_from_slice(&after[..hidden]);
        if !layer.last_only || step + 1 == steps {
            let place = y + if layer.last_only { 0 } else { step * hidden };
            i16s[place..place + hidden].copy_from_slice(before);
        }
    }
    if let Some(start) = walk.carried {
        let (mut start, states) = (start, before.iter().map(|&state| i32::from(state)));
        if layer.cell == Cell::Lstm {
            carried[start..].iter_mut().zip(states).for_each(|(to, state)| *to = state);
            start += hidden;
        }
        carried[start..start + hidden].copy_from_slice(&cells[..hidden]);
    }
}

/// What a step's units are made of.
struct Sums<'a> {
    layer: &'a Recurrent,
    input: &'a Tensor,
    output: &'a Tensor,
    inputs: &'a [i16],
    state: &'a [i16],
}

impl Sums<'_> {
    fn unit(&self, unit: usize, cell: i32) -> (i32, i16) {
        let (layer, hidden) = (self.layer, self.layer.hidden());
        let states = layer.states(self.output);
        let argument = |gate: usize| {
            let row = gate * hidden + unit;
            let sum = self.input_share(row) + self.state_sum(row);
            let shift = layer.sum_exponent(row, self.output) - layer.cell.argument_exponent(gate);
            requantize(sum, shift, i16::MIN.into(), i16::MAX.into()) as i16
        };
        match layer.cell {
            Cell::Lstm => states.lstm([0, 1, 2, 3].map(argument), cell),
            Cell::Gru => {
                let row = 2 * hidden + unit;
                let state = self.state_sum(row) + layer.recurrent_bias[unit];
                let exponent = layer.sum_exponent(row, self.output);
                let candidate = states.reset(argument(1), self.input_share(row), state, exponent);
                states.gru(argument(0), candidate, cell)
            }
        }
    }

    /// The input's share of a row's sum, at the scale of the recurrent products.
    fn input_share(&self, row: usize) -> i64 {
        let layer = self.layer;
        let weights = &layer.input_weights[row * self.inputs.len()..];
        let shift = self.input.exponent + layer.input_exponents[row] - layer.sum_exponent(row, self.output);
        let bound = i64::from(STATE_BOUND);
        requantize(layer.bias[row] + dot(self.inputs, weights), shift, -bound, bound)
    }

    fn state_sum(&self, row: usize) -> i64 {
        dot(self.state, &self.layer.recurrent_weights[row * self.state.len()..])
    }
}

fn dot(x: &[i16], weights: &[i16]) -> i64 {
    x.iter().zip(weights).map(|(&x, &weight)| i64::from(x) * i64::from(weight)).sum()
}
