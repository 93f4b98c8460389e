//! A model as a stream: it takes one time step at a time, and what it needs of the steps before is carried from one to the
//! next (`SPEC.md`, section 7.7).
//!
//! The form of a stream is a graph of its own, over rows of one step. Its weights are held once more, which costs the
//! model's memory again and spares every kernel a second way to read them.

mod column;
mod recurrent;
mod window;

use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;

use super::graph::{Affine, Element, Graph, Node, Tensor};
use super::{Dtype, LoadError, Model, Work};
use crate::exec::Backend;

/// Why a model cannot be a stream.
#[derive(Debug, Error)]
pub enum StreamError {
    /// A row is no sequence of steps, for either kind of stream.
    #[error(
        "an input of shape {shape:?} has no steps: they are its first dimension longer than one, and another follows it"
    )]
    NoSteps {
        /// The input's shape.
        shape: Vec<u32>,
    },
    /// The form of one step breaks a rule that the model's own form does not.
    #[error("the form of one step: {0}")]
    Form(#[from] LoadError),
}

/// What a stream carries from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// The states of recurrent layers. It may go on beyond the model's window, as a longer window would.
    Recurrent,
    /// What the last steps of the model's window are needed for. Each answer is that of a whole window.
    Window,
}

/// How a stream computes a layer of its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamPart {
    /// For the newest step alone.
    Step,
    /// For the whole window.
    Window,
}

/// A model in the form that takes one time step at a time. The states of a stream are the caller's: a fixed number of
/// 32-bit words, of which only a [`crate::StreamExecutor`] knows the meaning.
///
/// After as many steps as the model's window has, the output is bit for bit that of the window.
#[derive(Debug)]
pub struct Stream {
    kind: StreamKind,
    model: Arc<Model>,
    step_shape: Vec<u32>,
    window: usize,
    initial: Vec<i32>,
    kept: Vec<Kept>,
    parts: Vec<StreamPart>,
}

/// Words of state that have the same bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) words: Range<usize>,
    pub(crate) format: Format,
}

/// What is in a word of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// One value within bounds.
    I32(i32, i32),
    /// Two values within bounds.
    I16(i16, i16),
    /// An element of the input as it came.
    F32,
}

impl Model {
    /// The model's form as a stream: of its recurrent states where no layer needs more of the steps before, else of its
    /// window.
    ///
    /// # Errors
    /// [`StreamError`] if a row of the input is no sequence of steps.
    pub fn stream(&self) -> Result<Stream, StreamError> {
        if let Some(stream) = recurrent::stream(self)? {
            return Ok(stream);
        }
        let shape = self.input_shape();
        let Some((window, step_shape)) = steps_of(shape) else {
            return Err(StreamError::NoSteps { shape: shape.to_vec() });
        };
        window::stream(self, window, step_shape)
    }
}

impl Stream {
    /// What it carries.
    pub fn kind(&self) -> StreamKind {
        self.kind
    }

    /// The model's id, which does not tell a window from a stream.
    pub fn id(&self) -> [u8; 32] {
        self.model.id()
    }

    /// Steps of the model's own window.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Shape of one step.
    pub fn step_shape(&self) -> &[u32] {
        &self.step_shape
    }

    /// Elements of one step.
    pub fn step_len(&self) -> usize {
        self.step_shape.iter().map(|&dimension| dimension as usize).product()
    }

    /// Shape of an output, which is the model's.
    pub fn output_shape(&self) -> &[u32] {
        self.model.output_shape()
    }

    /// Elements of an output.
    pub fn output_len(&self) -> usize {
        self.model.output_len()
    }

    /// Whether steps and answers may be of type `dtype`: whenever the model's rows may.
    pub fn accepts(&self, dtype: Dtype) -> bool {
        self.model.accepts(dtype)
    }

    /// How each layer of the model is computed, in its order.
    pub fn parts(&self) -> &[StreamPart] {
        &self.parts
    }

    /// The states of a stream before its first step.
    pub fn initial_states(&self) -> &[i32] {
        &self.initial
    }

    /// Bytes of the states of one stream.
    pub fn state_bytes(&self) -> usize {
        self.initial.len() * size_of::<i32>()
    }

    /// Bytes held by the form of one step, which all streams share.
    pub fn memory_bytes(&self) -> usize {
        self.model.memory_bytes()
    }

    /// What a step takes on a backend.
    pub fn work(&self, backend: Backend) -> Work {
        self.model.work(backend)
    }

    pub(crate) fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The states' words, in their order.
    pub(crate) fn kept(&self) -> &[Kept] {
        &self.kept
    }
}

/// The steps of an input, and the shape of each: they are the first dimension longer than one, and another follows it.
pub(crate) fn steps_of(shape: &[u32]) -> Option<(usize, Vec<u32>)> {
    let at = shape.iter().position(|&dimension| dimension > 1)?;
    let step = shape.get(at + 1..).filter(|step| !step.is_empty())?;
    Some((shape[at] as usize, step.to_vec()))
}

/// Whether values are the same for each of `count` columns.
fn repeats<T: PartialEq>(values: &[T], count: usize) -> bool {
    let len = values.len() / count;
    values.len() == len * count && values.iter().zip(values.iter().skip(len)).all(|(a, b)| a == b)
}

/// An affine layer on one of `count` columns, if it does the same to each.
fn affine_of_column(graph: &Graph, node: &Node, affine: &Affine, count: usize) -> Option<Affine> {
    let same = repeats(&affine.multipliers, count)
        && repeats(&affine.offsets, count)
        && repeats(&affine.shifts, count)
        && repeats(&graph.tensors[node.inputs[0]].exponents, count);
    let len = affine.shifts.len() / count;
    same.then(|| Affine {
        multipliers: affine.multipliers[..len].to_vec(),
        offsets: affine.offsets[..len].to_vec(),
        shifts: affine.shifts[..len].to_vec(),
    })
}

/// Words that so many elements of a tensor take among the states.
fn words(element: Element, count: usize) -> usize {
    if element == Element::I16 { count.div_ceil(2) } else { count }
}

/// What is in the words of a tensor.
fn format(tensor: &Tensor) -> Format {
    match tensor.element {
        Element::I16 => Format::I16(tensor.minimum as i16, tensor.maximum as i16),
        _ => Format::I32(tensor.minimum as i32, tensor.maximum as i32),
    }
}
