//! Mode `zk` through a running `haca up`: every answer is proven, once, whatever happens to the prover; what cannot be
//! proven is refused at the request.
//!
//! By default short runs, so that they belong to the ordinary tests. Many kills, and a prover that is asked for more than
//! it can prove:
//!
//! ```sh
//! HACA_KILLS=20 HACA_PROOFS=200 cargo test --release -p haca-control-plane --test proving -- --nocapture
//! ```
#![allow(clippy::unwrap_used)] // A test that cannot go on fails there.

mod events;
mod node;

use events::events;
use haca_client::{Call, Client, ClientError};
use haca_control_plane::shipped::SHIPPED;
use haca_verifier::seal::commitment;
use haca_verifier::zk::CIRCUIT_VERSION;
use haca_wire::event::proof_id;
use haca_wire::tensor::TensorView;
use haca_wire::vocabulary::ProofOutcome;
use haca_wire::{Digest, Dtype, Mode, RequestId, Salt, Seal, Stage, Status};
use node::{Node, client, push};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn every_answer_of_mode_zk_is_proven_once_though_the_prover_is_killed() {
    let (kills, proofs) = (setting("HACA_KILLS", 2), setting("HACA_PROOFS", 6));
    let data = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let input = SHIPPED[0].input().unwrap();
    let mut ids: Vec<RequestId> = Vec::new();
    for life in 0..kills {
        let node = Node::up(data.path(), "");
        if life == 0 {
            runtime.block_on(push(data.path()));
        }
        runtime.block_on(async {
            let client = client(data.path()).await;
            let model = client.model("mlp").await.unwrap();
            assert_eq!(model.zk_refused, None);
            let mut fresh = Vec::new();
            while ids.len() + fresh.len() < proofs * (life + 1) / kills {
                let row = input.row((ids.len() + fresh.len()) % input.rows());
                let answer = client.infer(&model, Mode::Zk, row).await.unwrap();
                assert!(answer.proof_delay.is_some());
                fresh.push(answer.leaf.request);
            }
            client.await_receipts(Stage::Durable, &fresh).await.unwrap();
            // Killed with the first of its proofs there and the others on their way.
            client.await_proofs(&fresh[..1]).await.unwrap();
            ids.extend(fresh);
        });
        drop(node);
    }
    let node = Node::up(data.path(), "");
    runtime.block_on(async {
        let client = client(data.path()).await;
        let states = client.await_proofs(&ids).await.unwrap();
        assert!(states.iter().all(|state| state.outcome == ProofOutcome::Proved), "{states:?}");
        let unknown = client.await_proofs(&[RequestId([9; 16])]).await.unwrap();
        assert_eq!(unknown[0].outcome, ProofOutcome::Unknown);
    });
    drop(node);
    let found = events(data.path());
    assert_eq!(found.len(), ids.len());
    assert!(ids.iter().all(|id| found[id] == (1, 1)), "{found:?}");
}

#[test]
fn a_prover_that_is_behind_refuses_requests_of_its_mode_alone_and_loses_none() {
    let asked = setting("HACA_PROOFS", 8);
    let data = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _node = Node::up(data.path(), "[zk]\nmax_pending = 2\n");
    runtime.block_on(async {
        push(data.path()).await;
        let client = client(data.path()).await;
        let model = client.model("mlp").await.unwrap();
        let input = SHIPPED[0].input().unwrap();
        let (mut answered, mut refused) = (Vec::new(), 0);
        for row in 0..asked {
            match client.infer(&model, Mode::Zk, input.row(row % input.rows())).await {
                Ok(answer) => answered.push(answer.leaf.request),
                Err(ClientError::Refused { status: Status::Overloaded, retry_after, .. }) => {
                    assert!(retry_after.is_some());
                    refused += 1;
                }
                Err(other) => panic!("{other}"),
            }
            client.infer(&model, Mode::Tee, input.row(row % input.rows())).await.unwrap();
        }
        assert!(refused > 0 && answered.len() >= 2, "{refused} refused of {asked}");
        let states = client.await_proofs(&answered).await.unwrap();
        assert!(states.iter().all(|state| state.outcome == ProofOutcome::Proved), "{states:?}");
    });
}

/// Asks about so many rows, and waits until the log holds all answers.
async fn durable(client: &Client, rows: usize) -> Vec<RequestId> {
    let model = client.model("mlp").await.unwrap();
    let input = SHIPPED[0].input().unwrap();
    let mut ids = Vec::new();
    for row in 0..rows {
        ids.push(client.infer(&model, Mode::Zk, input.row(row)).await.unwrap().leaf.request);
    }
    client.await_receipts(Stage::Durable, &ids).await.unwrap();
    ids
}

/// What a node leaves whose prover, which runs apart, has never come.
struct Unproven {
    ids: Vec<RequestId>,
    /// The file of all openings, and what it holds: of each as many bytes.
    segment: PathBuf,
    whole: Vec<u8>,
    record: usize,
}

