//! All executors agree bit for bit, over random fixed-point graphs, batch sizes and slots.

use std::sync::Arc;

use proptest::prelude::*;

use super::{Backend, Executor};
use crate::model::graph::{
    Activation, Affine, Cell, Dense, Element, Finish, Graph, Node, Operator, Recurrent, Tensor, Trees,
    Weights,
};
use crate::model::{Dtype, Metadata, Model, encode};
use crate::spec::activation::one;

/// A stream of choices from one seed, so that a failing case is one number.
struct Choices(u64);

impl Choices {
    fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn between(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as u64) as i64
    }
}

fn tensor(name: &str, len: usize, element: Element, exponent: i32, bounds: (i64, i64)) -> Tensor {
    let shape = vec![len as u32];
    let (minimum, maximum) = bounds;
    Tensor { name: name.into(), shape, element, exponent, exponents: Vec::new(), minimum, maximum }
}

const FULL: (i64, i64) = (-32768, 32767);

/// A stack of dense layers with every activation, weight width and accumulator width, with an affine layer and a
/// residual sum between.
fn stack(choices: &mut Choices) -> Graph {
    let mut graph = Graph { tensors: Vec::new(), nodes: Vec::new(), input: 0, output: 0 };
    let len = choices.between(1, 70) as usize;
    graph.tensors.push(tensor("x", len, Element::I16, 12, FULL));
    let layers = choices.between(1, 4);
    for layer in 0..layers {
        let last = layer + 1 == layers;
        let input = graph.tensors.len() - 1;
        let (inputs, exponent) = (graph.tensors[input].len(), graph.tensors[input].exponent);
        let outputs = choices.between(1, 90) as usize;
        let activation = [Activation::None, Activation::Sigmoid, Activation::Tanh][choices.below(3) as usize];
        let mut output = match (activation, choices.below(4)) {
            (Activation::Sigmoid, narrower) => {
                let exponent = 15 - 2 * narrower as i32;
                tensor("s", outputs, Element::I16, exponent, (0, one(exponent)))
            }
            (Activation::Tanh, narrower) => {
                let exponent = 15 - narrower as i32;
                tensor("t", outputs, Element::I16, exponent, (-one(exponent), one(exponent)))
            }
            (_, 0) => tensor("relu", outputs, Element::I16, 11, (0, 8191)),
            (_, 1) => tensor("narrow", outputs, Element::I16, 9, (-2047, 1000)),
            _ => tensor("y", outputs, Element::I16, 12, FULL),
        };
        if last && activation == Activation::None {
            let limit = i64::from(i32::MAX);
            output = tensor("out", outputs, Element::I32, choices.between(10, 16) as i32, (-limit, limit));
        }
        // Small weights keep sums in 32 bits, large ones do not.
        let bound = [100, 2000, 32767][choices.below(3) as usize];
        let mut weight = || choices.between(-bound, bound);
        let weights = if bound == 100 {
            Weights::I8((0..inputs * outputs).map(|_| weight() as i8).collect())
        } else {
            Weights::I16((0..inputs * outputs).map(|_| weight() as i16).collect())
        };
        let (argument, ..) = activation.argument(&output);
        let count = if choices.below(2) == 0 { 1 } else { outputs };
        let shift = if output.element == Element::I32 { (-2, 12) } else { (0, 22) };
        let mut weight_exponent = || choices.between(shift.0, shift.1) as i32 + argument - exponent;
        let weight_exponents = (0..count).map(|_| weight_exponent()).collect();
        let bias = (0..outputs).map(|_| choices.between(-1 << 24, 1 << 24)).collect();
        graph.tensors.push(output);
        let dense = Dense { weights, weight_exponents, bias, activation };
        push(&mut graph, Operator::Dense(dense), vec![input]);
        if !last {
            between(choices, &mut graph);
        }
    }
    graph.output = graph.tensors.len() - 1;
    graph
}

