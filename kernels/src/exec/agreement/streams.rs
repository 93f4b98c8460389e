//! Streams give what the window gives, over random layers, batches and orders of calls.

use std::sync::Arc;

use proptest::prelude::*;

use super::recurrences;
use crate::exec::{Backend, Executor, Packed, StreamExecutor};
use crate::model::graph::{Activation, Affine, Dense, Element, Graph, Operator, Weights};
use crate::model::{Dtype, Metadata, Model, Stream, StreamKind, encode};
use crate::random::{Choices, FULL, push, row, tensor, widened};

/// Recurrent layers of which the last leaves its last step only, and a dense layer on it.
fn streamed(choices: &mut Choices) -> Graph {
    let mut graph = recurrences(choices);
    if choices.below(3) == 0 {
        widened(&mut graph, choices);
    }
    let last = graph.tensors.len() - 1;
    if let Some(Operator::Recurrent(layer)) = graph.nodes.last_mut().map(|node| &mut node.operator) {
        layer.last_only = true;
        graph.tensors[last].shape = vec![layer.hidden() as u32];
    }
    let hidden = graph.tensors[last].len();
    graph.tensors.push(tensor("y", 2, Element::I16, 10, FULL));
    let head = Dense {
        weights: Weights::I16((0..2 * hidden).map(|_| choices.between(-500, 500) as i16).collect()),
        weight_exponents: vec![12],
        bias: vec![choices.between(-1 << 20, 1 << 20); 2],
        activation: Activation::None,
    };
    push(&mut graph, Operator::Dense(head), vec![last]);
    graph.output = last + 1;
    graph
}

fn steps(graph: &Graph) -> usize {
    let Operator::Recurrent(layer) = &graph.nodes[0].operator else { unreachable!("the first layer") };
    graph.tensors[0].len() / layer.features()
}

fn load(graph: &Graph) -> Model {
    Model::load(&encode(graph, &Metadata::default())).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn streams_give_what_the_window_gives(seed: u64) {
        let mut choices = Choices(seed);
        let graph = streamed(&mut choices);
        let model = Arc::new(load(&graph));
        let stream = Arc::new(model.stream().unwrap());
        let steps = steps(&graph);
        prop_assert_eq!(stream.window(), steps);
        prop_assert_eq!(stream.id(), model.id());
        prop_assert_eq!(stream.state_bytes(), stream.initial_states().len() * 4);
        let rows: Vec<Vec<u8>> =
            (0..choices.between(1, 11)).map(|_| row(&mut choices, model.input_len(), false)).collect();
        let mut whole = Executor::with_backend(Arc::clone(&model), 1, Backend::Scalar);
        for backend in Backend::available() {
            let check = |row: usize, done: usize, output: &[i64]| {
                if done == steps {
                    whole.stage(0, Dtype::F32, &rows[row]).unwrap();
                    whole.execute(1);
                    prop_assert_eq!(output, whole.output_fixed(0), "{}", backend.name());
                }
                Ok(())
            };
            step_through(&stream, backend, &rows, &mut choices, check)?;
        }
    }
}

/// Takes rows through all their steps as streams, any of them together, and has each output checked, by row and number of
/// steps done. The states are the streams' own from the first step on.
pub(super) fn step_through(
    stream: &Arc<Stream>,
    backend: Backend,
    rows: &[Vec<u8>],
    choices: &mut Choices,
    mut check: impl FnMut(usize, usize, &[i64]) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let bytes = stream.step_len() * 4;
    let steps = rows[0].len() / bytes;
    let mut executor = StreamExecutor::with_backend(Arc::clone(stream), rows.len(), backend);
    // What a reset stream held before does not matter.
    let mut states = vec![stream.initial_states().to_vec(); rows.len()];
    let mut done = vec![0; rows.len()];
    while done.iter().any(|&done| done < steps) {
        let chosen: Vec<usize> =
            (0..rows.len()).filter(|&row| done[row] < steps && choices.below(3) != 0).collect();
        for (slot, &row) in chosen.iter().enumerate() {
            let step = &rows[row][done[row] * bytes..][..bytes];
            executor.stage(slot, Dtype::F32, step, &states[row]).unwrap();
        }
        executor.execute(chosen.len());
        for (slot, &row) in chosen.iter().enumerate() {
            states[row].copy_from_slice(executor.states(slot));
            done[row] += 1;
            check(row, done[row], executor.output_fixed(slot))?;
        }
    }
    Ok(())
}

