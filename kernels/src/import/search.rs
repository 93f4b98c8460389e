//! Widths for a limit on the error: as few layers with wide sums as it takes.

use super::quantize::{Width, Widths};
use super::{Accumulator, Attempt, Compiled, Compiler, ImportError, Progress};

/// Compiles with 32-bit sums; while the error on the held-back rows is above `limit`, gives 64-bit sums to layer after
/// layer, first to the one that alone brings most.
///
/// # Errors
/// [`ImportError::MaxError`], naming the layer that adds the largest error, if no widths bring it under the limit.
pub(super) fn under(
    limit: f64,
    compiler: &Compiler<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Compiled, ImportError> {
    let float = &compiler.imported.graph;
    let start = match compiler.options.accumulator {
        Accumulator::Wide => Width::Wide,
        Accumulator::Auto | Accumulator::Narrow => Width::Narrow,
    };
    let mut widths = Widths::all(float, start);
    let mut best = compiler.attempt(&widths, progress)?;
    if best.error() <= limit {
        return Ok(best.compiled);
    }
    if compiler.options.accumulator == Accumulator::Auto {
        let mut alone = Vec::new();
        for step in float.steps.iter().filter(|step| step.operation.has_sums()) {
            let mut one = widths.clone();
            one.widen(step.output);
            alone.push((compiler.attempt(&one, progress)?.error(), step.output));
        }
        alone.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, output) in alone {
            widths.widen(output);
            let attempt = compiler.attempt(&widths, progress)?;
            if attempt.error() <= limit {
                return Ok(attempt.compiled);
            }
            if attempt.error() < best.error() {
                best = attempt;
            }
        }
    }
    Err(in_the_way(limit, &best))
}

/// The layer whose output has the largest error beyond what its inputs bring, each as a share of its range.
fn in_the_way(limit: f64, best: &Attempt) -> ImportError {
    let layers = &best.compiled.report.layers;
    let share = |index: usize| {
        let (low, high) = layers[index].range;
        if layers[index].max_error == 0.0 { 0.0 } else { layers[index].max_error / (high - low) }
    };
    let own = |index: usize| {
        let inherited = best.producers[index].iter().map(|&producer| share(producer)).fold(0.0, f64::max);
        share(index) - inherited
    };
    let worst = (0..layers.len()).max_by(|&a, &b| own(a).total_cmp(&own(b)));
    let layer = worst.map_or(String::new(), |index| layers[index].layer.name.clone());
    let of_range = worst.map_or(0.0, own);
    ImportError::MaxError { limit, reached: best.error(), layer, of_range }
}
