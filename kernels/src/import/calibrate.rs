//! Ranges of all values of the float model over the calibration rows.

use super::float::{FloatGraph, Operation, Value};
use super::histogram::Histogram;
use super::recurrent::Extent;
use super::{BATCH, CompileOptions, ImportError, Progress, RangeMethod, Stage};
use crate::npy;

/// Least and largest of each value, and largest magnitude of each input element.
#[derive(Debug, Clone)]
pub(crate) struct Ranges {
    values: Vec<(f64, f64)>,
    /// Magnitudes that scales keep, by value.
    bounds: Vec<f64>,
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
    // Nothing is fitted for trees.
    let fitted = graph.steps.iter().any(|step| !matches!(step.operation, Operation::Ensemble(_)));
    if fitted && (1..rows.rows()).all(|row| rows.row(row) == rows.row(0)) {
        let what =
            format!("all {} rows are the same; scales need rows like those that will be asked", rows.rows());
        return fail(what);
    }
    Ok(())
}

/// Of five rows, one is held back.
const HELD_BACK: usize = 5;
/// Fewer rows are not divided.
const LEAST_DIVIDED: usize = 2 * HELD_BACK;

/// The rows that scales are fitted to, and those held back to measure the error on.
pub(crate) fn divide(rows: &npy::Array) -> Result<(npy::Array, npy::Array), ImportError> {
    if rows.rows() < LEAST_DIVIDED {
        let what = format!(
            "{} rows; a limit on the error needs {LEAST_DIVIDED} at least, a fifth of which are held back",
            rows.rows()
        );
        return Err(ImportError::Calibration(what));
    }
    let part = |held: bool| {
        let chosen: Vec<usize> =
            (0..rows.rows()).filter(|row| (row % HELD_BACK == HELD_BACK - 1) == held).collect();
        let mut shape = rows.shape.clone();
        shape[0] = chosen.len();
        npy::Array { shape, data: chosen.iter().flat_map(|&row| rows.row(row)).copied().collect() }
    };
    Ok((part(false), part(true)))
}

fn join(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

impl Ranges {
    /// Runs the float model on every row.
    pub(crate) fn measure(
        graph: &FloatGraph,
        rows: &npy::Array,
        options: &CompileOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Ranges, ImportError> {
        let mut ranges = vec![(f64::INFINITY, f64::NEG_INFINITY); graph.shapes.len()];
        let mut extents = vec![Extent::default(); graph.shapes.len()];
        let mut input_bounds = vec![0f64; graph.len(0)];
        let counted = options.ranges != RangeMethod::MinMax;
        let mut histograms = vec![Histogram::default(); if counted { graph.shapes.len() } else { 0 }];
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
            for (histogram, values) in histograms.iter_mut().zip(&values) {
                values.iter().for_each(|&value| histogram.add(value));
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
        let mut bounds: Vec<f64> = ranges.iter().map(|(low, high)| low.abs().max(high.abs())).collect();
        for (value, (histogram, bound)) in histograms.iter().zip(&mut bounds).enumerate() {
            // What callers send and get keeps its range: they have not chosen to lose any of it.
            if value != 0 && value != graph.output {
                *bound = match options.ranges {
                    RangeMethod::MinMax => *bound,
                    RangeMethod::Percentile(percent) => bound.min(histogram.percentile(percent / 100.0)),
                    RangeMethod::MeanSquare => histogram.least_mean_square(*bound, options.headroom),
                };
            }
        }
        Ok(Ranges { values: ranges, bounds, extents, input_bounds })
    }

    pub(crate) fn of(&self, value: Value) -> (f64, f64) {
        self.values[value]
    }

    /// What the recurrent layer that computes `value` met.
    pub(crate) fn extent(&self, value: Value) -> &Extent {
        &self.extents[value]
    }

    /// Magnitude of a value that its scale keeps: the largest, or less as [`RangeMethod`] has it.
    pub(crate) fn bound(&self, value: Value) -> f64 {
        self.bounds[value]
    }
}
