//! Streams of windows give, at each step, what the window gives, over random layers, batches and orders of calls.

use std::sync::Arc;

use proptest::prelude::*;

use super::streams::{bounds_its_states, step_through};
use crate::exec::{Backend, Executor, StreamExecutor};
use crate::model::graph::{Activation, Affine, Conv, Dense, Element, Graph, Operator, Weights, Window};
use crate::model::{Dtype, Metadata, Model, Stream, StreamKind, StreamPart, encode};
use crate::random::{Choices, FULL, encoder_of, images, push, row, tensor, windows};

fn load(graph: &Graph) -> Arc<Model> {
    Arc::new(Model::load(&encode(graph, &Metadata::default())).unwrap())
}

/// Every backend gives, at each step of some streams, the reference's integers for the last steps, with zeros before them.
fn agree(graph: &Graph, choices: &mut Choices) -> Result<Stream, TestCaseError> {
    let model = load(graph);
    let stream = Arc::new(model.stream().unwrap());
    let (window, len) = (stream.window(), stream.step_len());
    prop_assert_eq!(stream.id(), model.id());
    prop_assert_eq!(window * len, model.input_len());
    prop_assert_eq!(stream.state_bytes(), stream.initial_states().len() * 4);
    prop_assert_eq!(stream.parts().len(), graph.nodes.len());
    let steps = window + choices.between(1, window as i64) as usize;
    let rows: Vec<Vec<u8>> = (0..choices.between(1, 5)).map(|_| row(choices, steps * len, false)).collect();
    let mut whole = Executor::with_backend(Arc::clone(&model), 1, Backend::Scalar);
    let mut expected = |row: usize, done: usize| {
        let mut steps = vec![0; window * len * 4];
        steps.extend(&rows[row][..done * len * 4]);
        whole.stage(0, Dtype::F32, &steps[steps.len() - window * len * 4..]).unwrap();
        whole.execute(1);
        whole.output_fixed(0).to_vec()
    };
    // A recurrent stream goes on as a longer window would, and begins as a shorter one.
    let is_window = stream.kind() == StreamKind::Window;
    let expected: Vec<Vec<Vec<i64>>> =
        (0..rows.len()).map(|row| (1..=steps).map(|done| expected(row, done)).collect()).collect();
    for backend in Backend::available() {
        let check = |row: usize, done: usize, output: &[i64]| {
            if is_window || done == window {
                let expected = &expected[row][done - 1][..];
                prop_assert_eq!(output, expected, "{} at step {}", backend.name(), done);
            }
            Ok(())
        };
        step_through(&stream, backend, &rows, choices, check)?;
    }
    Ok(Arc::into_inner(stream).unwrap_or_else(|| load(graph).stream().unwrap()))
}

/// Makes the input's first dimension one of steps.
fn with_steps(graph: &mut Graph, choices: &mut Choices) -> bool {
    let len = graph.tensors[0].len() as u32;
    let counts: Vec<u32> = (2..=len.min(12)).filter(|&count| len.is_multiple_of(count)).collect();
    let Some(&count) = counts.get(choices.below(counts.len().max(1) as u64) as usize) else { return false };
    graph.tensors[0].shape = vec![count, len / count];
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn streams_of_windows_give_what_the_window_gives_at_each_step(seed: u64) {
        let mut choices = Choices(seed);
        let graph = windows(&mut choices);
        agree(&graph, &mut choices)?;
    }

    #[test]
    fn any_model_with_steps_has_streams(seed: u64) {
        let mut choices = Choices(seed);
        let mut graph =
            if choices.below(2) == 0 { images(&mut choices) } else { encoder_of(&mut choices, [12, 2, 5]) };
        if with_steps(&mut graph, &mut choices) {
            agree(&graph, &mut choices)?;
        }
    }
}

#[test]
fn of_the_layers_of_random_windows_many_slide_and_many_take_the_window() {
    let mut counts = [0; 2];
    for seed in 0..300 {
        let stream = load(&windows(&mut Choices(seed))).stream().unwrap();
        if stream.kind() == StreamKind::Window {
            stream.parts().iter().for_each(|part| counts[usize::from(*part == StreamPart::Window)] += 1);
        }
    }
    assert!(counts.iter().all(|&count| count > 150), "{counts:?}");
}

/// Convolutions over time with a border before the oldest step alone, each twice as far as the one before, and a head.
fn causal(choices: &mut Choices, head: [u32; 2]) -> Graph {
    let (steps, channels) = (16, 3);
    let mut input = tensor("x", 4 * steps as usize, Element::I16, 12, FULL);
    input.shape = vec![steps, 4];
    let mut graph = Graph { tensors: vec![input], nodes: Vec::new(), input: 0, output: 0 };
    for dilation in [1, 2, 4] {
        let window = Window {
            kernel: [3, 1],
            dilations: [dilation, 1],
            before: [2 * dilation, 0],
            ..Window::point([steps, 1], if dilation == 1 { 4 } else { channels })
        };
        conv(choices, &mut graph, window, channels as usize);
    }
    let window = Window { kernel: [head[1], 1], ..Window::point([steps, 1], channels) };
    let window = Window { image: [steps, 1], strides: [head[0], 1], ..window };
    conv(choices, &mut graph, window, 2);
    graph.output = graph.tensors.len() - 1;
    graph
}

