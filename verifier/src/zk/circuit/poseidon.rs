//! The Poseidon permutation and sponge of [`crate::seal`], over any elements of the field: three constraints for each S-box,
//! none for what is linear.
//!
//! An S-box is `y = x²`, `z = y²`, `x·z`: each is defined by the one before, so the output of a permutation is a function
//! of its input, whatever a prover says.

use blstrs::Scalar;
use ff::Field;

use super::builder::Builder;
use crate::seal::poseidon::{PARAMETERS, WIDTH, is_full};
use crate::zk::r1cs::Combination;

/// A linear combination with its value, which may be any element of the field.
#[derive(Debug, Clone)]
pub(super) struct Element {
    pub(super) combination: Combination,
    pub(super) value: Scalar,
}

impl Element {
    pub(super) fn constant(value: Scalar) -> Element {
        Element { combination: Combination::constant(value), value }
    }
}

impl Builder {
    /// A private variable that nothing constrains.
    pub(super) fn element(&mut self, value: Scalar) -> Element {
        let (combination, value) = self.any_element(value);
        Element { combination, value }
    }

    /// The product of two elements. One constraint.
    fn field_product(&mut self, a: &Element, b: &Element) -> Element {
        let product = self.element(a.value * b.value);
        self.enforce(&a.combination, &b.combination, &product.combination);
        product
    }

    /// A sum of multiples.
    fn linear<'a>(&self, terms: impl Iterator<Item = (Scalar, &'a Element)>) -> Element {
        let mut sum = Element { combination: Combination::default(), value: Scalar::ZERO };
        for (factor, element) in terms {
            sum.value += factor * element.value;
            if self.is_writing() {
                sum.combination.add_scaled(&element.combination, factor);
            }
        }
        sum.combination = sum.combination.canonical();
        sum
    }

    fn power_5(&mut self, x: &Element) -> Element {
        let square = self.field_product(x, x);
        let fourth = self.field_product(&square, &square);
        self.field_product(&fourth, x)
    }

    /// The permutation: 243 constraints.
    pub(super) fn permute(&mut self, state: &mut [Element; WIDTH]) {
        let (parameters, one) = (&*PARAMETERS, Element::constant(Scalar::ONE));
        for (round, constants) in parameters.constants.iter().enumerate() {
            for (element, constant) in state.iter_mut().zip(constants) {
                *element = self.linear([(Scalar::ONE, &*element), (*constant, &one)].into_iter());
            }
            let boxes = if is_full(round) { WIDTH } else { 1 };
            for element in &mut state[..boxes] {
                *element = self.power_5(element);
            }
            *state = parameters.matrix.map(|row| self.linear(row.into_iter().zip(&*state)));
        }
    }

    /// The sponge over some elements, with a capacity that begins with `tag`: a permutation for every two.
    pub(super) fn hash(&mut self, tag: Scalar, elements: &[Element]) -> Element {
        let mut state = [tag, Scalar::ZERO, Scalar::ZERO].map(Element::constant);
        for chunk in elements.chunks(WIDTH - 1) {
            for (element, taken) in state[1..].iter_mut().zip(chunk) {
                *element = self.linear([(Scalar::ONE, &*element), (Scalar::ONE, taken)].into_iter());
            }
            self.permute(&mut state);
        }
        let [_, hash, _] = state;
        hash
    }
}
