use haca_wire::event::{PROOF_LEN, VerifierKey};

use super::*;
use crate::attestation::Policy;
use crate::receipt::{Opened, check};
use crate::report::{Check, Report, Verdict};
use crate::specimen;

const KEY: [u8; 3] = [1, 2, 3];

fn leaf() -> Leaf {
    Leaf { mode: Mode::Zk, evidence: Digest::default(), ..specimen::leaf() }
}

fn file() -> ReceiptFile {
    specimen::proven(&leaf(), [7; PROOF_LEN], KEY.to_vec(), vec![1, 2])
}

fn holds(leaf: &Leaf, carried: &ReceiptProof, asked: Option<Asked<'_>>) -> Result<ProofKey, String> {
    assert_eq!(carried.key, KEY);
    let (index, inputs) = (specimen::ROW, specimen::inputs());
    let row = Asked::Row { index, bytes: inputs.row(index) };
    assert_eq!(asked, Some(if leaf.sealed { Asked::Sealed } else { row }));
    Ok(ProofKey { development: true })
}

fn full(file: &ReceiptFile) -> Report {
    report(file, &specimen::Shelf::new().given())
}

fn report(file: &ReceiptFile, given: &Given<'_>) -> Report {
    check(file, given, Some(&mut specimen::rerun), Some(&mut holds))
}

/// Asserts that this check failed, for a reason with this word in it, and no other.
fn assert_failed(report: &Report, expected: Check, word: &str) {
    for (check, outcome) in report.lines() {
        match outcome {
            Outcome::Failed(reason) => assert!(check == expected && reason.contains(word), "\n{report}"),
            _ => assert_ne!(check, expected, "\n{report}"),
        }
    }
}

/// Asserts that this check could not be made, and what would help.
fn assert_unchecked(report: &Report, check: Check, help: &str) {
    let Outcome::NotChecked { give, .. } = report.outcome(check) else { panic!("\n{report}") };
    assert!(give.contains(help), "\n{report}");
}

/// The verdict's leaf after a change, at its place in the log.
fn relog(file: &mut ReceiptFile, change: impl Fn(&mut ReceiptProof)) {
    let carried = file.proof.as_mut().unwrap();
    change(carried);
    carried.proof_inclusion = specimen::logged(&carried.proof.hash(), 3);
    carried.verdict_inclusion = specimen::logged(&merkle::leaf_hash(&carried.verdict.encode()), 4);
}

/// As if the verifier had looked at the proof after the change.
fn rejudge(file: &mut ReceiptFile, change: impl Fn(&mut ReceiptProof)) {
    let mut carried = file.proof.take().unwrap();
    change(&mut carried);
    let ReceiptProof { proof, key, output, .. } = carried;
    file.proof = Some(specimen::judged(proof, &specimen::VERIFIER, true, key, output));
}

#[test]
fn a_proven_receipt_holds_and_says_of_what_setup_its_key_is() {
    let report = full(&file());
    assert_eq!(report.verdict(), Verdict::Held, "\n{report}");
    let Outcome::Held(text) = report.outcome(Check::Proof) else { panic!("\n{report}") };
    assert!(text.contains("development key: whoever made it could forge"), "{text}");
}

#[test]
fn a_proof_of_a_receipt_of_another_mode_fails_and_none_is_claimed() {
    let other = specimen::file_of(&specimen::leaf());
    assert_eq!(full(&other).verdict(), Verdict::Held);
    let report = full(&ReceiptFile { proof: file().proof, ..other });
    for check in [Check::Proof, Check::Verdict] {
        let Outcome::Failed(reason) = report.outcome(check) else { panic!("\n{report}") };
        assert!(reason.contains("mode tee"), "{reason}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let shelf = specimen::Shelf::new();
    let bare = ReceiptFile { proof: None, ..file() };
    for check in [Check::Proof, Check::Verdict] {
        assert_unchecked(&full(&bare), check, "--wait proved");
    }
    assert_unchecked(&check(&file(), &shelf.given(), None, None), Check::Proof, "haca verify");
    let unlogged = ReceiptFile { inclusion: None, ..file() };
    assert_unchecked(&full(&unlogged), Check::Verdict, "--wait durable");

    let without = |given: Given<'_>| {
        let mut form = |_: &Leaf, _: &ReceiptProof, asked: Option<Asked<'_>>| {
            assert_eq!(asked, None);
            Ok(ProofKey { development: true })
        };
        check(&file(), &given, None, Some(&mut form))
    };
    assert_unchecked(&without(Given { input: None, ..shelf.given() }), Check::Proof, "--input");
    assert_unchecked(&without(Given { model: None, ..shelf.given() }), Check::Proof, "--model");

    let untrusting = report(&file(), &Given { trust: None, ..shelf.given() });
    assert_unchecked(&untrusting, Check::Proof, "--connect-keys");
    assert_unchecked(&untrusting, Check::Verdict, "--connect-keys");
    let trust = Trust { verifier_key: None, ..specimen::trust() };
    let nobody = report(&file(), &Given { trust: Some(&trust), ..shelf.given() });
    assert_unchecked(&nobody, Check::Verdict, "connect.toml");
}

