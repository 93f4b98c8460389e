//! Proofs of requests of mode `zk`: what an honest node's come to, and what is caught of one that lies.

use crate::fake::{Behaviour, KEY, PROOF_DELAY_MS, VERIFIER, connect, model, start};
use haca_client::{Client, ClientError, ClientOptions, Inference, LoggedProof, ProofState, ReceiptState};
use haca_wire::event::VerifierKey;
use haca_wire::message::proof::ProofStates;
use haca_wire::receipt::ReceiptFile;
use haca_wire::vocabulary::ProofOutcome;
use haca_wire::{Digest, Mode, RequestId, Stage};
use std::time::Duration;

/// A word of the error that finds it, and what it does to an honest answer.
type Lie<T> = (&'static str, fn(&mut T));

const ROW: [f32; 4] = [1.0, -2.5, 0.0, 3.25];

/// Asks about as many rows.
async fn ask(client: &Client, rows: usize) -> (Vec<Inference>, Vec<RequestId>) {
    let mut answers = Vec::new();
    for _ in 0..rows {
        answers.push(client.infer(&model(), Mode::Zk, &ROW).await.unwrap());
    }
    let ids = answers.iter().map(|answer| answer.leaf.request).collect();
    (answers, ids)
}

/// What the log says of receipt, proof and verdict.
async fn logged(client: &Client, state: &ProofState) -> [ReceiptState; 3] {
    let (proof, verdict) = state.events.unwrap();
    let ids = [state.id, proof.id, verdict.id];
    client.await_receipts(Stage::Checkpointed, &ids).await.unwrap().try_into().unwrap()
}

fn file(
    client: &Client,
    answer: &Inference,
    state: &ProofState,
    [receipt, proof, verdict]: &[ReceiptState; 3],
) -> Result<ReceiptFile, ClientError> {
    client.receipt_file(&answer.receipt, Some(receipt), Some(LoggedProof { state, proof, verdict }))
}

#[tokio::test]
async fn proofs_come_in_as_many_questions_as_the_limit_asks_for_and_go_into_the_receipt_files() {
    let client = connect(Behaviour::default()).await.unwrap();
    let (answers, mut ids) = ask(&client, 12).await;
    ids.push(RequestId([0; 16]));
    let states = client.await_proofs(&ids).await.unwrap();
    assert_eq!(states[12].outcome, ProofOutcome::Unknown);
    for ((answer, state), id) in answers.iter().zip(&states).zip(&ids) {
        assert_eq!((state.id, state.outcome, &state.key[..]), (*id, ProofOutcome::Proved, &KEY[..]));
        let logged = logged(&client, state).await;
        let file = file(&client, answer, state, &logged).unwrap();
        let proof = file.proof.clone().unwrap();
        assert_eq!((proof.output, &proof.key[..]), (vec![-1, 2], &KEY[..]));
        assert_eq!(proof.proof.index, file.inclusion.as_ref().unwrap().index);
        assert_eq!(proof.verdict.index, proof.proof_inclusion.index);
        assert_eq!(ReceiptFile::decode(&file.encode()), Ok(file));
    }
}

#[tokio::test]
async fn an_answer_of_mode_zk_alone_says_when_its_proof_is_expected() {
    let client = connect(Behaviour::default()).await.unwrap();
    let delay = client.infer(&model(), Mode::Zk, &ROW).await.unwrap().proof_delay;
    assert_eq!(delay, Some(Duration::from_millis(PROOF_DELAY_MS.into())));
    assert_eq!(client.infer(&model(), Mode::Tee, &ROW).await.unwrap().proof_delay, None);
}

#[tokio::test]
async fn a_refused_or_failed_proof_is_told_and_goes_into_no_file() {
    let refuse: fn(&mut ProofStates) = |states| {
        let entry = &mut states.entries[0];
        let (proof, verdict) = entry.events.as_mut().unwrap();
        *verdict = VerifierKey::from_seed(&VERIFIER).verdict(proof, verdict.index, false, verdict.time);
        entry.outcome = ProofOutcome::Refused;
    };
    let client = connect(Behaviour { proofs: refuse, ..Behaviour::default() }).await.unwrap();
    let (_, ids) = ask(&client, 1).await;
    let states = client.await_proofs(&ids).await.unwrap();
    assert_eq!(states[0].outcome, ProofOutcome::Refused);
    assert!(!states[0].events.unwrap().1.accepted);

    let fail: fn(&mut ProofStates) = |states| {
        let entry = &mut states.entries[0];
        (entry.outcome, entry.events, entry.detail) = (ProofOutcome::Failed, None, "no opening".into());
        states.keys.clear();
    };
    let client = connect(Behaviour { proofs: fail, ..Behaviour::default() }).await.unwrap();
    let (answers, ids) = ask(&client, 1).await;
    let states = client.await_proofs(&ids).await.unwrap();
    assert_eq!((states[0].outcome, states[0].detail.as_str()), (ProofOutcome::Failed, "no opening"));
    let receipt = client.await_receipts(Stage::Checkpointed, &ids).await.unwrap().remove(0);
    let error = file(&client, &answers[0], &states[0], &[receipt.clone(), receipt.clone(), receipt]);
    assert!(error.unwrap_err().to_string().contains("it is failed"));
}

#[tokio::test]
async fn what_contradicts_itself_or_the_trusted_verifier_is_refused() {
    let lies: [Lie<ProofStates>; 8] = [
        ("not signed", |states| states.entries[0].events.as_mut().unwrap().1.signature[3] ^= 1),
        ("another proof", |states| states.entries[0].events.as_mut().unwrap().0.proof[0] ^= 1),
        ("another proof", |states| states.entries[0].events.as_mut().unwrap().1.id.0[0] ^= 1),
        ("connect.toml names", |states| {
            let (proof, verdict) = states.entries[0].events.as_mut().unwrap();
            *verdict = VerifierKey::from_seed(&[0; 32]).verdict(proof, verdict.index, true, verdict.time);
        }),
        ("says otherwise", |states| states.entries[0].outcome = ProofOutcome::Refused),
        ("and there is a proof", |states| states.entries[0].outcome = ProofOutcome::Failed),
        ("and there is no proof", |states| states.entries[0].events = None),
        ("key", |states| states.keys[0].push(0)),
    ];
    for (words, proofs) in lies {
        let client = connect(Behaviour { proofs, ..Behaviour::default() }).await.unwrap();
        let (_, ids) = ask(&client, 1).await;
        let error = client.await_proofs(&ids).await.unwrap_err();
        assert!(
            matches!(error, ClientError::BadProof { request, .. } if request == ids[0]),
            "{words}: {error}"
        );
        assert!(error.to_string().contains(words), "{words}: {error}");
    }

    let mut without = start(Behaviour::default());
    without.verifier_key = None;
    let client = Client::connect(&without, ClientOptions::default()).await.unwrap();
    let (_, ids) = ask(&client, 1).await;
    let error = client.await_proofs(&ids).await.unwrap_err();
    assert!(error.to_string().contains("names no verifier"), "{error}");

    let proofs: fn(&mut ProofStates) = |states| states.entries.clear();
    let client = connect(Behaviour { proofs, ..Behaviour::default() }).await.unwrap();
    let error = client.await_proofs(&[RequestId([0; 16])]).await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
}

/// Every proof below is a good one; it is another receipt's.
#[tokio::test]
async fn another_requests_proof_goes_into_no_file() {
    let swap: fn(&mut ProofStates) = |states| states.entries.swap(0, 1);
    let client = connect(Behaviour { proofs: swap, ..Behaviour::default() }).await.unwrap();
    let (answers, ids) = ask(&client, 2).await;
    let states = client.await_proofs(&ids).await.unwrap();
    let logged = logged(&client, &states[0]).await;
    let error = file(&client, &answers[0], &states[0], &logged).unwrap_err();
    assert!(error.to_string().contains("another receipt"), "{error}");
    let error = file(&client, &answers[1], &states[0], &logged).unwrap_err();
    assert!(matches!(error, ClientError::BadInclusion { .. }), "{error}");
}

#[tokio::test]
async fn an_event_goes_into_no_file_unless_the_log_holds_it_where_the_next_one_says() {
    let client = connect(Behaviour::default()).await.unwrap();
    let (answers, ids) = ask(&client, 1).await;
    let state = client.await_proofs(&ids).await.unwrap().remove(0);
    let good = logged(&client, &state).await;
    let lies: [Lie<[ReceiptState; 3]>; 5] = [
        ("the log holds the leaf", |logged| logged[1].leaf_hash = Digest([0; 32])),
        ("not under a checkpoint", |logged| logged[2].inclusion = None),
        ("the event has the id", |logged| logged.swap(1, 2)),
        ("the log holds the receipt at", |logged| logged[0].index += 1),
        ("the log holds the proof at", |logged| logged[1].index += 1),
    ];
    for (words, lie) in lies {
        let mut logged = good.clone();
        lie(&mut logged);
        let error = file(&client, &answers[0], &state, &logged).unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    assert!(file(&client, &answers[0], &state, &good).is_ok());
}
