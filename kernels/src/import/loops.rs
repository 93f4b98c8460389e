//! Loops over the steps of a window. Keras' GRU comes from tf2onnx as a Loop whose body is one step of it, written out: it
//! becomes the operator. Its gates lie in the order that ONNX has, its matrices turned.

use std::collections::{HashMap, HashSet};

use super::ImportError;
use super::constant::Constant;
use super::graph::{is_float, refuse};
use super::onnx::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto, data_type};

/// Puts the operator in the place of each Loop that is a GRU.
pub(super) fn recognise(graph: &mut GraphProto) {
    let found: Vec<(usize, Vec<NodeProto>)> = {
        let outside = Names::new(graph, None);
        let of = |(index, node): (usize, &NodeProto)| {
            let body = node.attribute("body").and_then(|attribute| attribute.g.as_deref());
            Some((index, Body::new(&outside, node, body?)?.gru(index)?))
        };
        let loops = graph.node.iter().enumerate().filter(|(_, node)| is_loop(node));
        loops.filter_map(of).collect()
    };
    for (index, nodes) in found.into_iter().rev() {
        graph.node.splice(index..=index, nodes);
    }
}

/// Refuses loops that are left, and says what to do.
pub(super) fn refuse_others(nodes: &[&NodeProto]) -> Result<(), ImportError> {
    match nodes.iter().find(|node| is_loop(node)) {
        None => Ok(()),
        Some(node) => refuse(
            node,
            "a loop is read only if it is a GRU as Keras writes it (forward, with reset_after, without masks); have the \
             steps of another layer written out (unroll=True), or export it as an LSTM or GRU operator",
        ),
    }
}

fn is_loop(node: &NodeProto) -> bool {
    node.operator() == "Loop"
}

/// What makes each name of a graph, and small constants.
struct Names<'a> {
    makers: HashMap<&'a str, &'a NodeProto>,
    tensors: HashMap<&'a str, &'a TensorProto>,
    /// Names that a node reads, or that are served.
    read: HashSet<&'a str>,
    outside: Option<&'a Names<'a>>,
}

impl<'a> Names<'a> {
    fn new(graph: &'a GraphProto, outside: Option<&'a Names<'a>>) -> Names<'a> {
        let made = |node: &'a NodeProto| node.output.iter().map(move |name| (name.as_str(), node));
        let constant = |node: &'a NodeProto| {
            let tensor = node.attribute("value")?.t.as_ref()?;
            (node.operator() == "Constant").then_some((node.output.first()?.as_str(), tensor))
        };
        let named = |tensor: &'a TensorProto| Some((tensor.name.as_deref()?, tensor));
        Names {
            makers: graph.node.iter().flat_map(made).collect(),
            tensors: graph
                .initializer
                .iter()
                .filter_map(named)
                .chain(graph.node.iter().filter_map(constant))
                .collect(),
            read: graph
                .node
                .iter()
                .flat_map(|node| node.input.iter().map(String::as_str))
                .chain(graph.output.iter().filter_map(|output| output.name.as_deref()))
                .collect(),
            outside,
        }
    }

