//! Folding in the float graph: scaling by constants becomes part of the dense layer beside it.

use super::float::{FloatGraph, Operation, Step, Value};

/// Folds until nothing changes. An affine step that reads the model's input stays: it is what brings features of
/// different sizes to one scale.
pub(crate) fn fold(graph: &mut FloatGraph) {
    while fold_identity(graph)
        || fold_last_step(graph)
        || fold_into_producer(graph)
        || fold_into_consumer(graph)
    {}
}

pub(crate) fn uses(graph: &FloatGraph, value: Value) -> usize {
    let reads = graph.steps.iter().flat_map(|step| &step.inputs).filter(|&&input| input == value).count();
    reads + usize::from(graph.output == value)
}

/// How often each value is used.
fn use_counts(graph: &FloatGraph) -> Vec<usize> {
    let mut counts = vec![0; graph.shapes.len()];
    graph.steps.iter().flat_map(|step| &step.inputs).for_each(|&input| counts[input] += 1);
    counts[graph.output] += 1;
    counts
}

/// Removes an affine step that changes nothing but the shape. The reshaped value takes the place of the other, so that
/// the shape of the output is the last one asked for.
fn fold_identity(graph: &mut FloatGraph) -> bool {
    let is_identity = |step: &Step| match &step.operation {
        Operation::Affine { scale, offset } => {
            scale.iter().all(|&scale| scale == 1.0) && offset.iter().all(|&offset| offset == 0.0)
        }
        _ => false,
    };
    let Some(index) = graph.steps.iter().position(is_identity) else { return false };
    let (from, to) = (graph.steps[index].inputs[0], graph.steps[index].output);
    // The input keeps its own shape, which is the one that callers send; and an output keeps its shape, so an identity
    // between these two stays.
    if from == 0 && graph.output == to {
        return false;
    }
    graph.steps.remove(index);
    if from == 0 {
        replace(graph, to, from);
    } else {
        replace(graph, to, from);
        if graph.output == to {
            graph.shapes[from] = graph.shapes[to].clone();
            graph.output = from;
        }
    }
    true
}

fn replace(graph: &mut FloatGraph, old: Value, new: Value) {
    for input in graph.steps.iter_mut().flat_map(|step| &mut step.inputs) {
        if *input == old {
            *input = new;
        }
    }
}

/// A recurrent layer of which only the last step is read keeps the others to itself.
fn fold_last_step(graph: &mut FloatGraph) -> bool {
    let counts = use_counts(graph);
    for index in 0..graph.steps.len() {
        let Operation::Part { start, len } = graph.steps[index].operation else { continue };
        let from = graph.steps[index].inputs[0];
        let whole = graph.len(from);
        let Some(producer) = graph.steps.iter().position(|step| step.output == from) else { continue };
        let Operation::Recurrent(layer) = &mut graph.steps[producer].operation else { continue };
        if counts[from] != 1 || layer.last_only || len != layer.hidden || start + len != whole {
            continue;
        }
        layer.last_only = true;
        let part = graph.steps.remove(index);
        let producer = &mut graph.steps[producer];
        producer.output = part.output;
        if part.source != producer.source {
            producer.source = format!("{}+{}", producer.source, part.source);
        }
        return true;
    }
    false
}

/// Dense or affine, then affine: one step, if nothing else reads what lies between.
fn fold_into_producer(graph: &mut FloatGraph) -> bool {
    let counts = use_counts(graph);
    for index in 0..graph.steps.len() {
        let step = &graph.steps[index];
        let from = step.inputs[0];
        if !matches!(step.operation, Operation::Affine { .. }) || counts[from] != 1 {
            continue;
        }
        let Some(producer) = graph.steps.iter().position(|step| step.output == from) else { continue };
        if !matches!(graph.steps[producer].operation, Operation::Dense { .. } | Operation::Affine { .. }) {
            continue;
        }
        let Operation::Affine { scale, offset } = graph.steps[index].operation.clone() else { continue };
        match &mut graph.steps[producer].operation {
            Operation::Dense { weights, bias } => {
                let inputs = weights.len() / bias.len();
                for (row, scale) in weights.chunks_exact_mut(inputs).zip(&scale) {
                    row.iter_mut().for_each(|weight| *weight *= scale);
                }
                bias.iter_mut().zip(scale.iter().zip(&offset)).for_each(|(b, (s, o))| *b = *b * s + o);
            }
            Operation::Affine { scale: own_scale, offset: own_offset } => {
                own_offset.iter_mut().zip(scale.iter().zip(&offset)).for_each(|(b, (s, o))| *b = *b * s + o);
                own_scale.iter_mut().zip(&scale).for_each(|(own, scale)| *own *= scale);
            }
            _ => continue,
        }
        let folded = graph.steps.remove(index);
        // The producer comes before, so its index is still right.
        let producer = &mut graph.steps[producer];
        producer.output = folded.output;
        producer.source = format!("{}+{}", producer.source, folded.source);
        return true;
    }
    false
}

/// Affine, then dense: the dense layer takes the scaling, unless the affine step reads the model's input.
fn fold_into_consumer(graph: &mut FloatGraph) -> bool {
    let counts = use_counts(graph);
    for index in 0..graph.steps.len() {
        let step = &graph.steps[index];
        let (from, to) = (step.inputs[0], step.output);
        if !matches!(step.operation, Operation::Affine { .. }) || from == 0 || counts[to] != 1 {
            continue;
        }
        let Some(consumer) = graph.steps.iter().position(|step| step.inputs.contains(&to)) else { continue };
        if !matches!(graph.steps[consumer].operation, Operation::Dense { .. }) {
            continue;
        }
        let Operation::Affine { scale, offset } = graph.steps[index].operation.clone() else { continue };
        let source = format!("{}+{}", graph.steps[index].source, graph.steps[consumer].source);
        let consumer = &mut graph.steps[consumer];
        let Operation::Dense { weights, bias } = &mut consumer.operation else { continue };
        for (row, bias) in weights.chunks_exact_mut(scale.len()).zip(bias) {
            *bias += row.iter().zip(&offset).map(|(weight, offset)| weight * offset).sum::<f64>();
            row.iter_mut().zip(&scale).for_each(|(weight, scale)| *weight *= scale);
        }
        consumer.inputs = vec![from];
        consumer.source = source;
        graph.steps.remove(index);
        return true;
    }
    false
}
