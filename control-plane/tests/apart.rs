//! `haca prover` and `haca verifier` with a node, as processes: what is answered is proven once and judged by each,
//! whoever is killed meanwhile; who is not let in is told why.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails there.

mod events;
mod node;

use events::events;
use haca_client::Client;
use haca_control_plane::shipped::SHIPPED;
use haca_wire::event::verdict_id;
use haca_wire::sign::ServiceKey;
use haca_wire::vocabulary::{LogOutcome, ProofOutcome};
use haca_wire::{Digest, Mode, RequestId, Stage};
use node::{Node, client, push};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// `haca prover` or `haca verifier` with a key of ours, killed when it is dropped.
struct Service(Child);

impl Service {
    fn start(role: &str, data: &Path, node: &Path) -> Self {
        Self::start_with(role, data, &node.join("connect.toml"), &[], Stdio::null())
    }

    fn start_with(role: &str, data: &Path, connect: &Path, options: &[&str], stdout: Stdio) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_haca"))
            .args([role, "--threads", "1", "--data"])
            .arg(data)
            .arg("--connect")
            .arg(connect)
            .args(options)
            .stdout(stdout)
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, signal: &str) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// Asks it to end, and waits until it has.
    fn terminate(mut self) {
        self.signal("-TERM");
        let ended = self.0.wait().unwrap();
        assert!(ended.success(), "{ended}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A data directory of a service, with a key of which the public half is known before it starts.
fn keyed(folder: &Path, role: &str, number: u8) -> (PathBuf, Digest) {
    let data = folder.join(format!("{role}-{number}"));
    let file = data.join(format!("{role}.key"));
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(&file, format!("{}\n", Digest([number; 32]))).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    (data, ServiceKey::from_seed(&[number; 32]).public())
}

/// A service that ends by itself, with a failure that has all of these words.
fn fails(role: &str, data: &Path, connect: &Path, words: &[&str]) {
    let ran = Command::new(env!("CARGO_BIN_EXE_haca"))
        .args([role, "--threads", "1", "--data"])
        .arg(data)
        .arg("--connect")
        .arg(connect)
        .output()
        .unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
}

#[test]
fn a_service_says_its_key_before_there_is_a_node() {
    let folder = tempfile::tempdir().unwrap();
    for role in ["prover", "verifier"] {
        let data = folder.path().join(role);
        let ran = Command::new(env!("CARGO_BIN_EXE_haca"))
            .args([role, "--connect"])
            .arg(folder.path().join("connect.toml"))
            .arg("--data")
            .arg(&data)
            .output()
            .unwrap();
        let said = String::from_utf8(ran.stdout).unwrap();
        assert_eq!(ran.status.code(), Some(1));
        assert!(said.contains(&format!("zk.{role}s = [\"")), "{said}");
        assert!(data.join(format!("{role}.key")).exists());
    }
}

/// A port that is free now: a node that is started again must be found where it was.
fn free_port() -> u16 {
    std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn ask(client: &Client, count: usize) -> Vec<RequestId> {
    let model = client.model("mlp").await.unwrap();
    let input = SHIPPED[0].input().unwrap();
    let mut ids = Vec::new();
    for number in 0..count {
        let row = input.row(number % input.rows());
        // Every other input is sealed: its prover is given the row, its verifiers are not.
        let answer = match number % 2 {
            0 => client.infer(&model, Mode::Zk, row).await,
            _ => client.infer_sealed(&model, row).await,
        };
        ids.push(answer.unwrap().leaf.request);
    }
    client.await_receipts(Stage::Durable, &ids).await.unwrap();
    ids
}

/// Waits until the log holds a verdict of each of these verifiers on each of the proofs.
async fn await_verdicts(client: &Client, requests: &[RequestId], verifiers: &[Digest]) {
    let states = client.await_proofs(requests).await.unwrap();
    assert!(states.iter().all(|state| state.outcome == ProofOutcome::Proved), "{states:?}");
    let proofs: Vec<Digest> = states.iter().map(|state| state.events.unwrap().0.hash()).collect();
    let ids: Vec<RequestId> = proofs
        .iter()
        .flat_map(|proof| verifiers.iter().map(|verifier| verdict_id(proof, verifier)))
        .collect();
    let begun = Instant::now();
    loop {
        let states = client.await_receipts(Stage::Durable, &ids).await.unwrap();
        if states.iter().all(|state| state.outcome == LogOutcome::Logged) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "verdicts are missing: {states:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn what_a_node_answers_is_proven_once_and_judged_by_each_though_prover_verifier_and_node_are_killed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("node");
    let (prover, prover_key) = keyed(folder.path(), "prover", 1);
    let (verifiers, keys): (Vec<_>, Vec<_>) =
        [2, 3].map(|number| keyed(folder.path(), "verifier", number)).into_iter().unzip();
    let settings = format!(
        "[zk]\nservices = \"127.0.0.1:{}\"\nprover = \"apart\"\nprovers = [\"{prover_key}\"]\nverifiers = [\"{}\", \"{}\"]\n",
        free_port(),
        keys[0],
        keys[1]
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let node = Node::up(&data, &settings);
    runtime.block_on(push(&data));
    let proving = Service::start("prover", &prover, &data);
    let judging = [0, 1].map(|at| Service::start("verifier", &verifiers[at], &data));
    let mut ids = runtime.block_on(async {
        let client = client(&data).await;
        let ids = ask(&client, 4).await;
        client.await_proofs(&ids[..1]).await.unwrap();
        ids
    });
    // In the middle of the second proof, most likely.
    drop(proving);
    let [first, second] = judging;
    drop(second);
    let proving = Service::start("prover", &prover, &data);
    runtime.block_on(async {
        let client = client(&data).await;
        client.await_proofs(&ids[..2]).await.unwrap();
        ids.extend(ask(&client, 2).await);
    });
    drop(node);
    let node = Node::up(&data, &settings);
    let second = Service::start("verifier", &verifiers[1], &data);
    runtime.block_on(async { await_verdicts(&client(&data).await, &ids, &keys).await });
    [proving, first, second].into_iter().for_each(Service::terminate);
    drop(node);
    let found = events(&data);
    assert_eq!(found.len(), ids.len());
    assert!(
        ids.iter().all(|id| found[id] == (1, 3)),
        "one proof, and the node's verdict and two more: {found:?}"
    );
    assert!(!data.join("zk/keys").exists(), "the node has made no key");
}

#[test]
fn callers_are_given_the_verdicts_of_a_verifier_apart_where_the_node_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("node");
    let (verifier, key) = keyed(folder.path(), "verifier", 4);
    let settings =
        format!("[zk]\nservices = \"127.0.0.1:0\"\nverifier = \"apart\"\nverifiers = [\"{key}\"]\n");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _node = Node::up(&data, &settings);
    let _judging = Service::start("verifier", &verifier, &data);
    runtime.block_on(async {
        push(&data).await;
        let client = client(&data).await;
        let ids = ask(&client, 2).await;
        await_verdicts(&client, &ids, &[key]).await;
    });
}

/// What a service answers to `GET`.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_service_is_told_where_the_node_is_and_says_how_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("node");
    let (verifier, key) = keyed(folder.path(), "verifier", 7);
    let _node = Node::up(&data, &format!("[zk]\nservices = \"0.0.0.0:0\"\nverifiers = [\"{key}\"]\n"));
    let text = std::fs::read_to_string(data.join("connect.toml")).unwrap();
    let services = text.lines().find(|line| line.starts_with("services")).unwrap();
    let node = services.split('"').nth(1).unwrap().replace("0.0.0.0", "127.0.0.1");
    // Another address, where nobody is.
    let connect = folder.path().join("connect.toml");
    std::fs::write(&connect, text.replace(services, "services = \"192.0.2.1:9\"")).unwrap();
    let options = ["--node", &node, "--http", "127.0.0.1:0"];
    let mut service = Service::start_with("verifier", &verifier, &connect, &options, Stdio::piped());
    let said = BufReader::new(service.0.stdout.take().unwrap());
    let mut lines = said.lines().map_while(Result::ok);
    let address = lines.find_map(|line| line.split_once("http://").map(|(_, address)| address.to_owned()));
    let address = address.unwrap();
    assert!(get(&address, "/healthz").starts_with("HTTP/1.1 200"));
    let begun = Instant::now();
    while !get(&address, "/readyz").starts_with("HTTP/1.1 200") {
        assert!(begun.elapsed() < Duration::from_secs(60), "it has no session");
        std::thread::sleep(Duration::from_millis(50));
    }
    let metrics = get(&address, "/metrics");
    assert!(metrics.contains("\nhaca_verifier_connected 1\n"), "{metrics}");
    service.terminate();
}

/// Frozen, a prover keeps its session for some seconds, and what it has for its patience.
#[test]
fn what_a_frozen_prover_has_is_proven_once_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("node");
    let (provers, keys): (Vec<_>, Vec<_>) =
        [8, 9].map(|number| keyed(folder.path(), "prover", number)).into_iter().unzip();
    let settings = format!(
        "[zk]\nservices = \"127.0.0.1:0\"\nprover = \"apart\"\nprover_patience_s = 4\nprovers = [\"{}\", \"{}\"]\n",
        keys[0], keys[1]
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let node = Node::up(&data, &settings);
    runtime.block_on(push(&data));
    let frozen = Service::start("prover", &provers[0], &data);
    let ids = runtime.block_on(async {
        let client = client(&data).await;
        let ids = ask(&client, 6).await;
        client.await_proofs(&ids[..1]).await.unwrap();
        frozen.signal("-STOP");
        let moment = Duration::from_millis(500);
        let rest = tokio::time::timeout(moment, client.await_proofs(&ids)).await;
        assert!(rest.is_err(), "everything was proven before it froze");
        ids
    });
    let other = Service::start("prover", &provers[1], &data);
    let states = runtime.block_on(async { client(&data).await.await_proofs(&ids).await.unwrap() });
    assert!(states.iter().all(|state| state.outcome == ProofOutcome::Proved), "{states:?}");
    frozen.signal("-CONT");
    [frozen, other].into_iter().for_each(Service::terminate);
    drop(node);
    let found = events(&data);
    assert!(ids.iter().all(|id| found[id] == (1, 1)), "{found:?}");
}

#[test]
fn a_service_that_is_not_let_in_is_told_why_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("node");
    let (admitted, admitted_key) = keyed(folder.path(), "prover", 5);
    let (stranger, stranger_key) = keyed(folder.path(), "prover", 6);
    let _node =
        Node::up(&data, &format!("[zk]\nservices = \"127.0.0.1:0\"\nprovers = [\"{admitted_key}\"]\n"));
    let connect = data.join("connect.toml");
    let key = stranger_key.to_string();
    fails("prover", &stranger, &connect, &[&key, "zk.provers", "does not know"]);
    // A prover is no verifier.
    std::fs::copy(admitted.join("prover.key"), admitted.join("verifier.key")).unwrap();
    fails("verifier", &admitted, &connect, &["zk.verifiers", "does not know"]);

    let text = std::fs::read_to_string(&connect).unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let pin = text.lines().find(|line| line.starts_with("key_pin")).unwrap();
    let other = write("other.toml", &text.replace(pin, &format!("key_pin = \"{}\"", Digest([9; 32]))));
    fails("prover", &admitted, &other, &["TLS key", "connect.toml"]);
    let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
    let address = line("address").split('"').nth(1).unwrap();
    let shards = write("shards.toml", &text.replace(line("services"), &format!("services = \"{address}\"")));
    fails("prover", &admitted, &shards, &["haca-service/3", "does not speak"]);
    let none = write("none.toml", &text.replace(line("services"), ""));
    fails("prover", &admitted, &none, &["--services", "zk.services"]);
}