    /// The name behind what passes a value on.
    fn origin(&self, name: &'a str) -> &'a str {
        self.behind(name, is_float)
    }

    /// The name behind what passes a count, a condition or a constant on, as whatever type.
    fn counted(&self, name: &'a str) -> &'a str {
        let exact = [data_type::INT32, data_type::INT64, data_type::BOOL];
        self.behind(name, |element| is_float(element) || exact.contains(&element))
    }

    fn behind(&self, mut name: &'a str, casts: impl Fn(i32) -> bool) -> &'a str {
        // No longer than a chain of all nodes: it might be a circle.
        for _ in 0..self.makers.len() {
            let passes = |node: &&&NodeProto| match &node.operator()[..] {
                "Identity" => true,
                "Cast" => i32::try_from(node.int("to", 0)).is_ok_and(&casts),
                _ => false,
            };
            match self.makers.get(name).filter(passes) {
                Some(node) => name = node.input.first().map_or("", String::as_str),
                None => break,
            }
        }
        name
    }

    fn maker(&self, name: &'a str, operator: &str) -> Option<&'a NodeProto> {
        let node = self.makers.get(self.origin(name))?;
        (node.operator() == operator).then_some(node)
    }

    /// The two inputs of such an operator.
    fn pair(&self, name: &'a str, operator: &str) -> Option<[&'a str; 2]> {
        let [a, b] = &self.maker(name, operator)?.input[..] else { return None };
        Some([self.origin(a), self.origin(b)])
    }

    /// The other of the two inputs of such an operator.
    fn beside(&self, name: &'a str, operator: &str, one: &str) -> Option<&'a str> {
        match self.pair(name, operator)? {
            [a, other] | [other, a] if a == one => Some(other),
            _ => None,
        }
    }

    fn tensor(&self, name: &str) -> Option<&'a TensorProto> {
        let own = self.tensors.get(name).copied();
        own.or_else(|| self.outside.and_then(|outside| outside.tensor(name)))
    }

    fn numbers(&self, name: &'a str) -> Option<Vec<f64>> {
        let tensor = self.tensor(self.counted(name))?;
        let elements = tensor.dims.iter().try_fold(1i64, |product, &length| product.checked_mul(length));
        elements.filter(|elements| (0..=8).contains(elements))?;
        Constant::from_proto(tensor, name).ok().map(|constant| constant.values)
    }

    fn scalar(&self, name: &'a str) -> Option<f64> {
        let [value] = self.numbers(name)?[..] else { return None };
        Some(value)
    }

    /// Whether a name is a counter plus 1.
    fn is_after(&self, name: &'a str, counter: &str) -> bool {
        let Some([a, b]) = self.pair(self.counted(name), "Add") else { return false };
        let one = |name| self.scalar(name) == Some(1.0);
        self.counted(a) == counter && one(b) || self.counted(b) == counter && one(a)
    }
}

/// A part of a row of gates.
struct Part<'a> {
    whole: &'a str,
    start: Bound,
    end: Bound,
}

/// Where a part starts or ends.
#[derive(Clone, Copy, PartialEq)]
enum Bound {
    /// Behind so many gates of three.
    Gates(i64),
    /// Behind so many elements.
    Elements(i64),
}

impl Bound {
    fn is_behind(self, gates: i64, hidden: i64) -> bool {
        match self {
            Bound::Gates(count) => count == gates,
            // Ends may lie anywhere beyond the last element.
            Bound::Elements(count) => hidden
                .checked_mul(gates)
                .is_some_and(|elements| count == elements || gates == 3 && count > elements),
        }
    }
}

/// A product of a row with a matrix, and what is added.
struct Product<'a> {
    row: &'a str,
    matrix: &'a str,
    bias: Option<&'a str>,
}

/// The body of a loop, with one value that changes besides the counter.
struct Body<'a> {
    node: &'a NodeProto,
    names: Names<'a>,
    outside: &'a Names<'a>,
    /// What the body is given.
    inputs: Vec<&'a str>,
    iteration: &'a str,
    condition: &'a str,
    /// What stays the same, by its name in the body: its name outside.
    given: HashMap<&'a str, &'a str>,
    counter: &'a str,
    state: &'a str,
    /// Which of the carried values is the state.
    place: usize,
    next: &'a str,
    ends: &'a str,
}

impl<'a> Body<'a> {
    fn new(outside: &'a Names<'a>, node: &'a NodeProto, body: &'a GraphProto) -> Option<Body<'a>> {
        let names = Names::new(body, Some(outside));
        let named = |values: &'a [ValueInfoProto]| -> Option<Vec<&'a str>> {
            values.iter().map(|value| value.name.as_deref()).collect()
        };
        let (inputs, outputs) = (named(&body.input)?, named(&body.output)?);
        let all = inputs.clone();
        let ([iteration, condition, inputs @ ..], [ends, outputs @ ..]) = (&inputs[..], &outputs[..]) else {
            return None;
        };
        let [_, _, initial @ ..] = &node.input[..] else { return None };
        if inputs.len() != initial.len() || outputs.len() != node.output.len() || outputs.len() < inputs.len()
        {
            return None;
        }
        let (carried, scanned) = outputs.split_at(inputs.len());
        let (mut given, mut counter, mut state) = (HashMap::new(), None, None);
        for (place, ((&input, output), initial)) in inputs.iter().zip(carried).zip(initial).enumerate() {
            let is_counter = names.is_after(output, input) && outside.scalar(initial) == Some(0.0);
            let output = names.origin(output);
            if output == input {
                given.insert(input, initial.as_str());
            } else if is_counter && counter.is_none() {
                counter = Some(input);
            } else if state.replace((place, input, output)).is_some() {
                return None;
            }
        }
        let (place, state, next) = state?;
        scanned.iter().all(|scanned| names.origin(scanned) == next).then_some(())?;
        // Of the carried values, only the state is computed.
        let mut others = node.output.iter().take(inputs.len()).enumerate().filter(|&(at, _)| at != place);
        if others.any(|(_, name)| !name.is_empty() && outside.read.contains(name.as_str())) {
            return None;
        }
        let counter = counter?;
        Some(Body {
            node,
            names,
            outside,
            inputs: all,
            iteration,
            condition,
            given,
            counter,
            state,
            place,
            next,
            ends,
        })
    }

