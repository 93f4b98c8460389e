//! Every target over its seeds, and over random changes of them.

use haca_fuzz::{Mutations, TARGETS, Target, seeds};

/// Changed inputs for each target, spread over its seeds. `HACA_FUZZ_RUNS` asks for more.
const RUNS: usize = 4_000;

fn run(name: &str) {
    let target = Target::named(name).expect("there is such a target");
    let seeds = seeds::of(target);
    assert!(!seeds.is_empty(), "{name} has no seeds");
    for (seed, bytes) in &seeds {
        println!("{name}: seed {seed}");
        target.run(bytes);
    }
    let runs = std::env::var("HACA_FUZZ_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    for (index, (seed, bytes)) in seeds.iter().enumerate() {
        let other = &seeds[(index * 7 + 1) % seeds.len()].1;
        for (number, changed) in
            Mutations::new(bytes, other, index as u64).take(runs.div_ceil(seeds.len())).enumerate()
        {
            let outcome = std::panic::catch_unwind(|| target.run(&changed));
            assert!(outcome.is_ok(), "{name}: change {number} of seed {seed} failed");
        }
    }
}

#[test]
fn changed_onnx_files_are_refused_or_compile_to_what_all_executors_agree_on() {
    run("onnx");
}

#[test]
fn changed_compiled_models_are_refused_or_run_alike_on_all_executors() {
    run("haca");
}

#[test]
fn a_compiled_model_with_any_one_byte_changed_is_refused_or_runs() {
    let target = Target::named("haca").expect("there is such a target");
    let (_, smallest) = seeds::of(target).into_iter().min_by_key(|(_, bytes)| bytes.len()).expect("seeds");
    for at in 0..smallest.len() {
        for byte in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut changed = smallest.clone();
            changed[at] = byte;
            target.run(&changed);
        }
    }
}

#[test]
fn changed_arrays_are_read_or_refused() {
    run("npy");
}

#[test]
fn streams_give_the_same_frames_in_whatever_pieces_they_come() {
    run("frame");
}

#[test]
fn changed_messages_are_read_or_refused() {
    run("message");
}

#[test]
fn changed_receipts_are_reported_on() {
    run("receipt");
}

#[test]
fn changed_checkpoints_are_refused() {
    run("checkpoint");
}

#[test]
fn changed_evidence_is_refused() {
    run("evidence");
}

#[test]
fn every_target_is_run_here() {
    assert_eq!(TARGETS.len(), 8, "a new target needs a test above, and a name in run.sh");
}
