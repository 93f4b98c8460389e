//! The commands that talk to a node, against one that was brought up by the tool itself.

mod tool;

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tool::shipped;

/// A node on a data directory of its own.
struct Node {
    process: Child,
    directory: tempfile::TempDir,
}

impl Node {
    fn up() -> Self {
        Self::with("")
    }

    fn with(settings: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let config = directory.path().join("node.toml");
        std::fs::write(&config, settings).expect("a place for settings");
        let mut process = Command::new(env!("CARGO_BIN_EXE_haca"))
            .args(["up", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data"])
            .arg(directory.path().join("data"))
            .arg("--config")
            .arg(config)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let stdout = BufReader::new(process.stdout.take().expect("it is piped"));
        // It says where connect.toml is once it serves.
        let serves = stdout.lines().map_while(Result::ok).any(|line| line.starts_with("connect"));
        assert!(serves, "the node did not come up");
        Self { process, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn connect(&self) -> PathBuf {
        self.path("data/connect.toml")
    }

    fn compile(&self, model: &str) -> PathBuf {
        let (onnx, rows) = (shipped(&format!("{model}.onnx")), shipped(&format!("{model}_calibration.npy")));
        let compiled = self.path(&format!("{model}.haca"));
        haca!("model", "compile", onnx, "--calibrate", rows, "-o", compiled).done();
        compiled
    }

    fn push(&self, model: &Path, name: &str) {
        haca!("model", "push", model, "--name", name, "--connect", self.connect()).done();
    }

    /// Every check of every receipt holds.
    fn verify_strictly(&self, receipts: &Path, model: &Path, rows: &Path, answers: &Path) {
        let keys = self.connect();
        haca!(
            "verify",
            receipts,
            "--connect-keys",
            keys,
            "--model",
            model,
            "--input",
            rows,
            "--output",
            answers,
            "--strict",
        )
        .done();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_pushed_model_answers_as_it_does_offline_and_its_receipts_hold() {
    let node = Node::up();
    let (model, rows) = (node.compile("mlp"), shipped("mlp_input.npy"));
    node.push(&model, "mlp");
    let listed = haca!("model", "list", "--connect", node.connect(), "--json").json();
    assert_eq!(listed["models"][0]["name"], "mlp");

    let (answers, receipts) = (node.path("y.npy"), node.path("receipts"));
    let said = haca!(
        "infer",
        "--connect",
        node.connect(),
        "--model",
        "mlp",
        "--input",
        rows,
        "-o",
        answers,
        "--mode",
        "tee",
        "--receipts",
        receipts,
        "--wait",
        "durable",
        "--json",
    );
    let said = said.json();
    assert_eq!((&said["rows"], &said["stage"]), (&400.into(), &"checkpointed".into()));
    let offline = node.path("offline.npy");
    haca!("model", "run", model, "--input", rows, "-o", offline).done();
    assert_eq!(std::fs::read(&answers).expect("answers"), std::fs::read(&offline).expect("answers"));
    node.verify_strictly(&receipts, &model, &rows, &answers);
}

/// Name, name of its rows, and the largest error against ONNX Runtime as a share of the output's range.
const FAMILIES: [(&str, &str, f32); 13] = [
    ("mlp", "mlp", 1e-3),
    ("lstm", "recurrent", 1e-3),
    ("gru", "recurrent", 1e-3),
    ("orderbook", "orderbook", 1e-3),
    ("transformer", "transformer", 1e-3),
    ("gbt", "gbt", 1e-6),
    ("lightgbm_regressor", "diabetes", 1e-6),
    ("lightgbm_classifier", "cancer", 1e-6),
    ("xgboost_regressor", "diabetes", 1e-6),
    ("xgboost_classifier", "cancer", 1e-6),
    ("pipeline_linear", "diabetes", 1e-3),
    ("pipeline_logistic", "cancer", 1e-3),
    ("pipeline_mlp", "cancer", 1e-3),
];

/// Rows of each that are asked.
const ASKED: usize = 12;

/// Every family that is imported goes all the way: compiled, shown, run offline, pushed, asked through the server, and
/// its receipts verified with every check.
#[test]
fn every_family_of_models_is_compiled_served_and_verified() {
    // Without proofs: a node that makes them looks at the circuits of each model that is pushed.
    let node = Node::with("[zk]\nenabled = false\n");
    let connect = node.connect();
    for (name, rows, limit) in FAMILIES {
        let model = node.path(&format!("{name}.haca"));
        let (onnx, calibration) =
            (shipped(&format!("{name}.onnx")), shipped(&format!("{rows}_calibration.npy")));
        haca!("model", "compile", onnx, "--calibrate", calibration, "-o", model).done();
        let shown = haca!("model", "inspect", model, "--json").json();
        assert!(!shown["layers"].as_array().expect("layers").is_empty(), "{name}");

        let first = |file: &str| {
            let mut array = haca_kernels::npy::read(shipped(file)).expect("a shipped array");
            array.data.truncate(ASKED * array.row_len());
            array.shape[0] = ASKED;
            array
        };
        let (input, reference) =
            (first(&format!("{rows}_input.npy")), first(&format!("{name}_reference.npy")));
        let asked = node.path(&format!("{name}_x.npy"));
        haca_kernels::npy::write(&asked, &input).expect("a place for rows");
        let offline = node.path(&format!("{name}_offline.npy"));
        haca!("model", "run", model, "--input", asked, "-o", offline).done();
        let answers = haca_kernels::npy::read(&offline).expect("answers");
        assert_eq!(answers.data.len(), reference.data.len(), "{name}");
        let least = reference.data.iter().copied().fold(f32::INFINITY, f32::min);
        let range = reference.data.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least;
        for (answer, exact) in answers.data.iter().zip(&reference.data) {
            assert!((answer - exact).abs() <= limit * range, "{name}: {answer} is not {exact}");
        }

        node.push(&model, name);
        let (served, receipts) =
            (node.path(&format!("{name}_y.npy")), node.path(&format!("{name}_receipts")));
        let mut args: Vec<OsString> =
            ["infer", "--model", name, "--mode", "tee", "--wait", "durable"].map(OsString::from).into();
        for (flag, path) in
            [("--connect", &connect), ("--input", &asked), ("-o", &served), ("--receipts", &receipts)]
        {
            args.extend([flag.into(), path.into()]);
        }
        tool::haca(args).done();
        let bytes = |path: &Path| std::fs::read(path).expect("answers");
        assert_eq!(bytes(&served), bytes(&offline), "{name}");
        node.verify_strictly(&receipts, &model, &asked, &served);
    }
}

/// Windows of the shipped rows, step by step, give at their last step what the whole window gives, and the receipts of
/// the steps hold under a replay; with a step changed they do not.
#[test]
fn a_streamed_window_answers_as_the_whole_one_and_its_receipts_hold_under_replay() {
    let node = Node::up();
    streams_hold(&node, "lstm", "recurrent", 1, "recurrent");
    // A window slides on from row to row.
    streams_hold(&node, "orderbook", "orderbook", 2, "window");
}

/// Streams so many of the shipped rows one after the other.
fn streams_hold(node: &Node, name: &str, rows: &str, windows: usize, kind: &str) {
    let model = node.path(&format!("{name}.haca"));
    let calibration = shipped(&format!("{rows}_calibration.npy"));
    haca!("model", "compile", shipped(&format!("{name}.onnx")), "--calibrate", calibration, "-o", model)
        .done();
    node.push(&model, name);
    let whole = haca_kernels::npy::read(shipped(&format!("{rows}_input.npy"))).expect("rows");
    let (row_len, row_shape) = (whole.row_len(), whole.shape[1..].to_vec());
    let (window, features) = (row_shape[row_shape.len() - 2], row_shape[row_shape.len() - 1]);
    let write = |file: &str, shape: Vec<usize>, data: Vec<f32>| {
        let path = node.path(&format!("{name}_{file}"));
        haca_kernels::npy::write(&path, &haca_kernels::npy::Array { shape, data }).expect("an array");
        path
    };
    let sent = whole.data[7 * row_len..(7 + windows) * row_len].to_vec();
    let rows = write("rows.npy", [&[windows], &row_shape[..]].concat(), sent.clone());
    let steps = write("steps.npy", vec![windows * window, features], sent.clone());
    let [once, streamed, receipts] =
        ["once.npy", "streamed.npy", "receipts"].map(|file| node.path(&format!("{name}_{file}")));
    let connect = node.connect();
    haca!("infer", "--connect", connect, "--model", name, "--input", rows, "-o", once).done();
    let said = haca!(
        "infer",
        "--connect",
        connect,
        "--model",
        name,
        "--input",
        steps,
        "--stream",
        "-o",
        streamed,
        "--receipts",
        receipts,
        "--wait",
        "durable",
        "--json",
    );
    assert_eq!(said.json()["rows"], windows * window);
    let [once, all] = [&once, &streamed].map(|path| haca_kernels::npy::read(path).expect("answers"));
    for row in 0..windows {
        assert_eq!(once.row(row), all.row((row + 1) * window - 1), "{name}");
    }

    let verify = |input: &Path| {
        haca!(
            "verify",
            receipts,
            "--stream",
            "--connect-keys",
            connect,
            "--model",
            model,
            "--input",
            input,
            "--output",
            streamed,
            "--strict",
        )
    };
    verify(&steps).done();
    let mut changed = sent;
    changed.swap(features, 2 * features);
    let changed = write("changed.npy", vec![windows * window, features], changed);
    verify(&changed).failed(&[]);
    let shown = haca!("model", "inspect", model, "--json").json();
    assert_eq!(shown["stream"]["step_shape"], serde_json::json!([features]));
    assert_eq!(shown["stream"]["kind"], kind);
    haca!("infer", "--connect", connect, "--model", name, "--input", rows, "--stream").failed(&[]);
}

/// A parked shard hears every message of the log, not only the first.
#[test]
fn the_log_is_waited_for_again_and_again() {
    let node = Node::up();
    node.push(&node.compile("gbt"), "gbt");
    for _ in 0..5 {
        let rows = shipped("gbt_input.npy");
        let waited = haca!(
            "infer",
            "--connect",
            node.connect(),
            "--model",
            "gbt",
            "--input",
            rows,
            "--wait",
            "durable"
        );
        assert!(waited.done().contains("all durable"));
    }
}

#[test]
fn answers_of_mode_zk_are_proven_and_their_proofs_hold_offline() {
    let node = Node::up();
    let model = node.compile("mlp");
    node.push(&model, "mlp");
    let mut few = haca_kernels::npy::read(shipped("mlp_input.npy")).expect("rows");
    few.data.truncate(3 * few.data.len() / few.shape[0]);
    few.shape[0] = 3;
    let (rows, answers, receipts) = (node.path("x.npy"), node.path("y.npy"), node.path("receipts"));
    haca_kernels::npy::write(&rows, &few).expect("a place for rows");
    let connect = node.connect();
    let said = haca!(
        "infer",
        "--connect",
        connect,
        "--model",
        "mlp",
        "--input",
        rows,
        "-o",
        answers,
        "--mode",
        "zk",
        "--wait",
        "proved",
        "--receipts",
        receipts,
        "--json",
    );
    assert_eq!(said.json()["proofs"]["proved"], 3, "{}", said.stdout);
    node.verify_strictly(&receipts, &model, &rows, &answers);
    let exported = node.path("proof.json");
    haca!("zk", "export", node.path("receipts/1.receipt"), "--model", model, "--input", rows, "-o", exported)
        .done();
    assert!(std::fs::read_to_string(exported).expect("an export").contains("bls12-381"));
}

/// Who has the receipts of sealed rows alone can check them, and who has rows and salts, also that these are the rows.
#[test]
fn sealed_rows_are_proven_and_checked_without_them_and_opened_by_their_salts() {
    let node = Node::up();
    let model = node.compile("mlp");
    node.push(&model, "mlp");
    let all = haca_kernels::npy::read(shipped("mlp_input.npy")).expect("rows");
    let write = |name: &str, first: usize| {
        let data = [all.row(first), all.row(first + 1)].concat();
        let path = node.path(name);
        let array = haca_kernels::npy::Array { shape: vec![2, all.row_len()], data };
        haca_kernels::npy::write(&path, &array).expect("a place for rows");
        path
    };
    let (rows, others) = (write("x.npy", 0), write("others.npy", 2));
    let (answers, receipts, connect) = (node.path("y.npy"), node.path("receipts"), node.connect());
    let ask = |extra: &[&str]| {
        let mut args: Vec<OsString> =
            ["infer", "--model", "mlp", "--sealed", "--json"].map(OsString::from).into();
        for (flag, path) in
            [("--connect", &connect), ("--input", &rows), ("--receipts", &receipts), ("-o", &answers)]
        {
            args.extend([flag.into(), path.into()]);
        }
        args.extend(extra.iter().map(OsString::from));
        tool::haca(args)
    };
    ask(&["--mode", "tee"]).failed(&["--sealed", "--mode zk"]);
    let said = ask(&["--mode", "zk", "--wait", "proved"]);
    assert_eq!(said.json()["proofs"]["proved"], 2, "{}", said.stdout);
    let salt = std::fs::metadata(node.path("receipts/1.salt")).expect("a salt");
    assert_eq!(salt.permissions().mode() & 0o777, 0o600);

    let verify = |extra: &[(&str, &Path)]| {
        let mut args: Vec<OsString> =
            vec!["verify".into(), (&receipts).into(), "--strict".into(), "-v".into()];
        for (flag, path) in
            [("--connect-keys", connect.as_path()), ("--output", &answers)].iter().chain(extra)
        {
            args.extend([flag.into(), path.into()]);
        }
        tool::haca(args)
    };
    // Without rows and salts: the proof says what they would.
    let text = verify(&[("--model", &model)]).done();
    assert!(
        text.contains("the sealed input gives the output's integers") && text.contains("--salts"),
        "{text}"
    );
    verify(&[]).failed(&["--strict"]);
    // With both, the rows are run again; with other rows they do not open.
    let text = verify(&[("--model", &model), ("--input", &rows), ("--salts", &receipts)]).done();
    assert!(text.contains("row 1 of") && text.contains("row 1 gives the same bits again"), "{text}");
    let other: [(&str, &Path); 3] = [("--model", &model), ("--input", &others), ("--salts", &receipts)];
    verify(&other).failed(&["input", "opens to none"]);
    std::fs::copy(node.path("receipts/0.salt"), node.path("receipts/1.salt")).expect("a copy");
    let exchanged: [(&str, &Path); 3] = [("--model", &model), ("--input", &rows), ("--salts", &receipts)];
    verify(&exchanged).failed(&["1.receipt", "opens to none"]);

    let (receipt, exported) = (node.path("receipts/0.receipt"), node.path("proof.json"));
    haca!("zk", "export", receipt, "--model", model, "-o", exported).done();
    assert!(std::fs::read_to_string(exported).expect("an export").contains("bls12-381"));
}

#[test]
fn what_cannot_be_asked_is_said_with_its_remedy() {
    let node = Node::up();
    let (model, rows) = (node.compile("mlp"), shipped("mlp_input.npy"));
    node.push(&model, "mlp");
    let connect = node.connect();
    haca!("infer", "--connect", connect, "--model", "lstm", "--input", rows)
        .failed(&["\"lstm\"", "serves mlp"]);
    haca!("infer", "--connect", connect, "--model", "mlp", "--input", shipped("gbt_input.npy"))
        .failed(&["gbt_input.npy", "[64]"]);
    assert_eq!(
        haca!("infer", "--connect", connect, "--model", "mlp", "--input", rows, "--mode", "sgx").code,
        2
    );

    let cut = node.path("cut.haca");
    let bytes = std::fs::read(&model).expect("the model");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).expect("a file");
    haca!("model", "push", cut, "--name", "cut", "--connect", connect).failed(&["cut.haca", "model_refused"]);
    let elsewhere = node.path("connect.toml");
    std::fs::copy(&connect, &elsewhere).expect("a copy");
    haca!("model", "push", model, "--name", "x", "--connect", elsewhere).failed(&["operator.key", "haca up"]);
    std::fs::write(node.path("operator.key"), "07".repeat(32)).expect("a key");
    haca!("model", "push", model, "--name", "x", "--connect", elsewhere).failed(&["not_permitted"]);

    let text = std::fs::read_to_string(&connect).expect("the file");
    let pin = text.lines().find(|line| line.starts_with("key_pin")).expect("it has a pin");
    let other = format!("key_pin = \"{}\"", "00".repeat(32));
    std::fs::write(&elsewhere, text.replace(pin, &other)).expect("a file");
    haca!("model", "list", "--connect", elsewhere).failed(&["TLS key", "get its present connect.toml"]);
    // And after all of that the node still serves.
    haca!("infer", "--connect", connect, "--model", "mlp", "--input", rows).done();
}
