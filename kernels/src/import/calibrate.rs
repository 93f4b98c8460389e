//! Ranges of all values of the float model over the calibration rows.

use super::float::{FloatGraph, Operation, Value};
use super::recurrent::Extent;
use super::{BATCH, ImportError, Progress, Stage};
use crate::npy;

/// Least and largest of each value, and largest magnitude of each input element.
#[derive(Debug, Clone)]
pub(crate) struct Ranges {
    values: Vec<(f64, f64)>,
    /// Of recurrent layers, by output.
    extents: Vec<Extent>,
    /// By element of the input row.
    pub(crate) input_bounds: Vec<f64>,
}

/// Checks that the rows are rows of this model, and finite.
pub(crate) fn check_rows(graph: &FloatGraph, rows: &npy::Array) -> Result<(), ImportError> {
    let fail = |what: String| Err(ImportError::Calibration(what));
    let shape: Vec<usize> = graph.shapes[0].iter().map(|&length| length as usize).collect();
    if rows.shape.is_empty() || rows.row_len() != graph.len(0) || rows.rows() == 0 {
        return fail(format!("the array has shape {:?}; [rows, {}] is needed", rows.shape, join(&shape)));
    }
    if u32::try_from(rows.rows()).is_err() {
        return fail(format!("{} rows are too many", rows.rows()));
    }
    // Trees take infinities as they are; a scale cannot be fitted to one.
    let trees = graph.steps.iter().any(|step| matches!(step.operation, Operation::Ensemble(_)));
    let bad = |value: &f32| value.is_nan() || (value.is_infinite() && !trees);
    if let Some(at) = rows.data.iter().position(bad) {
        let (row, element) = (at / rows.row_len(), at % rows.row_len());
        return fail(format!("row {row}, element {element} is {}; leave the row out", rows.data[at]));
    }
    Ok(())
}

fn join(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

impl Ranges {
    /// Runs the float model on every row.
    pub(crate) fn measure(
        graph: &FloatGraph,
        rows: &npy::Array,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Ranges, ImportError> {
        let mut ranges = vec![(f64::INFINITY, f64::NEG_INFINITY); graph.shapes.len()];
        let mut extents = vec![Extent::default(); graph.shapes.len()];
        let mut input_bounds = vec![0f64; graph.len(0)];
        for row in 0..rows.rows() {
            if row % BATCH == 0 {
                progress(Progress { stage: Stage::Calibrating, done: row, total: rows.rows() });
            }
            let values = graph.run_measured(rows.row(row), &mut extents);
            for (range, values) in ranges.iter_mut().zip(&values) {
                for &value in values {
                    *range = (range.0.min(value), range.1.max(value));
                }
            }
            for (bound, value) in input_bounds.iter_mut().zip(&values[0]) {
                *bound = bound.max(value.abs());
            }
        }
        progress(Progress { stage: Stage::Calibrating, done: rows.rows(), total: rows.rows() });
        for step in &graph.steps {
            let (low, high) = ranges[step.output];
            if !(low.is_finite() && high.is_finite()) {
                let what = format!("the float model gives values from {low} to {high} at '{}'", step.name);
                return Err(ImportError::Calibration(what));
            }
        }
        Ok(Ranges { values: ranges, extents, input_bounds })
    }

    pub(crate) fn of(&self, value: Value) -> (f64, f64) {
        self.values[value]
    }

    /// What the recurrent layer that computes `value` met.
    pub(crate) fn extent(&self, value: Value) -> &Extent {
        &self.extents[value]
    }

    /// Largest magnitude of a value.
    pub(crate) fn bound(&self, value: Value) -> f64 {
        self.values[value].0.abs().max(self.values[value].1.abs())
    }
}
