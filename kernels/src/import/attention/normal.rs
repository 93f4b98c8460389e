//! Layer normalisation that is spelled out, by what each element is.
//!
//! Exporters write it by means, differences, squares, roots and quotients in many orders, with moves between them. From
//! what is normalised on, each element of what is computed is described as a sum of an element, the mean of its group and
//! a constant, over the group's deviation or not. A value whose elements are `(x - mean) / sqrt(variance + epsilon)` with a
//! scale and an offset is then made by the one operation for it, however it was written.

mod form;

use std::collections::{HashMap, HashSet};

use crate::import::float::{FloatGraph, FloatPool, Operation, Pairwise, Step, Unruled, Value};
use crate::import::fold::remove_unused;
use crate::import::{ImportError, UnsupportedNode};
use crate::model::graph::Reduction;
use crate::spec::layer_norm;
use form::{Form, Group, Linear};

/// Elements that are read or described for one value that may be normalised: what bounds memory.
const MOST_ELEMENTS: usize = 1 << 22;

/// For all of them in one graph: what bounds time.
const MOST_IN_ALL: usize = 1 << 26;

/// Puts one step in the place of each layer normalisation; steps that nothing reads any more are removed. Says whether none
/// was too large to be seen.
pub(crate) fn recognise(graph: &mut FloatGraph) -> bool {
    let (mut left, mut all_seen) = (MOST_IN_ALL, true);
    let mut tried = Vec::new();
    while let Some(base) = candidate(graph, &tried) {
        tried.push(base);
        let (mut budget, given) = (left.min(MOST_ELEMENTS), left.min(MOST_ELEMENTS));
        let forms = Forms::of(graph, base, &mut budget);
        left -= given - budget;
        all_seen &= forms.is_whole;
        let found = forms.normal();
        // From the last on, so that the places of those before stay.
        for normal in found.into_iter().rev() {
            normal.put_into(graph, base);
        }
        while remove_unused(graph) {}
    }
    all_seen
}

/// A value whose mean goes into a root, the first that has not been tried.
fn candidate(graph: &FloatGraph, tried: &[Value]) -> Option<Value> {
    let mut makers: Vec<Option<&Step>> = vec![None; graph.shapes.len()];
    graph.steps.iter().for_each(|step| makers[step.output] = Some(step));
    let mut reaches = vec![false; graph.shapes.len()];
    for step in graph.steps.iter().rev() {
        let is_root = step.operation == Operation::Unruled(Unruled::Root);
        if is_root || reaches[step.output] && passes(&step.operation) {
            step.inputs.iter().for_each(|&input| reaches[input] = true);
        }
    }
    let is_mean = |step: &&Step| {
        reaches[step.output]
            && matches!(&step.operation, Operation::Pool(pool) if pool.reduction == Reduction::Sum)
    };
    let origin = |step: &Step| {
        let mut value = step.inputs[0];
        while let Some(Step { operation: Operation::Move { .. }, inputs, .. }) = makers[value]
            && let [from] = inputs[..]
        {
            value = from;
        }
        value
    };
    graph.steps.iter().filter(is_mean).map(origin).find(|value| !tried.contains(value))
}

/// Whether a description passes through an operation.
fn passes(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Move { .. }
            | Operation::Affine { .. }
            | Operation::Pairwise(_)
            | Operation::Pool(_)
            | Operation::Unruled(_)
    )
}

/// Refuses what is left of the operations that only a layer normalisation may be made of.
pub(crate) fn refuse_others(graph: &FloatGraph, all_seen: bool) -> Result<(), ImportError> {
    let others = || graph.steps.iter().filter(|step| matches!(step.operation, Operation::Unruled(_)));
    if let Some(step) = others().next().filter(|_| !all_seen) {
        let what = format!(
            "whether it is part of a layer normalisation was not looked into: more than {MOST_ELEMENTS} elements take part \
             in one, or {MOST_IN_ALL} in all; export the model with opset 17 or later, which has LayerNormalization"
        );
        return Err(ImportError::Node { node: step.name.clone(), operator: step.source.clone(), what });
    }
    let named = |step: &Step| UnsupportedNode { node: step.name.clone(), operator: step.source.clone() };
    let roots: Vec<UnsupportedNode> = others().filter(|step| step.source != "Div").map(named).collect();
    match (others().next(), &roots[..]) {
        (None, _) => Ok(()),
        (Some(quotient), []) => Err(refusal(quotient)),
        _ => Err(ImportError::Unsupported(roots)),
    }
}

/// Why a step is refused that fixed point has no rule for.
pub(crate) fn refusal(step: &Step) -> ImportError {
    let what = match step.operation {
        Operation::Unruled(Unruled::Reciprocal) => "a constant divided by a computed value is not supported",
        _ => "a quotient of two computed values is not supported",
    };
    ImportError::Node { node: step.name.clone(), operator: step.source.clone(), what: what.into() }
}

