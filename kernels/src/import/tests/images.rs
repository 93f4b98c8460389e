//! Convolutions, pools, reductions and moves, against plain loops over ONNX's own layout.

use super::*;

/// Numbers between -1 and 1.
fn numbers(seed: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0).collect()
}

/// Compiles, checks the error that the compiler reports, and compares one row's answers with what they should be.
fn agrees(model: &ModelProto, rows: &npy::Array, expected: impl Fn(&[f32]) -> Vec<f32>) -> CompileReport {
    let compiled = compiled(model, rows).unwrap();
    // Answers that hardly differ are no worse than their inputs' scale.
    let range = compiled.report.range.max(1.0);
    assert!(compiled.report.max_error <= 1e-3 * range, "{:?}", compiled.report);
    let range = range as f32;
    for row in [0, rows.rows() - 1] {
        let row = rows.row(row);
        let (given, wanted) = (run(&compiled.file, row), expected(row));
        assert_eq!(given.len(), wanted.len());
        for (at, (given, wanted)) in given.iter().zip(&wanted).enumerate() {
            assert!((given - wanted).abs() <= 2e-3 * range, "element {at}: {given}, not {wanted}");
        }
    }
    compiled.report
}

/// Where a kernel lies: `[height, width]` of image, kernel, strides, dilations; padding top, left, bottom, right.
#[derive(Clone, Copy)]
struct Geometry {
    channels: usize,
    image: [usize; 2],
    kernel: [usize; 2],
    strides: [usize; 2],
    dilations: [usize; 2],
    pads: [usize; 4],
}

impl Geometry {
    fn places(&self) -> [usize; 2] {
        [0, 1].map(|axis| {
            let padded = self.image[axis] + self.pads[axis] + self.pads[axis + 2];
            (padded - (self.kernel[axis] - 1) * self.dilations[axis] - 1) / self.strides[axis] + 1
        })
    }

    /// The elements of one channel that the kernel meets at a place: which tap, and where in the channel.
    fn taps(&self, place: usize) -> Vec<(usize, usize)> {
        let columns = self.places()[1];
        let (row, column) = (place / columns, place % columns);
        let mut taps = Vec::new();
        for i in 0..self.kernel[0] {
            for j in 0..self.kernel[1] {
                let y = row * self.strides[0] + i * self.dilations[0];
                let x = column * self.strides[1] + j * self.dilations[1];
                let inside = y >= self.pads[0]
                    && x >= self.pads[1]
                    && y - self.pads[0] < self.image[0]
                    && x - self.pads[1] < self.image[1];
                if inside {
                    taps.push((
                        i * self.kernel[1] + j,
                        (y - self.pads[0]) * self.image[1] + x - self.pads[1],
                    ));
                }
            }
        }
        taps
    }

    fn attributes(&self) -> Vec<AttributeProto> {
        let all = |values: &[usize]| values.iter().map(|&value| value as i64).collect::<Vec<_>>();
        vec![
            ints("kernel_shape", &all(&self.kernel)),
            ints("strides", &all(&self.strides)),
            ints("dilations", &all(&self.dilations)),
            ints("pads", &all(&self.pads)),
        ]
    }

    fn row(&self) -> Vec<i64> {
        [self.channels, self.image[0], self.image[1]].iter().map(|&length| length as i64).collect()
    }

    fn len(&self) -> usize {
        self.channels * self.image[0] * self.image[1]
    }
}

const GEOMETRIES: [Geometry; 5] = [
    Geometry { channels: 2, image: [5, 6], kernel: [3, 2], strides: [1, 1], dilations: [1, 1], pads: [0; 4] },
    Geometry {
        channels: 4,
        image: [7, 5],
        kernel: [3, 3],
        strides: [2, 1],
        dilations: [1, 2],
        pads: [1, 2, 1, 1],
    },
    Geometry { channels: 1, image: [6, 8], kernel: [1, 2], strides: [1, 2], dilations: [1, 1], pads: [0; 4] },
    Geometry {
        channels: 6,
        image: [9, 1],
        kernel: [4, 1],
        strides: [1, 1],
        dilations: [2, 1],
        pads: [2, 0, 3, 0],
    },
    Geometry {
        channels: 2,
        image: [4, 10],
        kernel: [4, 10],
        strides: [1, 1],
        dilations: [1, 1],
        pads: [0; 4],
    },
];

