//! Which layers give one column a step, and from which columns.

use super::affine_of_column;
use crate::model::graph::{Conv, Element, Graph, Move, Node, Operator, Pool, Window};

/// A tensor as a sequence of columns of `len` elements, the newest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) count: usize,
    pub(super) len: usize,
    /// The first that slides: those before it meet the border of the window.
    pub(super) first: usize,
}

/// How the newest column of a tensor is computed.
#[derive(Debug)]
pub(super) struct Newest {
    /// All its columns.
    pub(super) columns: Columns,
    /// Of each input, how many of its newest columns are read.
    pub(super) reads: Vec<usize>,
    /// The layer for one column.
    pub(super) operator: Operator,
}

impl Newest {
    /// The input's is the newest step.
    pub(super) fn of_input(count: usize, len: usize) -> Newest {
        Newest { columns: Columns { count, len, first: 0 }, reads: Vec::new(), operator: Operator::Slide }
    }
}

/// How a layer of sliding inputs computes its newest column, if it slides.
pub(super) fn newest(graph: &Graph, node: &Node, inputs: &[Columns]) -> Option<Newest> {
    let (output, of) = (&graph.tensors[node.output], *inputs.first()?);
    if !matches!(output.element, Element::I16 | Element::I32) {
        return None;
    }
    // Column by column, all inputs in step.
    let alone = |operator: Operator| {
        let first = inputs.iter().map(|input| input.first).max()?;
        let columns = Columns { count: of.count, len: output.len() / of.count, first };
        let in_step = inputs.iter().all(|input| input.count == of.count);
        in_step.then(|| Newest { columns, reads: vec![1; inputs.len()], operator })
    };
    let by_group = |group: usize| of.len.is_multiple_of(group).then(|| node.operator.clone()).and_then(alone);
    match &node.operator {
        Operator::Map(_) | Operator::Add { .. } | Operator::Multiply => alone(node.operator.clone()),
        Operator::Affine(affine) => alone(Operator::Affine(affine_of_column(graph, node, affine, of.count)?)),
        Operator::Softmax(softmax) => by_group(softmax.group),
        Operator::LayerNorm(norm) => by_group(norm.multipliers.len()),
        &Operator::ArgMax { length, inner } => by_group(length * inner),
        Operator::Conv(conv) => {
            let (window, reads, columns) = over(&conv.window, of, output.len())?;
            let operator = Operator::Conv(Conv { window, ..conv.clone() });
            Some(Newest { columns, reads: vec![reads], operator })
        }
        Operator::Pool(pool) => {
            let (window, reads, columns) = over(&pool.window, of, output.len())?;
            let operator = Operator::Pool(Pool { window, ..pool.clone() });
            Some(Newest { columns, reads: vec![reads], operator })
        }
        Operator::Move(elements) => moved(graph, node, elements, inputs),
        Operator::Dense(_)
        | Operator::Trees(_)
        | Operator::Recurrent(_)
        | Operator::MatMul(_)
        | Operator::Slide => None,
    }
}

/// Of each input, the oldest column that a layer of whole windows reads; 0 if it does not slide.
pub(super) fn oldest_reads(
    graph: &Graph,
    node: &Node,
    columns: impl Fn(usize) -> Option<Columns>,
) -> Vec<usize> {
    let Operator::Move(elements) = &node.operator else { return vec![0; node.inputs.len()] };
    let columns: Vec<Option<Columns>> = node.inputs.iter().map(|&input| columns(input)).collect();
    let mut oldest: Vec<usize> =
        columns.iter().map(|columns| columns.map_or(0, |columns| columns.count - 1)).collect();
    let sources = Sources::new(graph, node);
    for (input, element) in elements.indices.iter().filter_map(|&index| sources.of(index)) {
        if let Some(columns) = columns[input] {
            oldest[input] = oldest[input].min(element / columns.len);
        }
    }
    oldest
}

/// The inputs of a node, one after the other.
pub(super) struct Sources {
    /// Where each starts, and where the last one ends.
    starts: Vec<usize>,
}

impl Sources {
    pub(super) fn new(graph: &Graph, node: &Node) -> Sources {
        let mut starts = vec![0];
        let mut end = 0;
        starts.extend(node.inputs.iter().map(|&input| {
            end += graph.tensors[input].len();
            end
        }));
        Sources { starts }
    }

