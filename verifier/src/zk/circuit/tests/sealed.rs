//! The sealed statement: its gadgets against what they stand for, whole circuits against executors, tampering.

use haca_wire::{ModelId, RequestId};

use super::*;
use crate::seal::{self, poseidon};
use crate::zk::circuit::poseidon::Element;
use crate::zk::{Proof, VerifyingKey};

const SALT: Salt = Salt([0x5a; Salt::LEN]);

/// The integer that a circuit gives for a float, if its constraints hold.
fn quantized(bits: u32, exponent: i32, (low, high): (i64, i64)) -> i128 {
    let gadget = |builder: &mut Builder, word: &Number| {
        let float = builder.float(word);
        builder.quantized(&float, exponent, low.into(), high.into())
    };
    run(gadget, bits.into(), 0, u32::MAX.into())
}

/// A system of one float's conversion.
fn conversion(mut builder: Builder, bits: u32) -> Builder {
    let word = builder.variable(bits.into(), 0, u32::MAX.into());
    let float = builder.float(&word);
    builder.quantized(&float, 8, -32767, 32767);
    builder.key(&float);
    builder
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn floats_become_the_integers_of_the_specification(
        bits: u32,
        near in prop::option::of((-70_000i64..70_000, -2i64..3)),
        exponent in rounding::EXPONENTS,
        kind in 0usize..8,
        limit in 1u32..16,
    ) {
        // Halves, and what lies next to them; or any bits.
        let bits = near.map_or(bits, |(halves, ulps)| {
            let value = rounding::to_f32(halves, 1) * 2f32.powi(-exponent);
            (i64::from(value.to_bits()) + ulps).clamp(0, u32::MAX.into()) as u32
        });
        prop_assume!(!f32::from_bits(bits).is_nan());
        let limit = (1i64 << limit) - 1;
        let bounds = [
            (-32767, 32767), (-32768, 32767), (-limit, limit), (0, limit), (-limit / 3, limit / 2 + 1),
            (-i64::from(i32::MAX), i32::MAX.into()), (i32::MIN.into(), i32::MAX.into()), (-(1 << 61), 1 << 61),
        ][kind];
        let expected = rounding::quantize(f32::from_bits(bits), exponent, bounds.0, bounds.1);
        prop_assert_eq!(quantized(bits, exponent, bounds), i128::from(expected));
    }

    #[test]
    fn floats_have_the_keys_of_the_specification(bits: u32) {
        prop_assume!(!f32::from_bits(bits).is_nan());
        let gadget = |builder: &mut Builder, word: &Number| {
            let float = builder.float(word);
            builder.key(&float)
        };
        let key = run(gadget, bits.into(), 0, u32::MAX.into());
        prop_assert_eq!(key, rounding::key(f32::from_bits(bits)).into());
    }
}

#[test]
fn the_ends_of_the_floats_are_converted_too() {
    let ends =
        [0.0, f32::MIN_POSITIVE, 1e-45, f32::MAX, f32::INFINITY, 0.5, 1.5, 2.5, 32766.5, 32767.5, 65536.0];
    for value in ends.into_iter().flat_map(|value| [value, -value]) {
        for exponent in [-64, -1, 0, 1, 15, 96] {
            for bounds in [(-32767i64, 32767i64), (-32768, 32767), (i32::MIN.into(), i32::MAX.into()), (5, 5)]
            {
                let expected = rounding::quantize(value, exponent, bounds.0, bounds.1);
                assert_eq!(
                    quantized(value.to_bits(), exponent, bounds),
                    expected.into(),
                    "{value} {exponent}"
                );
            }
        }
    }
}

#[test]
fn what_is_no_number_has_no_witness() {
    let system = conversion(Builder::constraints(), 0).system();
    let rows: Vec<Sides> = constraints(&system).collect();
    for bits in [0x7f80_0000, 0xff80_0000, 0x7f7f_ffff] {
        assert_eq!(system.sides(&conversion(Builder::values(), bits).assignment()).err(), None);
    }
    for bits in [0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, u32::MAX] {
        assert!(f32::from_bits(bits).is_nan());
        let assignment = conversion(Builder::values(), bits).assignment();
        let broken: Vec<usize> = (0..rows.len()).filter(|row| !holds(&rows[*row], &assignment)).collect();
        // After the 32 bits, the one constraint that tells.
        assert_eq!(broken, [32], "{bits:x}");
    }
}

