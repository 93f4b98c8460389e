//! Attention, layer normalisation and GELU as exporters write them.

use super::*;

/// Numbers that look random, from -0.5 to 0.5.
fn weights(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 1013) % 1009) as f32 / 1009.0 - 0.5).collect()
}

fn scalar(name: &str, value: f32) -> TensorProto {
    tensor(name, &[], &[value])
}

fn operators(compiled: &Compiled) -> Vec<&'static str> {
    compiled.report.layers.iter().map(|layer| layer.layer.operator).collect()
}

/// Two heads over six positions of width eight, then a sum over the positions by a dense layer.
fn attention() -> ModelProto {
    let with_perm = |mut node: NodeProto, perm: &[i64]| {
        node.attribute = vec![ints("perm", perm)];
        node
    };
    let mut split = node("Split", &["all"], &["q", "k", "v"]);
    split.attribute = vec![attribute("axis", |a| a.i = Some(-1))];
    let mut softmax = node("Softmax", &["scores"], &["shares"]);
    softmax.attribute = vec![attribute("axis", |a| a.i = Some(-1))];
    let mut nodes =
        vec![node("MatMul", &["x", "w"], &["product"]), node("Add", &["product", "b"], &["all"]), split];
    for part in ["q", "k", "v"] {
        let order: &[i64] = if part == "k" { &[0, 2, 3, 1] } else { &[0, 2, 1, 3] };
        let (reshaped, turned) = (format!("{part}1"), format!("{part}2"));
        nodes.push(node("Reshape", &[part, "heads"], &[&reshaped]));
        nodes.push(with_perm(node("Transpose", &[&reshaped], &[&turned]), order));
    }
    nodes.extend([
        node("MatMul", &["q2", "k2"], &["raw"]),
        node("Div", &["raw", "root"], &["scores"]),
        softmax,
        node("MatMul", &["shares", "v2"], &["mixed"]),
        with_perm(node("Transpose", &["mixed"], &["turned"]), &[0, 2, 1, 3]),
        node("Reshape", &["turned", "whole"], &["joined"]),
        node("MatMul", &["joined", "head"], &["y"]),
    ]);
    let initializers = vec![
        tensor("w", &[8, 24], &weights(1, 192)),
        tensor("b", &[24], &weights(2, 24)),
        list("heads", &[0, 0, 2, 4]),
        list("whole", &[0, -1]),
        scalar("root", 2.0),
        tensor("head", &[48, 2], &weights(3, 96)),
    ];
    model(nodes, initializers, &[6, 8], &["y"])
}

#[test]
fn attention_is_two_products_around_a_softmax_without_moves() {
    let compiled = compiled(&attention(), &spread(50, 48)).unwrap();
    assert_eq!(operators(&compiled), ["conv", "matmul", "softmax", "matmul", "dense"]);
    assert!(compiled.report.relative_error() < 1e-3, "{}", compiled.report.relative_error());
    run(&compiled.file, &spread(1, 48).data);
}

/// Scores of four positions in a causal mask, as shares and as what attention makes of them: with a mask by each of the ways that
/// exporters have.
fn masked(way: &str, served: &str) -> ModelProto {
    let mut transposed = node("Transpose", &["x"], &["keys"]);
    transposed.attribute = vec![ints("perm", &[0, 2, 1])];
    let mut lower = node("Trilu", &["ones"], &["allowed"]);
    lower.attribute = vec![attribute("upper", |a| a.i = Some(0))];
    let mut nodes = vec![
        node("MatMul", &["x", "w"], &["q"]),
        transposed,
        node("MatMul", &["q", "keys"], &["raw"]),
        node("Mul", &["raw", "half"], &["scores"]),
        lower,
        node("Equal", &["allowed", "zero"], &["hidden"]),
    ];
    match way {
        "Add" => nodes.extend([
            node("Where", &["hidden", "infinity", "zero"], &["mask"]),
            node("Add", &["scores", "mask"], &["masked"]),
        ]),
        "Where" => nodes.push(node("Where", &["hidden", "billion", "scores"], &["masked"])),
        _ => nodes.extend([
            node("Mul", &["hidden", "least"], &["mask"]),
            node("Mul", &["scores", "allowed"], &["some"]),
            node("Add", &["mask", "some"], &["masked"]),
        ]),
    }
    nodes.extend([node("Softmax", &["masked"], &["shares"]), node("MatMul", &["shares", "x"], &["mixed"])]);
    let initializers = vec![
        tensor("w", &[3, 3], &weights(2, 9)),
        scalar("half", 0.5),
        scalar("zero", 0.0),
        tensor("ones", &[4, 4], &[1.0; 16]),
        scalar("infinity", f32::NEG_INFINITY),
        scalar("billion", -1e9),
        scalar("least", -2.372_671e38),
    ];
    model(nodes, initializers, &[4, 3], &[served])
}

