//! Random convolutions, pools, moves and products of images.

use super::{Choices, FULL, push, tensor};
use crate::model::graph::{
    Activation, Conv, Dense, Element, Graph, Move, Operator, Pool, Reduction, Tensor, Weights, Window,
};
use crate::spec::activation::one;

/// Some layers over an image that the last one leaves.
pub(crate) fn images(choices: &mut Choices) -> Graph {
    let mut graph = Graph { tensors: Vec::new(), nodes: Vec::new(), input: 0, output: 0 };
    let mut image = [choices.between(1, 12) as u32, choices.between(1, 9) as u32];
    let mut channels = choices.between(1, 6) as u32;
    graph.tensors.push(tensor("x", len(image, channels), Element::I16, 12, FULL));
    let layers = choices.between(1, 4);
    for layer in 0..layers {
        let last = layer + 1 == layers;
        match choices.below(5) {
            0 | 1 => (image, channels) = conv(choices, &mut graph, image, channels, last),
            2 => image = pool(choices, &mut graph, image, channels),
            3 => moves(choices, &mut graph),
            _ => product(choices, &mut graph),
        }
        // A move may have changed the length: what is left is a column.
        let (tensors, elements) = (graph.tensors.len(), graph.tensors[graph.tensors.len() - 1].len());
        if len(image, channels) != elements {
            (image, channels) = ([elements as u32, 1], 1);
        }
        if graph.tensors[tensors - 1].element != Element::I16 {
            break;
        }
    }
    if choices.below(6) == 0 {
        arg_max(choices, &mut graph);
    }
    graph.output = graph.tensors.len() - 1;
    graph
}

pub(super) fn len(image: [u32; 2], channels: u32) -> usize {
    (image[0] * image[1] * channels) as usize
}

fn window(choices: &mut Choices, image: [u32; 2], channels: u32) -> Window {
    let mut window = Window::point(image, channels);
    for (axis, length) in image.into_iter().enumerate() {
        window.kernel[axis] = choices.between(1, i64::from(length).min(5)) as u32;
        if choices.below(4) == 0 {
            window.dilations[axis] = choices.between(1, 2) as u32;
        }
        let reach = (window.kernel[axis] - 1) * window.dilations[axis] + 1;
        // Never more than half of the kernel outside: each place then meets the image.
        if choices.below(2) == 0 {
            window.before[axis] = choices.below(u64::from(reach).div_ceil(2)) as u32;
            window.after[axis] = choices.below(u64::from(reach).div_ceil(2)) as u32;
        }
        if reach > window.before[axis] + length + window.after[axis] {
            (window.kernel[axis], window.before[axis], window.after[axis]) = (1, 0, 0);
        }
        window.strides[axis] = choices.between(1, 3) as u32;
    }
    window
}

fn conv(
    choices: &mut Choices,
    graph: &mut Graph,
    image: [u32; 2],
    channels: u32,
    last: bool,
) -> ([u32; 2], u32) {
    let window = window(choices, image, channels);
    conv_over(choices, graph, window, last)
}

/// A convolution of the last tensor. Returns the places, and their channels.
pub(super) fn conv_over(
    choices: &mut Choices,
    graph: &mut Graph,
    window: Window,
    last: bool,
) -> ([u32; 2], u32) {
    let channels = window.channels;
    let divisors: Vec<u32> = (1..=channels).filter(|&groups| channels.is_multiple_of(groups)).collect();
    let groups = divisors[choices.below(divisors.len() as u64) as usize];
    let outputs = groups * choices.between(1, 40) as u32 / groups.min(3);
    let outputs = outputs.next_multiple_of(groups);
    let places = window.places().map(|places| places as u32);
    let input = graph.tensors.len() - 1;
    let count = len(places, outputs);
    let activation = match choices.below(5) {
        0 => Activation::Sigmoid,
        1 => Activation::Tanh,
        2 => Activation::Leaky(choices.between(0, 32767) as i16),
        _ => Activation::None,
    };
    let mut output = match activation {
        Activation::Sigmoid => tensor("s", count, Element::I16, 13, (0, one(13))),
        Activation::Tanh => tensor("t", count, Element::I16, 15, (-one(15), one(15))),
        _ => {
            tensor("y", count, Element::I16, 11, [FULL, (0, 9000), (-3000, 2000)][choices.below(3) as usize])
        }
    };
    if last && activation == Activation::None {
        let limit = i64::from(i32::MAX);
        output = tensor("out", count, Element::I32, choices.between(10, 16) as i32, (-limit, limit));
    }
    let inputs = (window.taps() as u32 * (channels / groups)) as usize;
    let bound = [100, 2000, 32767][choices.below(3) as usize];
    let weights = (0..inputs * outputs as usize).map(|_| choices.between(-bound, bound) as i16).collect();
    let (argument, ..) = activation.argument(&output);
    let exponent = graph.tensors[input].exponent;
    let by_channel = choices.below(2) == 0;
    let weight_exponents = (0..if by_channel { outputs } else { 1 })
        .map(|_| choices.between(if last { -2 } else { 0 }, 20) as i32 + argument - exponent)
        .collect();
    let bias = (0..outputs).map(|_| choices.between(-1 << 24, 1 << 24)).collect();
    let product = Dense { weights: Weights::I16(weights), weight_exponents, bias, activation };
    graph.tensors.push(output);
    push(graph, Operator::Conv(Conv { window, groups: groups as usize, product }), vec![input]);
    (places, outputs)
}