/// A sponge over so many elements, whose result is public.
fn sponge(mut builder: Builder, elements: &[Scalar]) -> Builder {
    let elements: Vec<Element> = elements.iter().map(|element| builder.element(*element)).collect();
    let hash = builder.hash(Scalar::from(3), &elements);
    let public = builder.public(hash.value);
    builder.enforce(&hash.combination, &Number::constant(1).combination, &public);
    builder
}

#[test]
fn the_sponge_of_the_circuit_is_the_native_one() {
    for count in 1..6usize {
        let elements: Vec<Scalar> = (0..count).map(|_| Scalar::random(OsRng)).collect();
        let (constraints, values) =
            (sponge(Builder::constraints(), &elements), sponge(Builder::values(), &elements));
        assert_eq!(constraints.len(), 243 * count.div_ceil(2) + 1);
        let assignment = values.assignment();
        assert_eq!(assignment[1], poseidon::hash(Scalar::from(3), &elements));
        assert_eq!(constraints.system().sides(&assignment).err(), None);
    }
}

/// Each constraint of a permutation defines one variable. Without it the forger says what he likes of that variable, computes
/// all others from the lie, and gets another hash.
#[test]
fn every_constraint_of_a_permutation_is_needed() {
    let elements = [Scalar::from(1), Scalar::from(2)];
    let written = sponge(Builder::constraints(), &elements);
    let count = written.len() - 1;
    let rows: Vec<Sides> = constraints(&written.system()).collect();
    let honest = sponge(Builder::values(), &elements).assignment();
    for dropped in 0..count {
        let mut builder = Builder::values();
        builder.lies = vec![(elements.len() + dropped, Lie::Value(77))];
        let forged = sponge(builder, &elements).assignment();
        let broken: Vec<usize> = (0..rows.len()).filter(|row| !holds(&rows[*row], &forged)).collect();
        assert_eq!(broken, [dropped]);
        assert_ne!(forged[1], honest[1]);
    }
}

fn gives_the_executors_integers_of_sealed_rows(model: &Arc<Model>, rows: &[Vec<u8>]) {
    let circuit = Circuit::new(Arc::clone(model), StatementKind::Sealed).unwrap();
    let mut executor = Executor::new(Arc::clone(model), 1);
    for row in rows {
        executor.stage(0, Dtype::F32, row).unwrap();
        executor.execute(1);
        let mut witness = circuit.sealed_witness(row, &SALT, &binding());
        assert_eq!(witness.output, executor.output_fixed(0));
        assert_eq!(circuit.system().sides(&witness.assignment).err(), None);
        let commitment = seal::commitment(&SALT, row);
        assert_eq!(witness.assignment[2].to_bytes_le(), commitment.0);
        // No other commitment goes with this row and salt.
        witness.assignment[2] += Scalar::ONE;
        assert!(circuit.system().sides(&witness.assignment).is_err());
    }
}

#[test]
fn sealed_circuits_give_the_executors_integers_and_cost_what_is_said() {
    for operator in ["dense", "trees"] {
        for (model, rows) in golden(operator) {
            gives_the_executors_integers_of_sealed_rows(&model, &rows[..rows.len().min(4)]);
            costs_what_is_said(&model);
        }
    }
}

