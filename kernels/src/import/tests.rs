//! Import of models built here, message by message.

use proptest::prelude::*;
use prost::Message;

use super::onnx::*;
use super::*;
use crate::Backend;

fn tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(data_type::FLOAT),
        raw_data: Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        ..Default::default()
    }
}

fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let (domain, operator) = operator.rsplit_once('.').unwrap_or(("", operator));
    NodeProto {
        input: owned(inputs),
        output: owned(outputs),
        name: Some(format!("{operator} node")),
        op_type: Some(operator.into()),
        domain: Some(domain.into()),
        ..Default::default()
    }
}

fn attribute(name: &str, set: impl FnOnce(&mut AttributeProto)) -> AttributeProto {
    let mut attribute = AttributeProto { name: Some(name.into()), ..Default::default() };
    set(&mut attribute);
    attribute
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    attribute(name, |attribute| attribute.ints = values.to_vec())
}

fn floats(name: &str, values: &[f32]) -> AttributeProto {
    attribute(name, |attribute| attribute.floats = values.to_vec())
}

fn strings(name: &str, values: &[&str]) -> AttributeProto {
    attribute(name, |attribute| {
        attribute.strings = values.iter().map(|value| value.as_bytes().to_vec()).collect()
    })
}

fn text(name: &str, value: &str) -> AttributeProto {
    attribute(name, |attribute| attribute.s = Some(value.as_bytes().to_vec()))
}

fn value(name: &str, element: i32, row: &[i64]) -> ValueInfoProto {
    let dimension = |length: &i64| DimensionProto { value: Some(Dimension::Value(*length)) };
    let batch = DimensionProto { value: Some(Dimension::Parameter("rows".into())) };
    let dim = std::iter::once(batch).chain(row.iter().map(dimension)).collect();
    let tensor_type = TensorTypeProto { elem_type: Some(element), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto { name: Some(name.into()), r#type: Some(TypeProto { tensor_type: Some(tensor_type) }) }
}

fn model(nodes: Vec<NodeProto>, initializer: Vec<TensorProto>, row: &[i64], outputs: &[&str]) -> ModelProto {
    let float = |name: &&str| value(name, data_type::FLOAT, &[1]);
    ModelProto {
        ir_version: Some(8),
        graph: Some(GraphProto {
            node: nodes,
            name: Some("test".into()),
            initializer,
            input: vec![value("x", data_type::FLOAT, row)],
            output: outputs.iter().map(float).collect(),
        }),
        ..Default::default()
    }
}

fn rows(row_len: usize, values: &[f32]) -> npy::Array {
    npy::Array { shape: vec![values.len() / row_len, row_len], data: values.to_vec() }
}

fn spread(count: usize, row_len: usize) -> npy::Array {
    let values: Vec<f32> = (0..count * row_len).map(|i| ((i * 7919) % 1000) as f32 / 250.0 - 2.0).collect();
    rows(row_len, &values)
}

fn compiled(model: &ModelProto, calibration: &npy::Array) -> Result<Compiled, ImportError> {
    compile(&model.encode_to_vec(), calibration, &CompileOptions::default(), &mut |_| {})
}

fn refusal(model: &ModelProto, calibration: &npy::Array) -> String {
    compiled(model, calibration).unwrap_err().to_string()
}

/// Outputs of one row, on all backends.
fn run(file: &[u8], row: &[f32]) -> Vec<f32> {
    let model = Arc::new(Model::load(file).unwrap());
    let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut results: Vec<Vec<f32>> = Backend::available()
        .map(|backend| {
            let mut executor = Executor::with_backend(Arc::clone(&model), 1, backend);
            executor.stage(0, Dtype::F32, &bytes).unwrap();
            executor.execute(1);
            let mut out = vec![0; model.output_len() * 4];
            executor.write_output(0, Dtype::F32, &mut out);
            out.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
        })
        .collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    results.remove(0)
}

#[test]
fn a_pipeline_of_scaler_layers_residual_and_reshape_is_accurate() {
    let weights = |seed: i64, count: i64| -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 100.0 - 0.5).collect()
    };
    let mut scaler = node("ai.onnx.ml.Scaler", &["x"], &["scaled"]);
    scaler.attribute =
        vec![floats("offset", &[100.0, 0.0, -3.0, 0.001]), floats("scale", &[0.1, 1.0, 2.0, 900.0])];
    let mut gemm = node("Gemm", &["h2", "w3", "b3"], &["g3"]);
    gemm.attribute = vec![attribute("transB", |a| a.i = Some(1)), attribute("alpha", |a| a.f = Some(0.5))];
    let nodes = vec![
        scaler,
        node("MatMul", &["scaled", "w1"], &["m1"]),
        node("Add", &["m1", "b1"], &["a1"]),
        node("Tanh", &["a1"], &["h1"]),
        node("MatMul", &["h1", "w2"], &["m2"]),
        node("Sigmoid", &["m2"], &["s2"]),
        node("Add", &["s2", "h1"], &["h2"]),
        gemm,
        node("Mul", &["g3", "three"], &["g4"]),
        node("Reshape", &["g4", "shape"], &["y"]),
    ];
    let shape = TensorProto {
        name: Some("shape".into()),
        dims: vec![2],
        data_type: Some(data_type::INT64),
        int64_data: vec![-1, 2],
        ..Default::default()
    };
    let initializers = vec![
        tensor("w1", &[4, 8], &weights(1, 32)),
        tensor("b1", &[8], &weights(2, 8)),
        tensor("w2", &[8, 8], &weights(3, 64)),
        tensor("w3", &[2, 8], &weights(4, 16)),
        tensor("b3", &[2], &[0.25, -0.5]),
        tensor("three", &[], &[3.0]),
        shape,
    ];
    let mut calibration = spread(200, 4);
    for row in calibration.data.chunks_exact_mut(4) {
        row[0] = row[0] * 10.0 + 100.0;
        row[3] = row[3] * 1e-3 + 0.001;
    }
    let compiled = compiled(&model(nodes, initializers, &[4], &["y"]), &calibration).unwrap();
    assert!(compiled.report.relative_error() <= 1e-3, "{:?}", compiled.report);
    let operators: Vec<&str> = compiled.report.layers.iter().map(|layer| layer.layer.operator).collect();
    assert_eq!(operators, ["affine", "dense", "dense", "add", "dense"], "{:?}", compiled.report.layers);
    assert_eq!(compiled.report.layers[4].layer.source, "Gemm+Mul");
    assert_eq!(Model::load(&compiled.file).unwrap().output_shape(), [2]);
}