#[test]
fn a_masked_position_has_no_share_and_changes_no_bit_of_the_others() {
    let rows = spread(60, 12);
    let files = ["Add", "Where", "Mul"].map(|way| compiled(&masked(way, "shares"), &rows).unwrap().file);
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let w = weights(2, 9);
    for row in [0, 17, 42] {
        let x = rows.row(row);
        let answers = files.each_ref().map(|file| run(file, x));
        assert!(answers.iter().all(|answer| *answer == answers[0]), "however the mask is written");
        let mut later = x.to_vec();
        later[9..].fill(-1.5);
        assert_eq!(
            run(&files[0], &later)[..12],
            answers[0][..12],
            "the last position is hidden from the others"
        );
        for (place, shares) in answers[0].chunks(4).enumerate() {
            let query: Vec<f32> =
                (0..3).map(|to| (0..3).map(|i| x[place * 3 + i] * w[i * 3 + to]).sum()).collect();
            let weight = |at: usize| (0.5 * product(&query, &x[at * 3..at * 3 + 3])).exp();
            let total: f32 = (0..=place).map(weight).sum();
            for (at, &share) in shares.iter().enumerate() {
                let expected = if at <= place { weight(at) / total } else { 0.0 };
                assert!((share - expected).abs() < 1e-3, "{place}, {at}: {share}, not {expected}");
                assert!(at <= place || share == 0.0);
            }
        }
    }
    let compiled = compiled(&masked("Add", "mixed"), &rows).unwrap();
    assert_eq!(operators(&compiled).iter().filter(|&&operator| operator == "softmax").count(), 4);
    assert!(compiled.report.relative_error() < 1e-3, "{}", compiled.report.relative_error());
}

#[test]
fn minus_infinity_is_read_in_masks_alone() {
    let mut causal = masked("Add", "shares");
    let rows = spread(60, 12);
    let plain = compiled(&causal, &rows).unwrap();
    let graph = causal.graph.as_mut().unwrap();
    let place = graph.node.iter().position(|node| node.output == ["mask"]).unwrap();
    graph.node[place] = node("Trilu", &["low", "one"], &["mask"]);
    graph.initializer.push(tensor("low", &[4, 4], &[f32::NEG_INFINITY; 16]));
    graph.initializer.push(integers("one", &[], &[1]));
    assert_eq!(run(&compiled(&causal, &rows).unwrap().file, rows.row(3)), run(&plain.file, rows.row(3)));
    let low = tensor("w", &[2, 1], &[1.0, f32::NEG_INFINITY]);
    let message =
        refusal(&model(vec![node("MatMul", &["x", "w"], &["y"])], vec![low], &[2], &["y"]), &spread(4, 2));
    assert!(message.contains("node 'MatMul node'") && message.contains("holds -inf"), "{message}");
}

#[test]
fn what_a_scaler_subtracts_before_a_softmax_is_no_mask() {
    let nodes = vec![node("Sub", &["x", "means"], &["near"]), node("Softmax", &["near"], &["y"])];
    let model = model(nodes, vec![tensor("means", &[3], &[50_000.0, 10.0, 0.0])], &[3], &["y"]);
    let mut rows = spread(60, 3);
    for row in rows.data.chunks_exact_mut(3) {
        (row[0], row[1]) = (50_000.0 + 100.0 * row[0], row[1] + 10.0);
    }
    let compiled = compiled(&model, &rows).unwrap();
    for (first, share) in [(49_850.0, 0.0), (50_150.0, 1.0)] {
        let answer = run(&compiled.file, &[first, 11.0, 0.5])[0];
        assert!((answer - share).abs() < 1e-3, "{first}: {answer}");
    }
}

