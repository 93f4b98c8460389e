//! The models of this comparison: the shapes are those that trading firms publish figures for, and weights and rows are
//! made from seeds; the limit-order-book net is the trained one of `bench/models/`, with its own rows.

use clap::ValueEnum;
use haca_kernels::npy;

use crate::nets::{Random, lstm, perceptron, trees};
use crate::onnx;

/// A model that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Case {
    /// Multilayer perceptron 64-256-256-1, ReLU.
    Mlp,
    /// 250 boosted trees of 31 leaves on 60 features.
    #[value(name = "gbt_a")]
    GbtA,
    /// 1,000 boosted trees of 31 leaves on 125 features.
    #[value(name = "gbt_b")]
    GbtB,
    /// 4,000 boosted trees of 31 leaves on 1,000 features.
    #[value(name = "gbt_c")]
    GbtC,
    /// A window of 50 × 100 through two LSTM layers of 100 units.
    #[value(name = "lstm_a")]
    LstmA,
    /// The newest step of a stream of `lstm_a`, against the peer's whole window.
    #[value(name = "lstm_a step", alias = "lstm_a_step")]
    LstmAStep,
    /// A window of 100 × 250 through three LSTM layers of 200 units.
    #[value(name = "lstm_b")]
    LstmB,
    /// The shipped encoder: a window of 32 × 8 through two layers of width 32. Its weights are trained.
    Transformer,
    /// Convolutions over 40 updates of 10 levels on both sides of a limit order book, and an LSTM: `bench/models/`.
    Orderbook,
    /// The newest step of a stream of `orderbook`, whose window slides, against the peer's whole window.
    #[value(name = "orderbook step", alias = "orderbook_step")]
    OrderbookStep,
}

const ORDERBOOK: &[u8] = include_bytes!("../../models/orderbook.onnx");
const ORDERBOOK_CALIBRATION: &[u8] = include_bytes!("../../models/orderbook_calibration.npy");
const ORDERBOOK_ROWS: &[u8] = include_bytes!("../../models/orderbook_input.npy");

impl Case {
    /// Its name in tables, in JSON and on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::GbtA => "gbt_a",
            Self::GbtB => "gbt_b",
            Self::GbtC => "gbt_c",
            Self::LstmA => "lstm_a",
            Self::LstmAStep => "lstm_a step",
            Self::LstmB => "lstm_b",
            Self::Transformer => "transformer",
            Self::Orderbook => "orderbook",
            Self::OrderbookStep => "orderbook step",
        }
    }

    /// Whether ours takes the newest step alone, of a stream that has taken the others.
    pub(super) fn is_step(self) -> bool {
        matches!(self, Self::LstmAStep | Self::OrderbookStep)
    }

    /// Shape of an input row.
    pub(super) fn row(self) -> &'static [usize] {
        match self {
            Self::Mlp => &[64],
            Self::GbtA => &[60],
            Self::GbtB => &[125],
            Self::GbtC => &[1000],
            Self::LstmA | Self::LstmAStep => &[50, 100],
            Self::LstmB => &[100, 250],
            Self::Transformer => &[32, 8],
            Self::Orderbook | Self::OrderbookStep => &[1, 40, 40],
        }
    }

    /// Rows that the compiler fits scales to: few where its float model takes long.
    pub(super) fn calibration_rows(self) -> usize {
        match self {
            Self::Mlp | Self::GbtA | Self::GbtB | Self::GbtC | Self::Transformer => 64,
            Self::LstmA | Self::LstmAStep => 16,
            Self::LstmB => 4,
            Self::Orderbook | Self::OrderbookStep => 40,
        }
    }

    /// The model's ONNX file, with one float as answer for each row.
    pub(super) fn onnx(self) -> Vec<u8> {
        let mut random = Random(self as u64 + 1);
        let (nodes, constants) = match self {
            Self::Mlp => perceptron(&mut random, &[64, 256, 256, 1]),
            Self::GbtA => (vec![trees(&mut random, 250, 60)], vec![]),
            Self::GbtB => (vec![trees(&mut random, 1000, 125)], vec![]),
            Self::GbtC => (vec![trees(&mut random, 4000, 1000)], vec![]),
            Self::LstmA | Self::LstmAStep => lstm(&mut random, 100, 100, 2),
            Self::LstmB => lstm(&mut random, 250, 200, 3),
            Self::Transformer => return include_bytes!("../../models/transformer.onnx").to_vec(),
            Self::Orderbook | Self::OrderbookStep => return ORDERBOOK.to_vec(),
        };
        onnx::model(self.name(), self.row(), nodes, constants)
    }

    /// Rows to fit scales to.
    pub(super) fn calibration(self) -> Vec<f32> {
        match self {
            Self::Orderbook | Self::OrderbookStep => shipped(ORDERBOOK_CALIBRATION),
            _ => self.rows(1, self.calibration_rows()),
        }
    }

    /// Rows to ask it about.
    pub(super) fn rows(self, seed: u64, rows: usize) -> Vec<f32> {
        if matches!(self, Self::Orderbook | Self::OrderbookStep) {
            let len = rows * self.row().iter().product::<usize>();
            return shipped(ORDERBOOK_ROWS).into_iter().cycle().take(len).collect();
        }
        let mut random = Random(seed << 32 | self as u64);
        (0..rows * self.row().iter().product::<usize>()).map(|_| random.normal()).collect()
    }
}

fn shipped(npy: &[u8]) -> Vec<f32> {
    npy::parse(npy).expect("the shipped rows are committed as npy files").data
}
