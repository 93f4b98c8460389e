//! The shipped models, compiled with default options, against ONNX Runtime's answers to the same rows (`bench/models/`).
//!
//! The table is kept in `ACCURACY.md`, which `HACA_REGENERATE=1` writes anew.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use haca_kernels::import::{CompileOptions, Compiled, compile};
use haca_kernels::{Backend, Dtype, Executor, Model, npy};

/// What a model's answers are held to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit {
    /// Of the range of the output.
    Share(f64),
    /// Of each answer, or of 1 where it is smaller: trees, whose rows all reach the leaves they reach in floats.
    Relative(f64),
}

const NET: Limit = Limit::Share(1e-3);
const TREES: Limit = Limit::Relative(1e-6);

/// Name, name of its rows, limit, and what it is.
const MODELS: &[(&str, &str, Limit, &str)] = &[
    ("mlp", "mlp", NET, "perceptron 64-64-32-10"),
    ("lstm", "recurrent", NET, "LSTM, 2 layers of 24, windows of 20 × 6"),
    ("gru", "recurrent", NET, "GRU, 2 layers of 24, windows of 20 × 6"),
    ("pipeline_linear", "diabetes", NET, "scikit-learn: scaler, linear regression"),
    ("pipeline_logistic", "cancer", NET, "scikit-learn: scaler, logistic regression"),
    ("pipeline_mlp", "cancer", NET, "scikit-learn: scaler, perceptron 30-24-12-1, classifier"),
    ("transformer", "transformer", NET, "encoder, 2 layers of 32, windows of 32 × 8"),
    ("orderbook", "orderbook", NET, "convolutions over a limit order book of 40 × 10 levels, LSTM of 32"),
    ("keras/mlp", "keras/mlp", NET, "Keras: perceptron with batch normalisation, softmax"),
    ("keras/conv1d", "keras/conv1d", NET, "Keras: causal and dilated convolutions, pools"),
    ("keras/residual", "keras/residual", NET, "Keras: causal convolutions with ways around them"),
    ("keras/orderbook", "keras/orderbook", NET, "Keras: convolutions, branches, LSTM, softmax"),
    ("keras/slopes", "keras/slopes", NET, "Keras: convolutions by channel, slopes by channel"),
    ("keras/separable", "keras/separable", NET, "Keras: separable convolution, layer normalisation"),
    ("keras/separable_18", "keras/separable", NET, "the same, opset 18"),
    ("keras/attention", "keras/attention", NET, "Keras: attention of two heads, layer normalisation, GELU"),
    ("keras/attention_18", "keras/attention", NET, "the same, opset 18"),
    ("keras/causal", "keras/causal", NET, "Keras: the same with a causal mask"),
    ("keras/gates", "keras/gates", NET, "Keras: products, maxima, joined features"),
    ("keras/lstm", "keras/lstm", NET, "Keras: LSTM, 2 layers of 8"),
    ("keras/lstm_steps", "keras/lstm_steps", NET, "Keras: LSTM with an answer for each step"),
    ("keras/gru", "keras/gru", NET, "Keras: GRU, 2 layers of 8, from loops"),
    ("keras/gru_18", "keras/gru", NET, "the same, opset 18"),
    ("keras/gru_plain", "keras/gru_plain", NET, "Keras: GRU without biases, from a loop"),
    ("keras/gru_unrolled", "keras/gru_unrolled", NET, "Keras: GRU with its steps written out"),
    ("gbt", "gbt", TREES, "scikit-learn: 150 trees of depth 4"),
    ("lightgbm_regressor", "diabetes", TREES, "LightGBM: 60 trees"),
    ("lightgbm_classifier", "cancer", TREES, "LightGBM: 60 trees, two classes"),
    ("xgboost_regressor", "diabetes", TREES, "XGBoost: 60 trees"),
    ("xgboost_classifier", "cancer", TREES, "XGBoost: 60 trees, two classes"),
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/models").join(name)
}

fn compiled(name: &str, rows: &str) -> Compiled {
    let onnx = std::fs::read(path(&format!("{name}.onnx"))).unwrap();
    let calibration = npy::read(path(&format!("{rows}_calibration.npy"))).unwrap();
    let compiled = compile(&onnx, &calibration, &CompileOptions::default(), &mut |_| {});
    compiled.unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Outputs of all rows on every backend, which must agree, in batches of 7.
fn run(model: &Arc<Model>, rows: &npy::Array) -> Vec<f32> {
    let mut results: Vec<Vec<f32>> = Vec::new();
    for backend in Backend::available() {
        let mut executor = Executor::with_backend(Arc::clone(model), 7, backend);
        let mut outputs = Vec::new();
        let indices: Vec<usize> = (0..rows.rows()).collect();
        for batch in indices.chunks(7) {
            for (slot, &row) in batch.iter().enumerate() {
                let bytes: Vec<u8> = rows.row(row).iter().flat_map(|x| x.to_le_bytes()).collect();
                executor.stage(slot, Dtype::F32, &bytes).unwrap();
            }
            executor.execute(batch.len());
            for slot in 0..batch.len() {
                let mut bytes = vec![0; model.output_len() * 4];
                executor.write_output(slot, Dtype::F32, &mut bytes);
                outputs.extend(bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)));
            }
        }
        results.push(outputs);
    }
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "executors disagree");
    results.remove(0)
}

