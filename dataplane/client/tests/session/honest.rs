//! What a client does with a node that keeps to the protocol.

use crate::fake::{Behaviour, OPERATOR, OnRequest, connect, model};
use haca_client::{Call, ClientError};
use haca_wire::sign::OperatorKey;
use haca_wire::tensor::{Shape, TensorView};
use haca_wire::vocabulary::LogOutcome;
use haca_wire::{Dtype, Mode, RequestId, Stage, Status};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

const ROW: [f32; 4] = [1.0, -2.5, 0.0, 3.25];

#[tokio::test]
async fn an_answer_comes_back_with_a_receipt_that_verifies() {
    let client = connect(Behaviour::default()).await.unwrap();
    let model = client.model("double").await.unwrap();
    for mode in [Mode::Vanilla, Mode::Tee] {
        let answer = client.infer(&model, mode, &ROW).await.unwrap();
        assert_eq!(answer.output.to_f32().unwrap(), [2.0, -5.0, 0.0, 6.5]);
        assert_eq!(answer.receipt.verify().unwrap(), answer.leaf);
    }
    client.close().await;
}

/// Fewer batches than requests, answers in another order than the questions, more tasks than the node's limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_get_each_its_own_answer() {
    let client = Arc::new(connect(Behaviour { batch: 4, ..Behaviour::default() }).await.unwrap());
    let model = model();
    let ask = |number: u32| {
        let (client, model) = (client.clone(), model.clone());
        tokio::spawn(async move {
            let answer = client.infer(&model, Mode::Vanilla, &[number as f32; 4]).await.unwrap();
            assert_eq!(answer.output.to_f32().unwrap(), [2.0 * number as f32; 4]);
            assert_eq!(answer.receipt.batch_size, 4);
        })
    };
    // A multiple of the lanes (4) times the batch (4): no request waits for others that never come.
    for task in (0..1600).map(ask).collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_refusal_says_why_and_when_to_come_again() {
    let on_request = OnRequest::Refuse(Status::Overloaded);
    let client = connect(Behaviour { on_request, ..Behaviour::default() }).await.unwrap();
    // The session goes on after a refusal.
    for _ in 0..2 {
        let error = client.infer(&model(), Mode::Vanilla, &ROW).await.unwrap_err();
        assert!(error.is_transient());
        assert_eq!(error.to_string(), "refused (overloaded): as told; try again after 250µs");
    }
}

#[tokio::test]
async fn a_dropped_call_disturbs_no_other() {
    let client = connect(Behaviour { batch: 2, ..Behaviour::default() }).await.unwrap();
    let model = model();
    // One on each lane: sent, and dropped before its batch is full.
    for _ in 0..4 {
        let call = pin!(client.infer(&model, Mode::Vanilla, &ROW));
        assert!(poll_once(call).await.is_none());
    }
    let calls = (0..4).map(|_| client.infer(&model, Mode::Vanilla, &ROW));
    for call in calls {
        assert_eq!(call.await.unwrap().receipt.batch_size, 2);
    }
}

#[tokio::test]
async fn the_limits_of_the_node_are_kept_before_anything_is_sent() {
    let client = connect(Behaviour::default()).await.unwrap();
    let error = client.infer(&model(), Mode::Vanilla, &[0.0; 5]).await.unwrap_err();
    assert_eq!(error.to_string(), "model \"double\" takes rows of shape [4]; this input has shape [5]");

    let mut wide = model();
    wide.input_shape = Shape::new([2000]).unwrap();
    let error = client.infer(&wide, Mode::Vanilla, &[0.0; 2000]).await.unwrap_err();
    assert!(matches!(error, ClientError::TooLarge { limit: 4096, .. }), "{error}");

    let input = TensorView::new(Dtype::I16, model().input_shape, &[0; 8]).unwrap();
    let call = Call { model: &model(), mode: Mode::Vanilla, input, id: None, deadline: None, seal: None };
    let error = client.call(call).await.unwrap_err();
    assert!(matches!(error, ClientError::InputType { .. }), "{error}");

    // And what was refused here left nothing behind.
    client.infer(&model(), Mode::Vanilla, &ROW).await.unwrap();
}