#[test]
fn convolutions_of_all_geometries_and_groups_are_those_of_onnx() {
    for (index, geometry) in GEOMETRIES.into_iter().enumerate() {
        for groups in [1, 2].into_iter().filter(|&groups| geometry.channels.is_multiple_of(groups)) {
            let (outputs, inner) = (6, geometry.channels / groups);
            let taps = geometry.kernel[0] * geometry.kernel[1];
            let weights = numbers(index, outputs * inner * taps);
            let bias = numbers(index + 9, outputs);
            let mut conv = node("Conv", &["x", "w", "b"], &["y"]);
            conv.attribute = geometry.attributes();
            conv.attribute.push(attribute("group", |a| a.i = Some(groups as i64)));
            let dims = [outputs, inner, geometry.kernel[0], geometry.kernel[1]].map(|length| length as i64);
            let model = model(
                vec![conv],
                vec![tensor("w", &dims, &weights), tensor("b", &[outputs as i64], &bias)],
                &geometry.row(),
                &["y"],
            );
            let pixels = geometry.image[0] * geometry.image[1];
            let places = geometry.places();
            let expected = |row: &[f32]| {
                let mut y = Vec::new();
                for output in 0..outputs {
                    for place in 0..places[0] * places[1] {
                        let mut sum = bias[output];
                        for channel in 0..inner {
                            let image = output / (outputs / groups) * inner + channel;
                            for (tap, pixel) in geometry.taps(place) {
                                let weight = weights[(output * inner + channel) * taps + tap];
                                sum += weight * row[image * pixels + pixel];
                            }
                        }
                        y.push(sum);
                    }
                }
                y
            };
            let report = agrees(&model, &spread(20, geometry.len()), expected);
            assert!(report.layers.iter().any(|layer| layer.layer.operator == "conv"));
        }
    }
}

#[test]
fn pools_of_all_geometries_are_those_of_onnx() {
    for geometry in GEOMETRIES {
        let pixels = geometry.image[0] * geometry.image[1];
        let places = geometry.places();
        for (operator, whole) in [("MaxPool", 0), ("AveragePool", 0), ("AveragePool", 1)] {
            let mut pool = node(operator, &["x"], &["y"]);
            pool.attribute = geometry.attributes();
            pool.attribute.push(attribute("count_include_pad", |a| a.i = Some(whole)));
            let model = model(vec![pool], vec![], &geometry.row(), &["y"]);
            let expected = |row: &[f32]| {
                let mut y = Vec::new();
                for channel in 0..geometry.channels {
                    for place in 0..places[0] * places[1] {
                        let taps = geometry.taps(place);
                        let values = || taps.iter().map(|&(_, pixel)| row[channel * pixels + pixel]);
                        let count =
                            if whole == 1 { geometry.kernel[0] * geometry.kernel[1] } else { taps.len() };
                        y.push(match operator {
                            "MaxPool" => values().fold(f32::NEG_INFINITY, f32::max),
                            _ => values().sum::<f32>() / count as f32,
                        });
                    }
                }
                y
            };
            agrees(&model, &spread(20, geometry.len()), expected);
        }
    }
}

#[test]
fn a_convolution_between_normalizations_and_activations_is_one_layer() {
    let mut leaky = node("LeakyRelu", &["n1"], &["a1"]);
    leaky.attribute = vec![attribute("alpha", |a| a.f = Some(0.125))];
    let normalization = |from: &str, to: &str| {
        node("BatchNormalization", &[from, "gamma", "beta", "mean", "variance"], &[to])
    };
    let nodes = vec![
        node("Conv", &["x", "w1"], &["c1"]),
        normalization("c1", "n1"),
        leaky,
        normalization("a1", "n2"),
        node("Conv", &["n2", "w2"], &["c2"]),
        node("Relu", &["c2"], &["a2"]),
        node("GlobalAveragePool", &["a2"], &["p"]),
        node("Flatten", &["p"], &["f"]),
        node("Gemm", &["f", "head"], &["y"]),
    ];
    let initializers = vec![
        tensor("w1", &[3, 1, 1, 2], &numbers(1, 6)),
        tensor("w2", &[3, 3, 2, 1], &numbers(2, 18)),
        tensor("gamma", &[3], &[1.0, 0.5, 2.0]),
        tensor("beta", &[3], &[0.1, 0.0, -0.2]),
        tensor("mean", &[3], &[0.0, 0.3, -0.1]),
        tensor("variance", &[3], &[1.0, 2.0, 0.5]),
        tensor("head", &[3, 2], &numbers(3, 6)),
    ];
    let compiled = compiled(&model(nodes, initializers, &[1, 6, 4], &["y"]), &spread(50, 24)).unwrap();
    let operators: Vec<&str> = compiled.report.layers.iter().map(|layer| layer.layer.operator).collect();
    assert_eq!(operators, ["conv", "conv", "sum_pool", "dense"], "{:?}", compiled.report.layers);
    assert!(compiled.report.relative_error() <= 1e-3, "{:?}", compiled.report);
    assert_eq!(compiled.report.layers[0].layer.source, "Conv+BatchNormalization+LeakyRelu");
}

