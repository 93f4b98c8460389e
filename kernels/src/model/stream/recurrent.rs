//! Streams of recurrent states: the model's own graph with rows of one step.

use std::sync::Arc;

use super::{Format, Kept, Stream, StreamError, StreamKind, StreamPart, affine_of_column};
use crate::exec::initial;
use crate::model::Model;
use crate::model::graph::{Cell, Graph, Operator, Recurrent, Tensor};
use crate::spec::activation::one;
use crate::spec::recurrence::STATE_BOUND;

/// The form of one step with the states of the recurrent layers, if no layer needs more of the steps before: all but
/// elementwise layers and recurrent ones do, until a recurrent layer has left only the last step.
pub(super) fn stream(model: &Model) -> Result<Option<Stream>, StreamError> {
    let Some((graph, window)) = one_step(&model.graph) else { return Ok(None) };
    let (mut initial, mut kept) = (Vec::new(), Vec::new());
    let mut carried = vec![None; graph.tensors.len()];
    for node in &graph.nodes {
        if let Operator::Recurrent(layer) = &node.operator {
            carried[node.output] = Some(initial.len());
            push_states(layer, &graph.tensors[node.output], &mut initial, &mut kept);
        }
    }
    let step_shape = graph.tensors[graph.input].shape.clone();
    let parts = vec![StreamPart::Step; graph.nodes.len()];
    let mut form = Model::assemble(model.id, graph, model.metadata.clone(), model.file_bytes)?;
    (form.carried, form.carried_len) = (carried, initial.len());
    let (kind, model) = (StreamKind::Recurrent, Arc::new(form));
    Ok(Some(Stream { kind, model, step_shape, window, initial, kept, parts }))
}

/// The initial states of a layer and their bounds, in the order of [`crate::exec`]'s recurrent layers.
fn push_states(layer: &Recurrent, output: &Tensor, states: &mut Vec<i32>, kept: &mut Vec<Kept>) {
    let units = 0..layer.hidden();
    let mut push = |values: &mut dyn Iterator<Item = i32>, bound: i32| {
        let start = states.len();
        states.extend(values);
        kept.push(Kept { words: start..states.len(), format: Format::I32(-bound, bound) });
    };
    if layer.cell == Cell::Lstm {
        let hidden = &mut units.clone().map(|unit| i32::from(initial(layer, output, unit).0));
        push(hidden, one(output.exponent) as i32);
    }
    let most = if layer.cell == Cell::Gru { 1 << layer.cell_exponent } else { STATE_BOUND };
    push(&mut units.map(|unit| initial(layer, output, unit).1), most);
}

/// The graph for rows of one step, and the number of steps that it was for.
fn one_step(graph: &Graph) -> Option<(Graph, usize)> {
    let steps = graph.nodes.iter().find_map(|node| match &node.operator {
        Operator::Recurrent(layer) => Some(graph.tensors[node.inputs[0]].len() / layer.features()),
        _ => None,
    })?;
    let mut stepped = graph.clone();
    // Which tensors hold a row for each step.
    let mut per_step = vec![false; graph.tensors.len()];
    per_step[graph.input] = true;
    for (node, stepped) in graph.nodes.iter().zip(&mut stepped.nodes) {
        if !node.inputs.iter().any(|&input| per_step[input]) {
            continue;
        }
        if !node.inputs.iter().all(|&input| per_step[input]) {
            return None;
        }
        per_step[node.output] = match &mut stepped.operator {
            Operator::Recurrent(layer) => {
                if graph.tensors[node.inputs[0]].len() != steps * layer.features() {
                    return None;
                }
                !layer.last_only
            }
            Operator::Affine(affine) => {
                *affine = affine_of_column(graph, node, affine, steps)?;
                true
            }
            Operator::Map(_) | Operator::Add { .. } | Operator::Multiply => true,
            _ => return None,
        };
    }
    // Every step would be served.
    if per_step[graph.output] {
        return None;
    }
    for (tensor, _) in stepped.tensors.iter_mut().zip(&per_step).filter(|(_, per_step)| **per_step) {
        let len = tensor.len() / steps;
        tensor.shape = match &tensor.shape[..] {
            [first, rest @ ..] if *first as usize == steps && !rest.is_empty() => rest.to_vec(),
            _ => vec![len as u32],
        };
        tensor.exponents.truncate(len);
    }
    Some((stepped, steps))
}
