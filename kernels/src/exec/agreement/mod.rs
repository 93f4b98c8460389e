//! All executors agree bit for bit, over random fixed-point graphs, batch sizes and slots.

mod forests;
mod streams;
mod windows;

use std::sync::Arc;

use proptest::prelude::*;

use super::{Backend, Executor, StreamExecutor};
use crate::model::graph::{Activation, Dense, Element, Graph, Node, Operator, Weights};
use crate::model::{Dtype, Metadata, Model, encode};
use crate::random::{
    Choices, encoder_of, forest_of, images, recurrences_of, row, stack, tensor, widened, windows,
};

fn forest(choices: &mut Choices) -> Graph {
    forest_of(choices, 40)
}

fn recurrences(choices: &mut Choices) -> Graph {
    recurrences_of(choices, [70, 12, 40])
}

fn encoder(choices: &mut Choices) -> Graph {
    encoder_of(choices, [40, 3, 20])
}

/// Every backend gives the reference's integers for every row, and a row's do not depend on batch, slot or neighbours.
fn agree(graph: &Graph, choices: &mut Choices, integral: bool) -> Result<(), TestCaseError> {
    let model = Arc::new(Model::load(&encode(graph, &Metadata::default())).unwrap());
    let rows: Vec<Vec<u8>> =
        (0..choices.between(1, 21)).map(|_| row(choices, model.input_len(), integral)).collect();
    agree_in(&model, &rows, choices, [rows.len(), 1, rows.len().div_ceil(2)])
}

/// The same for these rows, in batches of these sizes.
fn agree_in(
    model: &Arc<Model>,
    rows: &[Vec<u8>],
    choices: &mut Choices,
    batches: impl IntoIterator<Item = usize> + Clone,
) -> Result<(), TestCaseError> {
    let mut alone = Executor::with_backend(Arc::clone(model), 1, Backend::Scalar);
    let expected: Vec<Vec<i64>> = rows
        .iter()
        .map(|row| {
            alone.stage(0, Dtype::F32, row).unwrap();
            alone.execute(1);
            alone.output_fixed(0).to_vec()
        })
        .collect();
    for backend in Backend::available() {
        let mut executor = Executor::with_backend(Arc::clone(model), rows.len() + 2, backend);
        let rotation = choices.below(rows.len() as u64) as usize;
        for count in batches.clone() {
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

    #[test]
    fn executors_agree_on_recurrent_layers_with_wide_sums(seed: u64) {
        let mut choices = Choices(seed);
        let mut graph = recurrences(&mut choices);
        widened(&mut graph, &mut choices);
        agree(&graph, &mut choices, false)?;
    }

    #[test]
    fn executors_agree_on_encoders(seed: u64) {
        let mut choices = Choices(seed);
        let graph = encoder(&mut choices);
        agree(&graph, &mut choices, false)?;
    }

    #[test]
    fn executors_agree_on_images(seed: u64) {
        let mut choices = Choices(seed);
        let graph = images(&mut choices);
        agree(&graph, &mut choices, false)?;
    }

    /// A changed or truncated file is refused, or is another model; and whatever loads, runs.
    #[test]
    fn damaged_files_are_refused_or_run(seed: u64, changes in 1usize..4, truncate: bool) {
        let mut choices = Choices(seed);
        let graph = match choices.below(6) {
            0 => stack(&mut choices),
            1 => forest(&mut choices),
            2 => images(&mut choices),
            3 => encoder(&mut choices),
            4 => windows(&mut choices),
            _ => recurrences(&mut choices),
        };
        let file = encode(&graph, &Metadata::default());
        let id = Model::load(&file).unwrap().id();
        let mut damaged = file.clone();
        for _ in 0..changes {
            let at = choices.below(damaged.len() as u64) as usize;
            damaged[at] = choices.bits() as u8;
        }
        if truncate {
            damaged.truncate(choices.below(damaged.len() as u64) as usize);
        }
        if let Ok(model) = Model::load(&damaged) {
            prop_assert_eq!(model.id() == id, damaged == file);
            let model = Arc::new(model);
            if let Ok(stream) = model.stream() {
                let step = row(&mut choices, stream.step_len(), true);
                let mut executor = StreamExecutor::new(Arc::new(stream), 1);
                let states = executor.stream().initial_states().to_vec();
                executor.stage(0, Dtype::F32, &step, &states).unwrap();
                executor.execute(1);
            }
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
        ("images", images as Maker, false),
        ("encoder", encoder as Maker, false),
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
