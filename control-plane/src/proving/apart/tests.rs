//! Services that lie, against a real node.

use super::frame::Kind;
use super::link::{Link, LinkError, Node as Dialled, Stop};
use super::message::{self, Proven};
use crate::proving::attempt;
use crate::proving::docket::Ruling;
use crate::proving::workbench::{Models, Workbench};
use crate::proving::{ProofMetrics, Running, Services};
use haca_client::{Client, ClientOptions};
use haca_dataplane::config::{Config, ZkSettings};
use haca_dataplane::{Node, keys};
use haca_wire::event::{Event, VerifierKey};
use haca_wire::sign::{OperatorKey, Role, ServiceKey};
use haca_wire::vocabulary::ProofOutcome;
use haca_wire::{Digest, Leaf, Mode, RequestId};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tempfile::TempDir;

mod neglect;

const LIAR: [u8; 32] = [7; 32];

fn liar() -> Digest {
    ServiceKey::from_seed(&LIAR).public()
}

struct Rig {
    _dir: TempDir,
    node: Option<Node>,
    running: Option<Running>,
    client: Client,
}

impl Rig {
    /// A node that serves one small model.
    async fn start(zk: ZkSettings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let zk = ZkSettings { services: Some("127.0.0.1:0".parse().unwrap()), prover_threads: 1, ..zk };
        let config = Config { listen: "127.0.0.1:0".parse().unwrap(), zk, ..Config::default() };
        let services = Services::open(dir.path(), &config).unwrap();
        let mut node = Node::start(dir.path(), &config, Some(services.proving())).unwrap();
        let running = services.start(&mut node).unwrap();
        let client = Client::connect(node.connect(), ClientOptions::default()).await.unwrap();
        let file = std::fs::read(golden("dense0.haca")).unwrap();
        let operator = OperatorKey::from_seed(&keys::seed(&dir.path().join("operator.key")).unwrap());
        client.push_model("dense", &file, &operator, |_| {}).await.unwrap();
        Self { _dir: dir, node: Some(node), running: Some(running), client }
    }

    async fn ask(&self) -> RequestId {
        let model = self.client.model("dense").await.unwrap();
        let input = haca_kernels::npy::read(golden("dense0_input.npy")).unwrap();
        self.client.infer(&model, Mode::Zk, input.row(0)).await.unwrap().leaf.request
    }

    async fn prove(&self) -> ProofOutcome {
        let request = self.ask().await;
        self.client.await_proofs(&[request]).await.unwrap()[0].outcome
    }

    fn metrics(&self) -> Arc<ProofMetrics> {
        self.running.as_ref().unwrap().metrics()
    }

    fn dial(&self, role: Role) -> Dialled {
        Dialled::new(self.node.as_ref().unwrap().connect().clone(), role, &LIAR).unwrap()
    }

    /// Proofs and verdicts in the log.
    fn events(&self) -> (usize, Vec<(Digest, bool)>) {
        let log = self.node.as_ref().unwrap().log();
        let leaves = (0..log.status().tree_size).map(|index| log.leaf(index).unwrap().unwrap());
        let (mut proofs, mut verdicts) = (0, Vec::new());
        for leaf in leaves {
            match Event::decode(&leaf) {
                Ok(Event::Proof(_)) => proofs += 1,
                Ok(Event::Verdict(verdict)) => verdicts.push((verdict.verifier, verdict.accepted)),
                Err(_) => drop(Leaf::decode(&leaf).unwrap()),
            }
        }
        (proofs, verdicts)
    }

    fn stop(mut self) {
        drop(self.running.take());
        self.node.take().unwrap().stop().unwrap();
    }
}

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/tests/golden").join(name)
}

/// Runs one session of a service that behaves as `session` says.
async fn serve(
    dialled: &Dialled,
    session: impl AsyncFnMut(&mut Link, &mut (), &mut Stop) -> Result<(), LinkError>,
) -> Result<(), LinkError> {
    let (_tell, mut stop) = Stop::new();
    let mut session = session;
    dialled.serve(&mut stop, &mut (), async |link, state, stop| session(link, state, stop).await).await
}