#[test]
fn data_is_moved_as_onnx_moves_it() {
    let one = |node: NodeProto, initializers: Vec<TensorProto>, expected: &[usize]| {
        let model = model(vec![node], initializers, &[2, 3], &["y"]);
        agrees(&model, &spread(10, 6), |row| {
            expected.iter().map(|&at| if at == 99 { 1.5 } else { row[at] }).collect()
        });
    };
    let with = |mut node: NodeProto, attributes: Vec<AttributeProto>| {
        node.attribute = attributes;
        node
    };
    one(with(node("Transpose", &["x"], &["y"]), vec![ints("perm", &[0, 2, 1])]), vec![], &[0, 3, 1, 4, 2, 5]);
    let gather = with(node("Gather", &["x", "at"], &["y"]), vec![attribute("axis", |a| a.i = Some(2))]);
    one(gather, vec![list("at", &[-1, 0])], &[2, 0, 5, 3]);
    let slice = node("Slice", &["x", "start", "end", "axis", "step"], &["y"]);
    let bounds = |start: &[i64], end: &[i64], axis: &[i64], step: &[i64]| {
        vec![list("start", start), list("end", end), list("axis", axis), list("step", step)]
    };
    one(slice.clone(), bounds(&[0, 2], &[i64::MAX, -100], &[1, 2], &[1, -2]), &[2, 0, 5, 3]);
    one(slice, bounds(&[1], &[2], &[1], &[1]), &[3, 4, 5]);
    let pad = node("Pad", &["x", "pads", "value"], &["y"]);
    one(
        pad,
        vec![list("pads", &[0, 0, 1, 0, 1, 0]), tensor("value", &[], &[1.5])],
        &[99, 0, 1, 2, 99, 3, 4, 5, 99, 99, 99, 99],
    );
    let concat = with(node("Concat", &["x", "x"], &["y"]), vec![attribute("axis", |a| a.i = Some(-1))]);
    one(concat, vec![], &[0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]);
    let reshape = node("Reshape", &["x", "shape"], &["y"]);
    one(reshape, vec![list("shape", &[0, 3, -1])], &[0, 1, 2, 3, 4, 5]);
    let expand = node("Expand", &["x", "shape"], &["y"]);
    one(expand, vec![list("shape", &[1, 2, 3])], &[0, 1, 2, 3, 4, 5]);
    let split = with(node("Split", &["x"], &["a", "y", "b"]), vec![attribute("axis", |a| a.i = Some(2))]);
    one(split, vec![], &[1, 4]);
}

#[test]
fn branches_of_different_ranges_are_joined_at_one_scale() {
    let mut concat = node("Concat", &["g", "s", "p"], &["c"]);
    concat.attribute = vec![attribute("axis", |a| a.i = Some(1))];
    let nodes = vec![
        node("Gemm", &["x", "w", "b"], &["g"]),
        node("Sigmoid", &["g"], &["s"]),
        node("Mul", &["s", "g"], &["p"]),
        concat,
        node("Gemm", &["c", "head"], &["y"]),
    ];
    let initializers = vec![
        tensor("w", &[4, 3], &numbers(1, 12)),
        tensor("b", &[3], &[0.5, -20.0, 3.0]),
        tensor("head", &[9, 2], &numbers(2, 18)),
    ];
    let compiled = compiled(&model(nodes, initializers, &[4], &["y"]), &spread(100, 4)).unwrap();
    let operators: Vec<&str> = compiled.report.layers.iter().map(|layer| layer.layer.operator).collect();
    assert!(operators.contains(&"multiply") && operators.contains(&"move"), "{operators:?}");
    assert!(compiled.report.relative_error() <= 1e-3, "{:?}", compiled.report);
}

