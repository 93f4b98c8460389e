//! The client against a node on loopback that was written for these tests.

// A test that panics where the fake node is broken has said enough.
#![allow(clippy::unwrap_used)]

mod fake;
mod honest;
mod lies;
mod proofs;
