//! Convolutions and pools in double precision.

use crate::model::graph::{Reduction, Window};

/// Weights are `[output][tap of the kernel][channel of the group]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FloatConv {
    pub(crate) window: Window,
    pub(crate) groups: usize,
    pub(crate) weights: Vec<f64>,
    pub(crate) bias: Vec<f64>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FloatPool {
    pub(crate) window: Window,
    pub(crate) reduction: Reduction,
    /// Of sums.
    pub(crate) scale: f64,
}

/// Visits the taps of a place that meet the image: which tap, and which pixel.
fn taps(window: &Window, place: [usize; 2], mut visit: impl FnMut(usize, usize)) {
    let (rows, columns) = (window.taps_within(0, place[0]), window.taps_within(1, place[1]));
    for i in rows.0..rows.1 {
        for j in columns.0..columns.1 {
            if let (Some(y), Some(x)) = (window.tap(0, place[0], i), window.tap(1, place[1], j)) {
                visit(i * window.kernel[1] as usize + j, y * window.image[1] as usize + x);
            }
        }
    }
}

fn places(window: &Window) -> impl Iterator<Item = [usize; 2]> {
    let [rows, columns] = window.places();
    (0..rows).flat_map(move |row| (0..columns).map(move |column| [row, column]))
}

impl FloatConv {
    /// Weights of one output.
    pub(crate) fn inputs(&self) -> usize {
        self.weights.len() / self.bias.len()
    }

    pub(crate) fn run(&self, x: &[f64]) -> Vec<f64> {
        let (channels, outputs) = (self.window.channels as usize, self.bias.len());
        let (group_channels, group_outputs) = (channels / self.groups, outputs / self.groups);
        let mut y = Vec::with_capacity(outputs * self.window.places().iter().product::<usize>());
        for place in places(&self.window) {
            let start = y.len();
            y.extend_from_slice(&self.bias);
            taps(&self.window, place, |tap, pixel| {
                for (output, sum) in y[start..].iter_mut().enumerate() {
                    let first = pixel * channels + output / group_outputs * group_channels;
                    let weights = &self.weights[output * self.inputs() + tap * group_channels..];
                    let products = x[first..first + group_channels].iter().zip(weights);
                    *sum += products.map(|(x, weight)| x * weight).sum::<f64>();
                }
            });
        }
        y
    }
}

impl FloatPool {
    /// For each place, the pixels that it meets.
    pub(crate) fn met(&self) -> Vec<Vec<usize>> {
        let met = |place| {
            let mut pixels = Vec::new();
            taps(&self.window, place, |_, pixel| pixels.push(pixel));
            pixels
        };
        places(&self.window).map(met).collect()
    }

    pub(crate) fn run(&self, x: &[f64]) -> Vec<f64> {
        let channels = self.window.channels as usize;
        let mut y = Vec::with_capacity(channels * self.window.places().iter().product::<usize>());
        for place in places(&self.window) {
            let start = y.len();
            let empty = if self.reduction == Reduction::Max { f64::NEG_INFINITY } else { 0.0 };
            y.resize(start + channels, empty);
            taps(&self.window, place, |_, pixel| {
                for (y, &x) in y[start..].iter_mut().zip(&x[pixel * channels..]) {
                    *y = if self.reduction == Reduction::Max { y.max(x) } else { *y + x };
                }
            });
            y[start..].iter_mut().for_each(|y| *y *= self.scale);
        }
        y
    }
}
