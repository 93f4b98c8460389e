//! The circuit of a compiled model: one gadget for each operator of `kernels/SPEC.md`, bit for bit.

mod activation;
mod attention;
mod builder;
mod curve;
mod float;
mod inverse;
mod largest;
mod layers;
#[cfg(test)]
mod mutation;
mod poseidon;
mod range;
mod recurrent;
mod statement;
#[cfg(test)]
mod tests;
mod trees;
mod window;

use std::sync::Arc;

use blstrs::Scalar;
use haca_kernels::Model;
use haca_kernels::view::{Node, Operation};
use haca_wire::Salt;
use thiserror::Error;

use self::builder::{Builder, Number};
use self::statement::Sealed;
use super::r1cs::ConstraintSystem;
pub use statement::{Binding, Statement, StatementError, StatementKind};

/// Version of the circuits that this code makes: another one makes other keys.
pub const CIRCUIT_VERSION: u32 = 5;

/// Constraints above this are refused: their keys would have gigabytes.
const MAX_CONSTRAINTS: usize = 1 << 24;

/// Terms of all constraints above this are refused: they would take gigabytes of memory.
const MAX_TERMS: usize = 1 << 28;

/// Why a model has no circuit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unsupported {
    /// More constraints than are proven in one, or more terms in them.
    #[error(
        "the circuit has more than {MAX_CONSTRAINTS} constraints or {MAX_TERMS} terms by layer '{layer}'"
    )]
    TooLarge {
        /// Name of the layer at which it grew too large.
        layer: String,
    },
}

/// What a part of a circuit costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// Name of the layer, or what else the constraints are for.
    pub name: String,
    /// The operator, empty if it is none.
    pub operator: &'static str,
    /// Constraints.
    pub constraints: usize,
}

/// The constraint system of a model's statement.
#[derive(Debug, Clone)]
pub struct Circuit {
    model: Arc<Model>,
    statement: StatementKind,
    system: Arc<ConstraintSystem>,
    costs: Vec<Cost>,
}

/// A solution of a circuit: what is proven.
#[derive(Debug, Clone)]
pub struct Witness {
    /// Values of all variables.
    pub assignment: Vec<Scalar>,
    /// The integers of the output.
    pub output: Vec<i64>,
}