/// Sometimes an elementwise layer after a dense one.
fn between(choices: &mut Choices, graph: &mut Graph) {
    let input = graph.tensors.len() - 1;
    let len = graph.tensors[input].len();
    let exponent = graph.tensors[input].exponent;
    match choices.below(4) {
        0 => {
            graph.tensors.push(tensor("affine", len, Element::I16, 12, FULL));
            let affine = Affine {
                multipliers: (0..len).map(|_| choices.next() as i32 >> 8).collect(),
                offsets: (0..len).map(|_| choices.between(-1 << 30, 1 << 30)).collect(),
                shifts: (0..len).map(|_| choices.below(40) as u8).collect(),
            };
            push(graph, Operator::Affine(affine), vec![input]);
        }
        1 => {
            graph.tensors.push(tensor("sum", len, Element::I16, exponent - 1, FULL));
            push(graph, Operator::Add, vec![input, input]);
        }
        2 => {
            graph.tensors.push(tensor("map", len, Element::I16, 15, (-32767, 32767)));
            push(graph, Operator::Map(Activation::Tanh), vec![input]);
        }
        _ => {}
    }
}

/// One or two recurrent layers and a dense one, of both kinds, with sums of both widths.
fn recurrences(choices: &mut Choices) -> Graph {
    let mut graph = Graph { tensors: Vec::new(), nodes: Vec::new(), input: 0, output: 0 };
    let steps = choices.between(1, 70) as usize;
    let mut features = choices.between(1, 12) as usize;
    graph.tensors.push(tensor("x", steps * features, Element::I16, 11, FULL));
    let layers = choices.between(1, 2);
    for layer in 0..layers {
        let input = graph.tensors.len() - 1;
        let cell = [Cell::Lstm, Cell::Gru][choices.below(2) as usize];
        let hidden = choices.between(1, 40) as usize;
        let (rows, last_only) = (cell.gates() * hidden, layer + 1 == layers && choices.below(2) == 0);
        let exponent = choices.between(8, 15) as i32;
        let one = one(exponent);
        let len = hidden * if last_only { 1 } else { steps };
        let output = tensor("h", len, Element::I16, exponent, (-one, one));
        // The sums' scale, and that of the input's products: narrow sums need small weights.
        let narrow = choices.below(4) != 0;
        let mut sums: Vec<i32> = (0..rows).map(|_| choices.between(14, 27) as i32).collect();
        let weight = |choices: &mut Choices, narrow: i64| {
            let bound = if choices.below(8) == 0 { 0 } else { narrow };
            choices.between(-bound, bound) as i16
        };
        let (small, large) = if narrow { (900, 4000) } else { (32767, 32767) };
        if !narrow {
            sums.iter_mut().for_each(|sum| *sum += choices.between(0, 14) as i32);
        }
        let input_exponent = graph.tensors[input].exponent;
        let states = choices.below(3) == 0;
        let cell_exponent = choices.between(16, 26) as i32;
        let most = if cell == Cell::Gru { 1 << cell_exponent } else { 1 << 30 };
        let layer = Recurrent {
            cell,
            input_weights: (0..rows * features).map(|_| weight(choices, large)).collect(),
            input_exponents: sums
                .iter()
                .map(|sum| sum - input_exponent + choices.between(0, 6) as i32)
                .collect(),
            recurrent_weights: (0..rows * hidden).map(|_| weight(choices, small)).collect(),
            recurrent_exponents: sums.iter().map(|sum| sum - exponent).collect(),
            bias: (0..rows).map(|_| choices.between(-1 << 26, 1 << 26)).collect(),
            recurrent_bias: match cell {
                Cell::Lstm => Vec::new(),
                Cell::Gru => (0..hidden).map(|_| choices.between(-1 << 26, 1 << 26)).collect(),
            },
            cell_exponent,
            initial_hidden: match cell {
                Cell::Lstm if states => (0..hidden).map(|_| choices.between(-one, one) as i16).collect(),
                _ => Vec::new(),
            },
            initial_cell: match states {
                true => (0..hidden).map(|_| choices.between(-most, most) as i32).collect(),
                false => Vec::new(),
            },
            last_only,
        };
        graph.tensors.push(output);
        push(&mut graph, Operator::Recurrent(layer), vec![input]);
        features = hidden;
    }
    graph.output = graph.tensors.len() - 1;
    graph
}

fn push(graph: &mut Graph, operator: Operator, inputs: Vec<usize>) {
    let output = graph.tensors.len() - 1;
    let name = format!("node {output}");
    graph.nodes.push(Node { name, source: String::new(), inputs, output, operator });
}