fn conv(choices: &mut Choices, graph: &mut Graph, window: Window, outputs: usize) {
    let input = graph.tensors.len() - 1;
    let weights = window.taps() * window.channels as usize * outputs;
    let product = Dense {
        weights: Weights::I16((0..weights).map(|_| choices.between(-3000, 3000) as i16).collect()),
        weight_exponents: vec![12],
        bias: vec![choices.between(-1 << 20, 1 << 20); outputs],
        activation: Activation::None,
    };
    let [height, width] = window.places();
    graph.tensors.push(tensor("y", height * width * outputs, Element::I16, 12, FULL));
    push(graph, Operator::Conv(Conv { window, groups: 1, product }), vec![input]);
}

#[test]
fn columns_at_the_border_are_computed_with_the_window_if_a_layer_reads_them() {
    use StreamPart::{Step, Window};
    let mut choices = Choices(11);
    let graph = causal(&mut choices, [1, 1]);
    // All columns are served, those too that meet the border.
    assert_eq!(agree(&graph, &mut choices).unwrap().parts(), [Window; 4]);
    // The last column alone is: it is as far from the oldest step as all kernels reach together.
    let mut last = graph;
    let (indices, taken) = ((15 * 2..16 * 2).collect(), last.tensors.len() - 1);
    last.tensors.push(tensor("last", 2, Element::I16, 12, FULL));
    push(&mut last, Operator::Move(crate::model::graph::Move { indices, fill: 0 }), vec![taken]);
    last.output = taken + 1;
    let stream = agree(&last, &mut choices).unwrap();
    assert_eq!(stream.parts(), [Step, Step, Step, Step, Window]);
    // Of the input two steps, of the layers above twice as many columns each.
    assert_eq!(stream.state_bytes(), (2 * 4 + 4 * 3 + 8 * 3) * 2);
    // A column further to the past is not.
    if let Operator::Move(elements) = &mut last.nodes[4].operator {
        elements.indices = (2..4).collect();
    }
    assert_eq!(agree(&last, &mut choices).unwrap().parts(), [Window; 5]);
}

/// Its places in time would not lie one after the other, but once for each place on the other axis.
#[test]
fn a_kernel_with_several_places_on_the_axis_before_time_takes_the_window() {
    let mut choices = Choices(12);
    let mut input = tensor("x", 8 * 3, Element::I16, 12, FULL);
    input.shape = vec![1, 8, 3];
    let mut graph = Graph { tensors: vec![input], nodes: Vec::new(), input: 0, output: 1 };
    let window = Window { kernel: [2, 1], before: [1, 0], after: [1, 0], ..Window::point([1, 8], 3) };
    assert_eq!(window.places(), [2, 8]);
    conv(&mut choices, &mut graph, window, 2);
    assert_eq!(agree(&graph, &mut choices).unwrap().parts(), [StreamPart::Window]);
}

#[test]
fn an_input_that_is_converted_in_another_way_at_each_step_is_kept_as_it_came() {
    let mut choices = Choices(5);
    let mut input = tensor("x", 6 * 3, Element::I32, 20, (-1 << 30, 1 << 30));
    input.shape = vec![6, 3];
    input.exponents = (0..18).map(|element| 16 + element % 3).collect();
    let mut graph = Graph {
        tensors: vec![input, tensor("y", 18, Element::I16, 10, FULL)],
        nodes: Vec::new(),
        input: 0,
        output: 1,
    };
    let affine = Affine {
        multipliers: (0..18).map(|element| 1000 + element % 3).collect(),
        offsets: vec![7; 18],
        shifts: vec![20; 18],
    };
    push(&mut graph, Operator::Affine(affine), vec![0]);
    let stream = agree(&graph, &mut choices).unwrap();
    assert_eq!(stream.parts(), [StreamPart::Step]);
    graph.tensors[0].exponents[17] += 1;
    let stream = agree(&graph, &mut choices).unwrap();
    assert_eq!((stream.parts(), stream.state_bytes()), (&[StreamPart::Window][..], 5 * 3 * 4));
    let mut executor = StreamExecutor::new(Arc::new(stream), 1);
    let states = vec![0; 15];
    let mut step = [0; 12];
    step[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    let refused = |executor: &mut StreamExecutor, step: &[u8]| executor.stage(0, Dtype::F32, step, &states);
    assert_eq!(refused(&mut executor, &step), Err(crate::InputError::Nan { element: 1 }));
    let length = crate::InputError::Length { found: 11, expected: 12, elements: 3 };
    assert_eq!(refused(&mut executor, &step[1..]), Err(length));
}

#[test]
fn columns_beyond_their_bounds_are_brought_to_them() {
    let mut choices = Choices(3);
    let graph = causal(&mut choices, [1, 1]);
    bounds_its_states(load(&graph).stream().unwrap(), &mut choices);
}

#[test]
fn an_input_without_steps_has_no_streams() {
    let mut choices = Choices(2);
    for shape in [vec![12], vec![1, 12], vec![1, 1]] {
        let mut input = tensor("x", shape.iter().product::<u32>() as usize, Element::I16, 12, FULL);
        input.shape = shape;
        let mut graph = Graph { tensors: vec![input], nodes: Vec::new(), input: 0, output: 1 };
        let channels = graph.tensors[0].len() as u32;
        conv(&mut choices, &mut graph, Window::point([1, 1], channels), 2);
        let refused = load(&graph).stream().unwrap_err().to_string();
        assert!(refused.contains("no steps"), "{refused}");
    }
}
