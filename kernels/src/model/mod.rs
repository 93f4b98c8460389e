//! A compiled model: loaded once, proven once, then shared by all executors.

mod attention;
mod file;
pub(crate) mod graph;
mod layer;
mod memory;
pub(crate) mod plan;
pub(crate) mod stream;
#[allow(warnings, missing_docs, unsafe_op_in_unsafe_fn, clippy::all, clippy::undocumented_unsafe_blocks, unreachable_pub)]
#[rustfmt::skip]
mod model_generated;
pub(crate) mod validate;
pub mod view;
mod work;

use sha2::{Digest, Sha256};
use thiserror::Error;

pub(crate) use file::{Metadata, encode};
use graph::{Element, Graph, Tensor};
pub use layer::LayerInfo;
pub use memory::BufferInfo;
use plan::Plan;
pub use stream::{Stream, StreamError, StreamKind, StreamPart};
use validate::Proof;
pub use work::Work;

use crate::exec::Packed;
use crate::spec::rounding::power_of_two;

/// Element type of a tensor at the boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// `float32`.
    F32,
    /// `int16` fixed point, at the exponent of the model's tensor.
    I16,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::I16 => 2,
        }
    }
}

/// Why a model file was refused.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file does not carry the model file's identifier.
    #[error("not a compiled model: the identifier HACM is missing; compile one with `haca model compile`")]
    NotAModel,
    /// The file is larger than a model may be.
    #[error("the model file has {size} bytes; {} is the limit", file::MAX_FILE)]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// The file's meaning is of another version.
    #[error(
        "the model file has version {found}, this build reads version {}; compile the model again",
        file::VERSION
    )]
    Version {
        /// The version in the file.
        found: u16,
    },
    /// The file is not what its schema says.
    #[error("the model file is damaged: {0}")]
    Malformed(String),
    /// The graph breaks a rule of `SPEC.md`.
    #[error(
        "the model breaks the rules of SPEC.md at '{at}': {what}; it was damaged, or not made by this compiler"
    )]
    Invalid {
        /// Name of the tensor or node.
        at: String,
        /// The rule and the value.
        what: String,
    },
}

impl LoadError {
    pub(crate) fn invalid(at: &str, what: String) -> LoadError {
        LoadError::Invalid { at: at.to_owned(), what }
    }
}

/// How the compiled model compared with the float model on the calibration rows, as its compiler found.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Calibration {
    /// Calibration rows.
    pub rows: u32,
    /// Largest absolute error over all rows and outputs.
    pub max_error: f64,
    /// Mean absolute error.
    pub mean_error: f64,
    /// Largest minus smallest output of the float model.
    pub range: f64,
}

/// A validated, immutable model.
#[derive(Debug)]
pub struct Model {
    id: [u8; 32],
    pub(crate) graph: Graph,
    pub(crate) proofs: Vec<Proof>,
    pub(crate) plan: Plan,
    /// For each node, the form the fast executors read.
    pub(crate) packed: Vec<Packed>,
    /// For each tensor, where the layer that computes it keeps its states, or columns, among those of a slot; empty unless
    /// this is the form of a [`Stream`].
    pub(crate) carried: Vec<Option<usize>>,
    /// Words of state that a slot carries from call to call.
    pub(crate) carried_len: usize,
    metadata: Metadata,
    file_bytes: usize,
}

impl Model {
    /// Reads a compiled model from the bytes of its file, checks every rule of `SPEC.md`, proves that no sum can
    /// overflow, and packs the weights.
    ///
    /// # Errors
    /// [`LoadError`] if the bytes are not a model, or break a rule; nothing is allocated from an unchecked length.
    pub fn load(file: &[u8]) -> Result<Model, LoadError> {
        let (graph, metadata) = file::decode(file)?;
        Model::assemble(Sha256::digest(file).into(), graph, metadata, file.len())
    }

    /// Proves a graph, plans its memory and packs its weights.
    fn assemble(
        id: [u8; 32],
        graph: Graph,
        metadata: Metadata,
        file_bytes: usize,
    ) -> Result<Model, LoadError> {
        let proofs = validate::validate(&graph)?;
        let packed: Vec<Packed> =
            graph.nodes.iter().zip(&proofs).map(|(node, proof)| Packed::new(&graph, node, *proof)).collect();
        let plan = Plan::new(&graph);
        let (carried, carried_len) = (Vec::new(), 0);
        Ok(Model { id, graph, proofs, plan, packed, carried, carried_len, metadata, file_bytes })
    }

    /// SHA-256 of the file.
    pub fn id(&self) -> [u8; 32] {
        self.id
    }

    /// Shape of one input row, without the batch dimension.
    pub fn input_shape(&self) -> &[u32] {
        &self.input().shape
    }

    /// Shape of one output row, without the batch dimension.
    pub fn output_shape(&self) -> &[u32] {
        &self.output().shape
    }

    /// Elements in an input row.
    pub fn input_len(&self) -> usize {
        self.input().len()
    }

    /// Elements in an output row.
    pub fn output_len(&self) -> usize {
        self.output().len()
    }

    /// Whether rows and answers may be of type `dtype`: always for `F32`; for `I16` only if the model's input and
    /// output are both `i16` tensors of one power-of-two scale each.
    pub fn accepts(&self, dtype: Dtype) -> bool {
        let is_i16 = |tensor: &Tensor| tensor.element == Element::I16 && tensor.exponents.is_empty();
        dtype == Dtype::F32 || (is_i16(self.input()) && is_i16(self.output()))
    }

    /// Exponent of an `I16` input row: value = integer · 2^-exponent. Only of use where `I16` is accepted.
    pub fn input_exponent(&self) -> i32 {
        self.input().exponent
    }

    /// Exponent of the exact output: value = integer · 2^-exponent.
    pub fn output_exponent(&self) -> i32 {
        self.output().exponent
    }

    /// Value of one unit of the exact output: `2^-exponent`.
    pub fn output_scale(&self) -> f64 {
        power_of_two(-self.output().exponent)
    }

    /// Bytes held: the graph with its weights, and their packed forms.
    pub fn memory_bytes(&self) -> usize {
        self.file_bytes + self.packed.iter().map(Packed::memory_bytes).sum::<usize>()
    }

    /// Bytes of scratch an [`crate::Executor`] takes for each row; recurrent layers take some more, once.
    pub fn scratch_bytes_per_row(&self) -> usize {
        self.plan.bytes_per_slot() + self.output_len() * 8
    }

    /// Name of the source graph.
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// Program and version that exported the source model.
    pub fn producer(&self) -> &str {
        &self.metadata.producer
    }

    /// SHA-256 of the source file.
    pub fn source_digest(&self) -> [u8; 32] {
        self.metadata.source_digest
    }

    /// Agreement with the float model, as the compiler measured and recorded it.
    pub fn calibration(&self) -> Calibration {
        self.metadata.calibration
    }

    /// The layers in order of execution.
    pub fn layers(&self) -> impl Iterator<Item = LayerInfo> {
        self.graph.nodes.iter().zip(&self.proofs).map(|(node, proof)| self.layer(node, *proof))
    }

    pub(crate) fn input(&self) -> &Tensor {
        &self.graph.tensors[self.graph.input]
    }

    pub(crate) fn output(&self) -> &Tensor {
        &self.graph.tensors[self.graph.output]
    }
}
