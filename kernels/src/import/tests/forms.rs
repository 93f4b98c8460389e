//! Operators in all the forms that exporters give them.

use super::*;

/// Compiles, and compares some rows with what they should give.
fn check(model: &ModelProto, rows: &npy::Array, expected: impl Fn(&[f32]) -> Vec<f32>) {
    let compiled = compiled(model, rows).unwrap();
    let range = (compiled.report.range as f32).max(1e-3);
    for row in (0..rows.rows()).step_by(7) {
        let (found, expected) = (run(&compiled.file, rows.row(row)), expected(rows.row(row)));
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() <= 1e-3 * range, "row {row}: {found} is not {expected}");
        }
    }
}

fn with(mut node: NodeProto, attributes: impl IntoIterator<Item = AttributeProto>) -> NodeProto {
    node.attribute.extend(attributes);
    node
}

fn int(name: &str, value: i64) -> AttributeProto {
    attribute(name, |attribute| attribute.i = Some(value))
}

fn axis(value: i64) -> AttributeProto {
    int("axis", value)
}

#[test]
fn constants_stand_beside_computed_values() {
    let rows = spread(40, 4);
    let joined = |constant: TensorProto| {
        let concat = with(node("Concat", &["h", "c", "h"], &["y"]), [axis(1)]);
        model(vec![node("Relu", &["x"], &["h"]), concat], vec![constant], &[4], &["y"])
    };
    let around = |row: &[f32], middle: &[f32]| {
        let h: Vec<f32> = row.iter().map(|x| x.max(0.0)).collect();
        [&h, middle, &h].concat()
    };
    check(&joined(tensor("c", &[1, 3], &[0.5, -1.5, 0.25])), &rows, |row| around(row, &[0.5, -1.5, 0.25]));
    check(&joined(tensor("c", &[1, 2], &[1.25; 2])), &rows, |row| around(row, &[1.25; 2]));
    let message = refusal(&joined(tensor("c", &[2, 2], &[1.0; 4])), &rows);
    assert!(message.contains("differ in other dimensions"), "{message}");
}

#[test]
fn padding_of_every_mode_is_a_move() {
    let rows = spread(40, 4);
    let padded = |mode: &str, pads: &[i64]| {
        let pad = with(node("Pad", &["x", "pads", "value"], &["y"]), [text("mode", mode)]);
        model(vec![pad], vec![list("pads", pads), tensor("value", &[], &[0.5])], &[4], &["y"])
    };
    let pick = |row: &[f32], places: &[usize]| places.iter().map(|&at| row[at]).collect::<Vec<_>>();
    check(&padded("edge", &[0, 2, 0, 1]), &rows, |row| pick(row, &[0, 0, 0, 1, 2, 3, 3]));
    check(&padded("reflect", &[0, 2, 0, 1]), &rows, |row| pick(row, &[2, 1, 0, 1, 2, 3, 2]));
    check(&padded("wrap", &[0, 2, 0, 1]), &rows, |row| pick(row, &[2, 3, 0, 1, 2, 3, 0]));
    check(&padded("constant", &[0, -1, 0, 1]), &rows, |row| vec![row[1], row[2], row[3], 0.5]);
    assert!(refusal(&padded("reflect", &[0, -1, 0, 1]), &rows).contains("only its mode constant"));
    assert!(refusal(&padded("constant", &[1, 0, 0, 0]), &rows).contains("pads the batch"));
    assert!(refusal(&padded("mirror", &[0, 1, 0, 0]), &rows).contains("mode mirror is unknown"));
    assert!(refusal(&padded("constant", &[0, -2, 0, -2]), &rows).contains("does not fit"));
}

/// Softmax of 3 × 4 over each column, or before opset 13 over the whole row.
#[test]
fn softmax_is_over_the_dimension_asked_for_or_in_old_opsets_over_all_from_it_on() {
    let rows = spread(40, 12);
    let mut over = model(vec![with(node("Softmax", &["x"], &["y"]), [axis(1)])], vec![], &[3, 4], &["y"]);
    over.opset_import = vec![OperatorSetIdProto { domain: None, version: Some(17) }];
    let shares = |row: &[f32], places: &[usize]| {
        let total: f32 = places.iter().map(|&at| row[at].exp()).sum();
        places.iter().map(|&at| (at, row[at].exp() / total)).collect::<Vec<_>>()
    };
    check(&over, &rows, |row| {
        let mut y = vec![0.0; 12];
        for column in 0..4 {
            shares(row, &[column, column + 4, column + 8]).into_iter().for_each(|(at, share)| y[at] = share);
        }
        y
    });
    over.opset_import[0].version = Some(11);
    check(&over, &rows, |row| {
        shares(row, &(0..12).collect::<Vec<_>>()).into_iter().map(|(_, share)| share).collect()
    });
}

