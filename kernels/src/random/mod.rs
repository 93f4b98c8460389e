//! Random models and rows, each from one number: for tests of whatever computes models.

mod attention;
mod dense;
mod images;
mod recurrent;
mod trees;
#[cfg(test)]
mod windows;

use crate::model::graph::{Element, Graph, Node, Operator, Tensor};
use crate::model::{Metadata, encode};
pub(crate) use attention::encoder_of;
pub(crate) use dense::stack;
pub(crate) use images::images;
pub(crate) use recurrent::{recurrences_of, widened};
pub(crate) use trees::forest_of;
#[cfg(test)]
pub(crate) use trees::{graph_of, threshold};
#[cfg(test)]
pub(crate) use windows::windows;

/// A stream of choices from one seed, so that a failing case is one number.
#[derive(Debug, Clone)]
pub struct Choices(pub(crate) u64);

impl Choices {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Choices {
        Choices(seed)
    }

    /// Any 64 bits.
    pub fn bits(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// A number from `low` to `high`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as u64) as i64
    }
}

/// What a small random model is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Dense layers with all activations, affine layers and sums between.
    Dense,
    /// Trees of few branches.
    Trees,
    /// LSTM and GRU.
    Recurrent,
    /// The same, with sums of more than 32 bits.
    WideRecurrent,
    /// Attention, layer normalisation and GELU.
    Encoder,
    /// Convolutions, pools, moves, products, the index of the largest.
    Images,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] =
        [Kind::Dense, Kind::Trees, Kind::Recurrent, Kind::WideRecurrent, Kind::Encoder, Kind::Images];

    /// The file of a model, which [`crate::Model::load`] takes.
    pub fn file(self, choices: &mut Choices) -> Vec<u8> {
        encode(&self.graph(choices), &Metadata::default())
    }

    /// A row for a model of this kind, with infinities, ties and, for trees, thresholds exactly.
    pub fn row(self, choices: &mut Choices, len: usize) -> Vec<u8> {
        row(choices, len, self == Kind::Trees)
    }

    fn graph(self, choices: &mut Choices) -> Graph {
        match self {
            Kind::Dense => stack(choices),
            Kind::Trees => forest_of(choices, 6),
            Kind::Recurrent => recurrences_of(choices, [4; 3]),
            Kind::WideRecurrent => {
                let mut graph = recurrences_of(choices, [4; 3]);
                widened(&mut graph, choices);
                graph
            }
            Kind::Encoder => encoder_of(choices, [6, 2, 5]),
            Kind::Images => images(choices),
        }
    }
}

pub(crate) fn tensor(name: &str, len: usize, element: Element, exponent: i32, bounds: (i64, i64)) -> Tensor {
    let shape = vec![len as u32];
    let (minimum, maximum) = bounds;
    Tensor { name: name.into(), shape, element, exponent, exponents: Vec::new(), minimum, maximum }
}

pub(crate) const FULL: (i64, i64) = (-32768, 32767);

pub(crate) fn push(graph: &mut Graph, operator: Operator, inputs: Vec<usize>) {
    let output = graph.tensors.len() - 1;
    let name = format!("node {output}");
    graph.nodes.push(Node { name, source: String::new(), inputs, output, operator });
}

/// Inputs that reach saturation, ties and, for trees, thresholds exactly.
pub(crate) fn row(choices: &mut Choices, len: usize, integral: bool) -> Vec<u8> {
    let value = |choices: &mut Choices| match choices.below(12) {
        0 => f32::INFINITY,
        1 => f32::NEG_INFINITY,
        2 => -0.0,
        3 => f32::from_bits(choices.bits() as u32 & 0x7f7f_ffff),
        _ if integral => choices.between(-9, 9) as f32,
        _ => choices.between(-40_000, 40_000) as f32 / 4096.0,
    };
    (0..len).flat_map(|_| value(choices).to_le_bytes()).collect()
}