#[test]
fn an_i16_boundary_takes_the_integers_that_a_float_row_becomes() {
    let nodes = vec![node("MatMul", &["x", "w"], &["y"])];
    let onnx = model(nodes, vec![tensor("w", &[2, 1], &[0.5, -1.5])], &[2], &["y"]).encode_to_vec();
    let options = CompileOptions { i16_boundary: true, ..Default::default() };
    let compiled = compile(&onnx, &spread(50, 2), &options, &mut |_| {}).unwrap();
    let model = Arc::new(Model::load(&compiled.file).unwrap());
    assert!(model.accepts(Dtype::I16));
    let mut executor = Executor::new(Arc::clone(&model), 2);
    let scale = 2f32.powi(model.input_exponent());
    let floats = [0.75f32, -1.25];
    let of_floats: Vec<u8> = floats.iter().flat_map(|value| value.to_le_bytes()).collect();
    let of_integers: Vec<u8> =
        floats.iter().flat_map(|value| ((value * scale) as i16).to_le_bytes()).collect();
    executor.stage(0, Dtype::F32, &of_floats).unwrap();
    executor.stage(1, Dtype::I16, &of_integers).unwrap();
    executor.execute(2);
    assert_eq!(executor.output_fixed(0), executor.output_fixed(1));
    let mut bytes = [0; 2];
    executor.write_output(1, Dtype::I16, &mut bytes);
    let answer = f64::from(i16::from_le_bytes(bytes)) * model.output_scale();
    assert!((answer - 2.25).abs() < 1e-3, "{answer}");
}

