//! Attestation evidence: what binds a node's keys to the machine it claims to run on.
//!
//! One file for each issuer of evidence, and the policy that says which of them to accept.

pub mod development;
mod policy;

pub use policy::Policy;