fn costs_what_is_said(model: &Arc<Model>) {
    let [open, sealed] =
        StatementKind::ALL.map(|statement| Circuit::new(Arc::clone(model), statement).unwrap());
    let (constraints, terms) = (sealed.system().constraints(), sealed.system().terms());
    assert_eq!(open.size_if_sealed(), Some((constraints, terms)));
    assert_eq!(open.constraints_if_sealed(), Ok(constraints));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]

    #[test]
    fn sealed_circuits_of_random_models_give_the_executors_integers(seed: u64, kind in 0..Kind::ALL.len()) {
        let (kind, mut choices) = (Kind::ALL[kind], Choices::new(seed));
        let model = small(kind, &mut choices, 10_000);
        let rows: Vec<Vec<u8>> = (0..2).map(|_| kind.row(&mut choices, model.input_len())).collect();
        gives_the_executors_integers_of_sealed_rows(&model, &rows);
        costs_what_is_said(&model);
    }
}

#[test]
fn every_changed_variable_of_a_sealed_input_breaks_a_constraint_or_matters_to_none() {
    for operator in ["dense", "trees"] {
        let (model, rows) = golden(operator).min_by_key(|(model, _)| model.input_len()).unwrap();
        let build = |mut builder: Builder| {
            let tensor = model.tensor(model.input_index());
            let sealed = Sealed { row: &rows[0], salt: &SALT };
            // What the layers take is fixed by a public input each.
            for number in statement::sealed_input(&mut builder, tensor, sealed) {
                let public = builder.public(builder::scalar(number.value));
                builder.enforce(&number.combination, &Number::constant(1).combination, &public);
            }
            builder
        };
        let system = build(Builder::constraints()).system();
        let values = build(Builder::values());
        let free = values.free.clone();
        let mut assignment = values.assignment();
        let rows: Vec<Sides> = constraints(&system).collect();
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
                assert!(caught || harmless, "{operator}: variable {variable} by {change:?}");
            }
            assignment[variable] = honest;
        }
    }
}

/// A row's sealed leaf with its proof.
struct SealedCase {
    model: Arc<Model>,
    row: Vec<u8>,
    leaf: Leaf,
    key: VerifyingKey,
    proof: Proof,
    output: Vec<i64>,
}

fn sealed_case() -> SealedCase {
    let (model, rows) = golden("dense").next().unwrap();
    let row = rows[0].clone();
    let circuit = Circuit::new(Arc::clone(&model), StatementKind::Sealed).unwrap();
    let key = setup::development(circuit.system(), model.id(), StatementKind::Sealed, &mut OsRng).unwrap();
    let prover = Prover::new(Arc::clone(circuit.system()), key).unwrap();
    let key = prover.verifying_key().clone();
    let mut executor = Executor::new(Arc::clone(&model), 1);
    executor.stage(0, Dtype::F32, &row).unwrap();
    executor.execute(1);
    let mut floats = vec![0; 4 * model.output_len()];
    executor.write_output(0, Dtype::F32, &mut floats);
    let leaf = Leaf {
        model: ModelId(model.id()),
        sealed: true,
        input: seal::commitment(&SALT, &row),
        output: haca_wire::tensor::hash(haca_wire::Dtype::F32, model.output_shape(), &floats),
        ..leaf()
    };
    let witness = circuit.sealed_witness(&row, &SALT, &Binding::new(&leaf, &key.id()));
    let proof = prover.prove(&witness.assignment, &mut OsRng).unwrap();
    SealedCase { model, row, leaf, key, proof, output: witness.output }
}

#[test]
fn a_sealed_statement_is_proven_and_holds_for_its_receipt_alone() {
    let SealedCase { model, row, leaf, key, proof, output } = sealed_case();
    let verify = |leaf: &Leaf| {
        let Statement { inputs } = Statement::sealed(&model, &key, leaf, &output).unwrap();
        key.verify(&[Claim { proof: proof.clone(), inputs }])
    };
    assert_eq!(verify(&leaf), Ok(()));
    let other_salt = seal::commitment(&Salt([1; Salt::LEN]), &row);
    let other_row = seal::commitment(&SALT, &vec![0; row.len()]);
    for moved in [
        Leaf { request: RequestId([9; 16]), ..leaf },
        Leaf { input: other_salt, ..leaf },
        Leaf { input: other_row, ..leaf },
    ] {
        assert_eq!(verify(&moved), Err(Refused::False(vec![0])));
    }
    let refused = |leaf: &Leaf, output: &[i64]| Statement::sealed(&model, &key, leaf, output).unwrap_err();
    let open = Leaf { sealed: false, ..leaf };
    assert_eq!(refused(&open, &output), StatementError::Row(StatementKind::Open));
    assert_eq!(refused(&leaf, &output[1..]), StatementError::Bounds);
    let other: Vec<i64> = output.iter().map(|value| value / 2).collect();
    assert_eq!(refused(&leaf, &other), StatementError::Output);
    let none = Leaf { input: haca_wire::Digest([0xff; 32]), ..leaf };
    assert_eq!(refused(&none, &output), StatementError::Commitment);
    let row = Statement::new(&model, &key, &leaf, &row, &output).unwrap_err();
    assert_eq!(row, StatementError::Row(StatementKind::Sealed));
}