/// What the node gives next; keys of models are not made.
async fn given(link: &mut Link) -> Result<(Kind, Vec<u8>), LinkError> {
    loop {
        link.send(Kind::Ask, &message::encode_ask(0)).await?;
        match link.receive().await? {
            (Kind::MakeReady, _) => {}
            given => return Ok(given),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_that_does_not_hold_is_not_logged_and_its_prover_is_shut_out() {
    use haca_dataplane::config::Place;
    let rig = Rig::start(ZkSettings {
        provers: vec![liar(), ServiceKey::from_seed(&[8; 32]).public()],
        prover: Place::Apart,
        ..ZkSettings::default()
    })
    .await;
    let request = rig.ask().await;
    let kept = tempfile::tempdir().unwrap();
    let dialled = rig.dial(Role::Prover);
    let lied = serve(&dialled, async |link, (), _| {
        let (_, payload) = given(link).await?;
        let job = message::decode_job(&payload).unwrap();
        assert_eq!(job.leaf.request, request);
        let models = Models::new(kept.path().join("models"));
        link.fetch(&models, &job.leaf.model).await?.unwrap();
        let mut workbench = Workbench::new(models, &kept.path().join("keys"), usize::MAX);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        // A proof that holds, of a request that was never made.
        let other = Leaf { request: RequestId([1; 16]), ..job.leaf };
        let made = attempt::prove(&mut workbench, &pool, &other, &job.opening).unwrap();
        let lie = Proven { position: job.position, proof: made.proof, key: made.key_bytes };
        link.send(Kind::Proven, &lie.encode()).await?;
        given(link).await.map(drop)
    });
    match lied.await {
        Err(LinkError::Refused { why, may_pass: false, .. }) => assert!(why.contains("shut out"), "{why}"),
        other => panic!("{other:?}"),
    }
    match serve(&dialled, async |_, (), _| Ok(())).await {
        Err(LinkError::Refused { why, .. }) => assert!(why.contains("did not hold"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.metrics().rejected.load(Relaxed), 1);

    // An honest one gets what the liar had.
    let (tell, stop) = Stop::new();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let honest =
        super::Prover::new(rig.node.as_ref().unwrap().connect().clone(), &[8; 32], kept.path(), pool)
            .unwrap();
    let proven = async {
        let states = rig.client.await_proofs(&[request]).await.unwrap();
        tell.send(true).unwrap();
        states[0].outcome
    };
    let (ended, proven) = tokio::join!(honest.run(stop), proven);
    ended.unwrap();
    assert_eq!(proven, ProofOutcome::Proved);
    assert_eq!(rig.events().0, 1);
    rig.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_prover_declines_goes_to_the_others() {
    let rig = Rig::start(ZkSettings { provers: vec![liar()], ..ZkSettings::default() }).await;
    let dialled = rig.dial(Role::Prover);
    let (asked, mut has_asked) = tokio::sync::mpsc::channel(9);
    let declining = serve(&dialled, async |link, (), _| {
        loop {
            asked.send(()).await.unwrap();
            let (_, payload) = given(link).await?;
            let job = message::decode_job(&payload).unwrap();
            link.send(Kind::Unprovable, &message::encode_unprovable(job.position, "no")).await?;
        }
    });
    let asking = async {
        has_asked.recv().await.unwrap();
        for _ in 0..3 {
            assert_eq!(rig.prove().await, ProofOutcome::Proved);
        }
    };
    tokio::select! {
        ended = declining => panic!("{ended:?}"),
        () = asking => {}
    }
    rig.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_one_prover_declined_is_given_up_when_the_others_have_left() {
    use haca_dataplane::config::Place;
    let zk = ZkSettings { provers: vec![liar()], prover: Place::Apart, ..ZkSettings::default() };
    let rig = Rig::start(zk).await;
    let requests = [rig.ask().await, rig.ask().await];
    let (leaves, stays) = (rig.dial(Role::Prover), rig.dial(Role::Prover));
    let (holds, mut held) = tokio::sync::mpsc::unbounded_channel();
    let (declines, mut declined) = tokio::sync::mpsc::unbounded_channel();
    let leaving = serve(&leaves, async |link, (), _| {
        given(link).await?;
        holds.send(()).unwrap();
        declined.recv().await.unwrap();
        Ok(())
    });
    let declining = serve(&stays, async |link, (), _| {
        held.recv().await.unwrap();
        loop {
            let (_, payload) = given(link).await?;
            let job = message::decode_job(&payload).unwrap();
            link.send(Kind::Unprovable, &message::encode_unprovable(job.position, "no")).await?;
            declines.send(()).unwrap();
        }
    });
    let asking = async {
        leaving.await.unwrap();
        let states = rig.client.await_proofs(&requests).await.unwrap();
        assert!(states.iter().all(|state| state.outcome == ProofOutcome::Failed), "{states:?}");
        assert_eq!(rig.prove().await, ProofOutcome::Failed);
    };
    tokio::select! {
        ended = declining => panic!("{ended:?}"),
        () = asking => {}
    }
    rig.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prover_that_asks_for_more_while_it_has_a_job_is_sent_away() {
    use haca_dataplane::config::Place;
    let zk = ZkSettings { provers: vec![liar()], prover: Place::Apart, ..ZkSettings::default() };
    let rig = Rig::start(zk).await;
    rig.ask().await;
    let dialled = rig.dial(Role::Prover);
    let greedy = serve(&dialled, async |link, (), _| {
        given(link).await?;
        match given(link).await {
            Err(LinkError::Ended { .. }) => Ok(()),
            other => panic!("{other:?}"),
        }
    });
    greedy.await.unwrap();
    rig.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn verifiers_that_disagree_are_told_and_callers_have_the_verdict_of_the_first() {
    let rig = Rig::start(ZkSettings { verifiers: vec![liar()], ..ZkSettings::default() }).await;
    assert_eq!(rig.prove().await, ProofOutcome::Proved);
    let (key, dialled) = (VerifierKey::from_seed(&LIAR), rig.dial(Role::Verifier));
    let lied = serve(&dialled, async |link, (), _| {
        let (_, payload) = given(link).await?;
        let docketed = super::docketed::Docketed::decode(&payload).unwrap();
        let [shown] = &docketed.cases[..] else { panic!("one proof") };
        let lie = key.verdict(&shown.case.proof, shown.case.index, false, 1);
        link.send(Kind::Rulings, &message::encode_rulings(&[Ruling::Verdict(Box::new(lie))])).await?;
        link.finish().await;
        Ok(())
    });
    lied.await.unwrap();
    assert_eq!(rig.metrics().disagreements.load(Relaxed), 1);
    let (proofs, verdicts) = rig.events();
    assert_eq!((proofs, verdicts.len()), (1, 2));
    assert!(verdicts.contains(&(liar(), false)), "{verdicts:?}");
    assert_eq!(rig.prove().await, ProofOutcome::Proved);
    rig.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_that_are_not_the_verifiers_own_are_not_entered() {
    let rig = Rig::start(ZkSettings { verifiers: vec![liar()], ..ZkSettings::default() }).await;
    assert_eq!(rig.prove().await, ProofOutcome::Proved);
    let (key, other) = (VerifierKey::from_seed(&LIAR), VerifierKey::from_seed(&[8; 32]));
    let dialled = rig.dial(Role::Verifier);
    for lie in 0..4 {
        let lied = serve(&dialled, async |link, (), stop| {
            // The session before may not have ended yet at the node; of failures only that one passes.
            if stop.is_told() {
                return Ok(());
            }
            let (_, payload) = given(link).await?;
            let docketed = super::docketed::Docketed::decode(&payload).unwrap();
            let case = &docketed.cases[0].case;
            let rulings = match lie {
                0 => vec![Ruling::Verdict(Box::new(other.verdict(&case.proof, case.index, true, 1)))],
                1 => vec![Ruling::Verdict(Box::new(key.verdict(&case.proof, case.index + 1, true, 1)))],
                2 => {
                    let mut verdict = key.verdict(&case.proof, case.index, true, 1);
                    verdict.accepted = false;
                    vec![Ruling::Verdict(Box::new(verdict))]
                }
                _ => Vec::new(),
            };
            link.send(Kind::Rulings, &message::encode_rulings(&rulings)).await?;
            match link.receive().await {
                Err(LinkError::Ended { .. }) => Ok(()),
                other => panic!("{other:?}"),
            }
        });
        lied.await.unwrap();
    }
    assert_eq!(rig.events().1.len(), 1);
    assert_eq!(rig.metrics().disagreements.load(Relaxed), 0);
    rig.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_damaged_on_the_node_fails_its_requests_and_ends_no_prover() {
    use haca_dataplane::config::Place;
    let rig = Rig::start(ZkSettings { provers: vec![liar()], prover: Place::Apart, ..ZkSettings::default() });
    let rig = rig.await;
    let models = rig._dir.path().join("zk/models");
    for damage in [Some(b"rot".as_slice()), None] {
        for file in std::fs::read_dir(&models).unwrap() {
            let path = file.unwrap().path();
            match damage {
                _ if path.extension().is_none_or(|extension| extension != "haca") => {}
                Some(rot) => std::fs::write(&path, rot).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
        }
        let request = rig.ask().await;
        let kept = tempfile::tempdir().unwrap();
        let (tell, stop) = Stop::new();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let connect = rig.node.as_ref().unwrap().connect().clone();
        let prover = super::Prover::new(connect, &LIAR, kept.path(), pool).unwrap();
        let failed = async {
            let states = rig.client.await_proofs(&[request]).await.unwrap();
            tell.send(true).unwrap();
            states[0].outcome
        };
        let (ended, outcome) = tokio::join!(prover.run(stop), failed);
        ended.unwrap();
        assert_eq!(outcome, ProofOutcome::Failed);
    }
    rig.stop();
}
