//! The arithmetic of `SPEC.md`, one function for each rule.
//!
//! These are the definitions. Executors may compute the same values another way, never other values.

pub mod activation;
pub(crate) mod coefficients;
pub mod gate;
pub mod recurrence;
pub mod rounding;
