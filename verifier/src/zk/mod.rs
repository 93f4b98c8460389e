//! Zero-knowledge proofs that a compiled model gave an output: Groth16 over BLS12-381.
//!
//! The engine is bellman's types over blst's arithmetic: [`setup`] makes parameters of a constraint system, [`Prover`]
//! proofs, and [`VerifyingKey`] checks them, by the thousand. `ZK.md` beside this crate states what is proven and what
//! must be trusted.

pub mod cache;
pub mod ceremony;
mod circuit;
mod coordinates;
mod curve;
pub mod eip2537;
pub mod export;
mod field;
mod fourier;
#[cfg(test)]
mod independent;
mod key;
mod membership;
mod multiscalar;
mod pairing;
mod powers;
mod proof;
mod prover;
mod proving;
mod r1cs;
mod receipt;
#[cfg(any(test, feature = "zk-reference"))]
pub mod reference;
pub mod setup;
mod verify;

pub use blstrs::Scalar;
pub use circuit::{
    Binding, CIRCUIT_VERSION, Circuit, Cost, Statement, StatementError, StatementKind, Unsupported, Witness,
};
pub use key::{KeyError, Origin, Setup, VerifyingKey};
pub use proof::{Malformed, Proof, scalars_from_bytes};
pub use prover::{Prover, ProverError};
pub use proving::{NotAProvingKey, ProvingKey};
pub use r1cs::ConstraintSystem;
pub use receipt::ProofChecker;
pub use verify::{Claim, Refused, Unreadable};

#[cfg(test)]
mod tests;
