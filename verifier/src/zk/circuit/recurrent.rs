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
                let [input, output, forget] = [0, 1, 2].map(|gate| {
                    let argument = self.argument(builder, gate, unit);
                    builder.gate_sigmoid(&argument.0, argument.1)
                });
                let argument = self.argument(builder, 3, unit);
                let value = builder.gate_tanh(&argument.0, argument.1);
                let cell = self.update(builder, &forget, cell, &input, &value);
                let squashed = builder.gate_tanh(&cell, layer.cell_exponent() - gate::TANH_INPUT_EXPONENT);
                let product = builder.product(&output, &squashed);
                let state = builder.requantize(&product, layer.narrow());
                (cell, state)
            }
            Cell::Gru => {
                let [update, reset] = [0, 1].map(|gate| {
                    let argument = self.argument(builder, gate, unit);
                    builder.gate_sigmoid(&argument.0, argument.1)
                });
                let row = 2 * layer.hidden() + unit;
                let before = self.state_sum(row).plus_constant(layer.recurrent_bias(unit).into());
                let mut candidate = builder.product(&reset, &before);
                candidate.add(&self.share(builder, row), 1 << ONE);
                let shift = layer.sum_exponent(row) + ONE - gate::TANH_INPUT_EXPONENT;
                let value = builder.gate_tanh(&candidate, shift);
                let write = Number::constant(1 << ONE).minus(&update);
                let cell = self.update(builder, &update, cell, &write, &value);
                let state = builder.requantize(&cell, layer.narrow());
                (cell, state)
            }
        }
    }

    /// The sum that a gate's argument is rounded from, and by how many bits.
    fn argument(&self, builder: &mut Builder, gate: usize, unit: usize) -> (Number, i32) {
        let row = gate * self.layer.hidden() + unit;
        let sum = self.share(builder, row).plus(&self.state_sum(row));
        (sum, self.layer.sum_exponent(row) - self.layer.argument_exponent(gate))
    }

    /// The input's share of a row's sum.
    fn share(&self, builder: &mut Builder, row: usize) -> Number {
        let mut sum = Number::constant(self.layer.bias(row).into());
        self.inputs
            .iter()
            .zip(self.layer.input_weights(row))
            .for_each(|(x, weight)| sum.add(x, weight.into()));
        builder.requantize(&sum, self.layer.share(row))
    }

    fn state_sum(&self, row: usize) -> Number {
        let mut sum = Number::constant(0);
        let weights = self.layer.recurrent_weights(row);
        self.states.iter().zip(weights).for_each(|(state, weight)| sum.add(state, weight.into()));
        sum
    }

    /// `keep · cell + write · value`.
    fn update(
        &self,
        builder: &mut Builder,
        keep: &Number,
        cell: &Number,
        write: &Number,
        value: &Number,
    ) -> Number {
        let mut sum = builder.product(keep, cell);
        sum.add(&builder.product(write, value), 1 << (self.layer.cell_exponent() - ONE));
        let bound = i64::from(STATE_BOUND);
        builder.requantize(&sum, Requantize { shift: ONE, minimum: -bound, maximum: bound })
    }
}

impl Builder {
    /// `gate_sigmoid` of a number rounded by `shift` bits.
    pub(super) fn gate_sigmoid(&mut self, number: &Number, shift: i32) -> Number {
        let h = self.gate(number, shift);
        let half = self.shift_right(&h.plus_constant((1 << ONE) + 1), 1);
        self.clamp(&half, 0, i16::MAX.into())
    }

    /// `gate_tanh` of a number rounded by `shift` bits.
    pub(super) fn gate_tanh(&mut self, number: &Number, shift: i32) -> Number {
        self.gate(number, shift)
    }

    /// `G` of section 6.1.
    fn gate(&mut self, number: &Number, shift: i32) -> Number {
        assert_eq!(gate::half_tanh(0), 0, "the sign of zero is free");
        let (number, shift) =
            if shift < 0 { (number.times(1 << -shift), 0) } else { (number.clone(), shift as u32) };
        let SignMagnitude { sign, mut magnitude } = self.sign_magnitude(&number, shift);
        let arguments = width(i16::MAX.into());
        let high = magnitude.split_off(arguments.min(magnitude.len()));
        magnitude.resize(arguments, Number::constant(0));
        let beyond = self.any(&high);
        let within = self.gate_segment(&magnitude);
        let last = Number::constant(gate::half_tanh(i16::MAX).into());
        let value = self.select(&beyond, &last, &within);
        self.signed(&sign, &value)
    }

    /// `G` of an argument that is not negative.
    fn gate_segment(&mut self, argument: &[Number]) -> Number {
        let (local, index) = argument.split_at(gate::LOCAL_BITS as usize);
        let local = sum(local);
        let columns = [0, 1, 2]
            .map(|power| gate::SEGMENTS.iter().map(|coefficients| coefficients[power].into()).collect());
        let [c0, c1, c2] = self.look_up(index, columns);
        let square = self.product(&c2, &local.times(64));
        let slope = self.shift_right(&square.plus_constant(1 << 14), 15).plus(&c1);
        let rise = self.product(&slope, &local.times(16));
        let value = self.shift_right(&rise.plus_constant(1 << 14), 15).plus(&c0);
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
