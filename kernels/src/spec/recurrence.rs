//! One step of a recurrent unit, after its sums (SPEC.md, section 7.6).

use super::gate::{self, OUTPUT_EXPONENT};
use super::rounding::requantize;

/// Bound of the 32-bit state, and of the share of the input in a gate's argument.
pub const STATE_BOUND: i32 = 1 << 30;
/// Exponents that the 32-bit state may have.
pub const STATE_EXPONENTS: std::ops::RangeInclusive<i32> = 16..=26;

/// Scales of a layer's states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct States {
    /// Exponent of the 32-bit state.
    pub cell: i32,
    /// Exponent of the 16-bit state.
    pub hidden: i32,
}

impl States {
    /// `keep * state + write * value`: what is kept of the state, and what is written to it. All but the state are at
    /// exponent 15.
    fn update(self, keep: i32, state: i32, write: i32, value: i16) -> i32 {
        let written = (i64::from(write) * i64::from(value)) << (self.cell - OUTPUT_EXPONENT);
        let sum = i64::from(keep) * i64::from(state) + written;
        let bound = i64::from(STATE_BOUND);
        requantize(sum, OUTPUT_EXPONENT, -bound, bound) as i32
    }

    /// An LSTM unit: gates' arguments (input, output, forget at exponent 11, cell at 12) and the cell state to the next
    /// cell state and the hidden state.
    pub fn lstm(self, [input, output, forget, candidate]: [i16; 4], cell: i32) -> (i32, i16) {
        let [input, output, forget] = [input, output, forget].map(gate::sigmoid);
        let candidate = gate::tanh(candidate);
        let cell = self.update(forget.into(), cell, input.into(), candidate);
        let argument =
            requantize(cell.into(), self.cell - gate::TANH_INPUT_EXPONENT, i16::MIN.into(), i16::MAX.into());
        let product = i64::from(output) * i64::from(gate::tanh(argument as i16));
        // Both are below one, so the bounds are never met.
        let hidden = requantize(product, 2 * OUTPUT_EXPONENT - self.hidden, i16::MIN.into(), i16::MAX.into());
        (cell, hidden as i16)
    }

    /// The reset gate's part of a GRU unit: the argument of the hidden gate at exponent 12, from the reset gate's
    /// argument at 11 and the shares of input and state, both at `exponent`.
    pub fn reset(self, reset: i16, input: i64, state: i64, exponent: i32) -> i16 {
        let sum = (input << OUTPUT_EXPONENT) + i64::from(gate::sigmoid(reset)) * state;
        let shift = exponent + OUTPUT_EXPONENT - gate::TANH_INPUT_EXPONENT;
        requantize(sum, shift, i16::MIN.into(), i16::MAX.into()) as i16
    }

    /// A GRU unit: the arguments of the update gate (at exponent 11) and the hidden gate (at 12), and the state, to the
    /// next state and its 16-bit form.
    pub fn gru(self, update: i16, candidate: i16, state: i32) -> (i32, i16) {
        let keep = i32::from(gate::sigmoid(update));
        let state = self.update(keep, state, (1 << OUTPUT_EXPONENT) - keep, gate::tanh(candidate));
        (state, self.narrow(state))
    }

    /// The 16-bit form of a GRU's state.
    pub fn narrow(self, state: i32) -> i16 {
        let one = super::activation::one(self.hidden);
        requantize(state.into(), self.cell - self.hidden, -one, one) as i16
    }
}