    /// Whether a condition holds before the last of so many iterations.
    fn holds(&self, condition: &'a str, iterations: f64, depth: usize) -> bool {
        let (names, condition) = (&self.names, self.names.counted(condition));
        if let Some([a, b]) = names.pair(condition, "And") {
            return depth > 0 && self.holds(a, iterations, depth - 1) && self.holds(b, iterations, depth - 1);
        }
        let counts = |name: &'a str| {
            [self.iteration, self.counter].contains(&names.counted(name))
                || names.is_after(name, self.counter)
        };
        match names.pair(condition, "Less") {
            Some([count, limit]) => {
                counts(count) && names.scalar(limit).is_some_and(|limit| limit >= iterations)
            }
            None => condition == self.condition || names.scalar(condition).is_some_and(|value| value != 0.0),
        }
    }

    /// Whether a condition outside, of constants, holds.
    fn holds_at_first(&self, condition: &'a str, depth: usize) -> bool {
        let (names, condition) = (self.outside, self.outside.counted(condition));
        if let Some([a, b]) = names.pair(condition, "And") {
            return depth > 0 && self.holds_at_first(a, depth - 1) && self.holds_at_first(b, depth - 1);
        }
        match names.pair(condition, "Less") {
            Some([a, b]) => matches!((names.scalar(a), names.scalar(b)), (Some(a), Some(b)) if a < b),
            None => condition.is_empty() || names.scalar(condition).is_some_and(|value| value != 0.0),
        }
    }

    fn part(&self, name: &'a str) -> Option<Part<'a>> {
        let names = &self.names;
        if let Some(split) = names.maker(name, "Split") {
            let gate = split.output.iter().position(|output| output == names.origin(name))? as i64;
            let alike = split.output.len() == 3 && split.input.len() == 1 && split.ints("split").is_empty();
            let whole = names.origin(split.input.first()?);
            let bounds = (Bound::Gates(gate), Bound::Gates(gate + 1));
            return (alike && [-1, 1].contains(&split.int("axis", 0))).then_some(Part {
                whole,
                start: bounds.0,
                end: bounds.1,
            });
        }
        let slice = names.maker(name, "Slice")?;
        let [whole, starts, ends, axes] = &slice.input[..] else { return None };
        let [starts, ends, axes] = [starts, ends, axes].map(|list| names.numbers(list));
        let (starts, ends) = (starts?, ends?);
        let mut part = None;
        for (at, axis) in axes?.into_iter().enumerate() {
            let (start, end) = (*starts.get(at)? as i64, *ends.get(at)? as i64);
            if axis == 0.0 {
                // All rows of the batch.
                (start == 0 && end >= i64::from(i32::MAX)).then_some(())?;
            } else {
                ([-1.0, 1.0].contains(&axis) && start >= 0 && end > start).then_some(())?;
                part = Some((Bound::Elements(start), Bound::Elements(end)));
            }
        }
        let (start, end) = part?;
        Some(Part { whole: names.origin(whole), start, end })
    }

    fn product(&self, whole: &'a str) -> Option<Product<'a>> {
        let names = &self.names;
        let of = |name: &'a str, bias| {
            let [row, matrix] = names.pair(name, "MatMul")?;
            Some(Product { row, matrix: self.given.get(matrix).copied()?, bias })
        };
        match names.pair(whole, "Add") {
            Some([a, b]) => of(a, Some(b)).or_else(|| of(b, Some(a))),
            None => of(whole, None),
        }
    }

    /// Of the two biases that lie one above the other, the matrix of both.
    fn bias(&self, name: &'a str, which: usize) -> Option<&'a str> {
        let squeezed = self.names.maker(name, "Squeeze")?;
        let inner = self.names.origin(squeezed.input.first()?);
        let split = self.names.maker(inner, "Split")?;
        let fits = split.int("axis", 0) == 0 && split.output.len() == 2 && split.output[which] == inner;
        let both = self.names.origin(split.input.first()?);
        fits.then(|| self.given.get(both).copied())?
    }

    /// `z * h + (1 - z) * tanh(..)`: the gate `z`, and what the candidate is the tanh of.
    fn mixed(&self) -> Option<(&'a str, &'a str)> {
        let names = &self.names;
        let [a, b] = names.pair(self.next, "Add")?;
        let of = |old, new| {
            let update = names.beside(old, "Mul", self.state)?;
            let [c, d] = names.pair(new, "Mul")?;
            let rest = |name| names.pair(name, "Sub").filter(|&[_, gate]| gate == update);
            let (rest, candidate) =
                rest(c).map(|rest| (rest, d)).or_else(|| rest(d).map(|rest| (rest, c)))?;
            (names.scalar(rest[0]) == Some(1.0)).then_some((update, candidate))
        };
        let (update, candidate) = of(a, b).or_else(|| of(b, a))?;
        let argument = names.maker(candidate, "Tanh")?.input.first()?;
        Some((names.maker(update, "Sigmoid")?.input.first()?, argument))
    }

    /// The parts of a gate's sum: of the input's product, and of the state's.
    fn gate(&self, name: &'a str, state_part: impl Fn(&'a str) -> Option<Part<'a>>) -> Option<[Part<'a>; 2]> {
        let [a, b] = self.names.pair(name, "Add")?;
        let is_input =
            |part: &Part<'a>| self.product(part.whole).is_some_and(|product| product.row != self.state);
        let input = |name| self.part(name).filter(is_input);
        match (input(a), input(b)) {
            (Some(input), None) => Some([input, state_part(b)?]),
            (None, Some(input)) => Some([input, state_part(a)?]),
            _ => None,
        }
    }

    /// The nodes that a GRU is, with the names of the loop's outputs; `index` is the loop's among the nodes.
    fn gru(&self, index: usize) -> Option<Vec<NodeProto>> {
        let names = &self.names;
        let [trips, first, ..] = &self.node.input[..] else { return None };
        let iterations = self.outside.scalar(trips)?;
        (self.holds(self.ends, iterations, 8) && self.holds_at_first(first, 8)).then_some(())?;

        let (update, candidate) = self.mixed()?;
        let reset = std::cell::Cell::new(None);
        let update = self.gate(update, |name| self.part(name))?;
        let candidate = self.gate(candidate, |name| {
            let [a, b] = names.pair(name, "Mul")?;
            let (gate, part) = match names.maker(a, "Sigmoid") {
                Some(gate) => (gate, b),
                None => (names.maker(b, "Sigmoid")?, a),
            };
            reset.set(gate.input.first());
            self.part(part)
        })?;
        let reset = self.gate(reset.get()?, |name| self.part(name))?;

        let (input, state) = (self.product(update[0].whole)?, self.product(update[1].whole)?);
        let &[hidden, width] = &self.outside.tensor(state.matrix)?.dims[..] else { return None };
        let fits = |parts: &[Part<'_>; 2], gate: i64| {
            let within = |part: &Part<'_>, whole| {
                part.whole == whole
                    && part.start.is_behind(gate, hidden)
                    && part.end.is_behind(gate + 1, hidden)
            };
            within(&parts[0], update[0].whole) && within(&parts[1], update[1].whole)
        };
        let whole = fits(&update, 0) && fits(&reset, 1) && fits(&candidate, 2);
        let row = names.maker(input.row, "Gather")?;
        let [steps, step] = &row.input[..] else { return None };
        let fits = whole
            && state.row == self.state
            && hidden.checked_mul(3) == Some(width)
            && names.counted(step) == self.counter
            && row.int("axis", 0) == 0;
        let steps = names.origin(steps);
        let steps = match self.given.get(steps) {
            Some(given) => given,
            None if self.inputs.contains(&steps)
                || names.makers.contains_key(steps)
                || names.tensors.contains_key(steps) =>
            {
                return None;
            }
            None => steps,
        };
        let biases = match (input.bias, state.bias) {
            (None, None) => "",
            (Some(input), Some(state)) => {
                let both = self.bias(input, 0)?;
                (self.bias(state, 1) == Some(both)).then_some(both)?
            }
            _ => return None,
        };
        fits.then(|| self.nodes(index, steps, [input.matrix, state.matrix, biases], hidden))
    }

    fn nodes(
        &self,
        index: usize,
        steps: &str,
        [input, recurrent, biases]: [&str; 3],
        hidden: i64,
    ) -> Vec<NodeProto> {
        let label = self.node.label();
        // Several loops may have one name, or none.
        let own = |suffix: &str| format!("{label}/{index}/{suffix}");
        let node = |operator: &str, inputs: &[&str], output: String, attribute: AttributeProto| NodeProto {
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output],
            name: Some(label.to_owned()),
            op_type: Some(operator.to_owned()),
            attribute: vec![attribute],
            ..NodeProto::default()
        };
        let attribute =
            |name: &str| AttributeProto { name: Some(name.to_owned()), ..AttributeProto::default() };
        let ints = |name: &str, ints: &[i64]| AttributeProto { ints: ints.to_vec(), ..attribute(name) };
        let int = |name: &str, i: i64| AttributeProto { i: Some(i), ..attribute(name) };
        let mut nodes = Vec::new();
        for (matrix, suffix) in [(input, "W"), (recurrent, "R")] {
            nodes.push(node("Transpose", &[matrix], own(&format!("{suffix}T")), ints("perm", &[1, 0])));
            let turned = own(&format!("{suffix}T"));
            nodes.push(node("Unsqueeze", &[&turned], own(suffix), ints("axes", &[0])));
        }
        let mut bias = String::new();
        if !biases.is_empty() {
            bias = own("B");
            nodes.push(node("Flatten", &[biases], bias.clone(), int("axis", 0)));
        }
        let [trips, _, initial @ ..] = &self.node.input[..] else { return Vec::new() };
        nodes.push(node("Unsqueeze", &[&initial[self.place]], own("h"), ints("axes", &[0])));
        // As many steps as iterations are seen to when the lengths of the sequences are read.
        let inputs = [steps, &own("W"), &own("R"), &bias, trips, &own("h")];
        let mut gru = node("GRU", &inputs, own("Y"), int("hidden_size", hidden));
        gru.attribute.push(int("linear_before_reset", 1));
        gru.output.push(own("Y_h"));
        nodes.push(gru);
        let carried = initial.len();
        let last = self.node.output.get(self.place).into_iter().map(|name| (name, "Y_h", 0));
        let all = self.node.output.iter().skip(carried).map(|name| (name, "Y", 1));
        for (name, from, axis) in last.chain(all).filter(|(name, ..)| !name.is_empty()) {
            nodes.push(node("Squeeze", &[&own(from)], name.clone(), ints("axes", &[axis])));
        }
        nodes
    }
}
