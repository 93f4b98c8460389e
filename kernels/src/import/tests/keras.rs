//! What Keras and tf2onnx write, from the files of `bench/models/keras_nets.py`. How exact the compiled models are is shown by
//! `tests/accuracy.rs`.

use super::*;

fn decoded(name: &str) -> ModelProto {
    ModelProto::decode(&shipped(&format!("keras/{name}.onnx"))[..]).unwrap()
}

fn layers(name: &str, row_len: usize) -> Vec<&'static str> {
    let rows = spread(30, row_len);
    let compiled = compiled(&decoded(name), &rows).unwrap_or_else(|error| panic!("{name}: {error}"));
    compiled.report.layers.iter().map(|layer| layer.layer.operator).collect()
}

#[test]
fn what_is_written_out_becomes_the_layers_it_stands_for() {
    let block = ["conv", "conv", "conv", "matmul", "softmax", "matmul", "conv", "add", "layer_norm"];
    let rest = ["conv", "conv", "add", "layer_norm", "sum_pool", "dense"];
    for name in ["attention", "attention_18"] {
        assert_eq!(layers(name, 48), [&block[..], &rest].concat(), "{name}");
    }
    assert_eq!(layers("separable", 64), ["conv", "conv", "layer_norm", "max_pool", "dense"]);
    for name in ["gru", "gru_18"] {
        assert_eq!(layers(name, 18), ["gru", "gru", "dense"], "{name}");
    }
    assert_eq!(layers("gru_plain", 18), ["gru", "dense"]);
}

#[test]
fn layers_that_are_not_read_are_refused_with_what_to_do() {
    let message = |name: &str, row_len| refusal(&decoded(name), &spread(4, row_len));
    for name in ["simple_rnn", "gru_before"] {
        let message = message(name, 18);
        assert!(message.contains("Loop") && message.contains("unroll=True"), "{message}");
    }
    assert!(message("bidirectional", 18).contains("its direction must be forward"));
}

/// The loop of `gru_plain`, changed.
fn changed(change: impl Fn(&mut NodeProto)) -> String {
    let mut model = decoded("gru_plain");
    let nodes = &mut model.graph.as_mut().unwrap().node;
    let place = nodes.iter().position(|node| node.op_type.as_deref() == Some("Loop")).unwrap();
    change(&mut nodes[place]);
    refusal(&model, &spread(4, 18))
}

fn body(node: &mut NodeProto) -> &mut GraphProto {
    let body = node.attribute.iter_mut().find(|attribute| attribute.name.as_deref() == Some("body")).unwrap();
    body.g.as_mut().unwrap()
}