/// Trees of all shapes, from single leaves to chains, with few features so that thresholds meet inputs.
fn forest(choices: &mut Choices) -> Graph {
    forest_of(choices, 40)
}

/// Trees of at most so many branches: small ones are compared as bits, large ones walked.
fn forest_of(choices: &mut Choices, largest: i64) -> Graph {
    let features = choices.between(1, 12) as usize;
    let targets = choices.between(1, 3) as usize;
    let finish = match (targets, choices.below(5)) {
        (1, 0) => Finish::Complement,
        (1, 1) => Finish::Negate,
        (1, 2) => Finish::LogisticPair,
        (_, 3) => Finish::Logistic,
        _ => Finish::Sum,
    };
    let mut trees = Trees {
        tree_nodes: vec![0],
        roots: Vec::new(),
        features: Vec::new(),
        thresholds: Vec::new(),
        when_true: Vec::new(),
        when_false: Vec::new(),
        leaf_entries: vec![0],
        entry_targets: Vec::new(),
        entry_values: Vec::new(),
        base: (0..targets).map(|_| choices.between(-1 << 40, 1 << 40)).collect(),
        sum_exponent: 30,
        finish,
    };
    for _ in 0..choices.between(1, 30) {
        let (start, nodes) = (trees.features.len() as i64, choices.between(0, largest));
        let mut leaf = |choices: &mut Choices| {
            for _ in 0..choices.below(3) {
                trees.entry_targets.push(choices.below(targets as u64) as u16);
                trees.entry_values.push(choices.next() as i32);
            }
            trees.leaf_entries.push(trees.entry_values.len() as u32);
            !(trees.leaf_entries.len() as i32 - 2)
        };
        let mut child = |choices: &mut Choices, after: i64| {
            if after < start + nodes && choices.below(4) != 0 {
                choices.between(after, (after + 2).min(start + nodes - 1)) as i32
            } else {
                leaf(choices)
            }
        };
        let root = child(choices, start);
        trees.roots.push(if nodes > 0 && choices.below(8) != 0 { start as i32 } else { root });
        for node in start..start + nodes {
            trees.when_true.push(child(choices, node + 1));
            trees.when_false.push(child(choices, node + 1));
        }
        for _ in 0..nodes {
            trees.features.push(choices.below(features as u64) as u32);
            let extremes = [i32::MIN, -0x7f80_0000, -1, 0, 0x7f7f_ffff, 0x7f80_0000, i32::MAX];
            trees.thresholds.push(match choices.below(8) {
                0 => extremes[choices.below(7) as usize],
                _ => crate::spec::rounding::key(choices.between(-8, 8) as f32),
            });
        }
        trees.tree_nodes.push(trees.features.len() as u32);
    }
    let logistic = matches!(finish, Finish::Logistic | Finish::LogisticPair);
    let bound = 1 << 62;
    let mut graph = Graph {
        tensors: vec![
            tensor("x", features, Element::Key, 0, (-0x7f80_0000, 0x7f80_0000)),
            tensor("y", finish.outputs(targets), Element::I64, 30, (-bound, bound)),
        ],
        nodes: Vec::new(),
        input: 0,
        output: 1,
    };
    assert!(!logistic || graph.tensors[1].exponent == crate::spec::activation::WIDE_OUTPUT_EXPONENT);
    push(&mut graph, Operator::Trees(trees), vec![0]);
    graph
}

/// Inputs that reach saturation, ties and, for trees, thresholds exactly.
fn row(choices: &mut Choices, len: usize, integral: bool) -> Vec<u8> {
    let value = |choices: &mut Choices| match choices.below(12) {
        0 => f32::INFINITY,
        1 => f32::NEG_INFINITY,
        2 => -0.0,
        3 => f32::from_bits(choices.next() as u32 & 0x7f7f_ffff),
        _ if integral => choices.between(-9, 9) as f32,
        _ => choices.between(-40_000, 40_000) as f32 / 4096.0,
    };
    (0..len).flat_map(|_| value(choices).to_le_bytes()).collect()
}