#[test]
fn what_can_be_checked_without_the_model_is() {
    let shelf = specimen::Shelf::new();
    let given = Given { model: None, ..shelf.given() };
    let mut malformed =
        |_: &Leaf, _: &ReceiptProof, _: Option<Asked<'_>>| Err("point A is the identity".into());
    let report = check(&file(), &given, None, Some(&mut malformed));
    assert_failed(&report, Check::Proof, "point A");
}

#[test]
fn a_proof_of_another_receipt_or_with_another_key_fails() {
    let mut other = file();
    rejudge(&mut other, |carried| carried.proof.id.0[0] ^= 1);
    assert_failed(&full(&other), Check::Proof, "another receipt");
    let mut other = file();
    rejudge(&mut other, |carried| carried.key[0] ^= 1);
    assert_failed(&full(&other), Check::Proof, "the proof names");
}

#[test]
fn the_production_policy_refuses_a_development_key() {
    let shelf = specimen::Shelf::new();
    let given = Given { policy: Policy::PRODUCTION, ..shelf.given() };
    assert_failed(&report(&file(), &given), Check::Proof, "development key");
    let given = Given { input: None, ..given };
    let mut form = |_: &Leaf, _: &ReceiptProof, _: Option<Asked<'_>>| Ok(ProofKey { development: true });
    assert_failed(&check(&file(), &given, None, Some(&mut form)), Check::Proof, "development key");
}

#[test]
fn a_key_of_a_ceremony_must_be_given_and_one_of_development_be_named_by_the_log() {
    let shelf = specimen::Shelf::new();
    let mut ceremony = |_: &Leaf, _: &ReceiptProof, _: Option<Asked<'_>>| Ok(ProofKey { development: false });
    let mut with = |keys: &[Digest]| {
        let given = Given { policy: Policy::PRODUCTION, keys, ..shelf.given() };
        check(&file(), &given, Some(&mut specimen::rerun), Some(&mut ceremony))
    };
    assert_unchecked(&with(&[]), Check::Proof, "--key");
    assert_failed(&with(&[Digest([1; 32])]), Check::Proof, "the key given");
    let key = Digest(Sha256::digest(KEY).into());
    assert_eq!(with(&[Digest([1; 32]), key]).verdict(), Verdict::Held);

    let mut unlogged = file();
    unlogged.proof.as_mut().unwrap().proof_inclusion = specimen::logged(&Digest([1; 32]), 3);
    let report = full(&unlogged);
    assert_unchecked(&report, Check::Proof, "--key");
    assert_failed(&report, Check::Verdict, "the proof's place in the log");
}

#[test]
fn a_verdict_that_refuses_fails() {
    let mut refused = file();
    let ReceiptProof { proof, key, output, .. } = refused.proof.take().unwrap();
    refused.proof = Some(specimen::judged(proof, &specimen::VERIFIER, false, key, output));
    assert_failed(&full(&refused), Check::Verdict, "refused");
}

#[test]
fn a_verdict_of_another_verifier_fails_where_one_is_trusted() {
    let mut other = file();
    let ReceiptProof { proof, key, output, .. } = other.proof.take().unwrap();
    other.proof = Some(specimen::judged(proof, &[1; 32], true, key, output));
    assert_failed(&full(&other), Check::Verdict, "the trusted one is");
}

#[test]
fn a_verdict_on_another_proof_or_unsigned_fails_though_the_log_holds_it() {
    let mut other = file();
    relog(&mut other, |carried| carried.proof.proof[0] ^= 1);
    assert_failed(&full(&other), Check::Verdict, "the verdict is on");
    let mut other = file();
    relog(&mut other, |carried| carried.verdict.id.0[0] ^= 1);
    assert_failed(&full(&other), Check::Verdict, "id");
    for change in [
        (|verdict| verdict.signature[0] ^= 1) as fn(&mut VerdictEvent),
        |verdict| verdict.time += 1,
        |verdict| verdict.accepted = false,
    ] {
        let mut other = file();
        relog(&mut other, |carried| change(&mut carried.verdict));
        assert_failed(&full(&other), Check::Verdict, "has not signed");
    }
}

