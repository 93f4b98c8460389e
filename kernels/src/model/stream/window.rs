//! Streams of a sliding window: the columns that later steps need are kept, and the layers that look at few of them
//! compute one column a step.
//!
//! A tensor **slides** if it is a sequence of columns, of which each is what the one after it was a step ago. The input
//! slides: its columns are the steps. What is computed of sliding tensors column by column slides too, and so does what
//! has no border in time. All other layers take the whole window, which is put together from kept columns.

use std::collections::HashMap;
use std::sync::Arc;

use super::column::{Columns, Newest, Sources, newest, oldest_reads};
use super::{Format, Kept, Stream, StreamError, StreamKind, StreamPart, format, repeats, words};
use crate::exec::states_of_zeros;
use crate::model::Model;
use crate::model::graph::{Element, Graph, Move, Node, Operator, Tensor};

/// The form of one step with what is kept of the last steps of a window.
pub(super) fn stream(model: &Model, window: usize, step_shape: Vec<u32>) -> Result<Stream, StreamError> {
    let input = model.input();
    // An element may be converted in another way in each step, and no layer takes two keys or wide integers together.
    let converts_alike = repeats(&input.exponents, window);
    if !converts_alike || !matches!(input.element, Element::I16 | Element::I32) {
        return of_floats(model, window, step_shape);
    }
    let sliding = sliding(&model.graph, window);
    let parts = model.graph.nodes.iter().map(|node| match sliding[node.output] {
        Some(_) => StreamPart::Step,
        None => StreamPart::Window,
    });
    let parts = parts.collect();
    let (graph, kept_by) = Form::new(&model.graph, &sliding).finish();
    let mut carried = vec![None; graph.tensors.len()];
    let (mut kept, mut len) = (Vec::new(), 0);
    for (tensor, elements) in kept_by {
        let tensor_words = words(graph.tensors[tensor].element, elements);
        carried[tensor] = Some(len);
        kept.push(Kept { words: len..len + tensor_words, format: format(&graph.tensors[tensor]) });
        len += tensor_words;
    }
    let mut form = Model::assemble(model.id, graph, model.metadata.clone(), model.file_bytes)?;
    (form.carried, form.carried_len) = (carried, len);
    let initial = states_of_zeros(&form);
    let (kind, model) = (StreamKind::Window, Arc::new(form));
    Ok(Stream { kind, model, step_shape, window, initial, kept, parts })
}

/// The window is kept as it came, and converted and computed as a whole.
fn of_floats(model: &Model, window: usize, step_shape: Vec<u32>) -> Result<Stream, StreamError> {
    let len = model.input_len() / window * (window - 1);
    let parts = vec![StreamPart::Window; model.graph.nodes.len()];
    let mut form = Model::assemble(model.id, model.graph.clone(), model.metadata.clone(), model.file_bytes)?;
    form.carried_len = len;
    let kept = vec![Kept { words: 0..len, format: Format::F32 }];
    let (kind, model) = (StreamKind::Window, Arc::new(form));
    Ok(Stream { kind, model, step_shape, window, initial: vec![0; len], kept, parts })
}

/// For each tensor that slides, its columns, and how the newest is computed.
fn sliding(graph: &Graph, window: usize) -> Vec<Option<Newest>> {
    let mut sliding: Vec<Option<Newest>> = graph.tensors.iter().map(|_| None).collect();
    sliding[graph.input] = Some(Newest::of_input(window, graph.tensors[graph.input].len() / window));
    let (mut producers, mut readers) = (vec![None; sliding.len()], vec![Vec::new(); sliding.len()]);
    for node in &graph.nodes {
        let of = |&input: &usize| sliding[input].as_ref().map(|newest: &Newest| newest.columns);
        let inputs: Option<Vec<Columns>> = node.inputs.iter().map(of).collect();
        sliding[node.output] = inputs.and_then(|inputs| newest(graph, node, &inputs));
        producers[node.output] = Some(node);
        node.inputs.iter().for_each(|&input| readers[input].push(node));
    }
    // A tensor does not slide after all if it is read as a whole, with columns that meet the border; then what is computed
    // of it does not either, and what it is computed of is read as a whole.
    let mut whole: Vec<&Node> = graph.nodes.iter().filter(|node| sliding[node.output].is_none()).collect();
    let meets_border = |newest: &Newest| newest.columns.first > 0;
    if sliding[graph.output].as_ref().is_some_and(meets_border) {
        sliding[graph.output] = None;
        whole.extend(producers[graph.output]);
    }
    while let Some(node) = whole.pop() {
        for reader in &readers[node.output] {
            if sliding[reader.output].take().is_some() {
                whole.push(reader);
            }
        }
        let oldest =
            oldest_reads(graph, node, |tensor| sliding[tensor].as_ref().map(|newest| newest.columns));
        for (&input, oldest) in node.inputs.iter().zip(oldest) {
            if sliding[input].take_if(|newest| oldest < newest.columns.first).is_some() {
                whole.extend(producers[input]);
            }
        }
    }
    sliding
}

