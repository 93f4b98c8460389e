//! A running `haca up`, and what it left in its log.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails there.

use haca_client::{Client, ClientOptions};
use haca_control_plane::shipped::SHIPPED;
use haca_kernels::import::{self, CompileOptions};
use haca_settle::{Audit, Log, LogConfig, LogKey};
use haca_wire::connect::Connect;
use haca_wire::event::{Event, proof_id};
use haca_wire::sign::OperatorKey;
use haca_wire::{Digest, Leaf, RequestId};
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A node on a data directory, killed when it is dropped.
pub(crate) struct Node(Child);

impl Node {
    /// Starts `haca up` with these settings and waits until it serves.
    pub(crate) fn up(data: &Path, settings: &str) -> Self {
        std::fs::create_dir_all(data).unwrap();
        let config = data.join("node.toml");
        std::fs::write(&config, settings).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_haca"))
            .args(["up", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--json", "--data"])
            .arg(data)
            .arg("--config")
            .arg(config)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("\"address\""), "haca up did not come up: {line:?}, {:?}", child.try_wait());
        Self(child)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) async fn client(data: &Path) -> Client {
    let connect = Connect::read(&data.join("connect.toml")).unwrap();
    let options = ClientOptions { idle_timeout: Duration::from_secs(5), ..Default::default() };
    Client::connect(&connect, options).await.unwrap()
}

pub(crate) async fn push(data: &Path) {
    let shipped = &SHIPPED[0];
    let calibration = shipped.calibration().unwrap();
    let model = import::compile(shipped.onnx, &calibration, &CompileOptions::default(), &mut |_| {}).unwrap();
    let seed: Digest = std::fs::read_to_string(data.join("operator.key")).unwrap().trim().parse().unwrap();
    let operator = OperatorKey::from_seed(&seed.0);
    client(data).await.push_model("mlp", &model.file, &operator, |_| {}).await.unwrap();
}

/// Of each request the events that the log holds, counted: proofs and verdicts.
pub(crate) fn events(data: &Path) -> HashMap<RequestId, (usize, usize)> {
    let seed: Digest = std::fs::read_to_string(data.join("log.key")).unwrap().trim().parse().unwrap();
    let mut config = LogConfig::new(data.join("log"), "haca-node");
    config.audit = Audit::Whole;
    let (log, _appenders) = Log::open(config, LogKey::from_seed("haca-node", &seed.0).unwrap(), 1).unwrap();
    let handle = log.handle();
    let leaves: Vec<_> =
        (0..handle.status().tree_size).map(|index| handle.leaf(index).unwrap().unwrap()).collect();
    let mut found = HashMap::new();
    for bytes in &leaves {
        let of_receipt = |index: u64| Leaf::decode(&leaves[index as usize]).unwrap();
        match Event::decode(bytes) {
            Ok(Event::Proof(proof)) => {
                let receipt = of_receipt(proof.index);
                assert_eq!(proof.id, proof_id(&receipt.hash()));
                found.entry(receipt.request).or_insert((0, 0)).0 += 1;
            }
            Ok(Event::Verdict(verdict)) => {
                assert!(verdict.accepted && verdict.is_signed());
                let Ok(Event::Proof(proof)) = Event::decode(&leaves[verdict.index as usize]) else {
                    panic!("a verdict is on a proof")
                };
                assert_eq!(proof.hash(), verdict.proof);
                found.entry(of_receipt(proof.index).request).or_insert((0, 0)).1 += 1;
            }
            Err(_) => drop(Leaf::decode(bytes).unwrap()),
        }
    }
    log.close().unwrap();
    found
}
