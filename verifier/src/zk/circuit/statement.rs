//! What a proof says: this model, on this input, gave this output, for this receipt.
//!
//! Public inputs of an open statement are, in this order: the binding, the packed input, the packed output. Integers are
//! packed side by side into as few field elements as hold them, each offset so as not to be negative and as wide as its
//! tensor's element. The checker packs integers that it has seen to lie in the tensor's bounds; unpacking is unique, because
//! the circuit takes the bits of every input, and proves the bounds of every output.
//!
//! In a sealed statement the commitment to the row takes the place of the packed input. The circuit opens it to the row's
//! bits, and converts these to the model's integers by section 3 of `SPEC.md`.
//!
//! The binding is one field element of everything else that a proof must not be moved away from. The circuit squares it:
//! it constrains nothing there, but a proof is for one value only.

use std::fmt;

use blstrs::Scalar;
use ff::Field;
use haca_kernels::Model;
use haca_kernels::spec::rounding;
use haca_kernels::view::{Element, Tensor};
use haca_wire::{Digest, Dtype, Leaf, Salt, tensor};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::CIRCUIT_VERSION;
use super::builder::{Builder, Number, scalar};
use super::poseidon::Element as FieldElement;
use crate::seal;
use crate::zk::key::VerifyingKey;
use crate::zk::r1cs::Combination;

/// Bits that a public input carries: all values of so many bits are below the group's order.
const CAPACITY: usize = 254;
/// Version of `kernels/SPEC.md` that circuits follow.
const SPEC_VERSION: u16 = 1;

/// Offset and width with which integers of an element type are packed.
fn packing(element: Element) -> (i128, usize) {
    match element {
        Element::I16 => (-(1 << 15), 16),
        Element::I32 | Element::Key => (-(1 << 31), 32),
        Element::I64 => (-(1 << 63), 64),
    }
}

/// What a proof tells of the input, beside what follows from the output. Each kind has circuits and keys of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatementKind {
    /// The input is public.
    Open,
    /// A commitment to the input is.
    Sealed,
}

impl StatementKind {
    /// Both.
    pub const ALL: [StatementKind; 2] = [StatementKind::Open, StatementKind::Sealed];

    /// Of the statement that is proven of a receipt.
    pub fn of(leaf: &Leaf) -> StatementKind {
        if leaf.sealed { StatementKind::Sealed } else { StatementKind::Open }
    }

    /// `open` or `sealed`.
    pub fn as_str(self) -> &'static str {
        match self {
            StatementKind::Open => "open",
            StatementKind::Sealed => "sealed",
        }
    }

    /// The number that stands for it in files.
    pub(in crate::zk) fn number(self) -> u8 {
        match self {
            StatementKind::Open => 0,
            StatementKind::Sealed => 1,
        }
    }

    /// The kind that a number in a file stands for.
    pub(in crate::zk) fn from_number(number: u8) -> Option<StatementKind> {
        StatementKind::ALL.into_iter().find(|kind| kind.number() == number)
    }
}

impl fmt::Display for StatementKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What ties a proof to one receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding(Digest);

impl Binding {
    /// Of the receipt whose leaf this is, under this key: SHA-256 over the kind of the statement, model id, key id, request
    /// id, the versions of semantics and circuit, and the hashes of input and output.
    pub fn new(leaf: &Leaf, key: &Digest) -> Binding {
        let mut hash = Sha256::new();
        hash.update(match StatementKind::of(leaf) {
            StatementKind::Open => &b"haca zk statement v1"[..],
            StatementKind::Sealed => &b"haca zk sealed statement v1"[..],
        });
        hash.update(SPEC_VERSION.to_le_bytes());
        hash.update(CIRCUIT_VERSION.to_le_bytes());
        hash.update(leaf.model.0);
        hash.update(key.0);
        hash.update(leaf.request.0);
        hash.update(leaf.input.0);
        hash.update(leaf.output.0);
        Binding(Digest(hash.finalize().into()))
    }

    /// The low 253 bits of the digest as a big-endian number.
    pub(super) fn scalar(&self) -> Scalar {
        let mut bytes = self.0.0;
        bytes[0] &= 0x1f;
        Scalar::from_bytes_be(&bytes).into_option().expect("253 bits are below the group's order")
    }
}