/// What makes shares of four positions from scores, and the mask, where the scores are `factor` times as large.
fn masked_by(mask: &[f32; 16], factor: f32, after: Vec<NodeProto>) -> ModelProto {
    let mut model = masked("Add", "y");
    let graph = model.graph.as_mut().unwrap();
    graph.node.retain(|node| !["mask", "shares", "mixed"].contains(&&*node.output[0]));
    graph.node.extend(after);
    graph.initializer.retain(|tensor| tensor.name.as_deref() != Some("half"));
    graph.initializer.extend([scalar("half", factor), tensor("mask", &[4, 4], mask)]);
    model
}

/// Of which the first row is masked as a whole, and the last not at all.
const ROWS_OF_ALL: [f32; 16] = {
    let mut mask = [0.0; 16];
    (mask[0], mask[1], mask[2], mask[3]) = (-1e9, -1e9, -1e9, -1e9);
    (mask[6], mask[7], mask[8]) = (-1e9, -1e9, -1e9);
    mask
};

#[test]
fn a_row_that_is_masked_as_a_whole_takes_no_precision_from_the_others() {
    let rows = spread(60, 12);
    let softmax = vec![node("Softmax", &["masked"], &["y"])];
    let compiled = compiled(&masked_by(&ROWS_OF_ALL, 0.5, softmax), &rows).unwrap();
    assert!(compiled.report.relative_error() < 1e-3, "{}", compiled.report.relative_error());
    let shares = run(&compiled.file, rows.row(3));
    assert!(shares[..4].iter().all(|&share| share > 0.0), "{shares:?}");
    assert_eq!(shares[6..9], [0.0; 3]);
}

#[test]
fn a_mask_is_found_behind_moves_and_where_several_read_what_it_masks() {
    let rows = spread(60, 12);
    let turn = |input: &str, output: &str| {
        let mut turn = node("Transpose", &[input], &[output]);
        turn.attribute = vec![ints("perm", &[0, 2, 1])];
        turn
    };
    let softmax = |axis: i64, input: &str, output: &str| {
        let mut softmax = node("Softmax", &[input], &[output]);
        softmax.attribute = vec![attribute("axis", |a| a.i = Some(axis))];
        softmax
    };
    let mut causal = [0.0; 16];
    [1, 2, 3, 6, 7, 11].into_iter().for_each(|at| causal[at] = -1e9);
    let of = |after| {
        let compiled = compiled(&masked_by(&causal, 0.5, after), &rows).unwrap();
        assert!(compiled.report.relative_error() < 1e-3, "{}", compiled.report.relative_error());
        [0, 17, 42].map(|row| run(&compiled.file, rows.row(row)))
    };
    let plain = of(vec![softmax(-1, "masked", "y")]);
    let columns = vec![turn("masked", "turned"), softmax(1, "turned", "t"), turn("t", "y")];
    assert_eq!(of(columns), plain, "over another axis");
    let twice = vec![
        softmax(-1, "masked", "one"),
        softmax(-1, "masked", "other"),
        node("Add", &["one", "other"], &["both"]),
        node("Mul", &["both", "half"], &["y"]),
    ];
    for (answers, plain) in of(twice).iter().zip(&plain) {
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-3;
        assert!(answers.iter().zip(plain).all(near), "{answers:?} {plain:?}");
    }
}

#[test]
fn a_mask_that_does_not_hide_what_it_masks_is_refused() {
    let rows = spread(60, 12);
    let mut low = [0.0; 16];
    low[3] = -1e4;
    let message = refusal(&masked_by(&low, 1e5, vec![node("Softmax", &["masked"], &["y"])]), &rows);
    assert!(
        message.contains("layer 'Softmax node'") && message.contains("far below all scores"),
        "{message}"
    );
    let later = vec![node("Add", &["masked", "raw"], &["more"]), node("Softmax", &["more"], &["y"])];
    let message = refusal(&masked_by(&ROWS_OF_ALL, 0.5, later), &rows);
    assert!(message.contains("layer 'Softmax node'") && message.contains("last of all"), "{message}");
}

