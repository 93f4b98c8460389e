//! Fuzz targets of every parser of outside bytes: each takes any bytes, and must neither panic nor take more memory
//! than its input can be worth.
//!
//! `cargo test -p haca-fuzz` runs each target over its seeds and some thousand random changes of them. `bench/fuzz/run.sh` has
//! libFuzzer search for as long as it is told, guided by coverage. Both need nothing but the stable toolchain:
//! `cargo-fuzz` and `bolero` drive the same engine through sanitizers of the nightly one, which find misuse of memory;
//! here panics, arithmetic that overflows, endless loops and absurd allocations are what is looked for.
//!
//! A seed is a file in `corpus/TARGET`, or is made in `seeds` by the very encoder of what the target reads, so that it
//! keeps up with the format. What the engine finds is fixed, and the input joins `corpus/TARGET`.

pub mod memory;
mod mutate;
pub mod seeds;
mod targets;

pub use mutate::Mutations;
pub use targets::{TARGETS, Target};