fn pool(choices: &mut Choices, graph: &mut Graph, image: [u32; 2], channels: u32) -> [u32; 2] {
    let window = window(choices, image, channels);
    pool_over(choices, graph, window)
}

/// A pool of the last tensor. Returns the places.
pub(super) fn pool_over(choices: &mut Choices, graph: &mut Graph, window: Window) -> [u32; 2] {
    let channels = window.channels;
    let places = window.places().map(|places| places as u32);
    let input = graph.tensors.len() - 1;
    let from = graph.tensors[input].clone();
    let (reduction, output) = if choices.below(2) == 0 {
        (Reduction::Max, Tensor { shape: vec![len(places, channels) as u32], ..from })
    } else {
        (Reduction::Sum, tensor("mean", len(places, channels), Element::I16, 9, FULL))
    };
    let (multiplier, shift) = (choices.between(-1 << 20, 1 << 20) as i32, choices.below(40) as u8);
    graph.tensors.push(output);
    push(graph, Operator::Pool(Pool { window, reduction, multiplier, shift }), vec![input]);
    places
}

/// From one tensor or two of one scale: runs of all lengths, backwards too, and constants.
fn moves(choices: &mut Choices, graph: &mut Graph) {
    let input = graph.tensors.len() - 1;
    let from = graph.tensors[input].clone();
    let alike = |&other: &usize| {
        let other = &graph.tensors[other];
        (other.element, other.exponent) == (from.element, from.exponent)
    };
    let inputs: Vec<usize> = (0..=input).filter(alike).collect();
    let total: usize = inputs.iter().map(|&input| graph.tensors[input].len()).sum();
    let mut indices: Vec<i32> = Vec::new();
    while indices.len() < 40 && (indices.is_empty() || choices.below(8) != 0) {
        let (first, count) = (choices.below(total as u64) as i32, choices.between(1, 20) as i32);
        match choices.below(4) {
            0 => indices.extend((0..count).map(|_| -1)),
            1 => indices.extend((0..count).map(|index| (first - index).max(0))),
            _ => indices.extend((0..count).map(|index| (first + index).min(total as i32 - 1))),
        }
    }
    let bounds = |pick: fn(&Tensor) -> i64| inputs.iter().map(|&input| pick(&graph.tensors[input])).collect();
    let (low, high): (Vec<i64>, Vec<i64>) =
        (bounds(|tensor| tensor.minimum), bounds(|tensor| tensor.maximum));
    let (low, high) = (low.into_iter().min().unwrap_or(0), high.into_iter().max().unwrap_or(0));
    let fill = choices.between(low, high);
    graph.tensors.push(tensor("moved", indices.len(), from.element, from.exponent, (low, high)));
    push(graph, Operator::Move(Move { indices, fill }), inputs);
}

/// Something done to each element of the last tensor.
pub(super) fn product(choices: &mut Choices, graph: &mut Graph) {
    let input = graph.tensors.len() - 1;
    let (elements, exponent) = (graph.tensors[input].len(), graph.tensors[input].exponent);
    let (operator, exponent) = match choices.below(3) {
        0 => (Operator::Multiply, exponent),
        1 => (Operator::Add { subtract: true }, exponent - 1),
        _ => (Operator::Map(Activation::Leaky(choices.between(0, 32767) as i16)), exponent - 1),
    };
    let inputs = if matches!(operator, Operator::Map(_)) { vec![input] } else { vec![input, input] };
    graph.tensors.push(tensor("product", elements, Element::I16, exponent, FULL));
    push(graph, operator, inputs);
}

fn arg_max(choices: &mut Choices, graph: &mut Graph) {
    let input = graph.tensors.len() - 1;
    let elements = graph.tensors[input].len();
    let divisors: Vec<usize> = (1..=elements).filter(|&length| elements.is_multiple_of(length)).collect();
    let length = divisors[choices.below(divisors.len() as u64) as usize].min(32767);
    let length = if elements.is_multiple_of(length) { length } else { 1 };
    let inner: Vec<usize> =
        (1..=elements / length).filter(|&i| (elements / length).is_multiple_of(i)).collect();
    let inner = inner[choices.below(inner.len() as u64) as usize];
    let bounds = (0, length as i64 - 1);
    graph.tensors.push(tensor("largest", elements / length, Element::I16, 0, bounds));
    push(graph, Operator::ArgMax { length, inner }, vec![input]);
}