/// What the elements of values are, and which elements each group has, in their order.
struct Forms<'a> {
    graph: &'a FloatGraph,
    base: Value,
    known: HashMap<Value, Vec<Form>>,
    /// Whether there was room for all.
    is_whole: bool,
    groups: Vec<Vec<u32>>,
    numbers: HashMap<Vec<u32>, Group>,
}

impl<'a> Forms<'a> {
    /// Describes all that is computed from `base` as far as it goes.
    fn of(graph: &'a FloatGraph, base: Value, budget: &mut usize) -> Forms<'a> {
        let mut forms = Forms {
            graph,
            base,
            known: HashMap::new(),
            is_whole: false,
            groups: Vec::new(),
            numbers: HashMap::new(),
        };
        let element = |element| Form::Linear(Linear { element: Some(element), x: 1.0, ..Linear::default() });
        if graph.len(base) > *budget {
            return forms;
        }
        *budget -= graph.len(base);
        forms.known.insert(base, (0..graph.len(base) as u32).map(element).collect());
        for step in &graph.steps {
            if !passes(&step.operation) || !step.inputs.iter().all(|input| forms.known.contains_key(input)) {
                continue;
            }
            let taps = match &step.operation {
                Operation::Pool(pool) => pool.window.taps(),
                _ => 1,
            };
            let read: usize = step.inputs.iter().map(|&input| graph.len(input)).sum();
            let made = graph.len(step.output).checked_mul(taps);
            let cost = made.and_then(|made| made.checked_add(read));
            let Some(left) = cost.and_then(|cost| budget.checked_sub(cost)) else {
                return forms;
            };
            *budget = left;
            if let Some(described) = forms.describe(step) {
                forms.known.insert(step.output, described);
            }
        }
        forms.is_whole = true;
        forms
    }

    fn describe(&mut self, step: &Step) -> Option<Vec<Form>> {
        let input = |index: usize| &self.known[&step.inputs[index]];
        let both = |of: fn(Form, Form) -> Option<Form>| {
            input(0).iter().zip(input(1)).map(|(&a, &b)| of(a, b)).collect()
        };
        match &step.operation {
            Operation::Move { indices, fill } => {
                let all: Vec<Form> =
                    step.inputs.iter().flat_map(|input| &self.known[input]).copied().collect();
                let fill = Form::Linear(Linear::constant(*fill));
                Some(indices.iter().map(|&at| usize::try_from(at).map_or(fill, |at| all[at])).collect())
            }
            Operation::Affine { scale, offset } => {
                let constants = scale.iter().zip(offset);
                input(0).iter().zip(constants).map(|(form, (&by, &offset))| form.times(by, offset)).collect()
            }
            Operation::Pairwise(Pairwise::Add) => both(Form::plus),
            Operation::Pairwise(Pairwise::Subtract) => both(|a, b| a.plus(b.times(-1.0, 0.0)?)),
            Operation::Pairwise(Pairwise::Multiply) => both(Form::product),
            Operation::Unruled(Unruled::Quotient) => both(|a, b| a.product(b.inverse()?)),
            Operation::Unruled(Unruled::Root) => input(0).iter().map(|form| form.root()).collect(),
            Operation::Unruled(Unruled::Reciprocal) => input(0).iter().map(|form| form.inverse()).collect(),
            Operation::Pool(pool) if pool.reduction == Reduction::Sum => {
                let met = met_by(pool);
                let forms = input(0).clone();
                met.iter().map(|met| self.sum(met.iter().map(|&at| forms[at]), pool.scale)).collect()
            }
            _ => None,
        }
    }

    /// A sum of elements is a mean, and one of squares a variance, if each of the group is met once.
    fn sum(&mut self, met: impl Iterator<Item = Form> + Clone, scale: f64) -> Option<Form> {
        let mut elements = Vec::new();
        match met.clone().next()? {
            Form::Linear(first) if first.group.is_none() && first.constant == 0.0 => {
                for form in met {
                    let Form::Linear(own) = form else { return None };
                    elements.push(own.element?);
                    (Linear { element: first.element, ..own } == first).then_some(())?;
                }
                let mean = first.x * scale * elements.len() as f64;
                let group = Some(self.group(elements)?);
                Some(Form::Linear(Linear { group, mean, ..Linear::default() }))
            }
            Form::Square { group, factor, .. } => {
                for form in met {
                    let Form::Square { element, group: own, factor: same } = form else { return None };
                    elements.push(element);
                    (own == group && same == factor).then_some(())?;
                }
                let factor = factor * scale * elements.len() as f64;
                elements.sort_unstable();
                (elements == self.groups[group]).then_some(Form::Variance { group, factor, constant: 0.0 })
            }
            _ => None,
        }
    }

    fn group(&mut self, mut elements: Vec<u32>) -> Option<Group> {
        elements.sort_unstable();
        elements.is_sorted_by(|a, b| a < b).then_some(())?;
        let number = *self.numbers.entry(elements).or_insert_with_key(|elements| {
            self.groups.push(elements.clone());
            self.groups.len() - 1
        });
        Some(number)
    }

    /// The first values that are the whole base normalised.
    fn normal(&self) -> Vec<Normal> {
        let (mut found, mut made) = (Vec::new(), HashSet::new());
        for (place, step) in self.graph.steps.iter().enumerate() {
            let Some(forms) = self.known.get(&step.output) else { continue };
            if step.inputs.iter().any(|input| made.contains(input)) {
                made.insert(step.output);
            } else if let Some(normal) = self.whole(place, forms) {
                made.insert(step.output);
                found.push(normal);
            }
        }
        found
    }

    fn whole(&self, place: usize, forms: &[Form]) -> Option<Normal> {
        let len = self.graph.len(self.base);
        if forms.len() != len {
            return None;
        }
        let mut normal = Normal {
            place,
            epsilon: 0.0,
            length: 0,
            order: Vec::new(),
            taken: vec![u32::MAX; len],
            scale: vec![0.0; len],
            offset: vec![0.0; len],
        };
        let mut used = Vec::new();
        for (at, form) in forms.iter().enumerate() {
            let &Form::Normal { sum, group, epsilon } = form else { return None };
            let (element, own) = sum.distance()?;
            if own != group || at > 0 && epsilon != normal.epsilon {
                return None;
            }
            // A mean that was moved may belong to other elements.
            self.groups[group].binary_search(&element).ok()?;
            normal.epsilon = epsilon;
            used.push(group);
            let place = &mut normal.taken[element as usize];
            (*place == u32::MAX).then(|| *place = at as u32)?;
            (normal.scale[element as usize], normal.offset[element as usize]) = (sum.x, sum.constant);
        }
        used.sort_unstable();
        used.dedup();
        normal.length = self.groups[*used.first()?].len();
        let alike = used.iter().all(|&group| self.groups[group].len() == normal.length);
        normal.order = used.iter().flat_map(|&group| &self.groups[group]).copied().collect();
        let mut seen = vec![false; len];
        let once = normal.order.iter().all(|&at| !std::mem::replace(&mut seen[at as usize], true));
        (alike && once && normal.order.len() == len && normal.length <= layer_norm::MAX_GROUP)
            .then_some(normal)
    }
}

/// For each place and channel of a pool, the elements that it meets.
fn met_by(pool: &FloatPool) -> Vec<Vec<usize>> {
    let channels = pool.window.channels as usize;
    pool.met()
        .into_iter()
        .flat_map(|pixels| {
            (0..channels).map(move |channel| pixels.iter().map(|pixel| pixel * channels + channel).collect())
        })
        .collect()
}

/// A value that is another one normalised.
struct Normal {
    /// Of the step that makes it.
    place: usize,
    epsilon: f64,
    /// Of each group.
    length: usize,
    /// The elements of the base, group by group.
    order: Vec<u32>,
    /// For each element of the base, where it stands in the value, and its scale and offset.
    taken: Vec<u32>,
    scale: Vec<f64>,
    offset: Vec<f64>,
}

impl Normal {
    /// Groups beside each other, normalised, and in the value's order.
    fn put_into(self, graph: &mut FloatGraph, base: Value) {
        let old = graph.steps[self.place].clone();
        let of = |values: &[f64]| -> Vec<f64> { self.order.iter().map(|&at| values[at as usize]).collect() };
        let (mut scale, mut offset) = (of(&self.scale), of(&self.offset));
        let alike =
            |values: &[f64]| values.chunks_exact(self.length).all(|group| group == &values[..self.length]);
        let after = (!alike(&scale) || !alike(&offset)).then(|| {
            let after = Operation::Affine { scale: scale.clone(), offset: offset.clone() };
            (scale, offset) = (vec![1.0; self.length], vec![0.0; self.length]);
            after
        });
        scale.truncate(self.length);
        offset.truncate(self.length);
        let gather = self.order.iter().map(|&at| at as i32).collect();
        let mut scatter = vec![0; self.order.len()];
        self.order
            .iter()
            .enumerate()
            .for_each(|(at, &element)| scatter[self.taken[element as usize] as usize] = at as i32);
        let operations = [
            Some(Operation::Move { indices: gather, fill: 0.0 }),
            Some(Operation::LayerNorm { epsilon: self.epsilon, scale, offset }),
            after,
            Some(Operation::Move { indices: scatter, fill: 0.0 }),
        ];
        let shape = vec![(self.order.len() / self.length) as u32, self.length as u32];
        let mut input = base;
        let mut steps = Vec::new();
        for operation in operations.into_iter().flatten() {
            let output = graph.shapes.len();
            graph.shapes.push(shape.clone());
            let (name, source) = (old.name.clone(), "LayerNormalization".to_owned());
            steps.push(Step { name, source, operation, inputs: vec![input], output });
            input = output;
        }
        if let Some(last) = steps.last_mut() {
            last.output = old.output;
        }
        graph.steps.splice(self.place..=self.place, steps);
    }
}
