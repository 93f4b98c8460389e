//! Import of models built here, message by message.

mod attention;
mod forms;
mod images;
mod keras;
mod recurrent;
mod trees;

use proptest::prelude::*;
use prost::Message;

use super::onnx::*;
use super::*;
use crate::{Backend, Dtype, Executor};

fn tensor(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(data_type::FLOAT),
        raw_data: Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
        ..Default::default()
    }
}

fn integers(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        dims: dims.to_vec(),
        data_type: Some(data_type::INT64),
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

fn list(name: &str, values: &[i64]) -> TensorProto {
    integers(name, &[values.len() as i64], values)
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
    let shape = integers("shape", &[2], &[-1, 2]);
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
    let mut overflowing = tensor("w", &[2, 1], &[1.0; 2]);
    overflowing.dims = vec![1 << 33, 1 << 33];
    let message = refusal(&model(missing.clone(), vec![overflowing], &[2], &["y"]), &calibration);
    assert!(message.contains("constant 'w'") && message.contains("negative or too large"), "{message}");
    // Nothing to add up, for more elements than there may be.
    let product = vec![node("MatMul", &["a", "b"], &["c"]), node("Add", &["x", "c"], &["y"])];
    let empty = vec![tensor("a", &[1, 0], &[]), tensor("b", &[0, 1 << 40], &[])];
    let message = refusal(&model(product, empty, &[2], &["y"]), &calibration);
    assert!(message.contains("node 'MatMul node'"), "{message}");
    // No scale brings such a sum into 64 bits.
    let mut unbounded = node("Gemm", &["x", "w"], &["y"]);
    unbounded.attribute = vec![attribute("alpha", |a| a.f = Some(1e38))];
    let constants = vec![tensor("w", &[2, 1], &[1e38; 2])];
    let message = refusal(&model(vec![unbounded], constants, &[2], &["y"]), &calibration);
    assert!(
        message.contains("layer 'Gemm node'") && message.contains("too large for any scale"),
        "{message}"
    );
    let good = vec![tensor("w", &[2, 1], &[1.0; 2])];
    let wide = refusal(&model(missing.clone(), good.clone(), &[2], &["y"]), &spread(3, 5));
    assert!(wide.contains("[rows, 2] is needed"), "{wide}");
    let nan_row = rows(2, &[1.0, f32::NAN]);
    assert!(refusal(&model(missing, good, &[2], &["y"]), &nan_row).contains("row 0, element 1 is NaN"));
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
