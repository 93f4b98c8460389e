//! Convolutions and pools (`SPEC.md`, sections 7.9 and 7.10): a dense layer, a sum or the largest at each place.

use haca_kernels::view::{Conv, Reduction, Window};

use super::builder::{Builder, Number};

pub(super) fn conv(builder: &mut Builder, layer: &Conv<'_>, x: &[Number]) -> Vec<Number> {
    let product = layer.product();
    let weights: Vec<Vec<i64>> =
        (0..layer.channels()).map(|channel| product.weights(channel).collect()).collect();
    let mut uses = vec![0; x.len()];
    for place in 0..layer.window().places() {
        for channel in 0..layer.channels() {
            layer.terms(place, channel).for_each(|(_, element)| uses[element] += 1);
        }
    }
    let x: Vec<Number> = x.iter().zip(uses).map(|(x, uses)| builder.shared(x, uses)).collect();
    let mut outputs = Vec::with_capacity(layer.window().places() * layer.channels());
    for place in 0..layer.window().places() {
        for (channel, weights) in weights.iter().enumerate() {
            let mut sum = Number::constant(product.bias(channel).into());
            layer
                .terms(place, channel)
                .for_each(|(input, element)| sum.add(&x[element], weights[input].into()));
            outputs.push(builder.activate(&sum, product.requantize(channel), product.activation()));
        }
    }
    outputs
}

pub(super) fn pool(
    builder: &mut Builder,
    window: &Window<'_>,
    reduction: Reduction,
    x: &[Number],
) -> Vec<Number> {
    let channels = window.channels();
    let mut outputs = Vec::with_capacity(window.places() * channels);
    for place in 0..window.places() {
        for channel in 0..channels {
            let elements = window.taps(place).map(|(_, pixel)| &x[pixel * channels + channel]);
            outputs.push(match reduction {
                Reduction::Max => builder.largest(elements),
                Reduction::Sum { multiplier, requantize } => {
                    let mut sum = Number::constant(0);
                    elements.for_each(|element| sum.add(element, multiplier.into()));
                    builder.requantize(&sum, requantize)
                }
            });
        }
    }
    outputs
}
