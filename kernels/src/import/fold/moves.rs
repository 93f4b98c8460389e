//! Moves of data: one for each chain of them, as late as it can be, and none where a product can read its inputs in
//! another order.

use super::{FloatGraph, Operation, Step, Value, use_counts};

/// One change, if there is one to make.
pub(super) fn fold(graph: &mut FloatGraph) -> bool {
    remove_unused(graph) || compose(graph) || sink(graph) || scale_input(graph) || reorder_weights(graph)
}

/// Whether the indices are `start`, `start + 1`, and so on.
pub(super) fn is_range(indices: &[i32], start: usize) -> bool {
    indices.iter().enumerate().all(|(offset, &index)| usize::try_from(index) == Ok(start + offset))
}

/// Steps that folding has left without a reader.
pub(crate) fn remove_unused(graph: &mut FloatGraph) -> bool {
    let counts = use_counts(graph);
    let before = graph.steps.len();
    graph.steps.retain(|step| counts[step.output] > 0);
    graph.steps.len() != before
}

fn producer(graph: &FloatGraph, value: Value) -> Option<usize> {
    graph.steps.iter().position(|step| step.output == value)
}

/// A move of moves is one.
fn compose(graph: &mut FloatGraph) -> bool {
    for index in 0..graph.steps.len() {
        if let Some((inputs, indices, fill, source)) = composed(graph, &graph.steps[index]) {
            let step = &mut graph.steps[index];
            step.inputs = inputs;
            step.operation = Operation::Move { indices, fill };
            step.source = source;
            return true;
        }
    }
    false
}

type Composed = (Vec<Value>, Vec<i32>, f64, String);

fn composed(graph: &FloatGraph, step: &Step) -> Option<Composed> {
    let Operation::Move { indices, fill } = &step.operation else { return None };
    let is_moved = |&input: &Value| {
        producer(graph, input)
            .is_some_and(|inner| matches!(graph.steps[inner].operation, Operation::Move { .. }))
    };
    if !step.inputs.iter().any(is_moved) {
        return None;
    }
    let (mut inputs, mut start, mut constant) = (Vec::new(), 0i32, *fill);
    let mut fills = indices.contains(&-1);
    let mut composes = false;
    let mut map: Vec<i32> = Vec::new();
    let mut source = String::new();
    for &input in &step.inputs {
        let inner = producer(graph, input).map(|producer| &graph.steps[producer]);
        match inner.map(|inner| (inner, &inner.operation)) {
            Some((inner, Operation::Move { indices, fill }))
                if !(fills && indices.contains(&-1) && *fill != constant) =>
            {
                if indices.contains(&-1) {
                    (constant, fills) = (*fill, true);
                }
                map.extend(indices.iter().map(|&index| if index < 0 { -1 } else { index + start }));
                inputs.extend(&inner.inputs);
                start += inner.inputs.iter().map(|&input| graph.len(input) as i32).sum::<i32>();
                source += &format!("{}+", inner.source);
                composes = true;
            }
            _ => {
                map.extend(start..start + graph.len(input) as i32);
                inputs.push(input);
                start += graph.len(input) as i32;
            }
        }
    }
    if !composes {
        return None;
    }
    let indices = indices.iter().map(|&index| if index < 0 { -1 } else { map[index as usize] }).collect();
    Some(with_read_inputs(graph, inputs, indices, constant, source + &step.source))
}

/// Without inputs that nothing is taken from, and with each only once.
fn with_read_inputs(
    graph: &FloatGraph,
    inputs: Vec<Value>,
    indices: Vec<i32>,
    fill: f64,
    source: String,
) -> Composed {
    let mut starts = Vec::with_capacity(inputs.len());
    let mut start = 0;
    for &input in &inputs {
        starts.push(start);
        start += graph.len(input);
    }
    let owner = |index: i32| starts.partition_point(|&start| start <= index as usize) - 1;
    let mut read = vec![false; inputs.len()];
    indices.iter().filter(|&&index| index >= 0).for_each(|&index| read[owner(index)] = true);
    // One input stays, because a step has one.
    if !read.contains(&true) {
        read[0] = true;
    }
    let (mut kept, mut moved): (Vec<Value>, Vec<i32>) = (Vec::new(), vec![0; inputs.len()]);
    let mut places = Vec::new();
    let mut total = 0;
    for (position, &input) in inputs.iter().enumerate().filter(|&(position, _)| read[position]) {
        let place = match kept.iter().position(|&other| other == input) {
            Some(at) => places[at],
            None => {
                kept.push(input);
                places.push(total);
                total += graph.len(input);
                places[places.len() - 1]
            }
        };
        moved[position] = place as i32 - starts[position] as i32;
    }
    let indices =
        indices.iter().map(|&index| if index < 0 { -1 } else { index + moved[owner(index)] }).collect();
    (kept, indices, fill, source)
}

/// The order of a move that loses and repeats nothing.
pub(crate) fn permutation<'a>(graph: &FloatGraph, step: &'a Step) -> Option<&'a [i32]> {
    let Operation::Move { indices, .. } = &step.operation else { return None };
    let [input] = step.inputs[..] else { return None };
    let mut seen = vec![false; graph.len(input)];
    let once =
        |&index: &i32| usize::try_from(index).is_ok_and(|index| !std::mem::replace(&mut seen[index], true));
    (indices.len() == graph.len(input) && indices.iter().all(once)).then_some(&indices[..])
}