    /// Elements of an input.
    pub(super) fn len(&self, input: usize) -> usize {
        self.starts[input + 1] - self.starts[input]
    }

    /// The input that an index of a move is in, and the element there. The constant is in none.
    pub(super) fn of(&self, index: i32) -> Option<(usize, usize)> {
        let index = usize::try_from(index).ok()?;
        let input = self.starts.partition_point(|&start| start <= index) - 1;
        Some((input, index - self.starts[input]))
    }
}

/// A kernel that goes from column to column and meets no border behind the newest: its window over as many columns as it
/// reaches over, their number, and the columns of the result.
fn over(window: &Window, of: Columns, output: usize) -> Option<(Window, usize, Columns)> {
    let mut window = *window;
    let [height, width] = window.image.map(|length| length as usize);
    let axis = usize::from(height == 1 && of.count > 1);
    let length = if axis == 0 { height } else { width };
    let reach = ((window.kernel[axis] - 1) * window.dilations[axis]) as usize + 1;
    let before = window.before[axis] as usize;
    // Places in time come one after the other only if there is one place on the axis before it.
    let is_outer = axis == 0 || window.places()[0] == 1;
    if window.strides[axis] != 1 || window.after[axis] != 0 || !is_outer {
        return None;
    }
    if length != of.count {
        // A column has several rows: the kernel must meet one at a time.
        let is_point = reach == 1 && before == 0 && length.is_multiple_of(of.count);
        window.image[axis] = (length / of.count) as u32;
        return is_point.then(|| (window, 1, Columns { len: output / of.count, ..of }));
    }
    let count = (of.count + before + 1).checked_sub(reach).filter(|&count| count > 1)?;
    let columns = Columns { count, len: output / count, first: of.first + before };
    // The newest column may read none that does not slide.
    if of.first + reach > of.count {
        return None;
    }
    (window.image[axis], window.before[axis]) = (reach as u32, 0);
    Some((window, reach, columns))
}

/// A move whose columns take the same elements, each from one column later than the column before.
fn moved(graph: &Graph, node: &Node, elements: &Move, inputs: &[Columns]) -> Option<Newest> {
    let indices = &elements.indices;
    let sources = Sources::new(graph, node);
    // Input, column, and place within it.
    let source = |index: i32| {
        let (input, element) = sources.of(index)?;
        Some((input, element / inputs[input].len, element % inputs[input].len))
    };
    let slides = |len: usize| {
        indices.iter().zip(&indices[len..]).all(|(&before, &after)| match (source(before), source(after)) {
            (Some((input, column, place)), after) => after == Some((input, column + 1, place)),
            (None, after) => after.is_none(),
        })
    };
    let most = inputs.iter().map(|columns| columns.count).max()?;
    let counts = (2..=most).rev().filter(|&count| indices.len().is_multiple_of(count));
    let count = counts.into_iter().find(|&count| slides(indices.len() / count))?;
    let len = indices.len() / count;
    let (oldest, last) = (&indices[..len], &indices[indices.len() - len..]);
    let first = |&index: &i32| {
        source(index).map_or(0, |(input, column, _)| inputs[input].first.saturating_sub(column))
    };
    let first = oldest.iter().map(first).max()?;
    if first >= count {
        return None;
    }
    let mut reads = vec![1; inputs.len()];
    for (input, column, _) in last.iter().filter_map(|&index| source(index)) {
        reads[input] = reads[input].max(inputs[input].count - column);
    }
    let starts: Vec<usize> = reads
        .iter()
        .zip(inputs)
        .scan(0, |start, (reads, columns)| {
            let this = *start;
            *start += reads * columns.len;
            Some(this)
        })
        .collect();
    let index = |&index: &i32| match source(index) {
        Some((input, column, place)) => {
            let columns = inputs[input];
            let column = column + reads[input] - columns.count;
            (starts[input] + column * columns.len + place) as i32
        }
        None => -1,
    };
    let operator = Operator::Move(Move { indices: last.iter().map(index).collect(), fill: elements.fill });
    Some(Newest { columns: Columns { count, len, first }, reads, operator })
}
