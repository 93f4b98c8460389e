//! Circuits against executors: the golden models, random gadgets, tampering.

mod sealed;

use std::path::{Path, PathBuf};

use ff::Field;
use haca_kernels::random::{Choices, Kind};
use haca_kernels::spec::{activation, curve, inverse, rounding};
use haca_kernels::view::{Activation, Requantize};
use haca_kernels::{Dtype, Executor, npy};
use haca_wire::Leaf;
use proptest::prelude::*;
use rand_core::OsRng;
use sha2::{Digest as _, Sha256};

use super::builder::Lie;
use super::mutation::holds;
use super::*;
use crate::zk::cache::{CacheError, KeyCache};
use crate::zk::reference::{Sides, constraints};
use crate::zk::{Claim, Prover, Refused, setup};

/// Compiled models of one operator with their rows.
fn golden(operator: &str) -> impl Iterator<Item = (Arc<Model>, Vec<Vec<u8>>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/tests/golden");
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let prefix = operator.to_owned();
    paths.into_iter().filter_map(move |path| {
        let stem = path.file_stem()?.to_str()?.to_owned();
        (stem.starts_with(&prefix) && path.extension()? == "haca").then(|| {
            let model = Arc::new(Model::load(&std::fs::read(&path).unwrap()).unwrap());
            let input = npy::read(path.with_file_name(format!("{stem}_input.npy"))).unwrap();
            let bytes = |row: &[f32]| row.iter().flat_map(|value| value.to_le_bytes()).collect();
            (model, (0..input.rows()).map(|row| bytes(input.row(row))).collect())
        })
    })
}

fn leaf() -> Leaf {
    Leaf::decode(&[&[1, 0, 2][..], &[0; Leaf::LEN - 3]].concat()).unwrap()
}

fn binding() -> Binding {
    Binding::new(&leaf(), &haca_wire::Digest([3; 32]))
}

fn agrees(operator: &str, models: usize) {
    let mut seen = 0;
    for (model, rows) in golden(operator) {
        seen += 1;
        gives_the_executors_integers(&model, &rows);
    }
    assert_eq!(seen, models, "{operator}");
}

fn gives_the_executors_integers(model: &Arc<Model>, rows: &[Vec<u8>]) {
    let circuit = Circuit::new(Arc::clone(model), StatementKind::Open).unwrap();
    let mut executor = Executor::new(Arc::clone(model), 1);
    for row in rows {
        executor.stage(0, Dtype::F32, row).unwrap();
        executor.execute(1);
        let witness = circuit.witness(&executor.staged(0), &binding());
        assert_eq!(witness.output, executor.output_fixed(0));
        assert_eq!(circuit.system().sides(&witness.assignment).err(), None);
    }
}

/// The next model of a kind whose circuit has about so many constraints at most, as far as can be told without writing it.
fn small(kind: Kind, choices: &mut Choices, most: usize) -> Arc<Model> {
    loop {
        let model = Model::load(&kind.file(choices)).unwrap();
        let cost = |node: Node<'_>| {
            let (inputs, outputs) =
                (model.tensor(node.inputs[0]).elements(), model.tensor(node.output).elements());
            match node.operation {
                Operation::Recurrent(layer) => inputs / layer.features() * layer.hidden() * 600,
                Operation::Trees(trees) => trees.branches().len() * 60,
                Operation::MatMul(matmul) => outputs * (matmul.inner() + 40),
                Operation::Dense(_) | Operation::Conv(_) => inputs * outputs / 4 + outputs * 60,
                Operation::Softmax(_) | Operation::LayerNorm(_) => outputs * 150,
                _ => outputs * 40,
            }
        };
        if model.nodes().map(cost).sum::<usize>() <= most {
            return Arc::new(model);
        }
    }
}

#[test]
fn circuits_of_layers_give_the_executors_integers() {
    agrees("dense", 4);
}

#[test]
fn circuits_of_trees_give_the_executors_integers() {
    agrees("trees", 4);
}

#[test]
fn circuits_of_recurrent_layers_give_the_executors_integers() {
    agrees("recurrent", 4);
}

#[test]
fn circuits_of_images_give_the_executors_integers() {
    agrees("images", 4);
}