/// What works element by element works before a permutation as after it: so moves meet each other.
fn sink(graph: &mut FloatGraph) -> bool {
    let counts = use_counts(graph);
    for index in 0..graph.steps.len() {
        let step = &graph.steps[index];
        if !matches!(
            step.operation,
            Operation::Function(_) | Operation::Affine { .. } | Operation::Pairwise(_)
        ) {
            continue;
        }
        // All inputs are moved alike, and read by nothing else.
        let from = step.inputs[0];
        let reads = step.inputs.iter().filter(|&&input| input == from).count();
        let Some(first) = producer(graph, from) else { continue };
        let Some(order) = permutation(graph, &graph.steps[first]) else { continue };
        let alike = |&input: &Value| {
            input == from
                || counts[input] == 1
                    && producer(graph, input)
                        .and_then(|producer| permutation(graph, &graph.steps[producer]))
                        .is_some_and(|other| other == order)
        };
        if counts[from] != reads || !step.inputs.iter().all(alike) {
            continue;
        }
        let order = order.to_vec();
        let sources: Vec<Value> = step
            .inputs
            .iter()
            .map(|&input| producer(graph, input).map_or(input, |producer| graph.steps[producer].inputs[0]))
            .collect();
        let mut moved = graph.steps[first].clone();
        let unmoved: Vec<Value> = step.inputs.clone();
        let step = &mut graph.steps[index];
        if let Operation::Affine { scale, offset } = &mut step.operation {
            for constants in [scale, offset] {
                let mut reordered = vec![0.0; constants.len()];
                order.iter().zip(&*constants).for_each(|(&to, &constant)| reordered[to as usize] = constant);
                *constants = reordered;
            }
        }
        // The first move's value becomes what is computed before it; the move makes the step's value.
        moved.inputs = vec![from];
        moved.output = std::mem::replace(&mut step.output, from);
        graph.shapes[from] = graph.shapes[sources[0]].clone();
        step.inputs = sources;
        graph.steps.insert(index + 1, moved);
        let mut place = 0;
        graph.steps.retain(|step| {
            place += 1;
            place > index || !unmoved.contains(&step.output)
        });
        return true;
    }
    false
}

/// A choice of features that are scaled then: scaled first, in the model's input, each keeps a scale of its own.
fn scale_input(graph: &mut FloatGraph) -> bool {
    let counts = use_counts(graph);
    let len = graph.len(0);
    for index in 0..graph.steps.len() {
        let Operation::Affine { scale, offset } = &graph.steps[index].operation else { continue };
        let from = graph.steps[index].inputs[0];
        let Some(mover) = producer(graph, from) else { continue };
        let Operation::Move { indices, .. } = &graph.steps[mover].operation else { continue };
        // Of a small part, scaling all would cost more than it keeps.
        if graph.steps[mover].inputs != [0] || counts[from] != 1 || indices.len() * 4 < len {
            continue;
        }
        let mut constants = vec![None; len];
        let mut take = |(&at, pair): (&i32, (&f64, &f64))| {
            let place = usize::try_from(at).ok().and_then(|at| constants.get_mut(at));
            place.is_some_and(|place| place.replace((*pair.0, *pair.1)).is_none())
        };
        if !indices.iter().zip(scale.iter().zip(offset)).all(&mut take) {
            continue;
        }
        let (scale, offset) = constants.into_iter().map(|pair| pair.unwrap_or((0.0, 0.0))).unzip();
        graph.shapes[from] = graph.shapes[0].clone();
        let output = graph.steps[index].output;
        graph.steps.swap(mover, index);
        let scaled = &mut graph.steps[mover];
        (scaled.operation, scaled.inputs, scaled.output) =
            (Operation::Affine { scale, offset }, vec![0], from);
        let moved = &mut graph.steps[index];
        (moved.inputs, moved.output) = (vec![from], output);
        return true;
    }
    false
}

/// A dense layer reads its inputs in the order in which they are.
fn reorder_weights(graph: &mut FloatGraph) -> bool {
    for index in 0..graph.steps.len() {
        if !matches!(graph.steps[index].operation, Operation::Dense { .. }) {
            continue;
        }
        let Some(mover) = producer(graph, graph.steps[index].inputs[0]) else { continue };
        let Some(order) = permutation(graph, &graph.steps[mover]).map(<[i32]>::to_vec) else { continue };
        let (from, source) = (graph.steps[mover].inputs[0], graph.steps[mover].source.clone());
        let step = &mut graph.steps[index];
        let Operation::Dense { weights, .. } = &mut step.operation else { continue };
        for row in weights.chunks_exact_mut(order.len()) {
            let before = row.to_vec();
            order.iter().zip(before).for_each(|(&to, weight)| row[to as usize] = weight);
        }
        step.inputs = vec![from];
        step.source = format!("{source}+{}", step.source);
        return true;
    }
    false
}