/// Why a statement is not the one of a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StatementError {
    /// The key was made for another model.
    #[error("the verification key is of model {key}, the receipt of {leaf}")]
    OtherModel {
        /// The key's.
        key: Digest,
        /// The receipt's.
        leaf: Digest,
    },
    /// The key was made for circuits of another version.
    #[error("the verification key is of circuit version {0}; this checks version {CIRCUIT_VERSION}")]
    CircuitVersion(u32),
    /// The key was made for statements of the other kind.
    #[error("the verification key is of the statement '{key}', the receipt takes one of '{leaf}'")]
    OtherKind {
        /// The key's.
        key: StatementKind,
        /// The receipt's.
        leaf: StatementKind,
    },
    /// A row was given for a sealed receipt, or none for an open one.
    #[error("{}", match .0 {
        StatementKind::Open => "the input of the receipt is not sealed; its statement takes the row",
        StatementKind::Sealed => "the input of the receipt is sealed; its statement takes no row",
    })]
    Row(StatementKind),
    /// The commitment in the leaf is not a number below the group's order.
    #[error("the leaf's commitment to the input is none: no row has it")]
    Commitment,
    /// The model at hand is not the receipt's.
    #[error("the model at hand is {found}, the receipt's is {leaf}")]
    Model {
        /// The model at hand.
        found: Digest,
        /// The receipt's.
        leaf: Digest,
    },
    /// The input is not the receipt's.
    #[error("the input has another hash than the receipt names")]
    Input,
    /// The model does not take the input.
    #[error("the model refuses the input: {0}")]
    Refused(String),
    /// The output's integers are not those of the receipt.
    #[error("the output has another hash than the receipt names")]
    Output,
    /// An integer lies outside the bounds of the model's output, or there are too few or too many.
    #[error("the output's integers are not an output of this model")]
    Bounds,
}

/// An input and an output that belong to a receipt, checked: what a proof is checked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Public inputs of the proof.
    pub inputs: Vec<Scalar>,
}

impl Statement {
    /// The open statement of a receipt's leaf, after checking that key and model are the leaf's, that the row (little-endian
    /// float32) has the hash of its input, and that the output's integers, as floats, have the hash of its output.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn new(
        model: &Model,
        key: &VerifyingKey,
        leaf: &Leaf,
        row: &[u8],
        output: &[i64],
    ) -> Result<Statement, StatementError> {
        if leaf.sealed {
            return Err(StatementError::Row(StatementKind::Sealed));
        }
        check_key(model, key, leaf)?;
        let from = model.tensor(model.input_index());
        if row.len() != from.elements() * 4 {
            return Err(StatementError::Refused(format!(
                "{} bytes for {} floats",
                row.len(),
                from.elements()
            )));
        }
        if tensor::hash(Dtype::F32, model.input_shape(), row) != leaf.input {
            return Err(StatementError::Input);
        }
        let output = packed_output(model, leaf, output)?;
        let input = packed(&stage(model, row)?, packing(from.element()));
        let binding = Binding::new(leaf, &key.id());
        Ok(Statement { inputs: [vec![binding.scalar()], input, output].concat() })
    }

    /// The sealed statement of a receipt's leaf, after checking that key and model are the leaf's, and that the output's
    /// integers, as floats, have the hash of its output. It takes no input: that the leaf's commitment opens is proven.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn sealed(
        model: &Model,
        key: &VerifyingKey,
        leaf: &Leaf,
        output: &[i64],
    ) -> Result<Statement, StatementError> {
        if !leaf.sealed {
            return Err(StatementError::Row(StatementKind::Open));
        }
        check_key(model, key, leaf)?;
        let output = packed_output(model, leaf, output)?;
        let commitment =
            Scalar::from_bytes_le(&leaf.input.0).into_option().ok_or(StatementError::Commitment)?;
        let binding = Binding::new(leaf, &key.id());
        Ok(Statement { inputs: [vec![binding.scalar(), commitment], output].concat() })
    }
}

/// Checks that key and model are of the leaf.
fn check_key(model: &Model, key: &VerifyingKey, leaf: &Leaf) -> Result<(), StatementError> {
    let (origin, kind) = (key.origin(), StatementKind::of(leaf));
    let (of_key, of_leaf) = (Digest(origin.model), Digest(leaf.model.0));
    if of_key != of_leaf {
        return Err(StatementError::OtherModel { key: of_key, leaf: of_leaf });
    }
    if origin.circuit_version != CIRCUIT_VERSION {
        return Err(StatementError::CircuitVersion(origin.circuit_version));
    }
    if origin.statement != kind {
        return Err(StatementError::OtherKind { key: origin.statement, leaf: kind });
    }
    if model.id() != leaf.model.0 {
        return Err(StatementError::Model { found: Digest(model.id()), leaf: of_leaf });
    }
    Ok(())
}

/// The output's integers as public inputs, after checking that they are the leaf's.
fn packed_output(model: &Model, leaf: &Leaf, output: &[i64]) -> Result<Vec<Scalar>, StatementError> {
    let to = model.tensor(model.output_index());
    let (low, high) = to.bounds();
    if output.len() != to.elements() || !output.iter().all(|value| (low..=high).contains(value)) {
        return Err(StatementError::Bounds);
    }
    let floats: Vec<u8> = output
        .iter()
        .flat_map(|&value| rounding::to_f32(value, model.output_exponent()).to_le_bytes())
        .collect();
    if tensor::hash(Dtype::F32, model.output_shape(), &floats) != leaf.output {
        return Err(StatementError::Output);
    }
    Ok(packed(output, packing(to.element())))
}

