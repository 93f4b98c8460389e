//! The multilayer perceptron of `bench/models/`, with the rows it is asked and the answers it should give.

use anyhow::Context;
use haca_kernels::npy::{self, Array};

/// The model as it was exported.
pub(super) const MODEL: &[u8] = include_bytes!("../../models/mlp.onnx");
/// Rows it was trained on, in `.npy` form.
pub(super) const CALIBRATION: &[u8] = include_bytes!("../../models/mlp_calibration.npy");
const INPUT: &[u8] = include_bytes!("../../models/mlp_input.npy");
const REFERENCE: &[u8] = include_bytes!("../../models/mlp_reference.npy");

/// Request rows and ONNX Runtime's answers to them.
#[derive(Debug)]
pub(super) struct Shipped {
    input: Array,
    reference: Array,
    /// How far from the reference an answer may be.
    tolerance: f32,
}

impl Shipped {
    /// Reads the shipped rows. `tolerance` is a share of the reference's range.
    pub(super) fn load(tolerance: f32) -> anyhow::Result<Self> {
        let input = npy::parse(INPUT).context("bench/models/mlp_input.npy")?;
        let reference = npy::parse(REFERENCE).context("bench/models/mlp_reference.npy")?;
        let fit = input.rows() == reference.rows() && input.rows() > 0;
        anyhow::ensure!(fit, "bench/models: there must be one reference for each input; run train.py again");
        let (least, most) = reference
            .data
            .iter()
            .fold((f32::MAX, f32::MIN), |(least, most), value| (least.min(*value), most.max(*value)));
        Ok(Self { input, reference, tolerance: tolerance * (most - least) })
    }

    pub(super) fn rows(&self) -> usize {
        self.input.rows()
    }

    /// Values in an input row.
    pub(super) fn columns(&self) -> usize {
        self.input.row_len()
    }

    pub(super) fn input(&self, row: usize) -> &[f32] {
        self.input.row(row)
    }

    /// ONNX Runtime's answer to an input row.
    pub(super) fn reference(&self, row: usize) -> &[f32] {
        self.reference.row(row)
    }

    /// Whether `answer` is the answer to `row`.
    ///
    /// # Errors
    /// When it has another width or is further from the reference than allowed; a NaN always is.
    pub(super) fn check(&self, row: usize, answer: impl ExactSizeIterator<Item = f32>) -> anyhow::Result<()> {
        let reference = self.reference(row);
        let width = answer.len();
        let near = |(given, wanted): (f32, &f32)| (given - wanted).abs() <= self.tolerance;
        anyhow::ensure!(
            width == reference.len() && answer.zip(reference).all(near),
            "the answer to row {row} is not the reference's, to {}",
            self.tolerance
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_held_against_its_own_row() {
        let shipped = Shipped::load(1e-5).unwrap();
        let right = shipped.reference(3).to_vec();
        shipped.check(3, right.iter().copied()).unwrap();
        assert!(shipped.check(4, right.iter().copied()).is_err());
        assert!(shipped.check(3, right[1..].iter().copied()).is_err());
        assert!(shipped.check(3, right.iter().map(|_| f32::NAN)).is_err());
    }
}