#[test]
fn circuits_of_encoders_give_the_executors_integers() {
    agrees("encoder", 4);
}

#[test]
fn every_changed_variable_breaks_a_constraint_or_matters_to_none() {
    for (seed, kind) in Kind::ALL.into_iter().enumerate() {
        let mut choices = Choices::new(seed as u64);
        let model = small(kind, &mut choices, 8_000);
        let mut executor = Executor::new(Arc::clone(&model), 1);
        executor.stage(0, Dtype::F32, &kind.row(&mut choices, model.input_len())).unwrap();
        let mut builder = Builder::values();
        let staged = executor.staged(0);
        synthesize(&mut builder, &model, Input::Open(&staged), binding().scalar(), &mut Vec::new()).unwrap();
        let free = builder.free.clone();
        let mut assignment = builder.assignment();
        let circuit = Circuit::new(model, StatementKind::Open).unwrap();
        let system = circuit.system();
        let rows: Vec<Sides> = constraints(system).collect();
        let mut of_variable = vec![Vec::new(); assignment.len()];
        for (index, row) in rows.iter().enumerate() {
            row.iter().flatten().for_each(|(variable, _)| of_variable[*variable].push(index));
        }
        for variable in 1..assignment.len() {
            let honest = assignment[variable];
            let harmless = variable >= system.public() && free.contains(&(variable - system.public()));
            for change in [Scalar::ONE, -Scalar::ONE, Scalar::random(OsRng)] {
                assignment[variable] = honest + change;
                let caught = of_variable[variable].iter().any(|row| !holds(&rows[*row], &assignment));
                assert!(caught || harmless, "{kind:?}: variable {variable} by {change:?}");
            }
            assignment[variable] = honest;
        }
    }
}

