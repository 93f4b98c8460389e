//! How wide the exact sums of each layer are.

use crate::import::float::{FloatGraph, Step, Value};

/// Width of the exact sums of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Narrow,
    Wide,
}

/// Widths of all layers, by the value that each computes.
#[derive(Debug, Clone)]
pub(crate) struct Widths(Vec<Width>);

impl Widths {
    /// The same for all layers.
    pub(crate) fn all(float: &FloatGraph, width: Width) -> Widths {
        Widths(vec![width; float.shapes.len()])
    }

    pub(crate) fn widen(&mut self, output: Value) {
        self.0[output] = Width::Wide;
    }

    pub(crate) fn of(&self, step: &Step) -> Width {
        self.0[step.output]
    }
}
