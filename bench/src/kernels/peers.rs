//! Who else runs the cases.

use super::models::Case;
use super::turns::Runner;

/// Another executor with a model loaded.
pub(super) trait Peer: Runner {
    /// Its name in tables and in JSON.
    fn name(&self) -> &'static str;

    /// Its answers to rows that lie one after the other.
    fn answers(&mut self, rows: &[f32]) -> anyhow::Result<Vec<f32>>;
}

/// What the peers need, loaded once.
#[cfg(not(feature = "peers"))]
pub(super) struct Peers;

/// Their names.
#[cfg(not(feature = "peers"))]
pub(super) const PEERS: [&str; 0] = [];

#[cfg(not(feature = "peers"))]
impl Peers {
    pub(super) fn load() -> anyhow::Result<Self> {
        Ok(Self)
    }

    pub(super) fn load_case(&self, _: Case) -> [anyhow::Result<Box<dyn Peer>>; 0] {
        []
    }
}

#[cfg(feature = "peers")]
pub(super) use with_peers::{PEERS, Peers};

#[cfg(feature = "peers")]
mod with_peers {
    use std::hint::black_box;

    use super::{Case, Peer, Runner};
    use crate::{onnxruntime, tract};

    pub(in crate::kernels) const PEERS: [&str; 2] = ["onnxruntime", "tract"];

    pub(in crate::kernels) struct Peers(onnxruntime::Library);

    impl Peers {
        pub(in crate::kernels) fn load() -> anyhow::Result<Self> {
            Ok(Self(onnxruntime::Library::load(&onnxruntime::library()?)?))
        }

        /// Each of [`PEERS`] with the case's model, or why it does not run it.
        pub(in crate::kernels) fn load_case(&self, case: Case) -> [anyhow::Result<Box<dyn Peer>>; 2] {
            let onnx = case.onnx();
            [
                self.0.model(&onnx, case.row()).map(|model| Box::new(model) as Box<dyn Peer>),
                tract::Model::load(&onnx, case.row()).map(|model| Box::new(model) as Box<dyn Peer>),
            ]
        }
    }

    impl Peer for onnxruntime::Model {
        fn name(&self) -> &'static str {
            PEERS[0]
        }

        fn answers(&mut self, rows: &[f32]) -> anyhow::Result<Vec<f32>> {
            onnxruntime::Model::run(self, rows)
        }
    }

    impl Runner for onnxruntime::Model {
        fn run(&mut self, rows: &[f32]) -> anyhow::Result<()> {
            onnxruntime::Model::run(self, rows).map(|answers| drop(black_box(answers)))
        }
    }

    impl Peer for tract::Model {
        fn name(&self) -> &'static str {
            PEERS[1]
        }

        fn answers(&mut self, rows: &[f32]) -> anyhow::Result<Vec<f32>> {
            tract::Model::run(self, rows)
        }
    }

    impl Runner for tract::Model {
        fn run(&mut self, rows: &[f32]) -> anyhow::Result<()> {
            tract::Model::run(self, rows).map(|answers| drop(black_box(answers)))
        }
    }
}
