//! The arithmetic of `SPEC.md`, one function for each rule.
//!
//! These are the definitions. Executors may compute the same values another way, never other values.

pub mod activation;
mod coefficients;
pub mod rounding;