#[test]
fn all_unsupported_operators_are_named_at_once_with_the_supported_list() {
    let nodes = vec![node("Erf", &["x"], &["a"]), node("com.acme.Magic", &["a"], &["y"])];
    let message = refusal(&model(nodes, vec![], &[2], &["y"]), &spread(3, 2));
    for part in
        ["Erf (node 'Erf node')", "com.acme.Magic (node 'Magic node')", "Gemm", "TreeEnsembleRegressor"]
    {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn hostile_graphs_are_refused_by_their_reason() {
    let calibration = spread(3, 2);
    let cycle = vec![node("Add", &["x", "b"], &["a"]), node("Relu", &["a"], &["b"])];
    assert!(refusal(&model(cycle, vec![], &[2], &["b"]), &calibration).contains("not computed before"));
    let twice = vec![node("Relu", &["x"], &["y"]), node("Tanh", &["x"], &["y"])];
    assert!(refusal(&model(twice, vec![], &[2], &["y"]), &calibration).contains("computed twice"));
    let missing = vec![node("MatMul", &["x", "w"], &["y"])];
    assert!(refusal(&model(missing.clone(), vec![], &[2], &["y"]), &calibration).contains("'w'"));
    let wrong = vec![tensor("w", &[3, 1], &[1.0; 3])];
    assert!(refusal(&model(missing.clone(), wrong, &[2], &["y"]), &calibration).contains("takes 3 inputs"));
    let mut external = tensor("w", &[2, 1], &[1.0; 2]);
    external.data_location = Some(1);
    assert!(
        refusal(&model(missing.clone(), vec![external], &[2], &["y"]), &calibration)
            .contains("outside the model")
    );
    let nan = vec![tensor("w", &[2, 1], &[1.0, f32::NAN])];
    assert!(refusal(&model(missing.clone(), nan, &[2], &["y"]), &calibration).contains("NaN"));
    let huge = refusal(
        &model(vec![node("Relu", &["x"], &["y"])], vec![], &[1 << 40, 1 << 40], &["y"]),
        &calibration,
    );
    assert!(huge.contains("must be fixed and at most"), "{huge}");
    let good = vec![tensor("w", &[2, 1], &[1.0; 2])];
    let wide = refusal(&model(missing.clone(), good.clone(), &[2], &["y"]), &spread(3, 5));
    assert!(wide.contains("[rows, 2] is needed"), "{wide}");
    let nan_row = rows(2, &[1.0, f32::NAN]);
    assert!(refusal(&model(missing, good, &[2], &["y"]), &nan_row).contains("row 0, element 1 is NaN"));
}

/// One tree of six branches, one of each mode, in a chain; leaf `i` votes `i`.
fn chain(modes: &[&str], threshold: f32) -> Vec<AttributeProto> {
    let (branches, nodes) = (modes.len() as i64, modes.len() as i64 * 2 + 1);
    // Branch b is node b; its true leaf is node branches + b; the last false leaf is the last node.
    let all = |of: fn(i64, i64) -> i64| {
        (0..nodes).map(|i| if i < branches { of(i, branches) } else { 0 }).collect::<Vec<_>>()
    };
    let mode = |i: i64| if i < branches { modes[i as usize] } else { "LEAF" };
    let next = |i: i64, branches: i64| if i + 1 < branches { i + 1 } else { 2 * branches };
    vec![
        ints("nodes_treeids", &vec![0; nodes as usize]),
        ints("nodes_nodeids", &(0..nodes).collect::<Vec<_>>()),
        ints("nodes_featureids", &all(|i, _| i)),
        floats("nodes_values", &vec![threshold; nodes as usize]),
        strings("nodes_modes", &(0..nodes).map(mode).collect::<Vec<_>>()),
        ints("nodes_truenodeids", &all(|i, branches| branches + i)),
        ints(
            "nodes_falsenodeids",
            &(0..nodes).map(|i| if i < branches { next(i, branches) } else { 0 }).collect::<Vec<_>>(),
        ),
    ]
}

const MODES: [&str; 6] = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"];

fn votes(prefix: &str, leaves: &[i64], ids: &[i64], weights: &[f32]) -> Vec<AttributeProto> {
    vec![
        ints(&format!("{prefix}_treeids"), &vec![0; leaves.len()]),
        ints(&format!("{prefix}_nodeids"), leaves),
        ints(&format!("{prefix}_ids"), ids),
        floats(&format!("{prefix}_weights"), weights),
    ]
}

#[test]
fn every_branch_mode_decides_as_floats_do_at_every_edge() {
    let edges = [
        0.0,
        -0.0,
        f32::from_bits(1),
        -f32::from_bits(1),
        1.5,
        f32::from_bits(1.5f32.to_bits() + 1),
        f32::from_bits(1.5f32.to_bits() - 1),
        f32::MAX,
        f32::MIN,
        f32::INFINITY,
        f32::NEG_INFINITY,
    ];
    for mode in MODES {
        for threshold in edges.into_iter().chain([f32::NAN]) {
            let mut trees = node("ai.onnx.ml.TreeEnsembleRegressor", &["x"], &["y"]);
            trees.attribute = chain(&[mode], threshold);
            trees.attribute.extend(votes("target", &[1, 2], &[0, 0], &[1.0, 2.0]));
            let file = compiled(&model(vec![trees], vec![], &[1], &["y"]), &spread(4, 1)).unwrap().file;
            for x in edges {
                let holds = match mode {
                    "BRANCH_LEQ" => x <= threshold,
                    "BRANCH_LT" => x < threshold,
                    "BRANCH_GTE" => x >= threshold,
                    "BRANCH_GT" => x > threshold,
                    "BRANCH_EQ" => x == threshold,
                    _ => x != threshold,
                };
                assert_eq!(run(&file, &[x]), [if holds { 1.0 } else { 2.0 }], "{x} {mode} {threshold}");
            }
        }
    }
}

#[test]
fn leaves_base_values_and_averages_are_summed_exactly() {
    let mut trees = node("ai.onnx.ml.TreeEnsembleRegressor", &["x"], &["y"]);
    trees.attribute = chain(&MODES, 0.0);
    trees.attribute.extend(votes(
        "target",
        &[6, 7, 8, 9, 10, 11, 12],
        &[0, 1, 0, 1, 0, 1, 0],
        &[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7],
    ));
    trees.attribute.push(attribute("n_targets", |a| a.i = Some(2)));
    trees.attribute.push(floats("base_values", &[1000.0, -1.0]));
    trees.attribute.push(text("aggregate_function", "AVERAGE"));
    let compiled = compiled(&model(vec![trees], vec![], &[6], &["y"]), &spread(40, 6)).unwrap();
    assert_eq!(run(&compiled.file, &[-1.0, 0.0, 0.0, 0.0, 0.0, 0.0]), [1000.1, -1.0]);
    assert_eq!(run(&compiled.file, &[1.0, -1.0, 0.0, 0.0, 0.0, 0.0]), [1000.0, -0.8]);
    assert!(compiled.report.max_error <= 1e-6);
}

#[test]
fn a_classifier_serves_its_scores_and_drops_its_label() {
    let classifier = |weights: &[f32], transform: &str| {
        let mut trees = node("ai.onnx.ml.TreeEnsembleClassifier", &["x"], &["label", "scores"]);
        trees.attribute = chain(&["BRANCH_LEQ"], 0.0);
        trees.attribute.extend(votes("class", &[1, 2], &[0, 0], weights));
        trees.attribute.push(ints("classlabels_int64s", &[0, 1]));
        trees.attribute.push(text("post_transform", transform));
        let zip = node("ai.onnx.ml.ZipMap", &["scores"], &["probabilities"]);
        let mut model = model(vec![trees, zip], vec![], &[1], &["label", "probabilities"]);
        let outputs = &mut model.graph.as_mut().unwrap().output;
        outputs[0] = value("label", data_type::INT64, &[]);
        outputs[1].r#type = None;
        model
    };
    let compiled_as =
        |weights: &[f32], transform| compiled(&classifier(weights, transform), &spread(8, 1)).unwrap();
    let complement = compiled_as(&[0.25, 0.5], "NONE");
    assert_eq!(complement.report.served_output, "probabilities");
    assert_eq!(complement.report.dropped_outputs, ["label"]);
    assert_eq!(run(&complement.file, &[-1.0]), [0.75, 0.25]);
    assert_eq!(run(&compiled_as(&[-0.25, 0.5], "NONE").file, &[-1.0]), [0.25, -0.25]);
    let logistic = run(&compiled_as(&[-2.0, 0.5], "LOGISTIC").file, &[-1.0]);
    assert!(
        (logistic[1] - 1.0 / (1.0 + 2f32.exp())).abs() < 1e-6
            && (logistic[0] + logistic[1] - 1.0).abs() < 1e-6
    );
    let message = refusal(&classifier(&[1.0, 2.0], "SOFTMAX"), &spread(8, 1));
    assert!(message.contains("SOFTMAX") && message.contains("LOGISTIC"), "{message}");
}

#[test]
fn trees_that_cycle_or_share_nodes_are_refused() {
    let with = |when_true: &[i64], when_false: &[i64]| {
        let mut trees = node("ai.onnx.ml.TreeEnsembleRegressor", &["x"], &["y"]);
        trees.attribute = chain(&["BRANCH_LEQ", "BRANCH_LEQ"], 0.0);
        trees.attribute[2] = ints("nodes_featureids", &[0; 5]);
        trees.attribute[5] = ints("nodes_truenodeids", when_true);
        trees.attribute[6] = ints("nodes_falsenodeids", when_false);
        trees.attribute.extend(votes("target", &[2, 3, 4], &[0, 0, 0], &[1.0, 2.0, 3.0]));
        refusal(&model(vec![trees], vec![], &[1], &["y"]), &spread(4, 1))
    };
    assert!(with(&[1, 0, 0, 0, 0], &[2, 3, 0, 0, 0]).contains("form a cycle"));
    assert!(with(&[1, 2, 0, 0, 0], &[1, 3, 0, 0, 0]).contains("two parents"));
    assert!(with(&[9, 2, 0, 0, 0], &[1, 3, 0, 0, 0]).contains("not there"));
}

fn shipped(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../bench/models/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

proptest! {
    #[test]
    fn random_bytes_are_refused_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let compiled = compile(&bytes, &spread(2, 2), &CompileOptions::default(), &mut |_| {});
        prop_assert!(compiled.is_err());
    }

    /// Every truncation and most changes of a real file; what still imports, compiles or is refused.
    #[test]
    fn a_damaged_real_model_never_panics(
        which in 0usize..2, cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte: u8,
    ) {
        let (onnx, len) = [(shipped("mlp.onnx"), 64), (shipped("gbt.onnx"), 10)][which].clone();
        let rows = spread(2, len);
        let _ = compile(&onnx[..cut.index(onnx.len())], &rows, &CompileOptions::default(), &mut |_| {});
        let mut changed = onnx;
        // Structure lies at the ends; the middle is mostly numbers.
        let near = [at.index(400), changed.len() - 1 - at.index(400), at.index(changed.len())];
        for place in near {
            changed[place] = byte;
            let _ = compile(&changed, &rows, &CompileOptions::default(), &mut |_| {});
        }
    }
}

/// A recurrent layer over 5 steps of 3 features, with 4 hidden units, and what an exporter puts around it.
fn recurrent(operator: &str, outputs: &[&str], mut after: Vec<NodeProto>, initial: bool) -> ModelProto {
    let gates = if operator == "LSTM" { 4 } else { 3 };
    let weights = |seed: usize, count: usize| -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 100.0 - 0.5).collect()
    };
    let integers = |name: &str, dims: &[i64], values: &[i64]| TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(data_type::INT64),
        int64_data: values.to_vec(),
        ..Default::default()
    };
    let mut turn = node("Transpose", &["x"], &["turned"]);
    turn.attribute = vec![ints("perm", &[1, 0, 2])];
    let states: &[&str] = if operator == "LSTM" { &["", "h0", "c0"] } else { &["", "h0"] };
    let inputs = [&["turned", "w", "r", "b"][..], if initial { states } else { &[] }].concat();
    let mut layer = node(operator, &inputs, outputs);
    layer.attribute = vec![attribute("hidden_size", |a| a.i = Some(4))];
    if operator == "GRU" {
        layer.attribute.push(attribute("linear_before_reset", |a| a.i = Some(1)));
    }
    let mut nodes = vec![turn, layer];
    nodes.append(&mut after);
    let initializers = vec![
        tensor("w", &[1, gates * 4, 3], &weights(1, gates as usize * 12)),
        tensor("r", &[1, gates * 4, 4], &weights(2, gates as usize * 16)),
        tensor("b", &[1, gates * 8], &weights(3, gates as usize * 8)),
        tensor("h0", &[1, 1, 4], &[0.5, -0.25, 0.0, 0.9]),
        tensor("c0", &[1, 1, 4], &[1.5, -0.25, 0.0, 0.9]),
        tensor("head", &[4, 2], &weights(4, 8)),
        integers("last", &[], &[-1]),
        integers("one", &[1], &[1]),
        integers("zero", &[1], &[0]),
        integers("minus", &[1], &[-1]),
        integers("end", &[1], &[i64::MAX]),
    ];
    model(nodes, initializers, &[5, 3], &["y"])
}