/// A circuit of one gadget. Returns its value, if the constraints hold for it.
fn run(gadget: impl Fn(&mut Builder, &Number) -> Number, value: i128, low: i128, high: i128) -> i128 {
    let build = |mut builder: Builder| {
        let x = builder.variable(value, low, high);
        let y = gadget(&mut builder, &x);
        assert!((y.low..=y.high).contains(&y.value), "{} in {}..={}", y.value, y.low, y.high);
        let unused = Number::constant(1);
        builder.enforce(&x.combination, &unused.combination, &x.combination);
        (builder, y.value)
    };
    let (constraints, y) = build(Builder::constraints());
    let (values, same) = build(Builder::values());
    assert_eq!(y, same);
    assert_eq!(constraints.system().sides(&values.assignment()).err(), None);
    y
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn requantisation_is_that_of_the_specification(
        value in -(1i64 << 45)..1 << 45,
        room in 0i64..1 << 46,
        shift in -8i32..40,
        limit in 0u32..31,
        kind in 0usize..4,
    ) {
        let limit = (1i64 << limit) - 1;
        let (minimum, maximum) = [(0, limit), (-limit, limit), (-limit - 1, limit), (-limit / 3, limit / 2)][kind];
        let rule = Requantize { shift, minimum, maximum };
        let (low, high) = (i128::from(value - room), i128::from(value + room));
        let y = run(|builder, x| builder.requantize(x, rule), value.into(), low, high);
        prop_assert_eq!(y, rounding::requantize(value, shift, minimum, maximum).into());
    }

    #[test]
    fn gelu_is_that_of_the_specification(
        value in -(1i64 << 22)..1 << 22, shift in -2i32..9, exponent in 8i32..16, most in 0usize..4,
    ) {
        let maximum = [32767, 4000, 8191, 0][most];
        let rule = Requantize { shift, minimum: curve::gelu_least(exponent), maximum };
        let argument = rounding::requantize(value, shift, i16::MIN.into(), maximum) as i16;
        for (function, expected) in [
            (Activation::Gelu(exponent), curve::gelu(argument, exponent)),
            (Activation::GeluTanh(exponent), curve::gelu_tanh(argument, exponent)),
        ] {
            let rule = Requantize { minimum: i16::MIN.into(), ..rule };
            let y = run(|builder, x| builder.activate(x, rule, function), value.into(), -(1 << 22), 1 << 22);
            prop_assert_eq!(y, expected.into());
        }
    }

    #[test]
    fn exponentials_are_those_of_the_specification(value in 0i64..1 << 40, narrow in 0u32..40, shift in 0u32..30) {
        let value = value >> narrow;
        let argument = (value >> shift).min(curve::EXP2_MAXIMUM.into()) as i32;
        for high in [1i128 << 40, i128::from(value) + 1, i128::from(value)] {
            let y = run(|builder, x| builder.exponential(x, shift), value.into(), -high, high);
            prop_assert_eq!(y, curve::exp2(argument).into());
        }
    }

    #[test]
    fn inverses_are_those_of_the_specification(value in 1u64..1 << 52, narrow in 0u32..52, room in 0u32..20) {
        let value = (value >> narrow).max(1);
        let (low, high) = ((value >> room).max(1), value << room.min(8));
        for end in [low, high, value] {
            let (r, g) = inverse::reciprocal(end);
            let y = run(|builder, x| builder.reciprocal(x).factor, end.into(), low.into(), high.into());
            prop_assert_eq!(y, i128::from(r) << (high.ilog2() - g as u32));
            let (r, h) = inverse::inverse_root(end);
            let y = run(|builder, x| builder.inverse_root(x).factor, end.into(), low.into(), high.into());
            prop_assert_eq!(y, i128::from(r) << (high.ilog2() / 2 - h as u32));
        }
    }

    #[test]
    fn activations_are_those_of_the_specification(
        value in -(1i64 << 30)..1 << 30, shift in -2i32..18, exponent in 8i32..16,
    ) {
        let rule = Requantize { shift, minimum: i16::MIN.into(), maximum: i16::MAX.into() };
        let argument = rounding::requantize(value, shift, rule.minimum, rule.maximum) as i16;
        for (function, expected) in [
            (Activation::Sigmoid(exponent), activation::sigmoid(argument, exponent)),
            (Activation::Tanh(exponent), activation::tanh(argument, exponent)),
        ] {
            let y = run(|builder, x| builder.activate(x, rule, function), value.into(), -(1 << 30), 1 << 30);
            prop_assert_eq!(y, expected.into());
        }
        let wide = run(|builder, x| builder.wide_sigmoid(x, shift), value.into(), -(1 << 30), 1 << 30);
        prop_assert_eq!(wide, activation::wide_sigmoid(rounding::requantize(value, shift, -(1 << 62), 1 << 62)).into());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn circuits_of_random_models_give_the_executors_integers(seed: u64, kind in 0..Kind::ALL.len()) {
        let (kind, mut choices) = (Kind::ALL[kind], Choices::new(seed));
        let model = small(kind, &mut choices, 20_000);
        let rows: Vec<Vec<u8>> = (0..2).map(|_| kind.row(&mut choices, model.input_len())).collect();
        gives_the_executors_integers(&model, &rows);
    }
}

#[test]
fn a_statement_is_proven_and_holds_for_its_receipt_alone() {
    let (model, rows) = golden("dense").next().unwrap();
    let circuit = Circuit::new(Arc::clone(&model), StatementKind::Open).unwrap();
    let key = setup::development(circuit.system(), model.id(), StatementKind::Open, &mut OsRng).unwrap();
    let prover = Prover::new(Arc::clone(circuit.system()), key).unwrap();
    let key = prover.verifying_key();

    let mut executor = Executor::new(Arc::clone(&model), 1);
    executor.stage(0, Dtype::F32, &rows[0]).unwrap();
    executor.execute(1);
    let mut floats = vec![0; 4 * model.output_len()];
    executor.write_output(0, Dtype::F32, &mut floats);
    let mut leaf = leaf();
    leaf.model.0 = model.id();
    leaf.input = haca_wire::tensor::hash(haca_wire::Dtype::F32, model.input_shape(), &rows[0]);
    leaf.output = haca_wire::tensor::hash(haca_wire::Dtype::F32, model.output_shape(), &floats);

    let witness = circuit.witness(&executor.staged(0), &Binding::new(&leaf, &key.id()));
    let proof = prover.prove(&witness.assignment, &mut OsRng).unwrap();
    let statement = Statement::new(&model, key, &leaf, &rows[0], &witness.output).unwrap();
    assert_eq!(statement.inputs, witness.assignment[1..circuit.system().public()]);
    let claim = |statement: Statement| Claim { proof: proof.clone(), inputs: statement.inputs };
    assert_eq!(key.verify(&[claim(statement)]), Ok(()));

    let mut moved = leaf;
    moved.request.0[0] ^= 1;
    let statement = Statement::new(&model, key, &moved, &rows[0], &witness.output).unwrap();
    assert_eq!(key.verify(&[claim(statement)]), Err(Refused::False(vec![0])));

    let refused =
        |leaf: &Leaf, row: &[u8], output: &[i64]| Statement::new(&model, key, leaf, row, output).err();
    assert_eq!(refused(&leaf, &rows[1], &witness.output), Some(StatementError::Input));
    assert!(matches!(refused(&leaf, &rows[0][1..], &witness.output), Some(StatementError::Refused(_))));
    assert_eq!(refused(&leaf, &rows[0], &[]), Some(StatementError::Bounds));
    let mut other = witness.output.clone();
    other[0] /= 2;
    assert_eq!(refused(&leaf, &rows[0], &other), Some(StatementError::Output));
    let mut other = leaf;
    other.model.0[0] ^= 1;
    assert!(matches!(refused(&other, &rows[0], &witness.output), Some(StatementError::OtherModel { .. })));
}

#[test]
fn a_key_is_made_once_and_a_damaged_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cache = KeyCache::new(folder.path().join("keys"));
    let mut circuits = golden("dense").map(|(model, _)| Circuit::new(model, StatementKind::Open).unwrap());
    let (circuit, other) = (circuits.next().unwrap(), circuits.next().unwrap());
    assert!(cache.load(&circuit).unwrap().is_none());
    let made = cache.load_or_make(&circuit).unwrap();
    let loaded = cache.load_or_make(&circuit).unwrap();
    assert_eq!(made.verifying_key().id(), loaded.verifying_key().id());
    Prover::new(Arc::clone(circuit.system()), loaded).unwrap();

    let path = cache.path(&circuit);
    let good = std::fs::read(&path).unwrap();
    std::fs::write(cache.path(&other), &good).unwrap();
    assert!(matches!(cache.load(&other), Err(CacheError::Damaged { .. })));
    for damage in [&good[..good.len() - 1], &good[..10], &[good.clone(), vec![0]].concat()] {
        std::fs::write(&path, damage).unwrap();
        assert!(matches!(cache.load_or_make(&circuit), Err(CacheError::Damaged { .. })));
    }
    // Magic, version, lengths, the machine's generator, the verification key: each under a hash that holds.
    for at in [0, 8, 12, 16, 22, 23, 24, 48, 56, 152, 160] {
        let mut changed = good[..good.len() - 32].to_vec();
        changed[at] ^= 0x81;
        changed.extend_from_slice(&Sha256::digest(&changed));
        std::fs::write(&path, changed).unwrap();
        assert!(matches!(cache.load(&circuit), Err(CacheError::Damaged { .. })), "byte {at}");
    }
    let mut flipped = good.clone();
    flipped[2000] ^= 1;
    std::fs::write(&path, flipped).unwrap();
    assert!(matches!(cache.load_or_make(&circuit), Err(CacheError::Damaged { .. })));
    // Whole again, and checked anew.
    std::fs::write(&path, good).unwrap();
    assert_eq!(made.verifying_key().id(), cache.load(&circuit).unwrap().unwrap().verifying_key().id());
}

#[test]
fn a_mapped_key_proves_and_outlives_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let cache = KeyCache::new(folder.path());
    let (model, rows) = golden("dense").next().unwrap();
    let circuit = Circuit::new(Arc::clone(&model), StatementKind::Open).unwrap();
    let path = cache.keep(cache.load_or_make(&circuit).as_ref().unwrap()).unwrap();
    let mapped = cache.load(&circuit).unwrap().unwrap();
    std::fs::remove_file(path).unwrap();
    let prover = Prover::new(Arc::clone(circuit.system()), mapped).unwrap();
    let mut executor = Executor::new(model, 1);
    executor.stage(0, Dtype::F32, &rows[0]).unwrap();
    let witness = circuit.witness(&executor.staged(0), &binding());
    prover.prove(&witness.assignment, &mut OsRng).unwrap();
}
