//! Services that say nothing, and what rots where they keep it.

use super::*;
use crate::proving::apart::strangers::MAX_OF_NETWORK;
use haca_client::dial;
use haca_dataplane::config::Place;
use std::net::Ipv4Addr;
use tokio::task::JoinSet;

const HONEST: [u8; 32] = [8; 32];

fn pool() -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap()
}

impl Rig {
    /// With these provers, and none within.
    async fn with_provers(seeds: &[[u8; 32]], patience: u64) -> Self {
        let provers = seeds.iter().map(|seed| ServiceKey::from_seed(seed).public()).collect();
        let zk = ZkSettings {
            provers,
            prover: Place::Apart,
            prover_patience_s: patience,
            ..ZkSettings::default()
        };
        Self::start(zk).await
    }

    /// Has a prover that behaves prove what is asked.
    async fn proven_by(&self, seed: &[u8; 32], data: &Path, request: RequestId) -> ProofOutcome {
        let (tell, stop) = Stop::new();
        let connect = self.node.as_ref().unwrap().connect().clone();
        let prover = super::super::Prover::new(connect, seed, data, pool()).unwrap();
        let proven = async {
            let states = self.client.await_proofs(&[request]).await.unwrap();
            tell.send(true).unwrap();
            states[0].outcome
        };
        let (ended, outcome) = tokio::join!(prover.run(stop), proven);
        ended.unwrap();
        outcome
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_rotted_where_a_prover_keeps_it_is_fetched_again() {
    let rig = Rig::with_provers(&[HONEST], 600).await;
    let kept = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let request = rig.ask().await;
        assert_eq!(rig.proven_by(&HONEST, kept.path(), request).await, ProofOutcome::Proved);
        let mut files = std::fs::read_dir(kept.path().join("models")).unwrap();
        let path = files.next().unwrap().unwrap().path();
        let mut file = std::fs::read(&path).unwrap();
        let middle = file.len() / 2;
        file[middle] ^= 1;
        std::fs::write(&path, file).unwrap();
    }
    rig.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prover_that_is_silent_about_a_request_loses_it_to_another_and_then_its_session() {
    let rig = Rig::with_provers(&[LIAR, HONEST], 1).await;
    let request = rig.ask().await;
    let (dialled, kept) = (rig.dial(Role::Prover), tempfile::tempdir().unwrap());
    let (has, mut is_taken) = tokio::sync::mpsc::channel(1);
    let silent = serve(&dialled, async |link, (), _| {
        given(link).await?;
        has.send(()).await.unwrap();
        match link.receive().await {
            Err(LinkError::Refused { why, may_pass: true, .. }) => {
                assert!(why.contains("zk.prover_patience_s"), "{why}");
                Ok(())
            }
            other => panic!("{other:?}"),
        }
    });
    let proven = async {
        is_taken.recv().await.unwrap();
        rig.proven_by(&HONEST, kept.path(), request).await
    };
    let (ended, outcome) = tokio::join!(silent, proven);
    ended.unwrap();
    assert_eq!(outcome, ProofOutcome::Proved);
    assert_eq!(rig.events().0, 1);
    rig.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_say_nothing_keep_out_no_service_of_another_address() {
    let rig = Rig::with_provers(&[LIAR], 600).await;
    let connect = rig.node.as_ref().unwrap().connect();
    let address = connect.services.unwrap();
    let elsewhere = quinn::Endpoint::client((Ipv4Addr::new(127, 0, 0, 2), 0).into()).unwrap();
    // Together: each is put out some seconds after it came.
    let mut strangers = JoinSet::new();
    for _ in 0..=MAX_OF_NETWORK {
        let (elsewhere, pin) = (elsewhere.clone(), connect.key_pin);
        strangers.spawn(async move {
            dial::connect(&elsewhere, address, pin, message::ALPN, &ClientOptions::default()).await
        });
    }
    let strangers = strangers.join_all().await;
    let let_in = strangers.iter().filter(|stranger| stranger.is_ok()).count();
    assert_eq!(let_in, MAX_OF_NETWORK, "of one address");
    serve(&rig.dial(Role::Prover), async |_, (), _| Ok(())).await.unwrap();
    drop(strangers);
    rig.stop();
}