#[test]
fn every_way_to_the_last_step_of_a_recurrent_layer_gives_the_same_model() {
    let rows = spread(60, 15);
    for operator in ["LSTM", "GRU"] {
        let mut gather = node("Gather", &["all", "last"], &["step"]);
        gather.attribute = vec![attribute("axis", |a| a.i = Some(0))];
        let squeeze = node("Squeeze", &["steps", "one"], &["all"]);
        let head = node("MatMul", &["step", "head"], &["y"]);
        let from_state = vec![node("Squeeze", &["state", "zero"], &["step"]), head.clone()];
        let gathered = vec![squeeze.clone(), gather, head.clone()];
        let mut back = node("Transpose", &["all"], &["back"]);
        back.attribute = vec![ints("perm", &[1, 0, 2])];
        let slice = node("Slice", &["back", "minus", "end", "one"], &["cut"]);
        let sliced = vec![squeeze, back, slice, node("Squeeze", &["cut", "one"], &["step"]), head];
        let files: Vec<Compiled> = [
            recurrent(operator, &["", "state"], from_state, false),
            recurrent(operator, &["steps"], gathered, false),
            recurrent(operator, &["steps"], sliced, false),
        ]
        .iter()
        .map(|model| compiled(model, &rows).unwrap())
        .collect();
        let answers: Vec<Vec<f32>> = files.iter().map(|file| run(&file.file, rows.row(7))).collect();
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{operator}: {answers:?}");
        for file in &files {
            assert_eq!(file.report.layers.len(), 2, "{:?}", file.report.layers);
            assert!(file.report.relative_error() <= 1e-3, "{operator}: {:?}", file.report);
        }
    }
}