/// Every backend gives the reference's integers for every row, and a row's do not depend on batch, slot or neighbours.
fn agree(graph: &Graph, choices: &mut Choices, integral: bool) -> Result<(), TestCaseError> {
    let model = Arc::new(Model::load(&encode(graph, &Metadata::default())).unwrap());
    let rows: Vec<Vec<u8>> =
        (0..choices.between(1, 21)).map(|_| row(choices, model.input_len(), integral)).collect();
    let mut alone = Executor::with_backend(Arc::clone(&model), 1, Backend::Scalar);
    let expected: Vec<Vec<i64>> = rows
        .iter()
        .map(|row| {
            alone.stage(0, Dtype::F32, row).unwrap();
            alone.execute(1);
            alone.output_fixed(0).to_vec()
        })
        .collect();
    for backend in Backend::available() {
        let mut executor = Executor::with_backend(Arc::clone(&model), rows.len() + 2, backend);
        let rotation = choices.below(rows.len() as u64) as usize;
        for count in [rows.len(), 1, rows.len().div_ceil(2)] {
            for slot in 0..count {
                executor.stage(slot, Dtype::F32, &rows[(slot + rotation) % rows.len()]).unwrap();
            }
            executor.execute(count);
            for slot in 0..count {
                let expected = &expected[(slot + rotation) % rows.len()];
                prop_assert_eq!(
                    executor.output_fixed(slot),
                    &expected[..],
                    "{} slot {}",
                    backend.name(),
                    slot
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn executors_agree_on_dense_stacks(seed: u64) {
        let mut choices = Choices(seed);
        let graph = stack(&mut choices);
        agree(&graph, &mut choices, false)?;
    }

    #[test]
    fn executors_agree_on_tree_ensembles(seed: u64) {
        let mut choices = Choices(seed);
        let graph = forest(&mut choices);
        agree(&graph, &mut choices, true)?;
    }

    #[test]
    fn executors_agree_on_small_trees(seed: u64) {
        let mut choices = Choices(seed);
        let graph = forest_of(&mut choices, 6);
        agree(&graph, &mut choices, true)?;
    }

    #[test]
    fn executors_agree_on_recurrent_layers(seed: u64) {
        let mut choices = Choices(seed);
        let graph = recurrences(&mut choices);
        agree(&graph, &mut choices, false)?;
    }

    /// A changed or truncated file is refused, or is another model; and whatever loads, runs.
    #[test]
    fn damaged_files_are_refused_or_run(seed: u64, changes in 1usize..4, truncate: bool) {
        let mut choices = Choices(seed);
        let graph = match choices.below(3) {
            0 => stack(&mut choices),
            1 => forest(&mut choices),
            _ => recurrences(&mut choices),
        };
        let file = encode(&graph, &Metadata::default());
        let id = Model::load(&file).unwrap().id();
        let mut damaged = file.clone();
        for _ in 0..changes {
            let at = choices.below(damaged.len() as u64) as usize;
            damaged[at] = choices.next() as u8;
        }
        if truncate {
            damaged.truncate(choices.below(damaged.len() as u64) as usize);
        }
        if let Ok(model) = Model::load(&damaged) {
            prop_assert_eq!(model.id() == id, damaged == file);
            let model = Arc::new(model);
            for backend in Backend::available() {
                let mut executor = Executor::with_backend(Arc::clone(&model), 2, backend);
                let row = row(&mut choices, model.input_len(), true);
                executor.stage(1, Dtype::F32, &row).unwrap();
                executor.execute(2);
            }
        }
    }
}

/// The widest sum that is proven to fit 32 bits is reached exactly, and one more takes 64.
#[test]
fn accumulators_are_exact_at_the_edge_of_their_proof() {
    let (limit, top) = (i64::from(i32::MAX), 32767);
    for (beyond, bits) in [(0, 32), (1, 64)] {
        for sign in [1, -1] {
            let bias = sign * (limit + beyond - 2 * top * top) - i64::from(sign < 0);
            let graph = Graph {
                tensors: vec![
                    tensor("x", 2, Element::I16, 0, (-top, top)),
                    tensor("y", 1, Element::I32, -4, (-limit, limit)),
                ],
                nodes: vec![Node {
                    name: "edge".into(),
                    source: String::new(),
                    inputs: vec![0],
                    output: 1,
                    operator: Operator::Dense(Dense {
                        weights: Weights::I16(vec![sign as i16 * 32767; 2]),
                        weight_exponents: vec![-4],
                        bias: vec![bias],
                        activation: Activation::None,
                    }),
                }],
                input: 0,
                output: 1,
            };
            let model = Arc::new(Model::load(&encode(&graph, &Metadata::default())).unwrap());
            assert_eq!(model.layers().next().unwrap().accumulator_bits, bits, "{sign} {beyond}");
            let row: Vec<u8> = [f32::INFINITY; 2].iter().flat_map(|value| value.to_le_bytes()).collect();
            for backend in Backend::available() {
                let mut executor = Executor::with_backend(Arc::clone(&model), 1, backend);
                executor.stage(0, Dtype::F32, &row).unwrap();
                executor.execute(1);
                let expected = (sign * (limit + beyond) - i64::from(sign < 0)).clamp(-limit, limit);
                assert_eq!(executor.output_fixed(0), [expected], "{}", backend.name());
            }
        }
    }
}

#[test]
fn rows_of_the_wrong_length_type_or_with_nan_are_refused() {
    let graph = stack(&mut Choices(7));
    let model = Arc::new(Model::load(&encode(&graph, &Metadata::default())).unwrap());
    let mut executor = Executor::new(Arc::clone(&model), 1);
    let mut row = vec![0; model.input_len() * 4];
    assert!(matches!(executor.stage(0, Dtype::F32, &row[1..]), Err(super::InputError::Length { .. })));
    let last = model.input_len() - 1;
    row[last * 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert_eq!(executor.stage(0, Dtype::F32, &row), Err(super::InputError::Nan { element: last }));
    let forest = forest(&mut Choices(7));
    let model = Arc::new(Model::load(&encode(&forest, &Metadata::default())).unwrap());
    assert!(!model.accepts(Dtype::I16));
    let mut executor = Executor::new(Arc::clone(&model), 1);
    let row = vec![0; model.input_len() * 2];
    assert_eq!(executor.stage(0, Dtype::I16, &row), Err(super::InputError::Dtype));
}

/// Rewrites `tests/golden/`: `HACA_REGENERATE=1 cargo test -p haca-kernels golden_models`. The integers are the
/// reference executor's; a change of any is a change of the semantics, and needs a new file version.
#[test]
fn golden_models_are_made_from_seeds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    type Maker = fn(&mut Choices) -> Graph;
    let kinds = [
        ("dense", stack as Maker, false),
        ("trees", forest as Maker, true),
        ("recurrent", recurrences as Maker, false),
    ];
    for (kind, make, integral) in kinds {
        let small = (0..).map(Choices).filter_map(|mut choices| {
            let graph = make(&mut choices);
            let file = encode(&graph, &Metadata::default());
            (file.len() < 8000 && graph.nodes.len() > usize::from(!integral)).then_some((choices, file))
        });
        for (index, (mut choices, file)) in small.take(4).enumerate() {
            let model = Arc::new(Model::load(&file).unwrap());
            let rows: Vec<Vec<u8>> = (0..6).map(|_| row(&mut choices, model.input_len(), integral)).collect();
            if std::env::var_os("HACA_REGENERATE").is_none() {
                continue;
            }
            let mut executor = Executor::with_backend(Arc::clone(&model), 1, Backend::Scalar);
            let mut text = String::new();
            for row in &rows {
                executor.stage(0, Dtype::F32, row).unwrap();
                executor.execute(1);
                let integers: Vec<String> = executor.output_fixed(0).iter().map(i64::to_string).collect();
                text += &(integers.join(" ") + "\n");
            }
            let floats =
                rows.concat().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            let input = crate::npy::Array { shape: vec![rows.len(), model.input_len()], data: floats };
            std::fs::write(format!("{folder}/{kind}{index}.haca"), &file).unwrap();
            std::fs::write(format!("{folder}/{kind}{index}.txt"), text).unwrap();
            crate::npy::write(format!("{folder}/{kind}{index}_input.npy"), &input).unwrap();
        }
    }
}
