//! A model of recurrent layers as a stream: it takes one time step at a time, and its states are carried from one to the
//! next.
//!
//! The form of a stream is the model's own graph with rows of one step. Its weights are held once more, which costs the
//! model's memory again and spares every kernel a second way to read them.

use std::sync::Arc;

use thiserror::Error;

use super::graph::{Affine, Cell, Graph, Node, Operator, Recurrent, Tensor};
use super::{LoadError, Model};
use crate::exec::initial;
use crate::spec::activation::one;
use crate::spec::recurrence::STATE_BOUND;

/// Why a model cannot be a stream.
#[derive(Debug, Error)]
pub enum StreamError {
    /// A layer needs more than the newest step and the states.
    #[error("layer '{layer}' cannot be part of a stream: {what}")]
    Layer {
        /// Its name.
        layer: String,
        /// What it needs.
        what: String,
    },
    /// There is no state to carry.
    #[error("the model has no recurrent layer: it has no state that a stream could carry")]
    NoState,
    /// The form of one step breaks a rule that the model's own form does not.
    #[error("the form of one step: {0}")]
    Form(#[from] LoadError),
}

/// A model in the form that takes one time step at a time. The states of a stream are the caller's: a fixed number of
/// 32-bit words.
///
/// After as many steps as the model's window has, the output is bit for bit that of the window; a stream may go on, as a
/// longer window would.
#[derive(Debug)]
pub struct Stream {
    model: Arc<Model>,
    window: usize,
    initial: Vec<i32>,
    /// Largest magnitude of each word.
    bounds: Vec<i32>,
}

impl Model {
    /// The model's form as a stream.
    ///
    /// # Errors
    /// [`StreamError`] names the layer that needs more than the newest step and the states: all but elementwise layers and
    /// recurrent ones do, until a recurrent layer has left only the last step.
    pub fn stream(&self) -> Result<Stream, StreamError> {
        let (graph, window) = one_step(&self.graph)?;
        let (mut states, mut bounds) = (Vec::new(), Vec::new());
        let mut carried = vec![None; graph.tensors.len()];
        for node in &graph.nodes {
            if let Operator::Recurrent(layer) = &node.operator {
                carried[node.output] = Some(states.len());
                push_states(layer, &graph.tensors[node.output], &mut states, &mut bounds);
            }
        }
        let mut model = Model::assemble(self.id, graph, self.metadata.clone(), self.file_bytes)?;
        (model.carried, model.carried_len) = (carried, states.len());
        Ok(Stream { model: Arc::new(model), window, initial: states, bounds })
    }
}

impl Stream {
    /// The model's id, which does not tell a window from a stream.
    pub fn id(&self) -> [u8; 32] {
        self.model.id()
    }

    /// Steps of the model's own window.
    pub fn window(&self) -> usize {
        self.window
    }

    /// The form of one step: its input is one step, its output the model's.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The states of a stream before its first step.
    pub fn initial_states(&self) -> &[i32] {
        &self.initial
    }

    /// Bytes of the states of one stream.
    pub fn state_bytes(&self) -> usize {
        self.initial.len() * size_of::<i32>()
    }

    pub(crate) fn bounds(&self) -> &[i32] {
        &self.bounds
    }
}

/// The initial states of a layer and their bounds, in the order of [`crate::exec`]'s recurrent layers.
fn push_states(layer: &Recurrent, output: &Tensor, states: &mut Vec<i32>, bounds: &mut Vec<i32>) {
    let units = 0..layer.hidden();
    if layer.cell == Cell::Lstm {
        states.extend(units.clone().map(|unit| i32::from(initial(layer, output, unit).0)));
        bounds.resize(states.len(), one(output.exponent) as i32);
    }
    states.extend(units.map(|unit| initial(layer, output, unit).1));
    let most = if layer.cell == Cell::Gru { 1 << layer.cell_exponent } else { STATE_BOUND };
    bounds.resize(states.len(), most);
}

/// The graph for rows of one step, and the number of steps that it was for.
fn one_step(graph: &Graph) -> Result<(Graph, usize), StreamError> {
    let first = graph.nodes.iter().find_map(|node| match &node.operator {
        Operator::Recurrent(layer) => Some(graph.tensors[node.inputs[0]].len() / layer.features()),
        _ => None,
    });
    let steps = first.ok_or(StreamError::NoState)?;
    let mut stepped = graph.clone();
    // Which tensors hold a row for each step.
    let mut per_step = vec![false; graph.tensors.len()];
    per_step[graph.input] = true;
    for (node, stepped) in graph.nodes.iter().zip(&mut stepped.nodes) {
        let fail = |what: &str| Err(StreamError::Layer { layer: node.name.clone(), what: what.into() });
        if !node.inputs.iter().any(|&input| per_step[input]) {
            continue;
        }
        if !node.inputs.iter().all(|&input| per_step[input]) {
            return fail("it brings what has steps together with what has none");
        }
        per_step[node.output] = match &mut stepped.operator {
            Operator::Recurrent(layer) => {
                if graph.tensors[node.inputs[0]].len() != steps * layer.features() {
                    return fail("it takes another number of steps than the first recurrent layer");
                }
                !layer.last_only
            }
            Operator::Affine(affine) => {
                if !repeats(graph, node, affine, steps) {
                    return fail("it scales the steps differently");
                }
                let len = affine.shifts.len() / steps;
                affine.multipliers.truncate(len);
                affine.offsets.truncate(len);
                affine.shifts.truncate(len);
                true
            }
            Operator::Map(_) | Operator::Add { .. } | Operator::Multiply => true,
            _ => return fail("it reads other steps than the newest"),
        };
    }
    if per_step[graph.output] {
        let last =
            graph.nodes.iter().find(|node| node.output == graph.output).expect("the output is computed");
        let what = "it serves every step: serve the last one".into();
        return Err(StreamError::Layer { layer: last.name.clone(), what });
    }
    for (tensor, _) in stepped.tensors.iter_mut().zip(&per_step).filter(|(_, per_step)| **per_step) {
        let len = tensor.len() / steps;
        tensor.shape = match &tensor.shape[..] {
            [first, rest @ ..] if *first as usize == steps && !rest.is_empty() => rest.to_vec(),
            _ => vec![len as u32],
        };
        tensor.exponents.truncate(len);
    }
    Ok((stepped, steps))
}

/// Whether an affine layer does the same to every step.
fn repeats(graph: &Graph, node: &Node, affine: &Affine, steps: usize) -> bool {
    let exponents = &graph.tensors[node.inputs[0]].exponents;
    fn same<T: PartialEq>(values: &[T], steps: usize) -> bool {
        let len = values.len() / steps;
        values.len() == len * steps && values.iter().zip(values.iter().skip(len)).all(|(a, b)| a == b)
    }
    same(&affine.multipliers, steps)
        && same(&affine.offsets, steps)
        && same(&affine.shifts, steps)
        && same(exponents, steps)
}
