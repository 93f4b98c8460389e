//! Load generator and side-by-side comparisons for HACA.
//!
//! Each comparison is a module and a subcommand of its own; [`load`] makes the load, [`report`] prints.

mod affinity;
mod comparison;
mod groth16;
mod infer;
mod kernels;
mod load;
mod nets;
mod onnx;
#[cfg(feature = "peers")]
mod onnxruntime;
mod report;
mod rpc;
mod server_process;
#[cfg(feature = "peers")]
mod tract;
mod zkml;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures HACA beside what it is judged against. All figures of a row come from the same run.
#[derive(Parser)]
#[command(name = "haca-bench", version)]
struct Arguments {
    #[command(subcommand)]
    comparison: Comparison,
}

#[derive(Subcommand)]
enum Comparison {
    /// Compare a 64-byte echo over QUIC implementations, down to bare UDP as the floor.
    Rpc(rpc::Options),
    /// Compare a small model behind HACA with ONNX Runtime behind gRPC.
    Infer(infer::Options),
    /// Compare the executors with ONNX Runtime, in one process and on one thread.
    Kernels(kernels::Options),
    /// Compare proving, verifying and setup with other implementations of Groth16 over BLS12-381.
    Groth16(groth16::Options),
    /// Compare proofs of what a model answered with EZKL.
    Zkml(zkml::Options),
    /// Be a server of `rpc`.
    #[command(hide = true)]
    ServeEcho(rpc::serve::Options),
    /// Be a server of `infer`.
    #[command(hide = true)]
    ServeModel(infer::serve::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().comparison {
        Comparison::Rpc(options) => rpc::run(&options),
        Comparison::Infer(options) => infer::run(&options),
        Comparison::Kernels(options) => kernels::run(&options),
        Comparison::Groth16(options) => groth16::run(&options),
        Comparison::Zkml(options) => zkml::run(&options),
        Comparison::ServeEcho(options) => rpc::serve::run(options),
        Comparison::ServeModel(options) => infer::serve::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("haca-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