#[test]
fn the_last_of_equal_values_is_found_where_it_is_asked_for() {
    let rows = rows(3, &[1.0, 2.0, 2.0, 3.0, 1.0, 3.0, 0.0, 0.0, 0.0, 5.0, 1.0, 2.0]);
    let largest = |last: i64| {
        let node = with(node("ArgMax", &["x"], &["y"]), [axis(1), int("select_last_index", last)]);
        let mut model = model(vec![node], vec![], &[3], &["y"]);
        model.graph.as_mut().unwrap().output[0] = value("y", data_type::INT64, &[1]);
        let file = compiled(&model, &rows).unwrap().file;
        (0..4).map(|row| run(&file, rows.row(row))[0]).collect::<Vec<_>>()
    };
    assert_eq!(largest(0), [1.0, 0.0, 0.0, 0.0]);
    assert_eq!(largest(1), [2.0, 2.0, 2.0, 0.0]);
}

#[test]
fn products_take_constants_of_every_shape_on_either_side() {
    let rows = spread(40, 12);
    let weights: Vec<f32> = (0..24).map(|i| (i * 7 % 11) as f32 / 11.0 - 0.4).collect();
    let product = |inputs: [&str; 2], dims: &[i64]| {
        let count = dims.iter().product::<i64>() as usize;
        model(
            vec![node("MatMul", &inputs, &["y"])],
            vec![tensor("w", dims, &weights[..count])],
            &[3, 4],
            &["y"],
        )
    };
    // Each row is 3 × 4.
    let sum = |count: usize, of: &dyn Fn(usize) -> f32| (0..count).map(of).sum::<f32>();
    check(&product(["x", "w"], &[4]), &rows, |x| {
        (0..3).map(|i| sum(4, &|k| x[i * 4 + k] * weights[k])).collect()
    });
    check(&product(["w", "x"], &[3]), &rows, |x| {
        (0..4).map(|j| sum(3, &|k| weights[k] * x[k * 4 + j])).collect()
    });
    check(&product(["w", "x"], &[2, 3]), &rows, |x| {
        (0..8).map(|at| sum(3, &|k| weights[at / 4 * 3 + k] * x[k * 4 + at % 4])).collect()
    });
    // A matrix for each of two heads, over a dimension that is then spread over them.
    let spread_out = vec![node("Unsqueeze", &["x", "one"], &["u"]), node("MatMul", &["u", "w"], &["y"])];
    let constants = vec![tensor("w", &[1, 2, 4, 3], &weights), integers("one", &[1], &[1])];
    check(&model(spread_out, constants, &[3, 4], &["y"]), &rows, |x| {
        let of = |at: usize| {
            let (head, i, j) = (at / 9, at / 3 % 3, at % 3);
            sum(4, &|k| x[i * 4 + k] * weights[head * 12 + k * 3 + j])
        };
        (0..18).map(of).collect()
    });
    assert!(refusal(&product(["x", "w"], &[2, 3, 4]), &rows).contains("does not fit"));
}

#[test]
fn a_gemm_adds_what_was_computed() {
    let gemm = with(node("Gemm", &["x", "w", "h"], &["y"]), [attribute("beta", |a| a.f = Some(0.5))]);
    let nodes = vec![node("Tanh", &["x"], &["h"]), gemm];
    let onnx = model(nodes, vec![tensor("w", &[2, 2], &[1.0, -2.0, 0.5, 0.25])], &[2], &["y"]);
    check(&onnx, &spread(40, 2), |x| {
        vec![x[0] + 0.5 * x[1] + 0.5 * x[0].tanh(), -2.0 * x[0] + 0.25 * x[1] + 0.5 * x[1].tanh()]
    });
}

