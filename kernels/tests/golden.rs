//! Golden vectors: models, inputs and the exact integers they give, on every executor; and the single rules.
//!
//! The files pin the semantics of `SPEC.md`: another executor or a circuit is right if it gives these integers.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use haca_kernels::spec::recurrence::States;
use haca_kernels::spec::{activation, curve, gate, inverse, layer_norm, rounding, softmax};
use haca_kernels::{Backend, Dtype, Executor, Model, npy};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

#[test]
fn golden_models_give_their_integers_on_every_executor() {
    let mut models = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "haca") {
            continue;
        }
        models += 1;
        let model = Arc::new(Model::load(&std::fs::read(&path).unwrap()).unwrap());
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let input = npy::read(folder().join(format!("{stem}_input.npy"))).unwrap();
        let expected = std::fs::read_to_string(path.with_extension("txt")).unwrap();
        let expected: Vec<Vec<i64>> = expected
            .lines()
            .map(|line| line.split(' ').map(|integer| integer.parse().unwrap()).collect())
            .collect();
        assert_eq!(expected.len(), input.rows(), "{stem}");
        for backend in Backend::available() {
            let mut executor = Executor::with_backend(Arc::clone(&model), input.rows(), backend);
            for slot in 0..input.rows() {
                let row: Vec<u8> = input.row(slot).iter().flat_map(|value| value.to_le_bytes()).collect();
                executor.stage(slot, Dtype::F32, &row).unwrap();
            }
            executor.execute(input.rows());
            for (slot, expected) in expected.iter().enumerate() {
                assert_eq!(executor.output_fixed(slot), expected, "{stem} row {slot} on {}", backend.name());
            }
        }
    }
    assert_eq!(models, 20);
}

/// Arguments of each rule that reach its edges, and what it gives.
fn rules() -> String {
    let mut text = String::from("# rule, arguments, = result; kernels/SPEC.md says what they mean\n");
    for value in [0, 1, 3, 5, -1, -3, -5, 1 << 40, -(1 << 40), i64::MAX, i64::MIN] {
        for shift in [-31, -1, 0, 1, 2, 31, 62] {
            let result = rounding::requantize(value, shift, -32768, 32767);
            text += &format!("requantize {value} {shift} -32768 32767 = {result}\n");
        }
    }
    let infinity = f32::INFINITY.to_bits();
    for bits in
        [0, 1 << 31, 1, 0x3f80_0000, 0xbfc0_0000, 0x4b00_0001, infinity, infinity | 1 << 31, 0xff7f_ffff]
    {
        let float = f32::from_bits(bits);
        text += &format!("key {bits:#010x} = {}\n", rounding::key(float));
        for exponent in [-3, 0, 1, 12, 96] {
            text += &format!(
                "quantize {bits:#010x} {exponent} -32768 32767 = {}\n",
                rounding::quantize(float, exponent, -32768, 32767)
            );
        }
    }
    for value in [0, 1, -1, 16_777_217, 16_777_219, i64::MAX, i64::MIN] {
        for exponent in [-64, 0, 31, 96] {
            text += &format!(
                "to_f32 {value} {exponent} = {:#010x}\n",
                rounding::to_f32(value, exponent).to_bits()
            );
        }
    }
    for x in (i16::MIN..=i16::MAX).step_by(1021).chain([-1, 0, 1, i16::MAX]) {
        for exponent in [8, 12, 15] {
            text += &format!("sigmoid {x} {exponent} = {}\n", activation::sigmoid(x, exponent));
            text += &format!("tanh {x} {exponent} = {}\n", activation::tanh(x, exponent));
        }
        let wide = i64::from(x) * 769;
        text += &format!("wide_sigmoid {wide} = {}\n", activation::wide_sigmoid(wide));
        text += &format!("gate_sigmoid {x} = {}\n", gate::sigmoid(x));
        text += &format!("gate_tanh {x} = {}\n", gate::tanh(x));
    }
    for x in (0..=curve::EXP2_MAXIMUM).step_by(16_381).chain([1, curve::EXP2_MAXIMUM]) {
        text += &format!("exp2 {x} = {}\n", curve::exp2(x));
    }
    for x in (i16::MIN..=i16::MAX).step_by(1021).chain([-1, 0, 1, i16::MAX]) {
        for exponent in [8, 12, 15] {
            text += &format!("gelu {x} {exponent} = {}\n", curve::gelu(x, exponent));
            text += &format!("gelu_tanh {x} {exponent} = {}\n", curve::gelu_tanh(x, exponent));
        }
    }
    for x in (0..60).flat_map(|bit| [1u64 << bit, (1 << bit) + (1 << bit) / 3, (2 << bit) - 1]) {
        let ((r, g), (root, h)) = (inverse::reciprocal(x), inverse::inverse_root(x));
        text += &format!("reciprocal {x} = {r} {g}\ninverse_root {x} = {root} {h}\n");
    }
    let scale = softmax::Scale { multiplier: 774_541_002, shift: 23 };
    for below in [0, 1, 7, 100, 5000, 20_000, 1 << 30] {
        text += &format!(
            "exponential {} {} {below} = {}\n",
            scale.multiplier,
            scale.shift,
            scale.exponential(below)
        );
    }
    for (length, sum, squares, epsilon) in
        [(1, 5, 25, 1), (32, -640, 90_000, 7), (4096, 32_767, 32_767 * 32_767, 1 << 40)]
    {
        let moments = layer_norm::Moments::new(length, sum, squares, epsilon);
        for x in [0, 1, -300, 32_767] {
            let result = moments.normalized(length, x);
            text += &format!("normalized {length} {sum} {squares} {epsilon} {x} = {result}\n");
        }
    }
    for (cell, hidden) in [(16, 8), (24, 13), (26, 15)] {
        let states = States { cell, hidden };
        for (a, b, c, d) in
            [(0, 0, 0, 0), (3000, -1000, 5000, 9000), (i16::MAX, i16::MAX, i16::MAX, i16::MIN)]
        {
            for state in [0, -(1 << cell), 1 << 30, -(1 << 30)] {
                let (next, output) = states.lstm([a, b, c, d], state);
                text += &format!("lstm {cell} {hidden} {a} {b} {c} {d} {state} = {next} {output}\n");
                let state = state.clamp(-(1 << cell), 1 << cell);
                let candidate = states.reset(b, d.into(), i64::from(c) << 10, 24);
                let (next, output) = states.gru(a, candidate, state);
                text += &format!("reset {b} {d} {} 24 = {candidate}\n", i64::from(c) << 10);
                text += &format!("gru {cell} {hidden} {a} {candidate} {state} = {next} {output}\n");
            }
        }
    }
    text
}

#[test]
fn golden_rules_give_their_results() {
    let path = folder().join("rules.txt");
    if std::env::var_os("HACA_REGENERATE").is_some() {
        std::fs::write(&path, rules()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    for (committed, computed) in committed.lines().zip(rules().lines()) {
        assert_eq!(committed, computed);
    }
    assert_eq!(committed.lines().count(), rules().lines().count());
}