#[test]
fn elementwise_operators_and_reductions_are_those_of_onnx() {
    let rows = spread(40, 6);
    let one =
        |nodes: Vec<NodeProto>, initializers: Vec<TensorProto>, expected: &dyn Fn(&[f32]) -> Vec<f32>| {
            agrees(&model(nodes, initializers, &[2, 3], &["y"]), &rows, expected);
        };
    let map = |of: fn(f32) -> f32| move |row: &[f32]| row.iter().map(|&x| of(x)).collect::<Vec<_>>();
    one(vec![node("Abs", &["x"], &["y"])], vec![], &map(f32::abs));
    one(vec![node("Neg", &["x"], &["y"])], vec![], &map(|x| -x));
    let mut leaky = node("LeakyRelu", &["x"], &["y"]);
    leaky.attribute = vec![attribute("alpha", |a| a.f = Some(0.3))];
    one(vec![leaky], vec![], &map(|x| if x < 0.0 { 0.3 * x } else { x }));
    let bounds = vec![tensor("low", &[], &[-0.5]), tensor("high", &[], &[1.25])];
    one(vec![node("Clip", &["x", "low", "high"], &["y"])], bounds.clone(), &map(|x| x.clamp(-0.5, 1.25)));
    one(vec![node("Min", &["x", "high"], &["y"])], bounds, &map(|x| x.min(1.25)));
    let slopes = vec![tensor("slope", &[2, 1], &[0.5, 1.75])];
    one(vec![node("PRelu", &["x", "slope"], &["y"])], slopes, &|row| {
        row.iter().enumerate().map(|(i, &x)| if x < 0.0 { x * [0.5, 1.75][i / 3] } else { x }).collect()
    });
    let halves = |operator: &str| {
        let mut split = node("Split", &["x"], &["a", "b"]);
        split.attribute = vec![attribute("axis", |a| a.i = Some(1))];
        vec![split, node(operator, &["a", "b"], &["y"])]
    };
    type Pair = (&'static str, fn(f32, f32) -> f32);
    let pairs: [Pair; 4] =
        [("Sub", |a, b| a - b), ("Mul", |a, b| a * b), ("Max", f32::max), ("Min", f32::min)];
    for (operator, of) in pairs {
        one(halves(operator), vec![], &|row| (0..3).map(|i| of(row[i], row[i + 3])).collect());
    }
    let reduced = |operator: &str, axes: &[i64], keep: i64| {
        let mut reduce = node(operator, &["x"], &["y"]);
        reduce.attribute = vec![ints("axes", axes), attribute("keepdims", |a| a.i = Some(keep))];
        vec![reduce]
    };
    one(reduced("ReduceMean", &[1], 1), vec![], &|row| (0..3).map(|i| (row[i] + row[i + 3]) / 2.0).collect());
    one(reduced("ReduceSum", &[-1], 0), vec![], &|row| row.chunks(3).map(|row| row.iter().sum()).collect());
    one(reduced("ReduceMax", &[1, 2], 0), vec![], &|row| vec![row.iter().copied().fold(f32::MIN, f32::max)]);
    let mut largest = node("ArgMax", &["x"], &["y"]);
    largest.attribute = vec![attribute("axis", |a| a.i = Some(2)), attribute("keepdims", |a| a.i = Some(0))];
    one(vec![largest], vec![], &|row| {
        let first = |row: &[f32]| (1..3).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as f32;
        row.chunks(3).map(first).collect()
    });
}

#[test]
fn shapes_of_the_batch_lead_back_to_it() {
    // What exporters write around a recurrent layer or an attention head: the batch taken from a shape.
    let mut first = node("Gather", &["shape", "zero"], &["rows"]);
    first.attribute = vec![attribute("axis", |a| a.i = Some(0))];
    let mut joined = node("Concat", &["rows", "rest"], &["target"]);
    joined.attribute = vec![attribute("axis", |a| a.i = Some(0))];
    let nodes = vec![
        node("Shape", &["x"], &["shape"]),
        first,
        joined,
        node("Reshape", &["x", "target"], &["r"]),
        node("MatMul", &["r", "w"], &["y"]),
    ];
    let initializers = vec![list("zero", &[0]), list("rest", &[6]), tensor("w", &[6, 2], &numbers(1, 12))];
    let compiled = compiled(&model(nodes, initializers, &[2, 3], &["y"]), &spread(30, 6)).unwrap();
    assert_eq!(compiled.report.layers.len(), 1, "{:?}", compiled.report.layers);
}

#[test]
fn linear_models_of_scikit_learn_are_served() {
    let linear = |operator: &str, coefficients: &[f32], intercepts: &[f32], outputs: &[&str]| {
        let mut linear = node(&format!("ai.onnx.ml.{operator}"), &["x"], outputs);
        linear.attribute = vec![floats("coefficients", coefficients), floats("intercepts", intercepts)];
        linear
    };
    let rows = spread(40, 2);
    let mut regressor = linear("LinearRegressor", &[0.5, -1.0, 2.0, 0.25], &[0.1, -0.2], &["y"]);
    regressor.attribute.push(attribute("targets", |a| a.i = Some(2)));
    agrees(&model(vec![regressor], vec![], &[2], &["y"]), &rows, |x| {
        vec![0.5 * x[0] - x[1] + 0.1, 2.0 * x[0] + 0.25 * x[1] - 0.2]
    });
    let logistic = |s: f32| 1.0 / (1.0 + (-s).exp());
    for (coefficients, intercepts) in
        [(&[0.5f32, -1.0][..], &[0.1f32][..]), (&[-0.5, 1.0, 0.5, -1.0], &[-0.1, 0.1])]
    {
        let mut classifier = linear("LinearClassifier", coefficients, intercepts, &["label", "scores"]);
        classifier.attribute.push(ints("classlabels_ints", &[0, 1]));
        classifier.attribute.push(text("post_transform", "LOGISTIC"));
        let mut normalizer = node("ai.onnx.ml.Normalizer", &["scores"], &["y"]);
        normalizer.attribute = vec![text("norm", "L1")];
        agrees(&model(vec![classifier, normalizer], vec![], &[2], &["y"]), &rows, |x| {
            let score = 0.5 * x[0] - x[1] + 0.1;
            vec![logistic(-score), logistic(score)]
        });
    }
    let mut normalizer = node("ai.onnx.ml.Normalizer", &["x"], &["y"]);
    normalizer.attribute = vec![text("norm", "MAX")];
    let message = refusal(&model(vec![normalizer], vec![], &[2], &["y"]), &rows);
    assert!(message.contains("Normalizer") && message.contains("MAX"), "{message}");
}

#[test]
fn windows_and_moves_are_refused_by_what_is_wrong() {
    let refused = |node: NodeProto, initializers: Vec<TensorProto>| {
        refusal(&model(vec![node], initializers, &[2, 4, 4], &["y"]), &spread(4, 32))
    };
    let weights = |dims: &[i64]| {
        let count = dims.iter().product::<i64>() as usize;
        vec![tensor("w", dims, &numbers(1, count))]
    };
    let conv = node("Conv", &["x", "w"], &["y"]);
    assert!(refused(conv.clone(), weights(&[3, 3, 1, 1])).contains("do not fit 2 channels"));
    assert!(refused(conv.clone(), weights(&[3, 2, 5, 1])).contains("does not fit 4"));
    assert!(refused(conv.clone(), weights(&[3, 2, 1])).contains("weights have shape"));
    let mut huge = conv.clone();
    huge.attribute = vec![ints("pads", &[i64::MAX, 0, 0, 0])];
    assert!(refused(huge, weights(&[3, 2, 1, 1])).contains("out of range"));
    let mut batch = node("Concat", &["x", "x"], &["y"]);
    batch.attribute = vec![attribute("axis", |a| a.i = Some(0))];
    assert!(refused(batch, vec![]).contains("or that is the batch"));
    let mut mixed = node("ReduceSum", &["x"], &["y"]);
    mixed.attribute = vec![ints("axes", &[0])];
    assert!(refused(mixed, vec![]).contains("contain the batch"));
    let grow = node("Expand", &["x", "shape"], &["y"]);
    let shape = vec![list("shape", &[1, 1 << 20, 1 << 20, 1, 1])];
    assert!(refused(grow, shape).contains("does not fit"));
}
