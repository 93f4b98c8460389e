//! Tree ensembles.

use super::*;

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
    let message = refusal(&classifier(&[1.0, 2.0], "PROBIT"), &spread(8, 1));
    assert!(message.contains("PROBIT") && message.contains("LOGISTIC"), "{message}");
}

#[test]
fn a_classifier_of_several_classes_gives_their_shares() {
    let mut trees = node("ai.onnx.ml.TreeEnsembleClassifier", &["x"], &["label", "scores"]);
    trees.attribute = chain(&["BRANCH_LEQ", "BRANCH_LEQ"], 0.0);
    trees.attribute.extend(votes("class", &[2, 3, 4], &[0, 1, 2], &[1.5, -0.25, 2.0]));
    trees.attribute.push(ints("classlabels_int64s", &[0, 1, 2]));
    trees.attribute.push(floats("base_values", &[0.5, 0.0, -0.5]));
    trees.attribute.push(text("post_transform", "SOFTMAX"));
    let mut model = model(vec![trees], vec![], &[2], &["scores"]);
    model.graph.as_mut().unwrap().output[0] = value("scores", data_type::FLOAT, &[3]);
    let compiled = compiled(&model, &spread(40, 2)).unwrap();
    let operators: Vec<&str> = compiled.report.layers.iter().map(|layer| layer.layer.operator).collect();
    assert_eq!(operators, ["trees", "map", "softmax"]);
    for (row, sums) in
        [([-1.0, 0.0], [2.0f32, 0.0, -0.5]), ([1.0, 0.0], [0.5, -0.25, -0.5]), ([1.0, 1.0], [0.5, 0.0, 1.5])]
    {
        let total: f32 = sums.iter().map(|sum| sum.exp()).sum();
        for (found, sum) in run(&compiled.file, &row).into_iter().zip(sums) {
            assert!((found - sum.exp() / total).abs() < 1e-4, "{row:?}: {found}");
        }
    }
}

/// What is chosen of sums, and which of them is largest, is told from all their bits.
#[test]
fn sums_of_trees_stay_fine_behind_a_choice() {
    let after = |last: NodeProto| {
        let mut trees = node("ai.onnx.ml.TreeEnsembleRegressor", &["x"], &["sums"]);
        trees.attribute = chain(&["BRANCH_LEQ"], 0.0);
        trees.attribute.extend(votes("target", &[1, 1, 2], &[0, 1, 0], &[900.0, 900.001, 3.0]));
        trees.attribute.push(attribute("n_targets", |a| a.i = Some(2)));
        let constants = vec![list("one", &[1]), list("two", &[2])];
        compiled(&model(vec![trees, last], constants, &[1], &["y"]), &spread(40, 1)).unwrap()
    };
    let second = run(&after(node("Slice", &["sums", "one", "two", "one"], &["y"])).file, &[-1.0]);
    assert!((second[0] - 900.001).abs() < 1e-4, "{second:?}");
    let mut largest = node("ArgMax", &["sums"], &["y"]);
    largest.attribute = vec![attribute("axis", |a| a.i = Some(1)), attribute("keepdims", |a| a.i = Some(0))];
    let largest = after(largest);
    assert_eq!(run(&largest.file, &[-1.0]), [1.0]);
    assert_eq!(run(&largest.file, &[1.0]), [0.0]);
}

/// Behind a choice of features and a scaler, the trees decide as if they read what the scaler makes, and the compiled
/// model is trees alone.
#[test]
fn trees_behind_a_scaler_read_the_input_itself() {
    let mut chosen = node("ai.onnx.ml.ArrayFeatureExtractor", &["x", "which"], &["some"]);
    chosen.attribute = Vec::new();
    let mut scaler = node("ai.onnx.ml.Scaler", &["some"], &["scaled"]);
    scaler.attribute = vec![floats("offset", &[3.0, -1.0]), floats("scale", &[0.1, -2.5])];
    for mode in &MODES[..4] {
        let mut trees = node("ai.onnx.ml.TreeEnsembleRegressor", &["scaled"], &["y"]);
        trees.attribute = chain(&[mode, mode], 0.25);
        trees.attribute.extend(votes("target", &[2, 3, 4], &[0, 0, 0], &[1.0, 2.0, 4.0]));
        let nodes = vec![chosen.clone(), scaler.clone(), trees];
        let onnx = model(nodes, vec![list("which", &[2, 0])], &[3], &["y"]);
        let compiled = compiled(&onnx, &spread(40, 3)).unwrap();
        assert_eq!(compiled.report.layers.len(), 1);
        let holds = |x: f32| match *mode {
            "BRANCH_LEQ" => x <= 0.25,
            "BRANCH_LT" => x < 0.25,
            "BRANCH_GTE" => x >= 0.25,
            _ => x > 0.25,
        };
        // Around the thresholds on the input, which are 5.5 and -1.1.
        let near = |at: f32| (-3i32..4).map(move |by| f32::from_bits((at.to_bits() as i32 + by) as u32));
        for a in near(5.5).chain([-9.0, 90.0]) {
            for b in near(-1.1).chain([-9.0, 90.0]) {
                let expected = if holds((a - 3.0) * 0.1) {
                    1.0
                } else if holds((b + 1.0) * -2.5) {
                    2.0
                } else {
                    4.0
                };
                assert_eq!(run(&compiled.file, &[b, 7.0, a]), [expected], "{mode} {a} {b}");
            }
        }
    }
    let mut equal = node("ai.onnx.ml.TreeEnsembleRegressor", &["scaled"], &["y"]);
    equal.attribute = chain(&["BRANCH_EQ"], 0.0);
    equal.attribute.extend(votes("target", &[1, 2], &[0, 0], &[1.0, 2.0]));
    let onnx = model(vec![chosen, scaler, equal], vec![list("which", &[2, 0])], &[3], &["y"]);
    assert!(refusal(&onnx, &spread(40, 3)).contains("BRANCH_EQ of a feature"));
}

#[test]
fn trees_behind_anything_else_are_refused() {
    let mut trees = node("ai.onnx.ml.TreeEnsembleRegressor", &["h"], &["y"]);
    trees.attribute = chain(&["BRANCH_LEQ"], 0.0);
    trees.attribute.extend(votes("target", &[1, 2], &[0, 0], &[1.0, 2.0]));
    let onnx = model(vec![node("Tanh", &["x"], &["h"]), trees], vec![], &[1], &["y"]);
    assert!(refusal(&onnx, &spread(4, 1)).contains("must read the model's input itself"));
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