fn unproven(data: &Path, runtime: &tokio::runtime::Runtime) -> Unproven {
    let nobody = Digest([7; 32]);
    let settings =
        format!("[zk]\nservices = \"127.0.0.1:0\"\nprover = \"apart\"\nprovers = [\"{nobody}\"]\n");
    let node = Node::up(data, &settings);
    let ids = runtime.block_on(async {
        push(data).await;
        durable(&client(data).await, 9).await
    });
    drop(node);
    let folder = data.join("log/store/openings");
    let segment = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&segment).unwrap();
    let record = whole.len() / ids.len();
    Unproven { ids, segment, whole, record }
}

/// A node ends with openings before its prover, and one of these rots on the disk.
#[test]
fn a_damaged_opening_fails_its_request_alone_and_who_waits_for_a_lost_one_is_told() {
    let data = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let Unproven { ids, segment, whole, record } = unproven(data.path(), &runtime);
    // Of the sixth a byte of the row. Of the eighth the length: what follows cannot be told from a torn end.
    let mut damaged = whole.clone();
    damaged[5 * record + 100] ^= 1;
    damaged[7 * record + 10] ^= 1;
    std::fs::write(&segment, &damaged).unwrap();
    let _node = Node::up(data.path(), "");
    let states = runtime.block_on(async { client(data.path()).await.await_proofs(&ids).await.unwrap() });
    let (proved, failed) = (ProofOutcome::Proved, ProofOutcome::Failed);
    let outcomes: Vec<ProofOutcome> = states.iter().map(|state| state.outcome).collect();
    assert_eq!(outcomes, [proved, proved, proved, proved, proved, failed, proved, failed, failed]);
    assert!(states[5].detail.contains("damaged"), "{}", states[5].detail);
    assert!(states[8].detail.contains("lost"), "{}", states[8].detail);
}

/// In a file that is not the newest, where nothing says how long the damaged opening was.
#[test]
fn what_follows_an_opening_of_damaged_length_in_its_file_is_given_up_if_the_settings_say_so() {
    let data = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let Unproven { ids, segment, whole, record } = unproven(data.path(), &runtime);
    // Of the sixth the length. From the eighth on they are in a file of their own, as if the first had been full.
    let (first, second) = whole.split_at(7 * record);
    let mut damaged = first.to_vec();
    damaged[5 * record + 10] ^= 1;
    std::fs::write(&segment, &damaged).unwrap();
    std::fs::write(segment.with_file_name(format!("{:020}", first.len())), second).unwrap();
    let _node = Node::up(data.path(), "[zk]\nskip_damaged_segments = true\n");
    let states = runtime.block_on(async { client(data.path()).await.await_proofs(&ids).await.unwrap() });
    let (proved, failed) = (ProofOutcome::Proved, ProofOutcome::Failed);
    let outcomes: Vec<ProofOutcome> = states.iter().map(|state| state.outcome).collect();
    assert_eq!(outcomes, [proved, proved, proved, proved, proved, failed, failed, proved, proved]);
    assert!(states[5].detail.contains("damaged"), "{}", states[5].detail);
    assert!(states[6].detail.contains("lost"), "{}", states[6].detail);
}

/// Ids of events follow from leaves, so who knows a leaf can take one. It harms that receipt's proof alone, and is told.
#[test]
fn a_request_that_takes_the_id_of_a_proof_is_told_and_harms_no_other() {
    let data = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _node = Node::up(data.path(), "");
    runtime.block_on(async {
        push(data.path()).await;
        let client = client(data.path()).await;
        let model = client.model("mlp").await.unwrap();
        let row: Vec<u8> =
            SHIPPED[0].input().unwrap().row(0).iter().flat_map(|value| value.to_le_bytes()).collect();
        let input = TensorView::new(Dtype::F32, model.input_shape, &row).unwrap();
        let call = |mode, id| Call { model: &model, mode, input, id, deadline: None, seal: None };
        // The proof of the first takes longer than the next request.
        let answers = [
            client.call(call(Mode::Zk, None)).await.unwrap(),
            client.call(call(Mode::Zk, None)).await.unwrap(),
        ];
        let taken = proof_id(&answers[1].leaf.hash());
        client.call(call(Mode::Tee, Some(taken))).await.unwrap();
        let states =
            client.await_proofs(&answers.each_ref().map(|answer| answer.leaf.request)).await.unwrap();
        assert_eq!([states[0].outcome, states[1].outcome], [ProofOutcome::Proved, ProofOutcome::Failed]);
        assert!(states[1].detail.contains("another request"), "{}", states[1].detail);
    });
}