#[test]
fn events_that_name_other_places_in_the_log_fail() {
    let mut other = file();
    rejudge(&mut other, |carried| carried.proof.index = 1);
    assert_failed(&full(&other), Check::Verdict, "the log holds the receipt at 2");
    let mut other = file();
    relog(&mut other, |carried| {
        carried.verdict = VerifierKey::from_seed(&specimen::VERIFIER).verdict(&carried.proof, 1, true, 1_800);
    });
    assert_failed(&full(&other), Check::Verdict, "the log holds the proof at 3");
}

#[test]
fn events_that_are_not_in_the_trusted_log_fail() {
    let mut other = file();
    let carried = other.proof.as_mut().unwrap();
    carried.verdict_inclusion = carried.proof_inclusion.clone();
    assert_failed(&full(&other), Check::Verdict, "the verdict's place in the log");

    let mut other = file();
    let inclusion = &mut other.proof.as_mut().unwrap().verdict_inclusion;
    let root = crate::TreeHead::read_unverified(&inclusion.checkpoint).unwrap().root;
    inclusion.checkpoint = specimen::sign_checkpoint("other.example/log", 5, &root);
    assert_failed(&full(&other), Check::Verdict, "the verdict's place in the log");
    let untrusting = report(&other, &Given { trust: None, ..specimen::Shelf::new().given() });
    assert_unchecked(&untrusting, Check::Verdict, "--connect-keys");
}

/// A receipt whose leaf carries a commitment, which this crate leaves others to open.
fn sealed() -> (Leaf, ReceiptFile) {
    let leaf = Leaf { sealed: true, input: Digest([8; 32]), ..leaf() };
    (leaf, specimen::proven(&leaf, [7; PROOF_LEN], KEY.to_vec(), vec![1, 2]))
}

#[test]
fn a_proof_makes_up_for_what_a_sealed_input_keeps_from_being_checked() {
    let (_, file) = sealed();
    let shelf = specimen::Shelf::new();
    for input in [Some(&shelf.input), None] {
        let report = report(&file, &Given { input, ..shelf.given() });
        assert_eq!(report.verdict(), Verdict::Held, "\n{report}");
        assert_unchecked(&report, Check::Input, "--salts");
        assert_unchecked(&report, Check::ReExecution, "--salts");
        let Outcome::Held(text) = report.outcome(Check::Proof) else { panic!("\n{report}") };
        assert!(text.contains("the sealed input"), "{text}");
    }
    // Without the proof, or without the model, nothing makes up for them.
    let bare = ReceiptFile { proof: None, ..file.clone() };
    assert_eq!(full(&bare).verdict(), Verdict::Incomplete);
    let mut form = |_: &Leaf, _: &ReceiptProof, asked: Option<Asked<'_>>| {
        assert_eq!(asked, None);
        Ok(ProofKey { development: true })
    };
    for model in [None, Some(haca_wire::ModelId([0; 32]))] {
        let report = check(&file, &Given { model, ..shelf.given() }, None, Some(&mut form));
        assert_ne!(report.verdict(), Verdict::Held, "\n{report}");
        assert_unchecked(&report, Check::Proof, "--model");
    }
}

#[test]
fn a_sealed_input_that_opens_is_held_against_output_and_model() {
    let (_, file) = sealed();
    let shelf = specimen::Shelf::new();
    let opened = |row| report(&file, &Given { opened: Some(row), ..shelf.given() });
    let held = opened(Opened::Row(specimen::ROW));
    for check in [Check::Input, Check::Output, Check::ReExecution] {
        assert!(matches!(held.outcome(check), Outcome::Held(_)), "\n{held}");
    }
    assert_failed(&opened(Opened::NoRow("no row has it")), Check::Input, "no row has it");
    let unread = opened(Opened::NoSalt("5.salt: no such file"));
    assert!(matches!(unread.outcome(Check::Input), Outcome::NotChecked { .. }), "\n{unread}");
    let other = opened(Opened::Row(0));
    assert!(matches!(other.outcome(Check::Output), Outcome::Failed(_)), "\n{other}");
    assert!(matches!(other.outcome(Check::ReExecution), Outcome::Failed(_)), "\n{other}");
}