#[test]
fn sums_and_functions_of_constants_are_computed_at_once() {
    // Sqrt(4) - 1 = 1 added where a mask says so; a range tiled and cut.
    let nodes = vec![
        node("Sqrt", &["four"], &["two"]),
        node("Sub", &["two", "one"], &["amount"]),
        node("Less", &["places", "limit"], &["mask"]),
        node("Where", &["mask", "amount", "zero"], &["added"]),
        node("Range", &["izero", "itwo", "ione"], &["pair"]),
        with(node("Cast", &["pair"], &["floats"]), [int("to", 1)]),
        node("Tile", &["floats", "times"], &["pattern"]),
        node("Add", &["added", "pattern"], &["offset"]),
        node("Add", &["x", "offset"], &["y"]),
    ];
    let constants = vec![
        tensor("four", &[], &[4.0]),
        tensor("one", &[], &[1.0]),
        tensor("zero", &[], &[0.0]),
        tensor("places", &[4], &[0.0, 1.0, 2.0, 3.0]),
        tensor("limit", &[], &[2.0]),
        integers("izero", &[], &[0]),
        integers("ione", &[], &[1]),
        integers("itwo", &[], &[2]),
        list("times", &[2]),
    ];
    let onnx = model(nodes, constants, &[4], &["y"]);
    check(&onnx, &spread(40, 4), |x| vec![x[0] + 1.0, x[1] + 2.0, x[2], x[3] + 1.0]);
}

#[test]
fn shapes_are_computed_from_the_number_of_rows_and_nothing_else_is() {
    let rows = spread(40, 6);
    // Rows, twice three: as exporters of attention have it, with rows times two in between.
    let nodes = |target: &str| {
        vec![
            node("Shape", &["x"], &["shape"]),
            with(node("Gather", &["shape", "zero"], &["rows"]), [axis(0)]),
            node("Mul", &["rows", "two"], &["double"]),
            with(node("Concat", &["double", "three"], &["merged"]), [axis(0)]),
            with(node("Concat", &["rows", "two", "three"], &["apart"]), [axis(0)]),
            node("Reshape", &["x", "merged"], &["m"]),
            node("Relu", &["m"], &["r"]),
            node("Reshape", &["r", target], &["y"]),
        ]
    };
    let constants = || vec![list("zero", &[0]), list("two", &[2]), list("three", &[3])];
    check(&model(nodes("apart"), constants(), &[6], &["y"]), &rows, |x| {
        x.iter().map(|x| x.max(0.0)).collect()
    });
    let message = refusal(&model(nodes("merged"), constants(), &[6], &["y"]), &rows);
    assert!(message.contains("batch is not the first dimension"), "{message}");
    // Spelled out, a mean over the batch, and other ways to compute with the number of rows.
    let ways = [
        vec![node("Div", &["x", "count"], &["y"])],
        vec![node("Sqrt", &["count"], &["root"]), node("Div", &["x", "root"], &["y"])],
        vec![node("Reciprocal", &["count"], &["share"]), node("Mul", &["x", "share"], &["y"])],
        vec![node("Sub", &["count", "one"], &["others"]), node("Add", &["x", "others"], &["y"])],
        vec![node("Div", &["one", "count"], &["share"]), node("Mul", &["x", "share"], &["y"])],
        vec![node("Mul", &["count", "half"], &["part"]), node("Mul", &["x", "part"], &["y"])],
        vec![
            node("Equal", &["rows", "two"], &["is"]),
            node("Where", &["is", "one", "half"], &["factor"]),
            node("Mul", &["x", "factor"], &["y"]),
        ],
        vec![node("Max", &["x", "count"], &["y"])],
        vec![node("Slice", &["x", "zero", "rows", "one64"], &["y"])],
    ];
    for way in ways {
        let mut nodes = vec![
            node("Shape", &["x"], &["shape"]),
            with(node("Gather", &["shape", "zero"], &["rows"]), [axis(0)]),
            with(node("Cast", &["rows"], &["count"]), [int("to", 1)]),
        ];
        let label: Vec<_> = way.iter().map(NodeProto::operator).collect();
        nodes.extend(way);
        let floats = [tensor("one", &[1], &[1.0]), tensor("half", &[1], &[0.3])];
        let constants = constants().into_iter().chain([list("one64", &[1])]).chain(floats).collect();
        let message = refusal(&model(nodes, constants, &[6], &["y"]), &rows);
        assert!(message.contains("number of rows"), "{label:?}: {message}");
    }
}