#[test]
fn a_mask_of_classes_stays_apart_from_the_layer_before_it() {
    let nodes = vec![
        node("MatMul", &["x", "w"], &["scores"]),
        node("Add", &["scores", "mask"], &["masked"]),
        node("Softmax", &["masked"], &["y"]),
    ];
    let constants = vec![tensor("w", &[4, 3], &weights(1, 12)), tensor("mask", &[3], &[0.5, -1e9, 0.0])];
    let compiled = compiled(&model(nodes, constants, &[4], &["y"]), &spread(60, 4)).unwrap();
    assert!(compiled.report.relative_error() < 1e-3, "{}", compiled.report.relative_error());
    assert_eq!(run(&compiled.file, &[1.0, -1.0, 0.5, 0.25])[1], 0.0);
}

#[test]
fn a_mask_that_is_computed_is_refused() {
    let mut model = masked("Where", "mixed");
    let nodes = &mut model.graph.as_mut().unwrap().node;
    nodes.iter_mut().find(|node| node.output == ["masked"]).unwrap().input[0] = "scores".into();
    let message = refusal(&model, &spread(4, 12));
    assert!(message.contains("Where") && message.contains("must be a constant"), "{message}");
    let chosen = vec![node("Tanh", &["x"], &["t"]), node("Where", &["c", "x", "t"], &["y"])];
    let model = super::model(chosen, vec![tensor("c", &[2], &[1.0, 0.0])], &[2], &["y"]);
    assert!(refusal(&model, &spread(4, 2)).contains("only one of the values"));
}

#[test]
fn matrices_that_do_not_fit_each_other_are_refused_with_their_shapes() {
    let mut wrong = attention();
    let nodes = &mut wrong.graph.as_mut().unwrap().node;
    let product = nodes.iter_mut().find(|node| node.output == ["raw"]).unwrap();
    product.input[1] = "v2".into();
    let message = refusal(&wrong, &spread(4, 48));
    assert!(message.contains("[2, 6, 4]") && message.contains("do not fit"), "{message}");
}

/// Means, differences and a root, with or without a scale and an offset after them.
fn spelled_out(affine: bool) -> ModelProto {
    let mean = |input: &str, output: &str| {
        let mut mean = node("ReduceMean", &[input], &[output]);
        mean.attribute = vec![ints("axes", &[-1])];
        mean
    };
    let last = if affine { "normal" } else { "normalised" };
    let mut nodes = vec![
        node("MatMul", &["x", "w"], &["h"]),
        mean("h", "mean"),
        node("Sub", &["h", "mean"], &["distance"]),
        node("Pow", &["distance", "two"], &["square"]),
        mean("square", "variance"),
        node("Add", &["variance", "epsilon"], &["sum"]),
        node("Sqrt", &["sum"], &["root"]),
        node("Div", &["distance", "root"], &[last]),
    ];
    if affine {
        nodes.push(node("Mul", &["normal", "gamma"], &["scaled"]));
        nodes.push(node("Add", &["scaled", "beta"], &["normalised"]));
    }
    nodes.extend([
        node("Div", &["normalised", "root2"], &["argument"]),
        node("Erf", &["argument"], &["erf"]),
        node("Add", &["erf", "one"], &["above"]),
        node("Mul", &["normalised", "above"], &["twice"]),
        node("Mul", &["twice", "half"], &["gelu"]),
        node("MatMul", &["gelu", "head"], &["y"]),
    ]);
    let initializers = vec![
        tensor("w", &[4, 12], &weights(1, 48)),
        scalar("two", 2.0),
        scalar("epsilon", 1e-5),
        tensor("gamma", &[12], &weights(4, 12)),
        tensor("beta", &[12], &weights(5, 12)),
        scalar("root2", std::f32::consts::SQRT_2),
        scalar("one", 1.0),
        scalar("half", 0.5),
        tensor("head", &[12, 1], &weights(6, 12)),
    ];
    model(nodes, initializers, &[4], &["y"])
}

#[test]
fn layer_normalisation_and_gelu_are_recognised_where_they_are_spelled_out() {
    for affine in [true, false] {
        let compiled = compiled(&spelled_out(affine), &spread(50, 4)).unwrap();
        assert_eq!(operators(&compiled), ["dense", "layer_norm", "map", "dense"]);
        assert!(compiled.report.relative_error() < 1e-3, "{}", compiled.report.relative_error());
    }
}