#[test]
fn initial_states_and_all_steps_are_served() {
    let rows = spread(60, 15);
    for operator in ["LSTM", "GRU"] {
        let turned = |initial: bool| {
            let mut back = node("Transpose", &["all"], &["y"]);
            back.attribute = vec![ints("perm", &[1, 0, 2])];
            let after = vec![node("Squeeze", &["steps", "one"], &["all"]), back];
            compiled(&recurrent(operator, &["steps"], after, initial), &rows).unwrap()
        };
        let (zero, set) = (turned(false), turned(true));
        assert_eq!(Model::load(&set.file).unwrap().output_shape(), [5, 4]);
        for compiled in [&zero, &set] {
            assert!(compiled.report.relative_error() <= 1e-3, "{operator}: {:?}", compiled.report);
        }
        assert_ne!(run(&zero.file, rows.row(3)), run(&set.file, rows.row(3)));
    }
}

#[test]
fn recurrent_layers_are_refused_by_what_they_ask_for() {
    let rows = spread(10, 15);
    let state = || vec![node("Squeeze", &["state", "zero"], &["y"])];
    let refused = |change: fn(&mut NodeProto)| {
        let mut model = recurrent("GRU", &["", "state"], state(), false);
        change(&mut model.graph.as_mut().unwrap().node[1]);
        refusal(&model, &rows)
    };
    let backward = refused(|node| node.attribute.push(text("direction", "reverse")));
    assert!(backward.contains("must be forward"), "{backward}");
    assert!(refused(|node| node.attribute.truncate(1)).contains("linear_before_reset"));
    assert!(refused(|node| node.attribute.push(attribute("layout", |a| a.i = Some(1)))).contains("layout"));
    assert!(refused(|node| node.input[1] = "r".into()).contains("do not fit 3 features"));
    assert!(refused(|node| node.input[0] = "x".into()).contains("must have the dimensions steps"));
    assert!(
        refused(|node| node.attribute.push(strings("activations", &["Relu", "Tanh"]))).contains("default")
    );
    let mut middle = node("Gather", &["steps", "zero"], &["y"]);
    middle.attribute = vec![attribute("axis", |a| a.i = Some(0))];
    let flat = vec![middle];
    let message = refusal(&recurrent("LSTM", &["steps"], flat, false), &rows);
    assert!(message.contains("only the last step") || message.contains("batch is not"), "{message}");
    let mut mixed = node("Transpose", &["steps"], &["y"]);
    mixed.attribute = vec![ints("perm", &[2, 1, 3, 0])];
    let message = refusal(&recurrent("LSTM", &["steps"], vec![mixed], false), &rows);
    assert!(message.contains("changes the order"), "{message}");
}
