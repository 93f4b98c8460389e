//! Poseidon over the scalar field of BLS12-381 (IACR ePrint 2019/458), with a state of three elements, the S-box `x^5`, 8 full
//! and 57 partial rounds: 128 bits of security with one element of capacity.
//!
//! Round constants and matrix are not listed but drawn, as the paper's appendix says, from a Grain generator in
//! self-shrinking mode that is begun with the parameters alone.

use std::sync::LazyLock;

use blstrs::Scalar;
use ff::Field;

/// Elements of the state.
pub(crate) const WIDTH: usize = 3;
/// Rounds with an S-box for each element, half of them before the partial ones.
pub(crate) const FULL_ROUNDS: usize = 8;
/// Rounds with an S-box for the first element alone.
pub(crate) const PARTIAL_ROUNDS: usize = 57;
/// Rounds in all.
pub(crate) const ROUNDS: usize = FULL_ROUNDS + PARTIAL_ROUNDS;
/// Bits of the field's order.
const FIELD_BITS: u32 = 255;

/// What a permutation is made of.
pub(crate) struct Parameters {
    /// What is added to each element before each round.
    pub(crate) constants: [[Scalar; WIDTH]; ROUNDS],
    /// What the state is multiplied by after each round.
    pub(crate) matrix: [[Scalar; WIDTH]; WIDTH],
}

/// Drawn once, in about a millisecond.
pub(crate) static PARAMETERS: LazyLock<Parameters> = LazyLock::new(Parameters::draw);

/// Whether a round has an S-box for each element.
pub(crate) fn is_full(round: usize) -> bool {
    !(FULL_ROUNDS / 2..FULL_ROUNDS / 2 + PARTIAL_ROUNDS).contains(&round)
}

/// The permutation.
pub(crate) fn permute(state: &mut [Scalar; WIDTH]) {
    let parameters = &*PARAMETERS;
    for (round, constants) in parameters.constants.iter().enumerate() {
        state.iter_mut().zip(constants).for_each(|(element, constant)| *element += constant);
        let boxes = if is_full(round) { WIDTH } else { 1 };
        state[..boxes].iter_mut().for_each(|element| *element = power_5(*element));
        *state = parameters.matrix.map(|row| row.iter().zip(&*state).map(|(factor, x)| factor * x).sum());
    }
}

fn power_5(x: Scalar) -> Scalar {
    x.square().square() * x
}

/// The sponge over some elements: the first element of the state is the capacity, which begins with `tag`, and the other two
/// take elements until there are none. The first of these two is the hash.
pub(crate) fn hash(tag: Scalar, elements: &[Scalar]) -> Scalar {
    let mut state = [tag, Scalar::ZERO, Scalar::ZERO];
    for chunk in elements.chunks(WIDTH - 1) {
        state[1..].iter_mut().zip(chunk).for_each(|(element, taken)| *element += taken);
        permute(&mut state);
    }
    state[1]
}

impl Parameters {
    fn draw() -> Parameters {
        let mut grain = Grain::new();
        let constants = std::array::from_fn(|_| std::array::from_fn(|_| grain.element()));
        // A Cauchy matrix: 1 / (x_i + y_j), of values that are all different.
        let values = loop {
            let values: [Scalar; 2 * WIDTH] = std::array::from_fn(|_| grain.reduced());
            let differ = |at: usize| !values[..at].contains(&values[at]);
            if (1..values.len()).all(differ) {
                break values;
            }
        };
        let entry = |row: usize, column: usize| {
            let sum = values[row] + values[WIDTH + column];
            sum.invert().into_option().expect("no sum is zero; the constants are always the same")
        };
        let matrix = std::array::from_fn(|row| std::array::from_fn(|column| entry(row, column)));
        Parameters { constants, matrix }
    }
}

/// The generator: a shift register of 80 bits, the oldest in bit 0.
struct Grain(u128);

impl Grain {
    fn new() -> Grain {
        let mut register = (0, 0);
        let mut push = |value: u128, bits: u32| {
            for bit in (0..bits).rev() {
                register = (register.0 | (value >> bit & 1) << register.1, register.1 + 1);
            }
        };
        // A prime field, the S-box x^α, the size of the field, the width, the rounds; then ones.
        push(1, 2);
        push(0, 4);
        push(FIELD_BITS.into(), 12);
        push(WIDTH as u128, 12);
        push(FULL_ROUNDS as u128, 10);
        push(PARTIAL_ROUNDS as u128, 10);
        push((1 << 30) - 1, 30);
        let mut grain = Grain(register.0);
        for _ in 0..160 {
            grain.step();
        }
        grain
    }

    /// The next bit of the register.
    fn step(&mut self) -> bool {
        let new = [62, 51, 38, 23, 13, 0].into_iter().fold(0, |sum, tap| sum ^ (self.0 >> tap & 1));
        self.0 = self.0 >> 1 | new << 79;
        new == 1
    }

    /// The next bit that is given out: of two bits the second, if the first is one.
    fn bit(&mut self) -> u8 {
        while !self.step() {
            self.step();
        }
        self.step().into()
    }

    /// A number of as many bits as the field's order, the highest first.
    fn number(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for bit in (0..FIELD_BITS as usize).rev() {
            bytes[31 - bit / 8] |= self.bit() << (bit % 8);
        }
        bytes
    }

    /// An element of the field: numbers that are none are passed over.
    fn element(&mut self) -> Scalar {
        loop {
            if let Some(element) = Scalar::from_bytes_be(&self.number()).into_option() {
                break element;
            }
        }
    }

    /// An element of the field: the remainder of a number.
    fn reduced(&mut self) -> Scalar {
        let base = Scalar::from(256);
        self.number().into_iter().fold(Scalar::ZERO, |sum, byte| sum * base + Scalar::from(u64::from(byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn element(text: &str) -> Scalar {
        let digits: Vec<u8> =
            (0..32).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect();
        Scalar::from_bytes_be(digits.first_chunk().unwrap()).into_option().unwrap()
    }

    #[test]
    fn the_permutation_is_the_reference_implementations() {
        // `poseidonperm_x5_255_3` of the test vectors that the paper's authors publish.
        let mut state = [0, 1, 2].map(Scalar::from);
        permute(&mut state);
        let expected = [
            "28ce19420fc246a05553ad1e8c98f5c9d67166be2c18e9e4cb4b4e317dd2a78a",
            "51f3e312c95343a896cfd8945ea82ba956c1118ce9b9859b6ea56637b4b1ddc4",
            "3b2b69139b235626a0bfb56c9527ae66a7bf486ad8c11c14d1da0c69bbe0f79a",
        ];
        assert_eq!(state, expected.map(element));
    }

    #[test]
    fn the_sponge_takes_two_elements_at_a_time() {
        let elements = [5, 6, 7].map(Scalar::from);
        let mut state = [Scalar::from(9), elements[0], elements[1]];
        permute(&mut state);
        state[1] += elements[2];
        permute(&mut state);
        assert_eq!(hash(Scalar::from(9), &elements), state[1]);
    }
}