/// `x * r + (beta - mean * r)` with `r = gamma / sqrt(variance + epsilon)`, where the normalised dimension lies before the other
/// until the end, and the mean of squares is divided by one less.
#[test]
fn layer_normalisation_is_recognised_in_whatever_order_it_is_written() {
    let with = |mut node: NodeProto, attributes: Vec<AttributeProto>| {
        node.attribute = attributes;
        node
    };
    let turn = |input: &str, output: &str| {
        with(node("Transpose", &[input], &[output]), vec![ints("perm", &[0, 2, 1])])
    };
    let nodes = vec![
        turn("x", "t"),
        with(node("ReduceMean", &["t"], &["mean"]), vec![ints("axes", &[1])]),
        node("Neg", &["mean"], &["negative"]),
        node("Add", &["t", "negative"], &["distance"]),
        node("Mul", &["distance", "distance"], &["square"]),
        with(node("ReduceSum", &["square"], &["sum"]), vec![ints("axes", &[1])]),
        node("Mul", &["sum", "fifth"], &["variance"]),
        node("Add", &["variance", "epsilon"], &["v"]),
        node("Sqrt", &["v"], &["root"]),
        node("Div", &["gamma", "root"], &["r"]),
        turn("r", "back"),
        node("Mul", &["x", "back"], &["first"]),
        turn("negative", "n"),
        node("Mul", &["n", "back"], &["second"]),
        node("Sub", &["second", "minus_beta"], &["third"]),
        node("Add", &["first", "third"], &["y"]),
    ];
    let (gamma, beta) = ([0.5, 2.0, -1.0, 0.25, 0.0, 1.0], weights(5, 6));
    let initializers = vec![
        scalar("fifth", 0.2),
        scalar("epsilon", 0.01),
        tensor("gamma", &[6, 1], &gamma),
        tensor("minus_beta", &[6], &beta.iter().map(|beta| -beta).collect::<Vec<_>>()),
    ];
    let rows = spread(50, 24);
    let compiled = compiled(&model(nodes, initializers, &[4, 6], &["y"]), &rows).unwrap();
    assert_eq!(operators(&compiled), ["layer_norm"]);
    assert!(compiled.report.relative_error() < 1e-3, "{}", compiled.report.relative_error());
    let answers = run(&compiled.file, rows.row(7));
    for (place, row) in rows.row(7).chunks(6).enumerate() {
        let mean = row.iter().sum::<f32>() / 6.0;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 5.0;
        for (at, x) in row.iter().enumerate() {
            let expected = (x - mean) / (variance + 0.01).sqrt() * gamma[at] + beta[at];
            assert!((answers[place * 6 + at] - expected).abs() < 5e-3, "{place} {at}");
        }
    }
}

#[test]
fn what_is_nearly_a_layer_normalisation_is_not_taken_for_one() {
    // The mean of one half, the variance of all; a mean that counts for half; a mean of something else.
    for (nodes, unit) in [
        (vec![node("Slice", &["h", "zero", "six", "last"], &["part"])], "part"),
        (vec![node("Mul", &["h", "half"], &["part"])], "part"),
        (vec![node("Relu", &["h"], &["part"])], "part"),
    ] {
        let mut other = spelled_out(true);
        let graph = other.graph.as_mut().unwrap();
        graph.initializer.extend([list("zero", &[0]), list("six", &[6]), list("last", &[-1])]);
        let place = graph.node.iter().position(|node| node.output == ["mean"]).unwrap();
        graph.node[place].input[0] = unit.into();
        graph.node.splice(place..place, nodes);
        let message = refusal(&other, &spread(4, 4));
        assert!(message.contains("Sqrt (node 'Sqrt node')"), "{message}");
    }
    // Another epsilon after the root.
    let mut other = spelled_out(true);
    let nodes = &mut other.graph.as_mut().unwrap().node;
    let place = nodes.iter().position(|node| node.output == ["normal"]).unwrap();
    nodes[place].input[1] = "more".into();
    nodes.insert(place, node("Add", &["root", "epsilon"], &["more"]));
    let message = refusal(&other, &spread(4, 4));
    assert!(message.contains("Sqrt (node 'Sqrt node')"), "{message}");
    let nodes = vec![node("MatMul", &["x", "w"], &["h"]), node("Div", &["h", "x"], &["y"])];
    let message =
        refusal(&model(nodes, vec![tensor("w", &[4, 4], &weights(1, 16))], &[4], &["y"]), &spread(4, 4));
    assert!(message.contains("a quotient of two computed values"), "{message}");
    let nodes = vec![node("Div", &["one", "x"], &["y"])];
    let message = refusal(&model(nodes, vec![scalar("one", 1.0)], &[4], &["y"]), &spread(4, 4));
    assert!(message.contains("a constant divided by a computed value"), "{message}");
}