/// Any states are taken as those within bounds that they are brought to.
pub(super) fn bounds_its_states(stream: Stream, choices: &mut Choices) {
    let stream = Arc::new(stream);
    let step = row(choices, stream.step_len(), false);
    let wild: Vec<i32> = stream.initial_states().iter().map(|_| choices.bits() as i32).collect();
    let mut bounded = vec![0; wild.len()];
    stream.kept().iter().for_each(|kept| kept.take(&wild, &mut bounded));
    for backend in Backend::available() {
        let mut executor = StreamExecutor::with_backend(Arc::clone(&stream), 2, backend);
        executor.stage(0, Dtype::F32, &step, &wild).unwrap();
        executor.stage(1, Dtype::F32, &step, &bounded).unwrap();
        executor.execute(2);
        assert_eq!(executor.states(0), executor.states(1));
    }
}

#[test]
fn states_beyond_their_bounds_are_brought_to_them() {
    let mut choices = Choices(3);
    bounds_its_states(load(&streamed(&mut choices)).stream().unwrap(), &mut choices);
}

#[test]
fn models_that_need_other_steps_have_no_recurrent_streams() {
    let kind = |graph: &Graph| load(graph).stream().unwrap().kind();
    let mut choices = Choices(5);
    let mut graph = streamed(&mut choices);
    let (steps, len) = (steps(&graph), graph.tensors[0].len());
    assert!(steps > 1);
    let features = len / steps;
    graph.tensors[0].shape = vec![steps as u32, features as u32];
    assert_eq!(kind(&graph), StreamKind::Recurrent);
    let mut reads_all = graph.clone();
    let recurrent = graph.nodes.len() - 2;
    let Operator::Recurrent(layer) = &mut reads_all.nodes[recurrent].operator else { unreachable!() };
    layer.last_only = false;
    let hidden = layer.hidden();
    let Operator::Dense(head) = &mut reads_all.nodes[recurrent + 1].operator else { unreachable!() };
    head.weights = Weights::I16(vec![1; 2 * steps * hidden]);
    reads_all.tensors[graph.nodes[recurrent].output].shape = vec![(steps * hidden) as u32];
    assert_eq!(kind(&reads_all), StreamKind::Window);
    let mut serves_all = reads_all;
    serves_all.nodes.pop();
    serves_all.tensors.pop();
    serves_all.output -= 1;
    assert_eq!(kind(&serves_all), StreamKind::Window);
    // A scaler before the first layer may treat features differently, steps not.
    let mut scaler = tensor("raw", len, Element::I16, 11, FULL);
    scaler.shape.clone_from(&graph.tensors[0].shape);
    std::mem::swap(&mut graph.tensors[0], &mut scaler);
    let scaled = graph.tensors.len();
    graph.tensors.push(scaler);
    let mut affine = Affine {
        multipliers: (0..len).map(|element| 1000 + (element % features) as i32).collect(),
        offsets: vec![7; len],
        shifts: vec![10; len],
    };
    push(&mut graph, Operator::Affine(affine.clone()), vec![0]);
    let node = graph.nodes.pop().unwrap();
    graph.nodes[0].inputs = vec![scaled];
    graph.nodes.insert(0, node);
    assert_eq!(load(&graph).stream().unwrap().step_shape(), [features as u32]);
    assert_eq!(kind(&graph), StreamKind::Recurrent);
    affine.offsets[len - 1] += 1;
    graph.nodes[0].operator = Operator::Affine(affine);
    assert_eq!(kind(&graph), StreamKind::Window);
    graph.nodes.truncate(1);
    graph.tensors = vec![graph.tensors[0].clone(), graph.tensors[scaled].clone()];
    (graph.nodes[0].output, graph.output) = (1, 1);
    assert_eq!(kind(&graph), StreamKind::Window);
}

#[test]
fn wide_sums_are_split_and_not_left_to_the_reference() {
    let mut wide = 0;
    for seed in 0..50 {
        let mut choices = Choices(seed);
        let mut graph = recurrences(&mut choices);
        widened(&mut graph, &mut choices);
        let model = load(&graph);
        assert!(model.packed.iter().all(|packed| matches!(packed, Packed::Recurrent(_))), "seed {seed}");
        wide += model.layers().filter(|layer| layer.accumulator_bits == 64).count();
    }
    assert!(wide > 50, "{wide} layers");
}