impl Circuit {
    /// Writes the circuit of a model for statements of one kind.
    ///
    /// # Errors
    /// [`Unsupported`] if the circuit is too large.
    pub fn new(model: Arc<Model>, statement: StatementKind) -> Result<Circuit, Unsupported> {
        let mut builder = Builder::constraints();
        let mut costs = Vec::new();
        let (low, high) = model.tensor(model.input_index()).bounds();
        let (integers, row) =
            (vec![0i64.clamp(low, high); model.input_len()], vec![0; 4 * model.input_len()]);
        let input = match statement {
            StatementKind::Open => Input::Open(&integers),
            StatementKind::Sealed => Input::Sealed(Sealed { row: &row, salt: &Salt([0; Salt::LEN]) }),
        };
        synthesize(&mut builder, &model, input, Scalar::default(), &mut costs)?;
        let system = Arc::new(builder.system());
        costs.push(Cost {
            name: "public inputs".into(),
            operator: "",
            constraints: system.constraints() - costs.iter().map(|cost| cost.constraints).sum::<usize>(),
        });
        Ok(Circuit { model, statement, system, costs })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The kind of statement that it proves.
    pub fn statement(&self) -> StatementKind {
        self.statement
    }

    /// The constraints.
    pub fn system(&self) -> &Arc<ConstraintSystem> {
        &self.system
    }

    /// Constraints of each layer, and of what binds the statement.
    pub fn costs(&self) -> &[Cost] {
        &self.costs
    }

    /// Constraints of the circuit of the sealed statement, without writing all of it: it differs from this one of the open
    /// statement in its input alone.
    ///
    /// # Errors
    /// [`Unsupported`] if that circuit is too large.
    ///
    /// # Panics
    /// If this is of a sealed statement.
    pub fn constraints_if_sealed(&self) -> Result<usize, Unsupported> {
        match self.size_if_sealed() {
            Some((constraints, terms)) if constraints <= MAX_CONSTRAINTS && terms <= MAX_TERMS => {
                Ok(constraints)
            }
            _ => Err(Unsupported::TooLarge { layer: "sealed input".into() }),
        }
    }

    /// Constraints and terms of the circuit of the sealed statement; `None` if its input alone has too many.
    fn size_if_sealed(&self) -> Option<(usize, usize)> {
        assert_eq!(self.statement, StatementKind::Open, "a sealed statement cannot be sealed");
        let tensor = self.model.tensor(self.model.input_index());
        let size = |input: &dyn Fn(&mut Builder)| {
            let mut builder = Builder::constraints();
            statement::bind(&mut builder, Scalar::default());
            input(&mut builder);
            (!builder.is_too_large()).then(|| builder.system()).map(|it| (it.constraints(), it.terms()))
        };
        let (row, salt) = (vec![0; 4 * self.model.input_len()], Salt([0; Salt::LEN]));
        let sealed = size(&|builder| {
            statement::sealed_input(builder, tensor, Sealed { row: &row, salt: &salt });
        })?;
        let integers = vec![0; self.model.input_len()];
        let open = size(&|builder| drop(statement::input(builder, tensor, &integers)))?;
        let (constraints, terms) = (self.system.constraints(), self.system.terms());
        Some((constraints - open.0 + sealed.0, terms - open.1 + sealed.1))
    }

    /// Computes the model on the integers of an open statement's input, as the executors stage them, and the values of all
    /// variables.
    ///
    /// # Panics
    /// If there are not as many integers as the input has elements, or one is beyond its bounds; or if the circuit is of a
    /// sealed statement.
    pub fn witness(&self, input: &[i64], binding: &Binding) -> Witness {
        assert_eq!(self.statement, StatementKind::Open, "a sealed statement is of a row and a salt");
        let (low, high) = self.model.tensor(self.model.input_index()).bounds();
        assert_eq!(input.len(), self.model.input_len(), "an integer for each element");
        assert!(input.iter().all(|value| (low..=high).contains(value)), "integers within the input's bounds");
        self.solve(Input::Open(input), binding)
    }

    /// The same of a sealed statement, on a row (little-endian float32) and the salt of its commitment.
    ///
    /// # Panics
    /// If the row has not as many elements as the input, or the circuit is of an open statement.
    pub fn sealed_witness(&self, row: &[u8], salt: &Salt, binding: &Binding) -> Witness {
        assert_eq!(self.statement, StatementKind::Sealed, "an open statement is of integers");
        assert_eq!(row.len(), 4 * self.model.input_len(), "a float32 for each element");
        self.solve(Input::Sealed(Sealed { row, salt }), binding)
    }

    fn solve(&self, input: Input<'_>, binding: &Binding) -> Witness {
        let mut builder = Builder::values();
        let output = synthesize(&mut builder, &self.model, input, binding.scalar(), &mut Vec::new())
            .expect("the circuit was written before");
        Witness { assignment: builder.assignment(), output }
    }
}

/// What a statement's circuit begins with.
#[derive(Clone, Copy)]
enum Input<'a> {
    Open(&'a [i64]),
    Sealed(Sealed<'a>),
}

/// Runs all gadgets. Returns the output's integers.
fn synthesize(
    builder: &mut Builder,
    model: &Model,
    input: Input<'_>,
    binding: Scalar,
    costs: &mut Vec<Cost>,
) -> Result<Vec<i64>, Unsupported> {
    let mut tensors: Vec<Vec<Number>> = vec![Vec::new(); model.tensors()];
    statement::bind(builder, binding);
    let tensor = model.tensor(model.input_index());
    tensors[model.input_index()] = match input {
        Input::Open(integers) => statement::input(builder, tensor, integers),
        Input::Sealed(sealed) => statement::sealed_input(builder, tensor, sealed),
    };
    costs.push(Cost { name: "binding and input".into(), operator: "", constraints: builder.len() });
    for node in model.nodes() {
        let before = builder.len();
        let output = layer(builder, model, &node, &tensors);
        if builder.is_too_large() {
            return Err(Unsupported::TooLarge { layer: node.name.to_owned() });
        }
        let constraints = builder.len() - before;
        costs.push(Cost { name: node.name.to_owned(), operator: node.operator, constraints });
        tensors[node.output] = output;
    }
    let before = builder.len();
    let output = &tensors[model.output_index()];
    statement::output(builder, model.tensor(model.output_index()), output);
    if builder.is_too_large() {
        return Err(Unsupported::TooLarge { layer: "output".into() });
    }
    costs.push(Cost { name: "output".into(), operator: "", constraints: builder.len() - before });
    Ok(output.iter().map(|number| number.value as i64).collect())
}

fn layer(builder: &mut Builder, model: &Model, node: &Node<'_>, tensors: &[Vec<Number>]) -> Vec<Number> {
    let x = &tensors[node.inputs[0]];
    match &node.operation {
        Operation::Dense(dense) => layers::dense(builder, dense, x, model.tensor(node.output).elements()),
        Operation::Affine { multipliers, offsets, requantize } => {
            layers::affine(builder, x, multipliers, offsets, requantize)
        }
        Operation::Add { shifts, subtract, requantize } => {
            layers::add(builder, [x, &tensors[node.inputs[1]]], *shifts, *subtract, *requantize)
        }
        Operation::Multiply(requantize) => {
            layers::multiply(builder, [x, &tensors[node.inputs[1]]], *requantize)
        }
        Operation::Move { indices, fill } => {
            let elements: Vec<&Number> = node.inputs.iter().flat_map(|&input| &tensors[input]).collect();
            layers::moved(&elements, indices, *fill)
        }
        Operation::Map { requantize, activation } => layers::map(builder, x, *requantize, *activation),
        Operation::Trees(ensemble) => trees::trees(builder, ensemble, x),
        Operation::Recurrent(layer) => recurrent::recurrent(builder, layer, x),
        Operation::Conv(conv) => window::conv(builder, conv, x),
        Operation::Pool { window, reduction } => window::pool(builder, window, *reduction, x),
        Operation::ArgMax { length, inner } => largest::indices(builder, x, *length, *inner),
        Operation::MatMul(matmul) => attention::matmul(builder, matmul, [x, &tensors[node.inputs[1]]]),
        Operation::Softmax(layer) => attention::softmax(builder, *layer, x),
        Operation::LayerNorm(layer) => attention::layer_norm(builder, layer, x),
    }
}