#[test]
fn a_key_of_one_statement_is_refused_for_the_other() {
    let SealedCase { model, row, leaf, key, output, .. } = sealed_case();
    let open = Leaf {
        sealed: false,
        input: haca_wire::tensor::hash(haca_wire::Dtype::F32, model.input_shape(), &row),
        ..leaf
    };
    let error = Statement::new(&model, &key, &open, &row, &output).unwrap_err();
    assert_eq!(error, StatementError::OtherKind { key: StatementKind::Sealed, leaf: StatementKind::Open });
    assert!(error.to_string().contains("'sealed'") && error.to_string().contains("'open'"), "{error}");

    let circuit = Circuit::new(Arc::clone(&model), StatementKind::Open).unwrap();
    let open_key = setup::development(circuit.system(), model.id(), StatementKind::Open, &mut OsRng).unwrap();
    let error = Statement::sealed(&model, open_key.verifying_key(), &leaf, &output).unwrap_err();
    assert_eq!(error, StatementError::OtherKind { key: StatementKind::Open, leaf: StatementKind::Sealed });
    // The kind is part of the key, and so of its id.
    for (key, number) in [(&key, 1), (open_key.verifying_key(), 0)] {
        let mut bytes = key.to_bytes();
        assert_eq!(bytes[11], number);
        assert_eq!(VerifyingKey::from_bytes(&bytes).unwrap().origin().statement, key.origin().statement);
        bytes[11] = 2;
        assert!(VerifyingKey::from_bytes(&bytes).is_err());
    }
}

#[test]
fn keys_of_both_statements_are_kept_side_by_side_and_not_taken_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let cache = KeyCache::new(folder.path());
    let (model, _) = golden("dense").next().unwrap();
    let [open, sealed] = StatementKind::ALL.map(|kind| Circuit::new(Arc::clone(&model), kind).unwrap());
    let made = [&open, &sealed].map(|circuit| cache.load_or_make(circuit).unwrap().verifying_key().id());
    let kept = [&open, &sealed].map(|circuit| cache.load(circuit).unwrap().unwrap().verifying_key().id());
    assert_eq!(made, kept);
    assert_ne!(made[0], made[1]);
    std::fs::copy(cache.path(&open), cache.path(&sealed)).unwrap();
    let error = cache.load(&sealed).unwrap_err().to_string();
    assert!(error.contains("other kind of statement"), "{error}");
}

#[test]
fn the_binding_of_an_open_statement_is_as_it_was_and_a_sealed_one_has_another() {
    let hash = Sha256::new_with_prefix(b"haca zk statement v1")
        .chain_update([1, 0])
        .chain_update(CIRCUIT_VERSION.to_le_bytes())
        .chain_update([0; 32])
        .chain_update([3; 32])
        .chain_update([0; 16 + 32 + 32]);
    let mut bytes: [u8; 32] = hash.finalize().into();
    bytes[0] &= 0x1f;
    assert_eq!(binding().scalar().to_bytes_be(), bytes);
    let sealed = Binding::new(&Leaf { sealed: true, ..leaf() }, &haca_wire::Digest([3; 32]));
    assert_ne!(sealed, binding());
}