/// Rows of `length` elements, normalised `times` times, with opset 16.
fn normalised(rows: i64, length: i64, times: usize) -> ModelProto {
    let (mut nodes, mut from) = (Vec::new(), "x".to_owned());
    for layer in 0..times {
        let to = if layer + 1 == times { "y".to_owned() } else { format!("h{layer}") };
        let name = |name: &str| format!("{name} {layer}");
        let mut mean = |operator: &str, input: &str, output: &str| {
            let mut mean = node(operator, &[input], &[output]);
            mean.attribute = vec![ints("axes", &[-1])];
            nodes.push(mean);
        };
        mean("ReduceMean", &from, &name("mean"));
        nodes.push(node("Sub", &[&from, &name("mean")], &[&name("distance")]));
        nodes.push(node("Mul", &[&name("distance"), &name("distance")], &[&name("square")]));
        let mut variance = node("ReduceMean", &[&name("square")], &[&name("variance")]);
        variance.attribute = vec![ints("axes", &[-1])];
        nodes.push(variance);
        nodes.push(node("Add", &[&name("variance"), "epsilon"], &[&name("sum")]));
        nodes.push(node("Sqrt", &[&name("sum")], &[&name("root")]));
        nodes.push(node("Div", &[&name("distance"), &name("root")], &[&to]));
        from = to;
    }
    model(nodes, vec![scalar("epsilon", 1e-5)], &[rows, length], &["y"])
}

#[test]
fn many_layer_normalisations_of_long_rows_are_seen_and_too_long_ones_refused_with_what_to_do() {
    let imported = graph::import(&normalised(256, 128, 8).encode_to_vec(), None).unwrap();
    let is_normal = |step: &&float::Step| matches!(step.operation, float::Operation::LayerNorm { .. });
    assert_eq!(imported.graph.steps.iter().filter(is_normal).count(), 8);
    let error = graph::import(&normalised(1024, 512, 1).encode_to_vec(), None).unwrap_err().to_string();
    assert!(error.contains("4194304 elements") && error.contains("opset 17"), "{error}");
}

/// The mean and the root of one row, and the elements of another.
#[test]
fn statistics_of_other_elements_are_not_taken_for_a_layer_normalisation() {
    let mean = |input: &str, output: &str| {
        let mut mean = node("ReduceMean", &[input], &[output]);
        mean.attribute = vec![ints("axes", &[-1])];
        mean
    };
    let rolled = |input: &str, output: &str| {
        let (first, rest) = (format!("{input} 0"), format!("{input} 1"));
        let mut joined = node("Concat", &[&rest, &first], &[output]);
        joined.attribute = vec![attribute("axis", |a| a.i = Some(1))];
        [
            node("Slice", &[input, "zero", "one", "one"], &[&first]),
            node("Slice", &[input, "one", "end", "one"], &[&rest]),
            joined,
        ]
    };
    let mut nodes = vec![
        mean("x", "mean"),
        node("Sub", &["x", "mean"], &["distance"]),
        node("Mul", &["distance", "distance"], &["square"]),
        mean("square", "variance"),
        node("Add", &["variance", "epsilon"], &["sum"]),
        node("Sqrt", &["sum"], &["root"]),
    ];
    nodes.extend(rolled("mean", "other mean").into_iter().chain(rolled("root", "other root")));
    nodes.push(node("Sub", &["x", "other mean"], &["other distance"]));
    nodes.push(node("Div", &["other distance", "other root"], &["y"]));
    let initializers =
        vec![scalar("epsilon", 1e-5), list("zero", &[0]), list("one", &[1]), list("end", &[i64::MAX])];
    let message = refusal(&model(nodes, initializers, &[4, 6], &["y"]), &spread(20, 24));
    assert!(message.contains("Sqrt (node 'Sqrt node')"), "{message}");
}