#[test]
fn a_loop_that_is_not_quite_a_gru_is_not_taken_for_one() {
    let made_by = |body: &mut GraphProto, operator: &str, which: usize, change: &dyn Fn(&mut NodeProto)| {
        let is_one = |node: &&mut NodeProto| node.op_type.as_deref() == Some(operator);
        change(body.node.iter_mut().filter(is_one).nth(which).unwrap());
    };
    let other = |operator: &'static str| move |node: &mut NodeProto| node.op_type = Some(operator.into());
    let swapped = |node: &mut NodeProto| node.input.swap(0, 1);
    for (operator, which) in [("Tanh", 0), ("Sigmoid", 0), ("Sigmoid", 1), ("Gather", 0)] {
        let message = changed(|node| made_by(body(node), operator, which, &other("Relu")));
        assert!(message.contains("only if it is a GRU"), "{operator} {which}: {message}");
    }
    // `z - 1`, gates in another order, another step than the counter's, a last step that is not the state.
    let message = changed(|node| made_by(body(node), "Sub", 0, &swapped));
    assert!(message.contains("only if it is a GRU"), "{message}");
    let message = changed(|node| made_by(body(node), "Split", 0, &|split| split.output.rotate_left(1)));
    assert!(message.contains("only if it is a GRU"), "{message}");
    let message = changed(|node| {
        let iteration = body(node).input[1].name.clone().unwrap();
        made_by(body(node), "Gather", 0, &|gather| gather.input[1] = iteration.clone());
    });
    assert!(message.contains("only if it is a GRU"), "{message}");
    let message = changed(|node| {
        let weights = body(node).output[3].clone();
        *body(node).output.last_mut().unwrap() = weights;
    });
    assert!(message.contains("only if it is a GRU"), "{message}");
    // A state that is rounded, an operator of another domain, steps that the body makes itself.
    for integer in [data_type::INT32, data_type::INT64] {
        let message = changed(|node| {
            let next = body(node).output.last().unwrap().name.clone().unwrap();
            let makes = |other: &&mut NodeProto| other.output.contains(&next);
            body(node).node.iter_mut().find(makes).unwrap().output[0] = "rounded".into();
            let mut cast = super::node("Cast", &["rounded"], &[&next]);
            cast.attribute = vec![attribute("to", |a| a.i = Some(integer.into()))];
            body(node).node.push(cast);
        });
        assert!(message.contains("only if it is a GRU"), "{message}");
    }
    let message = changed(|node| made_by(body(node), "Sigmoid", 0, &|one| one.domain = Some("com.x".into())));
    assert!(message.contains("only if it is a GRU"), "{message}");
    let message = changed(|node| {
        let mut made = super::node("Relu", &["nothing"], &["made"]);
        made_by(body(node), "Gather", 0, &|gather| gather.input[0] = "made".into());
        made.name = None;
        body(node).node.push(made);
    });
    assert!(message.contains("only if it is a GRU"), "{message}");
    // Another of its values that is read.
    let mut model = decoded("gru_plain");
    let graph = model.graph.as_mut().unwrap();
    let place = graph.node.iter().position(|node| node.op_type.as_deref() == Some("Loop")).unwrap();
    let count = graph.node[place].output[0].clone();
    graph.node.push(node("Relu", &[&count], &["unread"]));
    let message = refusal(&model, &spread(4, 18));
    assert!(message.contains("only if it is a GRU"), "{message}");
    // A condition that ends it early.
    let message = changed(|node| {
        for tensor in &mut body(node).initializer {
            if tensor.raw_data.as_deref() == Some(&6f32.to_le_bytes()) {
                tensor.raw_data = Some(3f32.to_le_bytes().to_vec());
            }
        }
    });
    assert!(message.contains("only if it is a GRU"), "{message}");
}

#[test]
fn loops_without_names_are_read_as_those_with_names() {
    let rows = spread(30, 18);
    let named = compiled(&decoded("gru"), &rows).unwrap();
    let mut model = decoded("gru");
    let loops = model.graph.as_mut().unwrap().node.iter_mut();
    for node in loops.filter(|node| node.op_type.as_deref() == Some("Loop")) {
        node.name = Some("loop".into());
    }
    assert_eq!(run(&compiled(&model, &rows).unwrap().file, rows.row(3)), run(&named.file, rows.row(3)));
}

#[test]
fn dimensions_of_a_body_that_no_integer_holds_are_refused() {
    let message = changed(|node| {
        for tensor in &mut body(node).initializer {
            tensor.dims = vec![i64::MAX, i64::MAX];
        }
    });
    assert!(message.contains("only if it is a GRU"), "{message}");
}

#[test]
fn other_control_flow_is_listed_as_unsupported() {
    let message = refusal(&model(vec![node("If", &["x"], &["y"])], vec![], &[2], &["y"]), &spread(3, 2));
    assert!(message.contains("If (node 'If node')") && !message.contains("unroll"), "{message}");
}

#[test]
fn nodes_of_bodies_count() {
    let mut model = decoded("gru_plain");
    let nodes = &mut model.graph.as_mut().unwrap().node;
    let place = nodes.iter().position(|node| node.op_type.as_deref() == Some("Loop")).unwrap();
    let own = body(&mut nodes[place]);
    let more = own.node[0].clone();
    own.node.extend(std::iter::repeat_n(more, 1 << 12));
    let message = refusal(&model, &spread(4, 18));
    assert!(message.contains("nodes; 4096 is the limit"), "{message}");
}

#[test]
fn a_loop_over_some_of_the_steps_is_refused() {
    let mut model = decoded("gru_plain");
    let graph = model.graph.as_mut().unwrap();
    let trips =
        graph.node.iter().find(|node| node.op_type.as_deref() == Some("Loop")).unwrap().input[0].clone();
    let count = graph.initializer.iter_mut().find(|tensor| tensor.name.as_ref() == Some(&trips)).unwrap();
    count.raw_data = Some(5i64.to_le_bytes().to_vec());
    let message = refusal(&model, &spread(4, 18));
    assert!(message.contains("all windows have one length"), "{message}");
}