#[tokio::test]
async fn an_id_is_in_flight_once() {
    let client = connect(Behaviour { on_request: OnRequest::Nothing, ..Behaviour::default() }).await.unwrap();
    let data: Vec<u8> = ROW.iter().flat_map(|x| x.to_le_bytes()).collect();
    let model = model();
    let input = TensorView::new(Dtype::F32, model.input_shape, &data).unwrap();
    let call = Call {
        model: &model,
        mode: Mode::Vanilla,
        input,
        id: Some(RequestId([5; 16])),
        deadline: None,
        seal: None,
    };
    let mut held = pin!(client.call(call));
    assert!(poll_once(held.as_mut()).await.is_none());
    let error = client.call(call).await.unwrap_err();
    assert!(matches!(error, ClientError::DuplicateId(_)), "{error}");
}

/// Polls once with the task's waker.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

#[tokio::test]
async fn receipts_get_their_proof_in_as_many_questions_as_the_limit_asks_for() {
    let client = connect(Behaviour::default()).await.unwrap();
    let model = model();
    let mut answers = Vec::new();
    for _ in 0..25 {
        answers.push(client.infer(&model, Mode::Tee, &ROW).await.unwrap());
    }
    let mut ids: Vec<_> = answers.iter().map(|answer| answer.leaf.request).collect();
    ids.push(RequestId([0; 16]));
    let durable = client.await_receipts(Stage::Durable, &ids).await.unwrap();
    assert!(durable.iter().all(|state| state.inclusion.is_none()));
    let states = client.await_receipts(Stage::Checkpointed, &ids).await.unwrap();
    assert_eq!(states[25].outcome, LogOutcome::Unknown);

    for (answer, state) in answers.iter().zip(&states) {
        let file = client.receipt_file(&answer.receipt, Some(state), None).unwrap();
        assert_eq!(file.evidence, client.welcome().evidence);
        assert_eq!(file.inclusion.unwrap().tree_size, 25);
    }
    let without = client.receipt_file(&answers[0].receipt, None, None).unwrap();
    assert_eq!(without.inclusion, None);
    let error = client.receipt_file(&answers[0].receipt, Some(&states[1]), None).unwrap_err();
    assert!(matches!(error, ClientError::BadInclusion { .. }), "{error}");
    let unknown = haca_client::ReceiptState { id: ids[0], ..states[25].clone() };
    let error = client.receipt_file(&answers[0].receipt, Some(&unknown), None).unwrap_err();
    assert!(matches!(error, ClientError::NotLogged { .. }), "{error}");
}

#[tokio::test]
async fn a_model_is_pushed_with_the_permit_of_the_operator_alone() {
    let client = connect(Behaviour::default()).await.unwrap();
    let file: Vec<u8> = (0..99_999u32).map(|i| i as u8).collect();
    let operator = OperatorKey::from_seed(&OPERATOR);
    let mut told = Vec::new();
    let entry = client.push_model("mlp-2", &file, &operator, |sent| told.push(sent)).await.unwrap();
    assert_eq!((entry.name.as_str(), entry.handle), ("mlp-2", 2));
    assert_eq!(told.last(), Some(&99_999));

    let other = OperatorKey::from_seed(&[0; 32]);
    let error = client.push_model("mlp-2", &file, &other, |_| {}).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { status: Status::NotPermitted, .. }), "{error}");
    let error = client.push_model("a/b", &file, &operator, |_| {}).await.unwrap_err();
    assert!(matches!(error, ClientError::ModelName(_)), "{error}");
    let error = client.push_model("big", &[0; 100_001], &operator, |_| {}).await.unwrap_err();
    assert!(matches!(error, ClientError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn an_unknown_name_is_answered_with_the_known_ones() {
    let client = connect(Behaviour::default()).await.unwrap();
    let error = client.model("triple").await.unwrap_err();
    assert_eq!(error.to_string(), "the node serves no model named \"triple\"; it serves double");
}

#[tokio::test]
async fn closing_fails_what_is_in_flight() {
    let client = connect(Behaviour { on_request: OnRequest::Nothing, ..Behaviour::default() }).await.unwrap();
    let model = model();
    let mut call = pin!(client.infer(&model, Mode::Vanilla, &ROW));
    assert!(poll_once(call.as_mut()).await.is_none());
    client.close().await;
    let error = call.await.unwrap_err();
    assert!(matches!(error, ClientError::Closed), "{error}");
}
