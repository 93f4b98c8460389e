use haca_wire::sign::SIGNATURE_LEN;
use haca_wire::{NodeId, RequestId};
use proptest::prelude::*;

use super::*;
use crate::report::Verdict;
use crate::specimen;

const NOTHING: Given<'_> = Given {
    trust: None,
    policy: Policy::DEVELOPMENT,
    input: None,
    output: None,
    model: None,
    keys: &[],
    opened: None,
};

fn full(file: &ReceiptFile) -> Report {
    check(file, &specimen::Shelf::new().given(), Some(&mut specimen::rerun), None)
}

/// Asserts that exactly these checks failed.
fn assert_failed(report: &Report, expected: &[Check]) {
    let failed: Vec<Check> = report
        .lines()
        .filter(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
        .map(|(check, _)| check)
        .collect();
    assert_eq!(failed, expected, "\n{report}");
}

fn unchecked(report: &Report) -> Vec<Check> {
    let unchecked = |outcome: &Outcome| matches!(outcome, Outcome::NotChecked { .. });
    report.lines().filter(|(_, outcome)| unchecked(outcome)).map(|(check, _)| check).collect()
}

#[test]
fn with_everything_at_hand_everything_holds() {
    let report = full(&specimen::file_of(&specimen::leaf()));
    assert_eq!(report.verdict(), Verdict::Held, "\n{report}");
}

#[test]
fn with_nothing_at_hand_only_the_receipt_itself_is_checked() {
    let report = check(&specimen::file_of(&specimen::leaf()), &NOTHING, None, None);
    assert_failed(&report, &[]);
    let missing = [
        Check::NodeKey,
        Check::Evidence,
        Check::Checkpoint,
        Check::Input,
        Check::Output,
        Check::Model,
        Check::ReExecution,
    ];
    assert_eq!(unchecked(&report), missing, "\n{report}");
    for (check, outcome) in report.lines() {
        if let Outcome::NotChecked { why, give } = outcome {
            assert!(!why.is_empty() && !give.is_empty(), "{check}");
        }
    }
}

#[test]
fn a_file_without_proof_or_evidence_says_what_to_give() {
    let mut file = specimen::file_of(&specimen::leaf());
    file.inclusion = None;
    file.evidence = None;
    let report = full(&file);
    assert_failed(&report, &[]);
    assert_eq!(unchecked(&report), [Check::Evidence, Check::Inclusion, Check::Checkpoint]);
}

#[test]
fn vanilla_needs_no_evidence_and_no_signature_but_tee_does() {
    let vanilla = Leaf { mode: Mode::Vanilla, evidence: Digest::default(), ..specimen::leaf() };
    let mut file = specimen::file_of(&vanilla);
    assert_eq!(full(&file).verdict(), Verdict::Held);
    file.receipt.signature = None;
    assert_eq!(unchecked(&full(&file)), [Check::Signature]);

    let bare = Leaf { evidence: Digest::default(), ..specimen::leaf() };
    let mut file = specimen::file_of(&bare);
    file.receipt.signature = None;
    assert_failed(&full(&file), &[Check::Signature, Check::Evidence]);
}

#[test]
fn evidence_that_the_leaf_does_not_name_fails() {
    let bare = Leaf { mode: Mode::Vanilla, evidence: Digest::default(), ..specimen::leaf() };
    let file = ReceiptFile { evidence: Some(specimen::evidence()), ..specimen::file_of(&bare) };
    assert_failed(&full(&file), &[Check::Evidence]);
    let mut file = specimen::file_of(&specimen::leaf());
    file.evidence.as_mut().unwrap().push(0);
    assert_failed(&full(&file), &[Check::Evidence]);
}

#[test]
fn the_production_policy_refuses_development_evidence_whoever_issued_it() {
    let (shelf, file) = (specimen::Shelf::new(), specimen::file_of(&specimen::leaf()));
    for trust in [Some(&shelf.trust), None] {
        let given = Given { policy: Policy::PRODUCTION, trust, ..shelf.given() };
        assert_failed(&check(&file, &given, Some(&mut specimen::rerun), None), &[Check::Evidence]);
    }
}

#[test]
fn a_receipt_of_another_node_fails_by_its_key() {
    let mut shelf = specimen::Shelf::new();
    shelf.trust.node_key = NodeId([1; 32]);
    let file = specimen::file_of(&specimen::leaf());
    assert_failed(&check(&file, &shelf.given(), Some(&mut specimen::rerun), None), &[Check::NodeKey]);
}

#[test]
fn evidence_is_reported_with_the_word_development() {
    let file = specimen::file_of(&specimen::leaf());
    for given in [NOTHING, specimen::Shelf::new().given()] {
        for policy in [Policy::DEVELOPMENT, Policy::PRODUCTION] {
            let report = check(&file, &Given { policy, ..given }, None, None);
            let (Outcome::Held(text) | Outcome::Failed(text) | Outcome::NotChecked { why: text, .. }) =
                report.outcome(Check::Evidence);
            assert!(text.contains("development"), "{text}");
        }
    }
}

#[test]
fn a_proof_of_another_leaf_or_another_tree_fails() {
    let mut file = specimen::file_of(&specimen::leaf());
    let other = specimen::file_of(&Leaf { request: RequestId([9; 16]), ..specimen::leaf() });
    file.inclusion = other.inclusion;
    assert_failed(&full(&file), &[Check::Inclusion]);

    let mut file = specimen::file_of(&specimen::leaf());
    file.inclusion.as_mut().unwrap().tree_size = 6;
    assert_failed(&full(&file), &[Check::Inclusion]);
}

#[test]
fn an_input_output_or_model_that_is_not_at_hand_fails() {
    let shelf = specimen::Shelf::new();
    let file = specimen::file_of(&specimen::leaf());
    let given = Given { input: Some(&shelf.output), ..shelf.given() };
    let report = check(&file, &given, Some(&mut specimen::rerun), None);
    assert_failed(&report, &[Check::Input]);
    assert_eq!(unchecked(&report), [Check::ReExecution]);

    let given = Given { output: Some(&shelf.input), ..shelf.given() };
    assert_failed(&check(&file, &given, Some(&mut specimen::rerun), None), &[Check::Output]);

    let given = Given { model: Some(ModelId([0; 32])), ..shelf.given() };
    let report = check(&file, &given, Some(&mut specimen::rerun), None);
    assert_failed(&report, &[Check::Model]);
    assert_eq!(unchecked(&report), [Check::ReExecution]);
}

#[test]
fn the_answer_to_another_row_fails_although_both_are_at_hand() {
    let other = tensor_hash(&specimen::outputs(), specimen::ROW + 1);
    let report = full(&specimen::file_of(&Leaf { output: other, ..specimen::leaf() }));
    assert_failed(&report, &[Check::Output, Check::ReExecution]);
}

#[test]
fn a_model_that_refuses_the_row_fails_with_its_reason() {
    let file = specimen::file_of(&specimen::leaf());
    let report =
        check(&file, &specimen::Shelf::new().given(), Some(&mut |_, _| Err("element 3 is NaN".into())), None);
    assert_failed(&report, &[Check::ReExecution]);
    assert!(matches!(report.outcome(Check::ReExecution), Outcome::Failed(reason) if reason.contains("NaN")));
}

fn tensor_hash(rows: &Rows, index: usize) -> Digest {
    haca_wire::tensor::hash(haca_wire::Dtype::F32, &[2], rows.row(index))
}

/// A FlatBuffer has some bytes that say nothing (padding). A change of any other byte is seen.
#[test]
fn no_single_byte_of_a_file_can_be_changed_unseen() {
    let (file, shelf) = (specimen::file_of(&specimen::leaf()), specimen::Shelf::new());
    let mut bytes = file.encode();
    for at in 0..bytes.len() {
        bytes[at] ^= 0x41;
        let report = check_bytes(&bytes, &shelf.given(), Some(&mut specimen::rerun), None);
        if report.verdict() == Verdict::Held {
            assert_eq!(ReceiptFile::decode(&bytes).as_ref(), Ok(&file), "byte {at} was changed");
        }
        bytes[at] ^= 0x41;
    }
}

proptest! {
    #[test]
    fn a_changed_byte_of_a_file_is_seen_unless_it_says_nothing(at in any::<prop::sample::Index>(), change in 1u8..) {
        let file = specimen::file_of(&specimen::leaf());
        let mut bytes = file.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let report = check_bytes(&bytes, &specimen::Shelf::new().given(), Some(&mut specimen::rerun), None);
        if report.verdict() == Verdict::Held {
            prop_assert_eq!(ReceiptFile::decode(&bytes), Ok(file), "byte {} was changed", at);
        }
    }

    #[test]
    fn a_changed_bit_of_the_content_fails_a_check(
        part in 0usize..8, at in any::<prop::sample::Index>(), bit in 0u32..8,
    ) {
        let mut file = specimen::file_of(&specimen::leaf());
        let inclusion = file.inclusion.as_mut().unwrap();
        let mask = 1u8 << bit;
        match part {
            0 => file.receipt.leaf[at.index(Leaf::LEN)] ^= mask,
            1 => file.receipt.index ^= 1 << at.index(32),
            2 => file.receipt.batch_size ^= 1 << at.index(32),
            3 => file.receipt.path[at.index(3)].0[(bit * 4) as usize] ^= mask,
            4 => file.receipt.signature.as_mut().unwrap()[at.index(SIGNATURE_LEN)] ^= mask,
            5 => inclusion.index ^= 1 << at.index(64),
            6 => inclusion.path[at.index(3)].0[(bit * 4) as usize] ^= mask,
            _ => {
                let evidence = file.evidence.as_mut().unwrap();
                let at = at.index(evidence.len());
                evidence[at] ^= mask;
            }
        }
        let report = full(&file);
        prop_assert_eq!(report.verdict(), Verdict::Failed, "\n{}", report);
    }

    #[test]
    fn any_bytes_get_a_report(bytes in prop::collection::vec(any::<u8>(), 0..600), magic: bool) {
        let magic: &[u8] = if magic { haca_wire::receipt::FILE_MAGIC } else { &[] };
        let report = check_bytes(&[magic, &bytes].concat(), &specimen::Shelf::new().given(), None, None);
        prop_assert_ne!(report.verdict(), Verdict::Held);
    }
}
