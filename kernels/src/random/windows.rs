//! Random models of windows of time steps: layers that go from step to step, with borders and strides in time and
//! without, and layers that take all steps.

use super::attention::between;
use super::images::{conv_over, len, pool_over, product};
use super::recurrent::recurrence;
use super::{Choices, FULL, push, tensor};
use crate::model::graph::{Activation, Dense, Element, Graph, Move, Operator, Weights, Window};

/// What the last tensor is: so many columns, each a row of so many pixels of so many channels.
#[derive(Clone, Copy)]
struct Shape {
    image: [u32; 2],
    channels: u32,
}

impl Shape {
    fn column(self) -> usize {
        (self.image[1] * self.channels) as usize
    }
}

/// Some layers over `[steps, features]`, or `[1, steps, features]`.
pub(crate) fn windows(choices: &mut Choices) -> Graph {
    let mut graph = Graph { tensors: Vec::new(), nodes: Vec::new(), input: 0, output: 0 };
    let image = [choices.between(2, 14) as u32, choices.between(1, 4) as u32];
    let mut shape = Shape { image, channels: choices.between(1, 4) as u32 };
    let bounds = [FULL, (-9000, 9000), (100, 5000)][choices.below(3) as usize];
    let mut input = tensor("x", len(image, shape.channels), Element::I16, 12, bounds);
    input.shape = vec![image[0], shape.column() as u32];
    if choices.below(2) == 0 {
        input.shape.insert(0, 1);
    }
    graph.tensors.push(input);
    for _ in 0..choices.between(0, 5) {
        match choices.below(8) {
            0..3 => {
                let window = window(choices, shape);
                (shape.image, shape.channels) = conv_over(choices, &mut graph, window, false);
            }
            3 => {
                let window = window(choices, shape);
                shape.image = pool_over(choices, &mut graph, window);
            }
            4 => product(choices, &mut graph),
            5 => between(choices, &mut graph, shape.column()),
            6 => residual(choices, &mut graph, shape),
            _ => shape = columns(choices, &mut graph, shape),
        }
    }
    head(choices, &mut graph, shape);
    graph.output = graph.tensors.len() - 1;
    graph
}

/// A kernel that mostly moves step by step.
fn window(choices: &mut Choices, shape: Shape) -> Window {
    let mut window = Window::point(shape.image, shape.channels);
    for axis in 0..2 {
        let length = i64::from(window.image[axis]);
        window.kernel[axis] = choices.between(1, length.min(4)) as u32;
        if choices.below(4) == 0 {
            window.dilations[axis] = 2;
        }
        let reach = (window.kernel[axis] - 1) * window.dilations[axis] + 1;
        // Behind the newest step there is a border now and then, before the oldest often.
        match choices.below(6) {
            0 | 1 => window.before[axis] = reach - 1,
            2 => (window.before[axis], window.after[axis]) = (reach / 2, (reach - 1) / 2),
            3 if axis == 1 => window.strides[axis] = 2,
            4 if choices.below(2) == 0 => window.strides[axis] = 2,
            _ => {}
        }
        // Each place must meet the image.
        if i64::from(reach) > length || window.before[axis] * 2 > reach {
            (window.kernel[axis], window.before[axis], window.after[axis]) = match choices.below(2) {
                0 if length > 1 => (2, 1, 0),
                _ => (1, 0, 0),
            };
            window.dilations[axis] = 1;
        }
    }
    window
}

/// The sum of the last tensor and another of its length.
fn residual(choices: &mut Choices, graph: &mut Graph, shape: Shape) {
    let last = graph.tensors.len() - 1;
    let count = len(shape.image, shape.channels);
    let alike = |&other: &usize| {
        let exponents = [other, last].map(|tensor| graph.tensors[tensor].exponent);
        graph.tensors[other].len() == count && exponents[0].abs_diff(exponents[1]) < 6
    };
    let others: Vec<usize> = (0..=last).filter(alike).collect();
    let other = others[choices.below(others.len() as u64) as usize];
    graph.tensors.push(tensor("sum", count, Element::I16, graph.tensors[last].exponent - 1, FULL));
    push(graph, Operator::Add { subtract: choices.below(2) == 0 }, vec![last, other]);
}

/// Some of the columns with other places within them: neighbours side by side, or some left out, or in another order.
fn columns(choices: &mut Choices, graph: &mut Graph, shape: Shape) -> Shape {
    let (count, column) = (shape.image[0] as usize, shape.column());
    let last = graph.tensors.len() - 1;
    let taken = choices.between(1, count as i64) as usize;
    // Each element of a column has a distance in time of its own, save where columns must be taken as they are.
    let places = choices.between(1, 2 * column as i64) as usize;
    let sources: Vec<Option<(usize, usize)>> = (0..places)
        .map(|_| {
            let from = (choices.below((count - taken + 1) as u64), choices.below(column as u64));
            (choices.below(9) != 0).then_some((from.0 as usize, from.1 as usize))
        })
        .collect();
    let backwards = choices.below(6) == 0;
    let index = |step: usize, source: &Option<(usize, usize)>| {
        let step = if backwards { taken - 1 - step } else { step };
        source.map_or(-1, |(offset, place)| ((offset + step) * column + place) as i32)
    };
    let indices = (0..taken).flat_map(|step| sources.iter().map(move |source| index(step, source))).collect();
    let from = graph.tensors[last].clone();
    let fill = choices.between(from.minimum, from.maximum);
    let bounds = (from.minimum, from.maximum);
    graph.tensors.push(tensor("columns", taken * places, from.element, from.exponent, bounds));
    push(graph, Operator::Move(Move { indices, fill }), vec![last]);
    Shape { image: [taken as u32, 1], channels: places as u32 }
}

/// What takes all steps, or the last one, or nothing.
fn head(choices: &mut Choices, graph: &mut Graph, shape: Shape) {
    let (count, column) = (shape.image[0] as usize, shape.column());
    match choices.below(4) {
        0 => dense(choices, graph),
        1 => {
            let last = graph.tensors.len() - 1;
            let from = graph.tensors[last].clone();
            let indices = ((count - 1) * column..count * column).map(|index| index as i32).collect();
            let bounds = (from.minimum, from.maximum);
            graph.tensors.push(tensor("last", column, from.element, from.exponent, bounds));
            push(graph, Operator::Move(Move { indices, fill: from.minimum }), vec![last]);
            dense(choices, graph);
        }
        2 => {
            recurrence(choices, graph, [count, column], 12, true);
        }
        // A model computes something.
        _ if graph.nodes.is_empty() => dense(choices, graph),
        _ => {}
    }
}

fn dense(choices: &mut Choices, graph: &mut Graph) {
    let last = graph.tensors.len() - 1;
    let (inputs, outputs) = (graph.tensors[last].len(), choices.between(1, 5) as usize);
    let dense = Dense {
        weights: Weights::I16((0..inputs * outputs).map(|_| choices.between(-500, 500) as i16).collect()),
        weight_exponents: vec![12],
        bias: vec![choices.between(-1 << 20, 1 << 20); outputs],
        activation: Activation::None,
    };
    graph.tensors.push(tensor("y", outputs, Element::I16, 10, FULL));
    push(graph, Operator::Dense(dense), vec![last]);
}