/// A node looks at no commitment before it answers: one that opens to another row costs its caller the proof, and nobody else
/// theirs.
#[test]
fn a_commitment_that_does_not_open_fails_its_own_proof_alone() {
    let data = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let node = Node::up(data.path(), "");
    runtime.block_on(async {
        push(data.path()).await;
        let client = client(data.path()).await;
        let model = client.model("mlp").await.unwrap();
        assert_eq!((&model.zk_refused, &model.sealed_refused), (&None, &None));
        let input = SHIPPED[0].input().unwrap();
        let row: Vec<u8> = input.row(0).iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = TensorView::new(Dtype::F32, model.input_shape, &row).unwrap();
        let salt = Salt([7; Salt::LEN]);
        let call = |commitment| {
            let seal = Some(Seal { salt, commitment });
            Call { model: &model, mode: Mode::Zk, input: tensor, id: None, deadline: None, seal }
        };
        let good = commitment(&salt, &row);
        let mut answers = Vec::new();
        for commitment in [good, commitment(&Salt([8; Salt::LEN]), &row), Digest([0xff; 32]), good] {
            answers.push(client.call(call(commitment)).await.unwrap());
        }
        let drawn = client.infer_sealed(&model, input.row(0)).await.unwrap();
        assert_ne!(drawn.leaf.input, answers[0].leaf.input);
        answers.push(drawn);
        answers.push(client.infer(&model, Mode::Zk, input.row(0)).await.unwrap());
        let sealed: Vec<bool> = answers.iter().map(|answer| answer.leaf.sealed).collect();
        assert_eq!(sealed, [true, true, true, true, true, false]);
        let ids: Vec<RequestId> = answers.iter().map(|answer| answer.leaf.request).collect();
        let states = client.await_proofs(&ids).await.unwrap();
        for (at, state) in states.iter().enumerate() {
            let opens = ![1, 2].contains(&at);
            let expected = if opens { ProofOutcome::Proved } else { ProofOutcome::Failed };
            assert_eq!(state.outcome, expected, "{at}: {}", state.detail);
            assert!(opens || state.detail.contains("does not open"), "{}", state.detail);
        }
        // Other modes seal nothing.
        for mode in [Mode::Vanilla, Mode::Tee] {
            match client.call(Call { mode, ..call(good) }).await {
                Err(ClientError::Refused { status: Status::ModeUnavailable, detail, .. }) => {
                    assert!(detail.contains("sealed"), "{detail}");
                }
                other => panic!("{other:?}"),
            }
        }
    });
    drop(node);
    let kept = std::fs::read_dir(data.path().join("zk/keys")).unwrap();
    let keys: Vec<String> = kept.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(keys.iter().any(|name| name.ends_with("-sealed.zkpk")), "{keys:?}");
}

#[test]
fn the_key_for_sealed_inputs_is_made_before_anybody_asks() {
    let data = tempfile::tempdir().unwrap();
    let _node = Node::up(data.path(), "");
    tokio::runtime::Runtime::new().unwrap().block_on(push(data.path()));
    let made = || {
        let kept = std::fs::read_dir(data.path().join("zk/keys")).into_iter().flatten();
        let names: Vec<String> =
            kept.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let ends = ["", "-sealed"].map(|kind| format!("-v{CIRCUIT_VERSION}{kind}.zkpk"));
        ends.iter().all(|end| names.iter().any(|name| name.ends_with(end)))
    };
    let begun = Instant::now();
    while !made() {
        assert!(begun.elapsed() < Duration::from_secs(120), "there is no such key");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_model_whose_sealed_circuit_alone_is_too_large_is_proven_with_open_inputs() {
    let data = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _node = Node::up(data.path(), "[zk]\nmax_constraints = 6000\n");
    runtime.block_on(async {
        push(data.path()).await;
        let client = client(data.path()).await;
        let model = client.model("mlp").await.unwrap();
        assert_eq!(model.zk_refused, None);
        assert!(model.sealed_refused.as_ref().is_some_and(|why| why.contains("zk.max_constraints")));
        let row = SHIPPED[0].input().unwrap().row(0).to_vec();
        match client.infer_sealed(&model, &row).await {
            Err(ClientError::Refused { status: Status::ModeUnavailable, detail, .. }) => {
                assert!(detail.contains("sealed") && detail.contains("6000"), "{detail}");
            }
            other => panic!("{other:?}"),
        }
        let answer = client.infer(&model, Mode::Zk, &row).await.unwrap();
        let states = client.await_proofs(&[answer.leaf.request]).await.unwrap();
        assert_eq!(states[0].outcome, ProofOutcome::Proved);
    });
}

#[test]
fn a_model_that_is_not_proven_says_so_and_is_served_in_the_other_modes() {
    let data = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (settings, why) in
        [("[zk]\nmax_constraints = 100\n", "constraints"), ("[zk]\nenabled = false\n", "prover")]
    {
        let _node = Node::up(data.path(), settings);
        runtime.block_on(async {
            push(data.path()).await;
            let client = client(data.path()).await;
            let model = client.model("mlp").await.unwrap();
            assert!(
                model.zk_refused.as_ref().is_some_and(|said| said.contains(why)),
                "{:?}",
                model.zk_refused
            );
            let row = SHIPPED[0].input().unwrap().row(0).to_vec();
            match client.infer(&model, Mode::Zk, &row).await {
                Err(ClientError::Refused { status: Status::ModeUnavailable, detail, .. }) => {
                    assert!(detail.contains(why), "{detail}");
                }
                other => panic!("{other:?}"),
            }
            client.infer(&model, Mode::Tee, &row).await.unwrap();
        });
    }
}
