//! A running `haca up`, and the log that it left.
#![allow(clippy::unwrap_used)] // A test that cannot go on fails there.

use haca_client::{Client, ClientOptions};
use haca_control_plane::shipped::SHIPPED;
use haca_kernels::import::{self, CompileOptions};
use haca_settle::{Audit, Log, LogConfig, LogKey};
use haca_wire::Digest;
use haca_wire::connect::Connect;
use haca_wire::sign::OperatorKey;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Names the node's log.
const ORIGIN: &str = "haca-node";

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

/// The file of the shipped model `mlp`.
pub(crate) fn model_file() -> Vec<u8> {
    let shipped = &SHIPPED[0];
    let calibration = shipped.calibration().unwrap();
    import::compile(shipped.onnx, &calibration, &CompileOptions::default(), &mut |_| {}).unwrap().file
}

pub(crate) fn operator(data: &Path) -> OperatorKey {
    let seed: Digest = std::fs::read_to_string(data.join("operator.key")).unwrap().trim().parse().unwrap();
    OperatorKey::from_seed(&seed.0)
}

/// Pushes the model `mlp`.
pub(crate) async fn push(data: &Path) {
    client(data).await.push_model("mlp", &model_file(), &operator(data), |_| {}).await.unwrap();
}

/// The log of a node that is gone, audited as a whole.
pub(crate) fn open_log(data: &Path) -> Log {
    let seed: Digest = std::fs::read_to_string(data.join("log.key")).unwrap().trim().parse().unwrap();
    let config = LogConfig { audit: Audit::Whole, ..LogConfig::new(data.join("log"), ORIGIN) };
    Log::open(config, LogKey::from_seed(ORIGIN, &seed.0).unwrap(), 0).unwrap().0
}
