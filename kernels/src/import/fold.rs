//! Folding in the float graph: scaling by constants becomes part of the product beside it, and moves of data become one.

mod moves;

pub(super) use moves::{permutation, remove_unused};

use super::attention;
use super::float::{FloatConv, FloatGraph, Operation, Step, Value};

/// Folds until nothing changes. An affine step that reads the model's input stays: it is what brings features of
/// different sizes to one scale.
pub(crate) fn fold(graph: &mut FloatGraph) {
    while fold_identity(graph)
        || moves::fold(graph)
        || attention::fold::fold(graph)
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
pub(super) fn use_counts(graph: &FloatGraph) -> Vec<usize> {
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
        Operation::Move { indices, .. } => {
            step.inputs.len() == 1
                && moves::is_range(indices, 0)
                && indices.len() == graph.len(step.inputs[0])
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
        let Operation::Move { indices, .. } = &graph.steps[index].operation else { continue };
        let from = graph.steps[index].inputs[0];
        let (whole, len) = (graph.len(from), indices.len());
        if len > whole || !moves::is_range(indices, whole - len) {
            continue;
        }
        let Some(producer) = graph.steps.iter().position(|step| step.output == from) else { continue };
        let Operation::Recurrent(layer) = &mut graph.steps[producer].operation else { continue };
        if counts[from] != 1 || layer.last_only || len != layer.hidden {
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

/// Dense, affine or a layer normalisation, then affine: one step, if nothing else reads what lies between.
fn fold_into_producer(graph: &mut FloatGraph) -> bool {
    let counts = use_counts(graph);
    for index in 0..graph.steps.len() {
        let step = &graph.steps[index];
        let from = step.inputs[0];
        if !matches!(step.operation, Operation::Affine { .. }) || counts[from] != 1 {
            continue;
        }
        let Some(producer) = graph.steps.iter().position(|step| step.output == from) else { continue };
        let is_affine = matches!(graph.steps[producer].operation, Operation::Affine { .. });
        if !is_affine && attention::masks::may_be_mask(graph, step) {
            continue;
        }
        let Operation::Affine { scale, offset } = &graph.steps[index].operation else { continue };
        match &graph.steps[producer].operation {
            Operation::Dense { .. } | Operation::Affine { .. } => {}
            Operation::Conv(conv) if by_channel(scale, offset, conv.bias.len()) => {}
            Operation::LayerNorm { scale: own, .. } if by_channel(scale, offset, own.len()) => {}
            _ => continue,
        }
        let (scale, offset) = (scale.clone(), offset.clone());
        match &mut graph.steps[producer].operation {
            Operation::Dense { weights, bias } => {
                let inputs = weights.len() / bias.len();
                for (row, scale) in weights.chunks_exact_mut(inputs).zip(&scale) {
                    row.iter_mut().for_each(|weight| *weight *= scale);
                }
                bias.iter_mut().zip(scale.iter().zip(&offset)).for_each(|(b, (s, o))| *b = *b * s + o);
            }
            Operation::Conv(conv) => {
                let inputs = conv.inputs();
                for (row, scale) in conv.weights.chunks_exact_mut(inputs).zip(&scale) {
                    row.iter_mut().for_each(|weight| *weight *= scale);
                }
                conv.bias.iter_mut().zip(scale.iter().zip(&offset)).for_each(|(b, (s, o))| *b = *b * s + o);
            }
            Operation::Affine { scale: own_scale, offset: own_offset }
            | Operation::LayerNorm { scale: own_scale, offset: own_offset, .. } => {
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

/// Whether a scale and an offset are the same at every place of an image with so many channels, or in every group.
fn by_channel(scale: &[f64], offset: &[f64], channels: usize) -> bool {
    let repeats = |values: &[f64]| values.chunks_exact(channels).all(|chunk| chunk == &values[..channels]);
    repeats(scale) && repeats(offset)
}

/// Affine, then products: they take the scaling, unless the affine step reads the model's input, or one of its readers
/// cannot.
fn fold_into_consumer(graph: &mut FloatGraph) -> bool {
    let counts = use_counts(graph);
    for index in 0..graph.steps.len() {
        let step = &graph.steps[index];
        let (from, to) = (step.inputs[0], step.output);
        let Operation::Affine { scale, offset } = &step.operation else { continue };
        if from == 0 || graph.output == to || counts[to] == 0 {
            continue;
        }
        let takes = |step: &Step| match &step.operation {
            Operation::Dense { .. } => true,
            // Padding is zero, which an offset is not.
            Operation::Conv(conv) => {
                let unpadded = conv.window.before == [0; 2] && conv.window.after == [0; 2];
                (unpadded || offset.iter().all(|&offset| offset == 0.0))
                    && by_channel(scale, offset, conv.window.channels as usize)
            }
            _ => false,
        };
        let reads = |step: &&Step| step.inputs.contains(&to);
        if !graph.steps.iter().filter(reads).all(takes) {
            continue;
        }
        let affine = graph.steps.remove(index);
        let Operation::Affine { scale, offset } = affine.operation else { continue };
        for consumer in graph.steps.iter_mut().filter(|step| step.inputs.contains(&to)) {
            match &mut consumer.operation {
                Operation::Dense { weights, bias } => {
                    for (row, bias) in weights.chunks_exact_mut(scale.len()).zip(bias) {
                        *bias += row.iter().zip(&offset).map(|(weight, offset)| weight * offset).sum::<f64>();
                        row.iter_mut().zip(&scale).for_each(|(weight, scale)| *weight *= scale);
                    }
                }
                Operation::Conv(conv) => scale_inputs(conv, &scale, &offset),
                _ => continue,
            }
            consumer.inputs = vec![from];
            consumer.source = format!("{}+{}", affine.source, consumer.source);
        }
        return true;
    }
    false
}

/// Takes a scale and an offset of each channel of the input.
fn scale_inputs(conv: &mut FloatConv, scale: &[f64], offset: &[f64]) {
    let (inputs, outputs) = (conv.inputs(), conv.bias.len());
    let group_channels = conv.window.channels as usize / conv.groups;
    for (output, (row, bias)) in conv.weights.chunks_exact_mut(inputs).zip(&mut conv.bias).enumerate() {
        let first = output / (outputs / conv.groups) * group_channels;
        for taps in row.chunks_exact_mut(group_channels) {
            for (channel, weight) in taps.iter_mut().enumerate() {
                *bias += *weight * offset[first + channel];
                *weight *= scale[first + channel];
            }
        }
    }
}