/// The graph for rows of one step, as it is made.
struct Form<'a> {
    from: &'a Graph,
    sliding: &'a [Option<Newest>],
    tensors: Vec<Tensor>,
    /// What is computed of columns, and what of whole windows: the latter comes after all of the former.
    stepped: Vec<Node>,
    whole: Vec<Node>,
    /// By tensor of the model: its newest column if it slides, else itself.
    made: Vec<usize>,
    /// Tensors that hold so many of the newest columns of a tensor.
    windows: HashMap<(usize, usize), usize>,
    /// The same in their order, with the elements that each carries.
    kept: Vec<(usize, usize)>,
}

impl<'a> Form<'a> {
    fn new(from: &'a Graph, sliding: &'a [Option<Newest>]) -> Self {
        let made = vec![usize::MAX; from.tensors.len()];
        let (tensors, stepped, whole) = (Vec::new(), Vec::new(), Vec::new());
        let (windows, kept) = (HashMap::new(), Vec::new());
        let mut form = Self { from, sliding, tensors, stepped, whole, made, windows, kept };
        form.make(from.input);
        from.nodes.iter().for_each(|node| form.add(node));
        form
    }

    /// The graph, and for each tensor that is a window how many elements it carries.
    fn finish(mut self) -> (Graph, Vec<(usize, usize)>) {
        let output = match self.columns(self.from.output) {
            Some(columns) => self.newest_columns(self.from.output, columns.count),
            None => self.made[self.from.output],
        };
        let mut nodes = self.stepped;
        nodes.extend(self.whole);
        (Graph { tensors: self.tensors, nodes, input: self.made[self.from.input], output }, self.kept)
    }

    /// The columns of a tensor of the model, if it slides.
    fn columns(&self, tensor: usize) -> Option<Columns> {
        self.sliding[tensor].as_ref().map(|newest| newest.columns)
    }

    /// A tensor of the model, or its newest column.
    fn make(&mut self, tensor: usize) {
        let mut own = self.from.tensors[tensor].clone();
        if let Some(columns) = self.columns(tensor) {
            own.shape = vec![columns.len as u32];
            own.exponents.truncate(columns.len);
        }
        self.made[tensor] = self.tensors.len();
        self.tensors.push(own);
    }

    /// The newest `count` columns of a tensor that slides.
    fn newest_columns(&mut self, tensor: usize, count: usize) -> usize {
        if count == 1 {
            return self.made[tensor];
        }
        if let Some(&window) = self.windows.get(&(tensor, count)) {
            return window;
        }
        let (from, columns) = (&self.from.tensors[tensor], self.columns(tensor).expect("it slides"));
        let window = Tensor {
            shape: if count == columns.count {
                from.shape.clone()
            } else {
                vec![count as u32, columns.len as u32]
            },
            exponents: Vec::new(),
            ..from.clone()
        };
        let output = self.tensors.len();
        self.tensors.push(window);
        self.stepped.push(Node {
            name: from.name.clone(),
            source: String::new(),
            inputs: vec![self.made[tensor]],
            output,
            operator: Operator::Slide,
        });
        self.windows.insert((tensor, count), output);
        self.kept.push((output, (count - 1) * columns.len));
        output
    }

    fn add(&mut self, node: &Node) {
        let sliding = self.sliding;
        if let Some(Newest { reads, operator, .. }) = &sliding[node.output] {
            let pairs = node.inputs.iter().zip(reads);
            let inputs = pairs.map(|(&input, &reads)| self.newest_columns(input, reads)).collect();
            self.make(node.output);
            let operator = operator.clone();
            self.stepped.push(Node { inputs, output: self.made[node.output], operator, ..node.clone() });
            return;
        }
        let oldest = oldest_reads(self.from, node, |tensor| self.columns(tensor));
        let operator = match &node.operator {
            Operator::Move(elements) => Operator::Move(self.without_oldest(node, elements, &oldest)),
            operator => operator.clone(),
        };
        let pairs = node.inputs.iter().zip(oldest);
        let from_oldest = |(&input, oldest): (&usize, usize)| match self.columns(input) {
            Some(columns) => self.newest_columns(input, columns.count - oldest),
            None => self.made[input],
        };
        let inputs = pairs.map(from_oldest).collect();
        self.make(node.output);
        self.whole.push(Node { inputs, output: self.made[node.output], operator, ..node.clone() });
    }

    /// A move of inputs that begin with the oldest columns it reads.
    fn without_oldest(&self, node: &Node, elements: &Move, oldest: &[usize]) -> Move {
        let sources = Sources::new(self.from, node);
        let skipped: Vec<usize> = node
            .inputs
            .iter()
            .zip(oldest)
            .map(|(&input, oldest)| oldest * self.columns(input).map_or(0, |columns| columns.len))
            .collect();
        let starts: Vec<usize> = (0..node.inputs.len())
            .scan(0, |start, input| {
                let this = *start;
                *start += sources.len(input) - skipped[input];
                Some(this)
            })
            .collect();
        let index = |&index: &i32| match sources.of(index) {
            Some((input, element)) => (starts[input] + element - skipped[input]) as i32,
            None => -1,
        };
        Move { indices: elements.indices.iter().map(index).collect(), fill: elements.fill }
    }
}