#[test]
fn a_token_is_expanded_to_the_rows_and_put_before_them() {
    let nodes = vec![
        node("Shape", &["x"], &["shape"]),
        with(node("Gather", &["shape", "zero"], &["rows"]), [axis(0)]),
        with(node("Concat", &["rows", "minus", "minus"], &["asked"]), [axis(0)]),
        node("ConstantOfShape", &["rank"], &["ones"]),
        node("Mul", &["ones", "minus"], &["kept"]),
        node("Equal", &["asked", "kept"], &["keeps"]),
        node("Where", &["keeps", "ones", "asked"], &["to"]),
        node("Expand", &["token", "to"], &["tokens"]),
        with(node("Concat", &["tokens", "x"], &["y"]), [axis(1)]),
    ];
    let mut one = integers("", &[1], &[1]);
    one.name = None;
    let mut nodes = nodes;
    nodes[3].attribute = vec![attribute("value", |attribute| attribute.t = Some(one))];
    let constants = vec![
        list("zero", &[0]),
        list("minus", &[-1]),
        list("rank", &[3]),
        tensor("token", &[1, 1, 2], &[0.5, -0.75]),
    ];
    check(&model(nodes, constants, &[3, 2], &["y"]), &spread(40, 6), |x| [&[0.5, -0.75], x].concat());
}

/// A scaler behind a choice of features brings them to one scale as exactly as one before it.
#[test]
fn chosen_features_of_very_different_sizes_keep_their_digits() {
    let mut rows = spread(60, 3);
    for row in rows.data.chunks_exact_mut(3) {
        row[0] = row[0] * 1e4 + 5e4;
        row[2] *= 1e-3;
    }
    let nodes = vec![
        node("ai.onnx.ml.ArrayFeatureExtractor", &["x", "which"], &["some"]),
        with(
            node("ai.onnx.ml.Scaler", &["some"], &["scaled"]),
            [floats("offset", &[0.0, 5e4]), floats("scale", &[1e3, 1e-4])],
        ),
        node("MatMul", &["scaled", "w"], &["y"]),
    ];
    let onnx = model(nodes, vec![list("which", &[2, 0]), tensor("w", &[2, 1], &[1.0, 0.5])], &[3], &["y"]);
    check(&onnx, &rows, |x| vec![x[2] * 1e3 + (x[0] - 5e4) * 5e-5]);
}

#[test]
fn inputs_that_the_output_does_not_need_are_not_asked_for() {
    let rows = spread(20, 2);
    let mut onnx = model(vec![node("Relu", &["x"], &["y"])], vec![], &[2], &["y"]);
    onnx.graph.as_mut().unwrap().input.push(value("training", data_type::FLOAT, &[]));
    check(&onnx, &rows, |x| x.iter().map(|x| x.max(0.0)).collect());
}

#[test]
fn a_model_that_answers_with_its_input_is_served() {
    let rows = spread(20, 2);
    check(&model(vec![node("Identity", &["x"], &["y"])], vec![], &[2], &["y"]), &rows, <[f32]>::to_vec);
}

#[test]
fn operators_of_constants_are_unsupported_where_they_read_computed_values() {
    let nodes = vec![
        node("Sqrt", &["c"], &["root"]),
        node("Exp", &["x"], &["e"]),
        node("Mod", &["e", "root"], &["y"]),
    ];
    let message = refusal(&model(nodes, vec![tensor("c", &[], &[4.0])], &[2], &["y"]), &spread(3, 2));
    assert!(message.contains("Exp (node 'Exp node'), Mod (node 'Mod node')"), "{message}");
    assert!(!message.contains("Sqrt (node"), "{message}");
}

#[test]
fn constants_without_a_finite_result_or_of_absurd_size_are_refused() {
    let rows = spread(3, 2);
    let added = |nodes: Vec<NodeProto>, constants: Vec<TensorProto>| {
        let nodes = [nodes, vec![node("Add", &["x", "c"], &["y"])]].concat();
        refusal(&model(nodes, constants, &[2], &["y"]), &rows)
    };
    let negative = added(vec![node("Sqrt", &["n"], &["c"])], vec![tensor("n", &[], &[-1.0])]);
    assert!(negative.contains("without a finite result"), "{negative}");
    let limits = [("a", 0), ("b", i64::MAX), ("d", 1)].map(|(name, value)| integers(name, &[], &[value]));
    let endless = added(vec![node("Range", &["a", "b", "d"], &["c"])], limits.to_vec());
    assert!(endless.contains("too large a result"), "{endless}");
    let tiled = vec![tensor("n", &[1], &[1.0]), list("times", &[1 << 40])];
    assert!(added(vec![node("Tile", &["n", "times"], &["c"])], tiled).contains("too large a result"));
}