/// The integers of a row, by section 3 of `SPEC.md`.
fn stage(model: &Model, row: &[u8]) -> Result<Vec<i64>, StatementError> {
    let tensor = model.tensor(model.input_index());
    let (low, high) = tensor.bounds();
    let floats = row.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
    let integers = floats.enumerate().map(|(element, value)| {
        if value.is_nan() {
            return Err(StatementError::Refused(format!("element {element} is NaN")));
        }
        Ok(match tensor.element() {
            Element::Key => rounding::key(value).into(),
            _ => rounding::quantize(value, tensor.exponent_of(element), low, high),
        })
    });
    integers.collect()
}

fn packed(integers: &[i64], (base, width): (i128, usize)) -> Vec<Scalar> {
    let chunks = integers.chunks(CAPACITY / width);
    let pack = |chunk: &[i64]| {
        let shift = scalar(1 << width);
        chunk.iter().rev().fold(Scalar::ZERO, |sum, &value| sum * shift + scalar(i128::from(value) - base))
    };
    chunks.map(pack).collect()
}

/// The binding as a public input.
pub(super) fn bind(builder: &mut Builder, binding: Scalar) {
    let public = builder.public(binding);
    let square = builder.field_variable(binding.square());
    builder.enforce(&public, &public, &square);
}

/// The input's numbers, unpacked from public inputs: as many constraints as they have bits, and one for each element of
/// the field.
pub(super) fn input(builder: &mut Builder, tensor: Tensor<'_>, integers: &[i64]) -> Vec<Number> {
    let (base, width) = packing(tensor.element());
    let (low, high) = tensor.bounds();
    let numbers: Vec<Number> = integers
        .iter()
        .map(|&value| {
            let number = builder.variable(value.into(), base, base + (1 << width) - 1);
            builder.bits(&number, base, width);
            // The checker packs no integer beyond the bounds.
            number.within(low.into(), high.into())
        })
        .collect();
    pack(builder, &numbers, (base, width));
    numbers
}

/// The row and the salt that a sealed statement's commitment opens to.
#[derive(Clone, Copy)]
pub(super) struct Sealed<'a> {
    /// Little-endian float32.
    pub(super) row: &'a [u8],
    pub(super) salt: &'a Salt,
}

/// The input's numbers, converted from the row that a public commitment opens to. Of each element the bits and the conversion,
/// of each fourteen elements a permutation.
pub(super) fn sealed_input(builder: &mut Builder, tensor: Tensor<'_>, sealed: Sealed<'_>) -> Vec<Number> {
    let (low, high) = tensor.bounds();
    let words: Vec<Number> = (sealed.row.as_chunks::<4>().0.iter())
        .map(|bytes| builder.variable(u32::from_le_bytes(*bytes).into(), 0, u32::MAX.into()))
        .collect();
    let numbers = (words.iter().enumerate())
        .map(|(element, word)| {
            let float = builder.float(word);
            match tensor.element() {
                // Of all floats, none of which is NaN: infinities are the ends.
                Element::Key => builder.key(&float).within(low.into(), high.into()),
                _ => builder.quantized(&float, tensor.exponent_of(element), low.into(), high.into()),
            }
        })
        .collect();

    let salt = builder.element(seal::scalar(sealed.salt));
    let mut elements = vec![salt];
    elements.extend(words.chunks(seal::ELEMENT / 4).map(|words| {
        let (mut combination, mut value, mut factor) = (Combination::default(), Scalar::ZERO, Scalar::ONE);
        for word in words {
            combination.add_scaled(&word.combination, factor);
            value += factor * scalar(word.value);
            factor *= scalar(1 << 32);
        }
        FieldElement { combination, value }
    }));
    let commitment = builder.hash(seal::tag(words.len()), &elements);
    let public = builder.public(commitment.value);
    builder.enforce(&commitment.combination, &Combination::constant(Scalar::ONE), &public);
    numbers
}

/// The output's numbers, packed into public inputs.
pub(super) fn output(builder: &mut Builder, tensor: Tensor<'_>, numbers: &[Number]) {
    let (base, width) = packing(tensor.element());
    for number in numbers {
        assert!(base <= number.low && number.high < base + (1 << width), "an output within its element");
    }
    pack(builder, numbers, (base, width));
}

fn pack(builder: &mut Builder, numbers: &[Number], (base, width): (i128, usize)) {
    for chunk in numbers.chunks(CAPACITY / width) {
        let values: Vec<i64> = chunk.iter().map(|number| number.value as i64).collect();
        let public = builder.public(packed(&values, (base, width))[0]);
        let mut sum = Combination::default();
        let mut factor = Scalar::ONE;
        for number in chunk {
            sum.add_scaled(&number.plus_constant(-base).combination, factor);
            factor *= scalar(1 << width);
        }
        builder.enforce(&sum, &Combination::constant(Scalar::ONE), &public);
    }
}
