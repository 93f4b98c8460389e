//! Offline checks of receipts, log proofs and attestation evidence.
//!
//! Nothing here asks a network or a clock: what is checked follows from the receipt file, from what the verifier
//! trusts ([`Trust`]) and from what it was given beside them ([`receipt::Given`]). The result is a [`Report`]: a
//! fixed list of checks, each of which held, failed, or could not be made for want of something that is named.
//!
//! The operator is never trusted. A receipt that passes says: the holder of this node key signed this leaf; the log
//! that signs with this key holds it; the input and output at hand are the ones it names; the model at hand, run
//! again, gives the same bits; and in mode `zk`, a proof says so, which the trusted verifier accepted.

pub mod attestation;
#[cfg(feature = "audit")]
pub mod audit;
mod checkpoint;
pub mod receipt;
mod report;
mod rows;
#[cfg(feature = "seal")]
pub mod seal;
#[cfg(test)]
mod specimen;
mod trust;
#[cfg(feature = "zk")]
pub mod zk;

pub use attestation::Policy;
pub use checkpoint::{CheckpointError, LogKey, TreeHead};
pub use report::{Check, Outcome, Report, Verdict};
pub use rows::{Rows, RowsError};
pub use trust::Trust;