#[test]
fn linear_classifiers_of_several_classes_give_shares_that_stay_as_they_are_when_normalised() {
    let rows = spread(60, 2);
    let classifier = |transform: &str| {
        let linear = with(
            node("ai.onnx.ml.LinearClassifier", &["x"], &["label", "scores"]),
            [
                floats("coefficients", &[1.0, -0.5, 0.25, 0.75, -1.0, 0.5]),
                floats("intercepts", &[0.1, -0.2, 0.3]),
                ints("classlabels_ints", &[0, 1, 2]),
                text("post_transform", transform),
            ],
        );
        let normalizer = with(node("ai.onnx.ml.Normalizer", &["scores"], &["y"]), [text("norm", "L1")]);
        model(vec![linear, normalizer], vec![], &[2], &["y"])
    };
    check(&classifier("SOFTMAX"), &rows, |x| {
        let scores = [x[0] - 0.5 * x[1] + 0.1, 0.25 * x[0] + 0.75 * x[1] - 0.2, -x[0] + 0.5 * x[1] + 0.3];
        let total: f32 = scores.iter().map(|score| score.exp()).sum();
        scores.iter().map(|score| score.exp() / total).collect()
    });
    let message = refusal(&classifier("LOGISTIC"), &rows);
    assert!(message.contains("norm L1") && message.contains("divides"), "{message}");
    assert!(refusal(&classifier("PROBIT"), &rows).contains("SOFTMAX are"));
}

#[test]
fn rows_are_brought_to_length_one() {
    let mut rows = spread(60, 3);
    rows.data[..3].fill(0.0);
    let normalizer = with(node("ai.onnx.ml.Normalizer", &["x"], &["y"]), [text("norm", "L2")]);
    check(&model(vec![normalizer], vec![], &[3], &["y"]), &rows, |x| {
        let length = x.iter().map(|x| x * x).sum::<f32>().sqrt();
        x.iter().map(|x| if length == 0.0 { 0.0 } else { x / length }).collect()
    });
}

#[test]
fn a_constant_may_be_longer_than_the_value_beside_it() {
    let nodes = vec![node("Mul", &["x", "c"], &["m"]), node("Add", &["m", "d"], &["y"])];
    let constants = vec![tensor("c", &[3], &[1.0, -2.0, 0.5]), tensor("d", &[2, 1, 1], &[0.25, -0.5])];
    check(&model(nodes, constants, &[2, 2, 1], &["y"]), &spread(20, 4), |x| {
        let at = |i: usize| x[i / 3] * [1.0, -2.0, 0.5][i % 3] + [0.25, -0.5][i / 6];
        (0..12).map(at).collect()
    });
}

#[test]
fn a_summand_that_is_always_zero_has_a_scale_beside_the_other() {
    let nodes = vec![
        node("Mul", &["x", "zero"], &["nothing"]),
        node("Relu", &["x"], &["r"]),
        node("Add", &["r", "nothing"], &["y"]),
    ];
    let model = model(nodes, vec![tensor("zero", &[3], &[0.0; 3])], &[3], &["y"]);
    check(&model, &spread(20, 3), |x| x.iter().map(|x| x.max(0.0)).collect());
}

#[test]
fn constant_matrices_are_multiplied_and_dimensions_compared_when_compiled() {
    // The greater of two numbers of rows is the number of rows; of that and one too.
    let mut first = node("Gather", &["shape", "place"], &["rows"]);
    first.attribute = vec![attribute("axis", |a| a.i = Some(0))];
    let mut joined = node("Concat", &["most", "rest"], &["target"]);
    joined.attribute = vec![attribute("axis", |a| a.i = Some(0))];
    let nodes = vec![
        node("MatMul", &["a", "b"], &["w"]),
        node("Shape", &["x"], &["shape"]),
        first,
        node("Max", &["rows", "one"], &["some"]),
        node("Max", &["some", "rows"], &["most"]),
        joined,
        node("Reshape", &["x", "target"], &["r"]),
        node("MatMul", &["r", "w"], &["y"]),
    ];
    let constants = |limit: i64| {
        let a = tensor("a", &[4, 2], &[1.0, 2.0, -1.0, 0.5, 0.0, 1.0, 3.0, -2.0]);
        let b = tensor("b", &[2, 1], &[0.5, 0.25]);
        vec![a, b, list("place", &[0]), list("one", &[limit]), list("rest", &[4])]
    };
    check(&model(nodes.clone(), constants(1), &[2, 2], &["y"]), &spread(20, 4), |x| {
        vec![x[0] - 0.375 * x[1] + 0.25 * x[2] + x[3]]
    });
    let message = refusal(&model(nodes, constants(2), &[2, 2], &["y"]), &spread(4, 4));
    assert!(message.contains("number of rows"), "{message}");
}
