//! LSTM and GRU.

use super::*;

/// A recurrent layer over 5 steps of 3 features, with 4 hidden units, and what an exporter puts around it.
fn recurrent(operator: &str, outputs: &[&str], mut after: Vec<NodeProto>, initial: bool) -> ModelProto {
    let gates = if operator == "LSTM" { 4 } else { 3 };
    let weights = |seed: usize, count: usize| -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 100.0 - 0.5).collect()
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

/// As PyTorch exports a layer with states of zeros, for any number of rows; and the lengths of all windows given.
#[test]
fn initial_states_may_be_computed_from_the_number_of_rows() {
    let rows = spread(60, 15);
    for operator in ["LSTM", "GRU"] {
        let state = || vec![node("Squeeze", &["state", "zero"], &["y"])];
        let plain = compiled(&recurrent(operator, &["", "state"], state(), false), &rows).unwrap();
        let mut onnx = recurrent(operator, &["", "state"], state(), true);
        let graph = onnx.graph.as_mut().unwrap();
        let mut gather = node("Gather", &["shape", "zero"], &["count"]);
        gather.attribute = vec![attribute("axis", |a| a.i = Some(0))];
        let mut concat = node("Concat", &["one", "count", "four"], &["sizes"]);
        concat.attribute = vec![attribute("axis", |a| a.i = Some(0))];
        let computed = [
            node("Shape", &["x"], &["shape"]),
            gather,
            concat,
            node("ConstantOfShape", &["sizes"], &["h0"]),
            node("Expand", &["nothing", "sizes"], &["c0"]),
            node("Expand", &["five", "count"], &["lengths"]),
        ];
        graph.node.splice(0..0, computed);
        graph.initializer.retain(|tensor| !["h0", "c0"].contains(&tensor.name.as_deref().unwrap()));
        graph.initializer.extend([list("four", &[4]), tensor("nothing", &[1, 1, 1], &[0.0])]);
        graph.initializer.push(integers("five", &[1], &[5]));
        let layer = graph.node.iter_mut().find(|node| node.op_type.as_deref() == Some(operator)).unwrap();
        layer.input[4] = "lengths".into();
        let computed = compiled(&onnx, &rows).unwrap();
        assert_eq!(run(&computed.file, rows.row(3)), run(&plain.file, rows.row(3)));
    }
}

#[test]
fn states_that_callers_would_send_are_refused_with_what_to_do() {
    let state = vec![node("Squeeze", &["state", "zero"], &["y"])];
    let mut onnx = recurrent("LSTM", &["", "state"], state, true);
    let graph = onnx.graph.as_mut().unwrap();
    graph.initializer.retain(|tensor| tensor.name.as_deref() != Some("h0"));
    graph.input.push(value("h0", data_type::FLOAT, &[1, 4]));
    let message = refusal(&onnx, &spread(4, 15));
    assert!(message.contains("'h0' is an initial state") && message.contains("stream"), "{message}");
}

/// Layout 1 has the batch first.
#[test]
fn both_layouts_give_the_same_answers() {
    let rows = spread(60, 15);
    for operator in ["LSTM", "GRU"] {
        let state = || vec![node("Squeeze", &["state", "zero"], &["y"])];
        let plain = compiled(&recurrent(operator, &["", "state"], state(), true), &rows).unwrap();
        let last = vec![node("Squeeze", &["state", "one"], &["y"])];
        let mut onnx = recurrent(operator, &["", "state"], last, true);
        let nodes = &mut onnx.graph.as_mut().unwrap().node;
        nodes.remove(0);
        nodes[0].input[0] = "x".into();
        nodes[0].attribute.push(attribute("layout", |a| a.i = Some(1)));
        let compiled = compiled(&onnx, &rows).unwrap();
        assert_eq!(run(&compiled.file, rows.row(3)), run(&plain.file, rows.row(3)));
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
    assert!(refused(|node| node.input[1] = "r".into()).contains("do not fit 3 features"));
    assert!(refused(|node| node.input[0] = "x".into()).contains("must have the dimensions steps"));
    assert!(
        refused(|node| node.attribute.push(strings("activations", &["Relu", "Tanh"]))).contains("default")
    );
    let mut middle = node("Gather", &["steps", "zero"], &["y"]);
    middle.attribute = vec![attribute("axis", |a| a.i = Some(0))];
    let flat = vec![middle];
    let message = refusal(&recurrent("LSTM", &["steps"], flat, false), &rows);
    assert!(message.contains("batch is not"), "{message}");
}

#[test]
fn states_of_all_steps_are_served_in_any_order() {
    let rows = spread(60, 15);
    let answers = |perm: &[i64]| {
        let mut turned = node("Transpose", &["steps"], &["y"]);
        turned.attribute = vec![ints("perm", perm)];
        let compiled = compiled(&recurrent("LSTM", &["steps"], vec![turned], false), &rows).unwrap();
        run(&compiled.file, rows.row(5))
    };
    // Steps, direction, batch, units.
    let (by_step, by_unit) = (answers(&[2, 0, 1, 3]), answers(&[2, 1, 3, 0]));
    for step in 0..5 {
        for unit in 0..4 {
            assert_eq!(by_step[step * 4 + unit], by_unit[unit * 5 + step]);
        }
    }
}

/// Features of which each has a range of its own, which is not the same in each step.
#[test]
fn a_scaler_in_front_leaves_a_model_its_streams() {
    let mut calibration = spread(60, 15);
    for (at, value) in calibration.data.iter_mut().enumerate() {
        let (step, feature) = (at % 15 / 3, at % 3);
        *value *= [1.0, 30.0, 900.0][feature] * (1.0 + 3.0 * step as f32);
    }
    let scaled = |after: Vec<NodeProto>, initializers: Vec<TensorProto>| {
        let mut nodes = vec![
            node("Sub", &["x", "mean"], &["centred"]),
            node("Div", &["centred", "deviation"], &["scaled"]),
        ];
        nodes.extend(after);
        let constants =
            vec![tensor("mean", &[3], &[0.5, -3.0, 20.0]), tensor("deviation", &[3], &[2.0, 50.0, 2000.0])];
        let file = compiled(&model(nodes, [constants, initializers].concat(), &[5, 3], &["y"]), &calibration);
        crate::Model::load(&file.unwrap().file).unwrap().stream().unwrap()
    };
    let steps = recurrent("LSTM", &["", "state"], Vec::new(), false).graph.unwrap();
    let mut after = steps.node;
    after[0].input = vec!["scaled".into()];
    after.push(node("Squeeze", &["state", "zero"], &["step"]));
    after.push(node("MatMul", &["step", "head"], &["y"]));
    assert_eq!(scaled(after, steps.initializer).kind(), crate::StreamKind::Recurrent);
    let kernel: Vec<f32> = (0..12).map(|i| i as f32 / 8.0 - 0.7).collect();
    let after = vec![
        node("Unsqueeze", &["scaled", "one"], &["image"]),
        node("Conv", &["image", "kernel"], &["convolved"]),
        node("Flatten", &["convolved"], &["flat"]),
        node("MatMul", &["flat", "head"], &["y"]),
    ];
    let initializers = vec![
        integers("one", &[1], &[1]),
        tensor("kernel", &[1, 1, 4, 3], &kernel),
        tensor("head", &[2, 1], &[0.5, -0.25]),
    ];
    let stream = scaled(after, initializers);
    use crate::StreamPart::{Step, Window};
    assert_eq!(stream.parts(), [Step, Step, Window]);
}