/// How answers compare with the reference.
struct Agreement {
    range: f64,
    /// Of the range.
    largest: f64,
    /// Of the range.
    mean: f64,
    /// Of each answer, or of 1 where that is more.
    relative: f64,
    correlation: f64,
}

impl Agreement {
    fn new(answers: &[f32], reference: &[f32]) -> Agreement {
        assert_eq!(answers.len(), reference.len());
        let pairs = || answers.iter().zip(reference).map(|(&a, &b)| (f64::from(a), f64::from(b)));
        let count = answers.len() as f64;
        let (low, high) = pairs().fold((f64::MAX, f64::MIN), |(low, high), (_, b)| (low.min(b), high.max(b)));
        let range = high - low;
        let errors = || pairs().map(|(a, b)| (a - b).abs());
        let (mean_a, mean_b) =
            (pairs().map(|p| p.0).sum::<f64>() / count, pairs().map(|p| p.1).sum::<f64>() / count);
        let moment = |of: fn(f64, f64) -> f64| pairs().map(|(a, b)| of(a - mean_a, b - mean_b)).sum::<f64>();
        Agreement {
            range,
            largest: errors().fold(0.0, f64::max) / range,
            mean: errors().sum::<f64>() / count / range,
            relative: pairs().map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f64::max),
            correlation: moment(|a, b| a * b) / (moment(|a, _| a * a) * moment(|_, b| b * b)).sqrt(),
        }
    }
}

#[test]
fn shipped_models_are_as_accurate_as_they_are_held_to() {
    let mut text = String::from(
        "# Accuracy of the shipped models\n\n\
         Compiled with default options and run on held-out rows, against the answers of ONNX Runtime that are stored \
         beside the models (`bench/models/README.md`). All executors give the same bits. Written by\n\n\
         \x20   HACA_REGENERATE=1 cargo test -p haca-kernels --test accuracy\n\n\
         and checked by the same test without it: nets to a largest error of 1e-3 of the output's range; trees to a \
         relative error of 1e-6 (of 1 where an answer is smaller), and to the leaves that the float model reaches, \
         to whose exact sums the last column compares.\n\n\
         | model | what | rows | sums | largest error, of range | mean error, of range | relative error | 1 - correlation | \
         from exact sums, of range |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    let mut wrong = Vec::new();
    for &(name, rows, limit, what) in MODELS {
        let compiled = compiled(name, rows);
        let model = Arc::new(Model::load(&compiled.file).unwrap());
        let reference = npy::read(path(&format!("{name}_reference.npy"))).unwrap();
        let input = npy::read(path(&format!("{rows}_input.npy"))).unwrap();
        let agreement = Agreement::new(&run(&model, &input), &reference.data);
        let own = if let Limit::Relative(limit) = limit {
            // Compiling trees fits nothing to rows: on the held-out ones it compares with the float model's leaves.
            let onnx = std::fs::read(path(&format!("{name}.onnx"))).unwrap();
            let again = compile(&onnx, &input, &CompileOptions::default(), &mut |_| {}).unwrap();
            let error = again.report.relative_error();
            if agreement.relative > limit || error > limit {
                wrong.push(format!(
                    "{name}: {:.1e} of an answer, {error:.1e} from exact sums",
                    agreement.relative
                ));
            }
            format!("{error:.1e}")
        } else {
            "-".into()
        };
        if let Limit::Share(limit) = limit
            && agreement.largest > limit
        {
            wrong.push(format!("{name}: {:.1e} of a range of {:.2e}", agreement.largest, agreement.range));
        }
        let sums = compiled.report.layers.iter().map(|layer| layer.layer.accumulator_bits).max().unwrap();
        let Agreement { largest, mean, relative, correlation, .. } = agreement;
        writeln!(
            text,
            "| `{name}` | {what} | {} | {sums} bit | {largest:.1e} | {mean:.1e} | {relative:.1e} | {:.0e} | {own} |",
            input.rows(),
            1.0 - correlation
        )
        .unwrap();
    }
    println!("{text}");
    if std::env::var_os("HACA_REGENERATE").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("ACCURACY.md"), &text).unwrap();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn recurrent_nets_keep_their_last_step_alone() {
    for name in ["lstm", "gru"] {
        let compiled = compiled(name, "recurrent");
        let operators: Vec<&str> = compiled.report.layers.iter().map(|layer| layer.layer.operator).collect();
        assert_eq!(operators, [name, name, "dense"]);
        let model = Model::load(&compiled.file).unwrap();
        assert_eq!((model.input_shape(), model.output_shape()), (&[20, 6][..], &[1][..]));
    }
}
