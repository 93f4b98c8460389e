//! The compiled model beside the float model.

use std::sync::Arc;

use super::float::FloatGraph;
use super::quantize::Quantized;
use super::{BATCH, CompileReport, LayerReport, OutputReport, Progress, Stage};
use crate::model::Dtype;
use crate::spec::rounding::power_of_two;
use crate::{Backend, Executor, Model, npy};

/// Runs both on every row. What is served, and ranges, are for the caller to fill in.
pub(super) fn compare(
    float: &FloatGraph,
    quantized: &Quantized,
    model: &Arc<Model>,
    calibration: &npy::Array,
    progress: &mut dyn FnMut(Progress),
) -> CompileReport {
    let mut executor = Executor::with_backend(Arc::clone(model), 1, Backend::Scalar);
    let layer = |layer| LayerReport { layer, range: (0.0, 0.0), saturations: 0, max_error: 0.0 };
    let mut layers: Vec<LayerReport> = model.layers().map(layer).collect();
    let fresh =
        OutputReport { minimum: f64::INFINITY, maximum: f64::NEG_INFINITY, ..OutputReport::default() };
    let mut outputs = vec![fresh; model.output_len()];
    let mut moments = vec![Moments::default(); model.output_len()];
    let rows = calibration.rows();
    let mut bytes = Vec::with_capacity(calibration.row_len() * 4);
    for row in 0..rows {
        if row % BATCH == 0 {
            progress(Progress { stage: Stage::Comparing, done: row, total: rows });
        }
        let values = float.run(calibration.row(row));
        bytes.clear();
        bytes.extend(calibration.row(row).iter().flat_map(|value| value.to_le_bytes()));
        executor.stage(0, Dtype::F32, &bytes).expect("rows were checked before calibration");
        executor.execute_observed(|index, tensor, produced| {
            let report = &mut layers[index];
            let exact = &values[quantized.values[index]];
            let scale = power_of_two(-tensor.exponent);
            for (&integer, &exact) in produced.iter().zip(exact) {
                report.max_error = report.max_error.max((integer as f64 * scale - exact).abs());
                // A value that a fused Relu or Clip bounds lies on its bound in floats too.
                let beyond =
                    |bound: i64, sign: f64| integer == bound && sign * (exact / scale - bound as f64) > 0.5;
                report.saturations += u64::from(beyond(tensor.minimum, -1.0) || beyond(tensor.maximum, 1.0));
            }
        });
        let scale = model.output_scale();
        for (((report, moments), &integer), &exact) in
            outputs.iter_mut().zip(&mut moments).zip(executor.output_fixed(0)).zip(&values[float.output])
        {
            let given = integer as f64 * scale;
            let error = (given - exact).abs();
            report.max_error = report.max_error.max(error);
            report.mean_error += error / rows as f64;
            report.minimum = report.minimum.min(exact);
            report.maximum = report.maximum.max(exact);
            moments.add(given, exact);
        }
    }
    progress(Progress { stage: Stage::Comparing, done: rows, total: rows });
    for (report, moments) in outputs.iter_mut().zip(&moments) {
        report.correlation = moments.correlation();
    }
    let minimum = outputs.iter().map(|output| output.minimum).fold(f64::INFINITY, f64::min);
    let maximum = outputs.iter().map(|output| output.maximum).fold(f64::NEG_INFINITY, f64::max);
    CompileReport {
        layers,
        served_output: String::new(),
        dropped_outputs: Vec::new(),
        rows,
        held_back: 0,
        max_error: outputs.iter().map(|output| output.max_error).fold(0.0, f64::max),
        mean_error: outputs.iter().map(|output| output.mean_error).sum::<f64>() / outputs.len() as f64,
        range: maximum - minimum,
        outputs,
    }
}

/// Means and central moments of pairs, updated pair by pair: large means take nothing from the moments.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    count: f64,
    means: (f64, f64),
    squares: (f64, f64),
    product: f64,
}

impl Moments {
    fn add(&mut self, a: f64, b: f64) {
        self.count += 1.0;
        let before = (a - self.means.0, b - self.means.1);
        self.means = (self.means.0 + before.0 / self.count, self.means.1 + before.1 / self.count);
        let after = (a - self.means.0, b - self.means.1);
        self.squares = (self.squares.0 + before.0 * after.0, self.squares.1 + before.1 * after.1);
        self.product += before.0 * after.1;
    }

    fn correlation(&self) -> Option<f64> {
        let varies = self.squares.0 > 0.0 && self.squares.1 > 0.0;
        varies.then(|| self.product / (self.squares.0 * self.squares.1).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(f64, f64)]) -> Option<f64> {
        let mut moments = Moments::default();
        pairs.iter().for_each(|&(a, b)| moments.add(a, b));
        moments.correlation()
    }

    #[test]
    fn correlation_is_of_what_varies_alone() {
        assert_eq!(of(&[(1.0, 5.0), (2.0, 5.0)]), None);
        assert!((of(&[(1e9, 3.0), (1e9 + 1.0, 5.0), (1e9 + 2.0, 7.0)]).unwrap() - 1.0).abs() < 1e-12);
        assert!((of(&[(0.0, 0.0), (1.0, -1.0), (2.0, 0.0)]).unwrap()).abs() < 1e-12);
    }
}