#[test]
fn gelu_by_tanh_is_recognised_where_it_is_spelled_out() {
    let nodes = vec![
        node("MatMul", &["x", "w"], &["h"]),
        node("Pow", &["h", "three"], &["cube"]),
        node("Mul", &["a", "cube"], &["b"]),
        node("Add", &["h", "b"], &["sum"]),
        node("Mul", &["root", "sum"], &["argument"]),
        node("Tanh", &["argument"], &["tanh"]),
        node("Add", &["one", "tanh"], &["above"]),
        node("Mul", &["half", "h"], &["halved"]),
        node("Mul", &["halved", "above"], &["y"]),
    ];
    let constants = |a: f32| {
        let scalars = [("a", a), ("three", 3.0), ("root", 0.797_884_6), ("one", 1.0), ("half", 0.5)];
        let scalars = scalars.into_iter().map(|(name, value)| scalar(name, value));
        scalars.chain([tensor("w", &[4, 3], &weights(1, 12))]).collect::<Vec<_>>()
    };
    let of = |a| compiled(&model(nodes.clone(), constants(a), &[4], &["y"]), &spread(50, 4)).unwrap();
    assert_eq!(operators(&of(0.044715)), ["dense"]);
    assert!(operators(&of(0.05)).len() > 1, "another function is computed as it is written");
}

#[test]
fn a_root_of_something_else_is_listed_as_unsupported() {
    let mut other = spelled_out(true);
    let nodes = &mut other.graph.as_mut().unwrap().node;
    nodes.iter_mut().find(|node| node.output == ["sum"]).unwrap().input[0] = "mean".into();
    let message = refusal(&other, &spread(4, 4));
    assert!(message.contains("Sqrt (node 'Sqrt node')") && !message.contains("Erf (node"), "{message}");
}

#[test]
fn gelu_by_tanh_becomes_part_of_the_layer_before_it() {
    let mut gelu = node("Gelu", &["h"], &["y"]);
    gelu.attribute = vec![text("approximate", "tanh")];
    let nodes = vec![node("MatMul", &["x", "w"], &["h"]), gelu];
    let model = model(nodes, vec![tensor("w", &[4, 3], &weights(1, 12))], &[4], &["y"]);
    let compiled = compiled(&model, &spread(50, 4)).unwrap();
    assert_eq!(operators(&compiled), ["dense"]);
    assert!(compiled.report.relative_error() < 1e-3, "{}", compiled.report.relative_error());
}

/// As PyTorch's own attention reshapes: the batch and the heads are one dimension meanwhile.
#[test]
fn the_batch_may_be_part_of_a_dimension_between_two_reshapes() {
    let turn = |input: &str, output: &str, perm: &[i64]| {
        let mut turn = node("Transpose", &[input], &[output]);
        turn.attribute = vec![ints("perm", perm)];
        turn
    };
    let nodes = vec![
        turn("x", "first", &[1, 0, 2]),
        node("Reshape", &["first", "together"], &["heads"]),
        turn("heads", "turned", &[1, 0, 2]),
        node("Reshape", &["turned", "apart"], &["four"]),
        turn("four", "back", &[0, 2, 1, 3]),
        node("Reshape", &["back", "rows"], &["flat"]),
        node("MatMul", &["flat", "w"], &["y"]),
    ];
    let initializers = vec![
        list("together", &[6, -1, 4]),
        list("apart", &[-1, 2, 6, 4]),
        list("rows", &[0, -1]),
        tensor("w", &[48, 2], &weights(3, 96)),
    ];
    let compiled = compiled(&model(nodes, initializers, &[6, 8], &["y"]), &spread(50, 48)).unwrap();
    assert_eq!(operators(&compiled), ["dense"], "the moves cancel");
    assert!(compiled.report.relative_error() < 1e-3);
}
