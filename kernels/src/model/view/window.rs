//! Convolutions and pools (`SPEC.md`, sections 7.9 and 7.10).

use super::{Dense, Requantize};
use crate::model::graph;

/// The places at which a kernel lies on an image `[height, width, channels]`.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a>(pub(super) &'a graph::Window);

impl<'a> Window<'a> {
    /// How many places, row by row.
    pub fn places(&self) -> usize {
        self.0.places().iter().product()
    }

    /// Channels of the image.
    pub fn channels(&self) -> usize {
        self.0.channels as usize
    }

    /// The taps of a place that meet the image: which element of the kernel, and which pixel.
    pub fn taps(&self, place: usize) -> impl Iterator<Item = (usize, usize)> + use<'a> {
        let window = self.0;
        let [kernel_width, width] = [window.kernel[1], window.image[1]].map(|length| length as usize);
        let columns = window.places()[1];
        (0..window.taps()).filter_map(move |tap| {
            let y = window.tap(0, place / columns, tap / kernel_width)?;
            let x = window.tap(1, place % columns, tap % kernel_width)?;
            Some((tap, y * width + x))
        })
    }
}

/// Section 7.9: a dense layer at each place of a window.
#[derive(Debug, Clone, Copy)]
pub struct Conv<'a> {
    pub(super) layer: &'a graph::Conv,
    pub(super) input: &'a graph::Tensor,
    pub(super) output: &'a graph::Tensor,
}

impl<'a> Conv<'a> {
    /// The places.
    pub fn window(&self) -> Window<'a> {
        Window(&self.layer.window)
    }

    /// Output channels at each place.
    pub fn channels(&self) -> usize {
        self.layer.product.bias.len()
    }

    /// The layer at each place: its outputs are the channels, its inputs what the kernel meets, in
    /// `[height, width, channels of the group]`.
    pub fn product(&self) -> Dense<'a> {
        Dense { layer: &self.layer.product, input: self.input, output: self.output }
    }

    /// What the kernel meets at a place, for an output channel: which input of the layer, and which element of the image.
    pub fn terms(&self, place: usize, channel: usize) -> impl Iterator<Item = (usize, usize)> + use<'a> {
        let channels = self.window().channels();
        let of_group = channels / self.layer.groups;
        let first = channel / (self.channels() / self.layer.groups) * of_group;
        self.window().taps(place).flat_map(move |(tap, pixel)| {
            (0..of_group).map(move |index| (tap * of_group + index, pixel * channels + first + index))
        })
    }
}

/// What a pool makes of what its kernel meets in a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// The largest.
    Max,
    /// `requantize(multiplier · sum)`.
    Sum {
        /// Of the sum.
        multiplier: i64,
        /// The rounding.
        requantize: Requantize,
    },
}
