//! LSTM and GRU (`SPEC.md`, sections 6.1 and 7.6): every step written out.

use haca_kernels::spec::gate;
use haca_kernels::spec::recurrence::STATE_BOUND;
use haca_kernels::view::{Cell, Recurrent, Requantize};

use super::builder::{Builder, Number};
use super::range::{SignMagnitude, sum, width};

/// Exponent of the gates' results.
const ONE: i32 = gate::OUTPUT_EXPONENT;

pub(super) fn recurrent(builder: &mut Builder, layer: &Recurrent<'_>, x: &[Number]) -> Vec<Number> {
    let hidden = layer.hidden();
    let (mut cells, mut states): (Vec<Number>, Vec<Number>) = (0..hidden)
        .map(|unit| {
            let (cell, state) = layer.initial(unit);
            (Number::constant(cell.into()), Number::constant(state.into()))
        })
        .unzip();
    let rows = hidden * if layer.cell() == Cell::Lstm { 4 } else { 3 };
    let mut outputs = Vec::new();
    for inputs in x.chunks_exact(layer.features()) {
        let mut shared = |numbers: &[Number]| -> Vec<Number> {
            numbers.iter().map(|number| builder.shared(number, rows)).collect()
        };
        let (inputs, states_before) = (&shared(inputs)[..], &shared(&states)[..]);
        let step = Step { layer, inputs, states: states_before };
        (cells, states) = (0..hidden).map(|unit| step.unit(builder, unit, &cells[unit])).unzip();
        if layer.last_only() {
            outputs.clear();
        }
        outputs.extend_from_slice(&states);
    }
    outputs
}

struct Step<'a> {
    layer: &'a Recurrent<'a>,
    inputs: &'a [Number],
    states: &'a [Number],
}

impl Step<'_> {
    /// State and output of a unit after the step.
    fn unit(&self, builder: &mut Builder, unit: usize, cell: &Number) -> (Number, Number) {
        let layer = self.layer;
        match layer.cell() {
            Cell::Lstm => {
                let [input, output] = [0, 1].map(|gate| {
                    let argument = self.argument(builder, gate, unit);
                    builder.gate_sigmoid(&argument)
                });
                // What is forgotten of nothing needs no gate.
                let kept = if cell.is_zero() {
                    Number::constant(0)
                } else {
                    let argument = self.argument(builder, 2, unit);
                    let forget = builder.gate_sigmoid(&argument);
                    builder.product(&forget, cell)
                };
                let value = self.argument(builder, 3, unit);
                let value = builder.gate_tanh(&value);
                let written = builder.product(&input, &value);
                let shift = layer.cell_exponent() - gate::TANH_INPUT_EXPONENT;
                let cell = self.update(builder, &kept, &written, shift >= 0);
                let squashed = builder.gate_tanh(&Argument::new(cell.clone(), shift));
                let product = builder.product(&output, &squashed);
                let state = builder.requantize(&product, layer.narrow());
                (cell, state)
            }
            Cell::Gru => {
                let [update, reset] = [0, 1].map(|gate| {
                    let argument = self.argument(builder, gate, unit);
                    builder.gate_sigmoid(&argument)
                });
                let row = 2 * layer.hidden() + unit;
                let before = self.state_sum(row).plus_constant(layer.recurrent_bias(unit).into());
                let mut candidate = builder.product(&reset, &before);
                candidate.add(&self.share(builder, row), 1 << ONE);
                let shift = layer.sum_exponent(row) + ONE - gate::TANH_INPUT_EXPONENT;
                let value = builder.gate_tanh(&Argument::new(candidate, shift));
                let write = Number::constant(1 << ONE).minus(&update);
                let (kept, written) = (builder.product(&update, cell), builder.product(&write, &value));
                let cell = self.update(builder, &kept, &written, false);
                let state = builder.requantize(&cell, layer.narrow());
                (cell, state)
            }
        }
    }

    fn argument(&self, builder: &mut Builder, gate: usize, unit: usize) -> Argument {
        let row = gate * self.layer.hidden() + unit;
        let shift = self.layer.sum_exponent(row) - self.layer.argument_exponent(gate);
        let (states, rule) = (self.state_sum(row), self.layer.share(row));
        let limit = i128::from(rule.maximum);
        let powers = limit.count_ones() == 1 && rule.minimum == -rule.maximum && shift >= 0;
        if states.is_zero() && rule.shift == 0 && powers && limit >> shift > 0 {
            // Of nothing but the input's share, cut off at a power of two: as well cut off when it has been rounded.
            return Argument { number: self.input_sum(row), shift, limit: limit >> shift };
        }
        Argument::new(self.share(builder, row).plus(&states), shift)
    }

    /// The input's share of a row's sum.
    fn share(&self, builder: &mut Builder, row: usize) -> Number {
        let sum = self.input_sum(row);
        builder.requantize(&sum, self.layer.share(row))
    }

    fn input_sum(&self, row: usize) -> Number {
        let mut sum = Number::constant(self.layer.bias(row).into());
        let weights = self.layer.input_weights(row);
        self.inputs.iter().zip(weights).for_each(|(x, weight)| sum.add(x, weight.into()));
        sum
    }

    fn state_sum(&self, row: usize) -> Number {
        let mut sum = Number::constant(0);
        let weights = self.layer.recurrent_weights(row);
        self.states.iter().zip(weights).for_each(|(state, weight)| sum.add(state, weight.into()));
        sum
    }

    /// `keep · cell + write · value`, of the two products. With `bits_follow`, the caller takes the bits of the result, or
    /// of it shifted right.
    fn update(&self, builder: &mut Builder, kept: &Number, written: &Number, bits_follow: bool) -> Number {
        let exponent = self.layer.cell_exponent() - ONE;
        let (sum, shift) = if kept.is_zero() {
            // Rounding does not see the zeros that it would be shifted by.
            (written.clone(), ONE - exponent)
        } else {
            (kept.plus(&written.times(1 << exponent)), ONE)
        };
        let bound = i64::from(STATE_BOUND);
        let rule = Requantize { shift, minimum: -bound, maximum: bound };
        match u32::try_from(shift) {
            Ok(shift) if bits_follow && shift > 0 => {
                let rounded = sum.plus_constant(1 << (shift - 1));
                if rounded.low >> shift >= -i128::from(bound) && rounded.high >> shift <= i128::from(bound) {
                    return builder.shift_right_unproven(&rounded, shift);
                }
                builder.requantize(&sum, rule)
            }
            _ => builder.requantize(&sum, rule),
        }
    }
}

