//! What a client does with a node that lies, breaks the protocol, or is another one.

use crate::fake::{Behaviour, Forged, OnRequest, connect, model, start};
use haca_client::{Call, Client, ClientError, ClientOptions, Fault};
use haca_wire::message::log::ReceiptStates;
use haca_wire::message::session::Welcome;
use haca_wire::tensor::TensorView;
use haca_wire::{
    Digest, Dtype, Leaf, Mode, ModelId, NodeId, RequestId, Salt, Seal, SessionId, Stage, Status,
};
use std::time::Duration;

/// How a part of what the node says is changed.
type Lie<T> = fn(&mut T);

const ROW: [f32; 4] = [1.0, -2.5, 0.0, 3.25];

async fn fault(behaviour: Behaviour, mode: Mode) -> String {
    let client = connect(behaviour).await.unwrap();
    match client.infer(&model(), mode, &ROW).await.unwrap_err() {
        ClientError::Dishonest { fault, .. } => fault.to_string(),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_leaf_that_says_another_thing_is_refused_though_it_is_signed() {
    let lies: [(&str, Mode, Lie<Leaf>); 12] = [
        ("request id", Mode::Vanilla, |leaf| leaf.request = RequestId([0; 16])),
        ("session", Mode::Vanilla, |leaf| leaf.session = SessionId([0; 16])),
        ("node", Mode::Vanilla, |leaf| leaf.node = NodeId([0; 32])),
        ("model", Mode::Vanilla, |leaf| leaf.model = ModelId([0; 32])),
        ("mode", Mode::Vanilla, |leaf| leaf.mode = Mode::Tee),
        ("mode", Mode::Tee, |leaf| leaf.mode = Mode::Vanilla),
        ("flag of a sealed input", Mode::Zk, |leaf| leaf.sealed = true),
        ("input hash", Mode::Vanilla, |leaf| leaf.input = Digest([0; 32])),
        ("output hash", Mode::Vanilla, |leaf| leaf.output = Digest([0; 32])),
        ("policy epoch", Mode::Vanilla, |leaf| leaf.policy_epoch = 6),
        ("evidence digest", Mode::Vanilla, |leaf| leaf.evidence = Digest([1; 32])),
        ("evidence digest", Mode::Tee, |leaf| leaf.evidence = Digest([0; 32])),
    ];
    for (field, mode, leaf) in lies {
        let text = fault(Behaviour { leaf, ..Behaviour::default() }, mode).await;
        assert!(text.contains(field), "{field}: {text}");
    }
}

#[tokio::test]
async fn a_leaf_that_leaves_the_seal_away_or_carries_another_commitment_is_refused() {
    let seal = Seal { salt: Salt([1; 32]), commitment: Digest([2; 32]) };
    let lies: [(&str, Lie<Leaf>); 2] = [
        ("flag of a sealed input", |_| {}),
        ("commitment", |leaf| (leaf.sealed, leaf.input) = (true, Digest([3; 32]))),
    ];
    for (field, leaf) in lies {
        let client = connect(Behaviour { leaf, ..Behaviour::default() }).await.unwrap();
        let (shape, data) = (model().input_shape, [0; 16]);
        let input = TensorView { dtype: Dtype::F32, shape, data: &data };
        let call =
            Call { model: &model(), mode: Mode::Zk, input, id: None, deadline: None, seal: Some(seal) };
        match client.call(call).await.unwrap_err() {
            ClientError::Dishonest { fault, .. } => assert!(fault.to_string().contains(field), "{fault}"),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_changed_answer_is_refused() {
    let lies: [(&str, Lie<Forged>); 7] = [
        ("output hash", |answer| answer.output[0] ^= 1),
        ("shape", |answer| answer.output.truncate(12)),
        ("signature", |answer| answer.leaf[250] ^= 1),
        ("signature", |answer| answer.signature.as_mut().unwrap()[3] ^= 1),
        ("not signed", |answer| answer.signature = None),
        ("path", |answer| answer.index = 7),
        ("path", |answer| answer.path.extend([0; 32])),
    ];
    for (word, answer) in lies {
        let text = fault(Behaviour { answer, ..Behaviour::default() }, Mode::Vanilla).await;
        assert!(text.contains(word), "{word}: {text}");
    }
}

/// A signature that verified once is not looked at again; another one over the same root is.
#[tokio::test]
async fn a_remembered_batch_does_not_excuse_a_bad_signature() {
    let answer: Lie<Forged> = |answer| {
        if answer.index == 0 {
            answer.signature.as_mut().unwrap()[0] ^= 1;
        }
    };
    let options = ClientOptions { streams: 1, ..ClientOptions::default() };
    let behaviour = Behaviour { batch: 2, answer, ..Behaviour::default() };
    let client = Client::connect(&start(behaviour), options).await.unwrap();
    let model = model();
    let (first, second) =
        tokio::join!(client.infer(&model, Mode::Vanilla, &ROW), client.infer(&model, Mode::Vanilla, &ROW));
    assert!(second.is_ok());
    assert!(matches!(first, Err(ClientError::Dishonest { fault: Fault::Receipt(_), .. })));
}

#[tokio::test]
async fn a_node_that_signs_no_vanilla_may_leave_them_unsigned_and_no_other() {
    let welcome: Lie<Welcome> = |welcome| welcome.signs_vanilla = false;
    let answer: Lie<Forged> = |answer| answer.signature = None;
    let client = connect(Behaviour { welcome, answer, ..Behaviour::default() }).await.unwrap();
    assert!(client.infer(&model(), Mode::Vanilla, &ROW).await.is_ok());
    let error = client.infer(&model(), Mode::Tee, &ROW).await.unwrap_err();
    assert!(matches!(error, ClientError::Dishonest { fault: Fault::Unsigned(Mode::Tee), .. }), "{error}");
}

#[tokio::test]
async fn mode_tee_needs_evidence_that_is_good() {
    let without: Lie<Welcome> = |welcome| welcome.evidence = None;
    let text = fault(Behaviour { welcome: without, ..Behaviour::default() }, Mode::Tee).await;
    assert!(text.contains("no attestation evidence"), "{text}");

    let forged: Lie<Welcome> = |welcome| welcome.evidence.as_mut().unwrap()[40] ^= 1;
    let text = fault(Behaviour { welcome: forged, ..Behaviour::default() }, Mode::Tee).await;
    assert!(text.contains("does not verify"), "{text}");

    let late: Lie<Leaf> = |leaf| leaf.completed = 2_000;
    let text = fault(Behaviour { leaf: late, ..Behaviour::default() }, Mode::Tee).await;
    assert!(text.contains("in force"), "{text}");

    for issuer in [None, Some(Digest([1; 32]))] {
        let mut connect = start(Behaviour::default());
        connect.development_issuer = issuer;
        let client = Client::connect(&connect, ClientOptions::default()).await.unwrap();
        let error = client.infer(&model(), Mode::Tee, &ROW).await.unwrap_err();
        assert!(error.to_string().contains("issuer"), "{error}");
        // Who does not ask for mode tee need not trust the issuer.
        client.infer(&model(), Mode::Vanilla, &ROW).await.unwrap();
    }
}

#[tokio::test]
async fn another_node_is_not_talked_to() {
    let mut connect = start(Behaviour::default());
    let (pin, node) = (connect.key_pin, connect.node_key);
    connect.key_pin = Digest([0; 32]);
    let error = Client::connect(&connect, ClientOptions::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::WrongPin { seen, .. } if seen == pin), "{error}");
    (connect.key_pin, connect.node_key) = (pin, NodeId([0; 32]));
    let error = Client::connect(&connect, ClientOptions::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::WrongNode { said, .. } if said == node), "{error}");
}

/// The certificate is public: whoever shows it must also hold its key.
#[tokio::test]
async fn the_pinned_certificate_without_its_key_is_refused() {
    let behaviour = Behaviour { certificate_is_stolen: true, ..Behaviour::default() };
    let error = connect(behaviour).await.unwrap_err();
    assert!(matches!(error, ClientError::Disconnected { .. }), "{error}");
    assert!(error.to_string().contains("BadSignature"), "{error}");
}

#[tokio::test]
async fn another_protocol_or_version_says_what_to_do() {
    let error = connect(Behaviour { alpn: b"h3", ..Behaviour::default() }).await.unwrap_err();
    assert!(matches!(error, ClientError::WrongProtocol { .. }), "{error}");
    let welcome: Lie<Welcome> = |welcome| welcome.protocol_version += 1;
    let error = connect(Behaviour { welcome, ..Behaviour::default() }).await.unwrap_err();
    assert!(error.to_string().contains("use a client of the node's release"), "{error}");
}

#[tokio::test]
async fn nobody_there_is_said_after_the_timeout() {
    let connect = start(Behaviour::default());
    // Bound and silent.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let connect = haca_wire::connect::Connect { address: silent.local_addr().unwrap(), ..connect };
    let options = ClientOptions { connect_timeout: Duration::from_millis(50), ..ClientOptions::default() };
    let error = Client::connect(&connect, options).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_broken_stream_ends_the_session_with_its_cause() {
    for (on_request, words) in [
        (OnRequest::EndStream, "ended a stream of requests"),
        (OnRequest::EndStreamInsideFrame, "before the end of a frame"),
        (OnRequest::Garbage, "names no known kind"),
        (OnRequest::CloseConnection(99), "the node closed it: enough (code 99)"),
        (OnRequest::CloseConnection(Status::Malformed as u32), "refused (malformed): enough"),
        (OnRequest::CloseConnection(Status::VersionMismatch as u32), "use a client of the node's release"),
        (OnRequest::RefuseSession, "refused (draining): shutting down"),
    ] {
        let client = connect(Behaviour { on_request, ..Behaviour::default() }).await.unwrap();
        // The first call meets it, the next one is told; also calls with a stream of their own.
        for _ in 0..2 {
            let error = client.infer(&model(), Mode::Vanilla, &ROW).await.unwrap_err();
            assert!(error.to_string().contains(words), "{words}: {error}");
        }
        let error = client.models().await.unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
}

#[tokio::test]
async fn an_answer_nobody_asked_for_ends_the_session() {
    let client =
        connect(Behaviour { on_request: OnRequest::AnswerTwice, ..Behaviour::default() }).await.unwrap();
    client.infer(&model(), Mode::Vanilla, &ROW).await.unwrap();
    let error = loop {
        match client.infer(&model(), Mode::Vanilla, &ROW).await {
            Ok(_) => continue,
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("which is not in flight"), "{error}");

    let answer: Lie<Forged> = |answer| answer.id = RequestId([0; 16]);
    let client = connect(Behaviour { answer, ..Behaviour::default() }).await.unwrap();
    let error = client.infer(&model(), Mode::Vanilla, &ROW).await.unwrap_err();
    assert!(error.to_string().contains("which is not in flight"), "{error}");
}

#[tokio::test]
async fn a_refused_mode_is_a_refusal_and_not_a_lie() {
    let on_request = OnRequest::Refuse(Status::ModeUnavailable);
    let client = connect(Behaviour { on_request, ..Behaviour::default() }).await.unwrap();
    let error = client.infer(&model(), Mode::Zk, &ROW).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { status: Status::ModeUnavailable, .. }), "{error}");
}

#[tokio::test]
async fn a_log_that_lies_is_refused() {
    let lies: [(&str, Lie<ReceiptStates>); 5] = [
        ("does not lead from", |states| states.entries[0].leaf_hash = Digest([0; 32])),
        ("does not lead from", |states| states.entries[0].path.push(Digest([0; 32]))),
        ("does not lead from", |states| states.entries[0].index = 99),
        ("the node says 8", |states| states.tree_size = 8),
        ("checkpoint", |states| states.checkpoint = states.checkpoint.replace('\n', " ")),
    ];
    for (words, states) in lies {
        let client = connect(Behaviour { states, ..Behaviour::default() }).await.unwrap();
        let answer = client.infer(&model(), Mode::Vanilla, &ROW).await.unwrap();
        let error = client.await_receipts(Stage::Checkpointed, &[answer.leaf.request]).await.unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
    }

    let client = connect(Behaviour { log_name: "other.test/log", ..Behaviour::default() }).await.unwrap();
    let answer = client.infer(&model(), Mode::Vanilla, &ROW).await.unwrap();
    let error = client.await_receipts(Stage::Checkpointed, &[answer.leaf.request]).await.unwrap_err();
    assert!(matches!(error, ClientError::BadCheckpoint(_)), "{error}");

    // At stage durable there is no proof yet; the leaf is held against the receipt all the same.
    let states: Lie<ReceiptStates> = |states| states.entries[0].leaf_hash = Digest([0; 32]);
    let client = connect(Behaviour { states, ..Behaviour::default() }).await.unwrap();
    let answer = client.infer(&model(), Mode::Vanilla, &ROW).await.unwrap();
    let state = client.await_receipts(Stage::Durable, &[answer.leaf.request]).await.unwrap();
    let error = client.receipt_file(&answer.receipt, Some(&state[0]), None).unwrap_err();
    assert!(error.to_string().contains("the log holds the leaf"), "{error}");

    let states: Lie<ReceiptStates> = |states| states.entries.clear();
    let client = connect(Behaviour { states, ..Behaviour::default() }).await.unwrap();
    let error = client.await_receipts(Stage::Durable, &[RequestId([0; 16])]).await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
}