/// The argument of a gate: a number to be rounded by so many bits, and then cut off at `±limit`, a power of two.
pub(super) struct Argument {
    number: Number,
    shift: i32,
    limit: i128,
}

impl Argument {
    /// One that no limit cuts off before the table's.
    pub(super) fn new(number: Number, shift: i32) -> Argument {
        Argument { number, shift, limit: 1 << width(i16::MAX.into()) }
    }

    #[cfg(test)]
    pub(super) fn cut_off_at(self, limit: i128) -> Argument {
        Argument { limit, ..self }
    }
}

impl Builder {
    pub(super) fn gate_sigmoid(&mut self, argument: &Argument) -> Number {
        // The bits of what comes last prove what the roundings before leave open: those of the saturation, or, of an argument
        // that is cut off before the half could saturate, those of the half.
        let h = self.gate(argument, Builder::shift_right_unproven).plus_constant((1 << ONE) + 1);
        let saturates = h.high >> 1 > i16::MAX.into();
        let round = if saturates { Builder::shift_right_unproven } else { Builder::shift_right };
        let half = round(self, &h, 1);
        self.clamp(&half, 0, i16::MAX.into())
    }

    pub(super) fn gate_tanh(&mut self, argument: &Argument) -> Number {
        self.gate(argument, Builder::shift_right)
    }

    /// `G` of section 6.1. Its last rounding is `round`.
    fn gate(&mut self, argument: &Argument, round: fn(&mut Builder, &Number, u32) -> Number) -> Number {
        assert_eq!(gate::half_tanh(0), 0, "the sign of zero is free");
        let first = self.len();
        let Argument { number, shift, limit } = argument;
        let (number, shift) =
            if *shift < 0 { (number.times(1 << -shift), 0) } else { (number.clone(), *shift as u32) };
        let SignMagnitude { sign, mut magnitude } = self.sign_magnitude(&number, shift);
        let most = (*limit).min(1 << width(i16::MAX.into()));
        let high = magnitude.split_off(width(most - 1).min(magnitude.len()));
        let beyond = self.any(&high);
        let within = self.gate_segment(magnitude, round);
        let last = gate::half_tanh(most.min(i16::MAX.into()) as i16);
        let value = self.select(&beyond, &Number::constant(last.into()), &within);
        let value = self.signed(&sign, &value);
        self.note_gate(first);
        value
    }

    /// `G` of an argument that is not negative.
    fn gate_segment(
        &mut self,
        mut argument: Vec<Number>,
        round: fn(&mut Builder, &Number, u32) -> Number,
    ) -> Number {
        argument.resize(argument.len().max(gate::LOCAL_BITS as usize), Number::constant(0));
        let (local, index) = argument.split_at(gate::LOCAL_BITS as usize);
        let local = sum(local);
        let segments = &gate::SEGMENTS[..1 << index.len()];
        let columns =
            [0, 1, 2].map(|power| segments.iter().map(|coefficients| coefficients[power].into()).collect());
        let [c0, c1, c2] = self.look_up(index, columns);
        // `q(c2, 64 t)` and `q(slope, 16 t)`, without the zeros that both sides of the shift have.
        let square = self.product(&c2, &local);
        let slope = self.shift_right(&square.plus_constant(1 << 8), 9).plus(&c1);
        let rise = self.product(&slope, &local);
        let value = round(self, &rise.plus_constant(1 << 10), 11).plus(&c0);
        // Bounds of the function over all its arguments, before its last saturation.
        let (low, high) = GATE_BOUNDS;
        self.clamp(&value.within(low, high), i128::MIN / 4, i16::MAX.into())
    }
}

/// Least and greatest `c0 + q(c1 + q(c2, 64 t), 16 t)`: a test computes them over all arguments.
const GATE_BOUNDS: (i128, i128) = (0, 32767);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_the_gates_are_those_over_all_arguments() {
        let q = |a: i32, b: i32| (a * b + (1 << 14)) >> 15;
        let values = gate::SEGMENTS.iter().flat_map(|coefficients| {
            let [c0, c1, c2] = coefficients.map(i32::from);
            (0..1 << gate::LOCAL_BITS).map(move |t| i128::from(c0 + q(c1 + q(c2, 64 * t), 16 * t)))
        });
        let bounds =
            values.fold((i128::MAX, i128::MIN), |(low, high), value| (low.min(value), high.max(value)));
        assert_eq!(bounds, GATE_BOUNDS);
    }
}
