"""Writes the ONNX seeds of the fuzz targets into corpus/onnx: small models of each operator, and hostile ones.

    python onnx_seeds.py          needs numpy and onnx

All take rows of 12 floats, whatever their shape.
"""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OUT = pathlib.Path(__file__).parent / "corpus" / "onnx"
random = np.random.default_rng(7)


def weights(*shape):
    return random.standard_normal(shape).astype(np.float32) * np.float32(0.5)


def ints(*values):
    return np.array(values, dtype=np.int64)


def write(name, nodes, row, constants=None, out=("y",), domain=False, edit=None):
    put = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", *row])
    gives = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in out]
    held = [numpy_helper.from_array(value, n) for n, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, name, [put], gives, held)
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid("ai.onnx.ml", 3)] if domain else [])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    if edit:
        edit(model)
    (OUT / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


def node(operator, inputs, outputs=("y",), **attributes):
    return helper.make_node(operator, inputs.split(), list(outputs), **attributes)


def unary(operator, row=(12,), **attributes):
    write(operator.lower(), [node(operator, "x", **attributes)], row)


def operators():
    for operator in ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Gelu", "GlobalAveragePool"):
        unary(operator, (3, 4) if operator.startswith("Global") else (12,))
    write("clip", [node("Clip", "x low high")], [12], {"low": np.float32(-1), "high": np.float32(1)})
    unary("Softmax", (3, 4), axis=-1)
    unary("ArgMax", (3, 4), axis=2)
    unary("Flatten", (3, 4), axis=1)
    unary("Transpose", (3, 4), perm=[0, 2, 1])
    unary("ReduceMean", (3, 4), axes=[2])
    unary("ReduceMax", (3, 4), axes=[1])
    write("reducesum", [node("ReduceSum", "x axes")], [3, 4], {"axes": ints(1)})
    unary("MaxPool", (1, 12), kernel_shape=[3], strides=[2], pads=[1, 1])
    unary("AveragePool", (1, 3, 4), kernel_shape=[2, 2])
    write("gemm", [node("Gemm", "x w b")], [12], {"w": weights(12, 3), "b": weights(3)})
    write("matmul", [node("MatMul", "x w")], [3, 4], {"w": weights(4, 2)})
    for operator in ("Add", "Sub", "Mul", "Div"):
        write(operator.lower(), [node(operator, "x c")], [12], {"c": weights(12) + 2})
    write("conv", [node("Conv", "x w b", pads=[1, 1], strides=[2])], [2, 6], {"w": weights(3, 2, 3), "b": weights(3)})
    write("conv2", [node("Conv", "x w", group=3)], [3, 2, 2], {"w": weights(3, 1, 2, 2)})
    four = {n: np.abs(weights(3)) + np.float32(0.1) for n in "sbmv"}
    write("batchnorm", [node("BatchNormalization", "x s b m v")], [3, 4], four)
    write("layernorm", [node("LayerNormalization", "x s b", axis=-1)], [3, 4], {"s": weights(4), "b": weights(4)})
    write("concat", [node("Relu", "x", "r"), node("Concat", "x r", axis=1)], [12])
    write("slice", [node("Slice", "x a b c d")], [3, 4], {"a": ints(0), "b": ints(3), "c": ints(2), "d": ints(2)})
    write("split", [node("Split", "x", "py", axis=1), node("Add", "p y", "z")], [12], out="z")
    write("gather", [node("Gather", "x i", axis=1)], [3, 4], {"i": ints(2, 0)})
    write("reshape", [node("Reshape", "x s")], [12], {"s": ints(-1, 3, 4)})
    write("squeeze", [node("Unsqueeze", "x a", "u"), node("Squeeze", "u a")], [12], {"a": ints(1)})
    write("pad", [node("Pad", "x p")], [3, 4], {"p": ints(0, 1, 0, 0, 0, 2)})
    for operator, gates in (("LSTM", 4), ("GRU", 3)):
        held = {"w": weights(1, gates * 3, 4), "r": weights(1, gates * 3, 3), "b": weights(1, gates * 6)}
        more = {} if gates == 4 else {"linear_before_reset": 1}
        nodes = [node("Transpose", "x", ["steps"], perm=[1, 0, 2]), node(operator, "steps w r b", ["all", "last"], hidden_size=3, **more)]
        write(operator.lower(), [*nodes, node("Squeeze", "last zero")], [3, 4], {**held, "zero": ints(0)})
    attention = [
        node("MatMul", "x w", ["q"]),
        node("Transpose", "x", ["k"], perm=[0, 2, 1]),
        node("MatMul", "q k", ["scores"]),
        node("Mul", "scores half", ["scaled"]),
        node("Softmax", "scaled", ["share"], axis=-1),
        node("MatMul", "share x"),
    ]
    write("attention", attention, [3, 4], {"w": weights(4, 4), "half": np.float32(0.5)})


def two_trees(first, second):
    """The nodes of two trees of one branch each, in these modes."""
    return dict(
        nodes_treeids=[0, 0, 0, 1, 1, 1],
        nodes_nodeids=[0, 1, 2, 0, 1, 2],
        nodes_featureids=[3, 0, 0, 7, 0, 0],
        nodes_values=[0.5, 0.0, 0.0, -0.25, 0.0, 0.0],
        nodes_modes=[first, "LEAF", "LEAF", second, "LEAF", "LEAF"],
        nodes_truenodeids=[1, 0, 0, 1, 0, 0],
        nodes_falsenodeids=[2, 0, 0, 2, 0, 0],
    )


def classical():
    write("scaler", [node("Scaler", "x", domain="ai.onnx.ml", offset=[1.0] * 12, scale=[0.5] * 12)], [12], domain=True)
    write("normalizer", [node("Normalizer", "x", domain="ai.onnx.ml", norm="L2")], [12], domain=True)
    linear = dict(coefficients=weights(24).tolist(), intercepts=[0.5, 1.0])
    write("linear", [node("LinearRegressor", "x", domain="ai.onnx.ml", targets=2, **linear)], [12], domain=True)
    labels = dict(classlabels_ints=[0, 1], post_transform="SOFTMAX")
    write("classifier", [node("LinearClassifier", "x", ["label", "y"], domain="ai.onnx.ml", **linear, **labels)], [12], domain=True)
    trees = two_trees("BRANCH_LEQ", "BRANCH_LT")
    treeids, nodeids, values = [0, 0, 1, 1], [1, 2, 1, 2], [0.1, -0.2, 0.3, 0.4]
    votes = {f"target_{n}": v for n, v in dict(treeids=treeids, nodeids=nodeids, ids=[0] * 4, weights=values).items()}
    regressor = node("TreeEnsembleRegressor", "x", domain="ai.onnx.ml", n_targets=1, **trees, **votes)
    write("trees", [regressor], [12], domain=True)
    votes = {f"class_{n}": v for n, v in dict(treeids=treeids, nodeids=nodeids, ids=[1] * 4, weights=values).items()}
    classifier = node(
        "TreeEnsembleClassifier", "x", ["label", "y"], domain="ai.onnx.ml", **trees, **votes,
        classlabels_int64s=[0, 1], post_transform="LOGISTIC",
    )
    write("tree-classifier", [classifier], [12], domain=True)


def forms():
    """Operators in their rarer forms, and arithmetic on constants and on the number of rows."""
    write("concat-constant", [node("Concat", "x c", axis=1)], [12], {"c": weights(1, 3)})
    for mode in ("edge", "reflect", "wrap"):
        write(f"pad-{mode}", [node("Pad", "x p", mode=mode)], [3, 4], {"p": ints(0, 1, 2, 0, 0, 3)})
    write("pad-cut", [node("Pad", "x p c")], [3, 4], {"p": ints(0, -1, 0, 0, 0, 2), "c": np.float32(0.5)})
    write("softmax-columns", [node("Softmax", "x", axis=1)], [3, 4])
    write("argmax-last", [node("ArgMax", "x", axis=1, select_last_index=1)], [3, 4])
    write("averagepool-ceil", [node("AveragePool", "x", kernel_shape=[3], strides=[2], pads=[1, 1], ceil_mode=1, count_include_pad=1)], [1, 12])
    write("flatten-merged", [node("Flatten", "x", ["f"], axis=2), node("Reshape", "f s")], [3, 4], {"s": ints(-1, 12)})
    write("power", [node("Pow", "x e")], [12], {"e": np.float32(3)})
    write("sum", [node("Relu", "x", "r"), node("Sum", "x r x")], [12])
    write("gemm-value", [node("Relu", "x", "r"), node("Gemm", "x w r", beta=0.5)], [12], {"w": weights(12, 12)})
    write("matmul-vector", [node("MatMul", "x w")], [3, 4], {"w": weights(4)})
    write("matmul-left", [node("MatMul", "w x")], [3, 4], {"w": weights(2, 3)})
    write("matmul-each", [node("MatMul", "x w")], [3, 2, 2], {"w": weights(3, 2, 5)})
    write("half", [node("Gemm", "x w")], [12], {"w": weights(12, 3).astype(np.float16)})
    write("identity", [node("Identity", "x")], [12])
    rows = [node("Shape", "x", "s"), node("Gather", "s zero", "n", axis=0), node("Mul", "n three", "m")]
    rows += [node("Concat", "m four", "t", axis=0), node("Reshape", "x t", "r"), node("Concat", "n twelve", "u", axis=0)]
    sizes = {"zero": ints(0), "three": ints(3), "four": ints(4), "twelve": ints(12)}
    write("rows", [*rows, node("Reshape", "r u")], [12], sizes)
    expand = [node("Shape", "x", "s"), node("ConstantOfShape", "two", "z"), node("Equal", "s z", "e")]
    expand += [node("Where", "e z s", "w"), node("Expand", "c w", "k"), node("Add", "x k")]
    write("expand-rows", expand, [12], {"two": ints(2), "c": weights(1, 12)})
    folded = [node("Range", "a b c", "r"), node("Tile", "r t", "v"), node("Sqrt", "v", "q"), node("Add", "x q")]
    write("folded", folded, [12], {"a": np.float32(0), "b": np.float32(4), "c": np.float32(1), "t": ints(3)})
    held = {"w": weights(1, 12, 4), "r": weights(1, 12, 3), "b": weights(1, 24), "l": ints(3), "one": ints(1)}
    write("lstm-layout", [node("LSTM", "x w r b l", ["all", "last"], hidden_size=3, layout=1), node("Squeeze", "last one")], [3, 4], held)
    trees = dict(
        nodes_treeids=[0] * 5,
        nodes_nodeids=[0, 1, 2, 3, 4],
        nodes_featureids=[1, 0, 0, 0, 0],
        nodes_values=[0.5, -0.25, 0.0, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "BRANCH_GT", "LEAF", "LEAF", "LEAF"],
        nodes_truenodeids=[1, 2, 0, 0, 0],
        nodes_falsenodeids=[4, 3, 0, 0, 0],
        class_treeids=[0] * 3,
        class_nodeids=[2, 3, 4],
        class_ids=[0, 1, 2],
        class_weights=[0.5, -1.0, 2.0],
        classlabels_int64s=[0, 1, 2],
        post_transform="SOFTMAX",
    )
    behind = [
        node("ArrayFeatureExtractor", "x i", ["f"], domain="ai.onnx.ml"),
        node("Scaler", "f", ["g"], domain="ai.onnx.ml", offset=[1.0, -1.0], scale=[0.5, -2.0]),
        node("TreeEnsembleClassifier", "g", ["label", "p"], domain="ai.onnx.ml", **trees),
        node("Normalizer", "p", domain="ai.onnx.ml", norm="L1"),
    ]
    write("trees-behind-scaler", behind, [12], {"i": ints(7, 2)}, domain=True)


def written_out():
    """What exporters write out: layer normalisation, GELU, one step of a GRU in a loop; and operators not above."""
    write("abs", [node("Abs", "x", "a"), node("Neg", "a")], [12])
    write("prelu", [node("PRelu", "x s")], [3, 4], {"s": weights(3, 1)})
    for operator in ("Min", "Max"):
        write(f"{operator.lower()}-values", [node("Tanh", "x", "t"), node(operator, "x t")], [12])
    write("globalmaxpool", [node("GlobalMaxPool", "x")], [3, 4])
    constant = [node("Constant", "", "c", value_floats=[0.5] * 12), node("Cast", "c", "d", to=11), node("Cast", "x", "e", to=11)]
    write("constant", [*constant, node("Dropout", "e", "f"), node("Add", "f d")], [12])
    write("widened", [node("Mul", "x c")], [3, 4, 1], {"c": weights(5)})
    for operator, gates in (("LSTM", 4), ("GRU", 3)):
        held = {"w": weights(1, gates * 3, 4), "r": weights(1, gates * 3, 3), "b": weights(1, gates * 6), "s": weights(1, 1, 3)}
        start = [node("Transpose", "x", ["steps"], perm=[1, 0, 2]), node("Shape", "x", "d"), node("Gather", "d zero", "n")]
        start += [node("Concat", "one n three", "t", axis=0), node("Expand", "s t", "h")]
        states, more = ("h h", {}) if gates == 4 else ("h", {"linear_before_reset": 1})
        layer = node(operator, "steps w r b", ["all", "last"], hidden_size=3, **more)
        layer.input.extend(["", *states.split()])
        sizes = {"zero": ints(0), "one": ints(1), "three": ints(3)}
        write(f"{operator.lower()}-states", [*start, layer, node("Squeeze", "last zero")], [3, 4], {**held, **sizes})
    rows = [node("Shape", "x", "s"), node("Gather", "s zero", "n"), node("Max", "n one", "m"), node("ReduceProd", "m", "p", keepdims=1)]
    rows += [node("Size", "zero", "k"), node("Unsqueeze", "k zero", "u"), node("Concat", "p u twelve", "t", axis=0)]
    write("rows-most", [*rows, node("Reshape", "x t")], [12], {"zero": ints(0), "one": ints(1), "twelve": ints(12)})
    truth = [node("Less", "a b", "l"), node("Greater", "a b", "g"), node("And", "l g", "n"), node("Or", "l g", "o"), node("Not", "n", "t")]
    truth += [node("GreaterOrEqual", "a b", "e"), node("LessOrEqual", "a b", "f"), node("Where", "e a b", "w"), node("Mod", "b two", "q")]
    numbers = [node("Ceil", "w", ["c1"]), node("Floor", "c1", ["c2"]), node("Cos", "c2", ["c3"]), node("Sin", "c3", ["c4"]), node("Exp", "c4", ["c5"])]
    numbers += [node("Log", "c5", ["c6"]), node("Reciprocal", "c5", ["c8"]), node("Add", "c8 q", ["c9"])]
    for last in "otf":
        numbers.append(node("Cast", last, [f"{last}n"], to=1))
    numbers += [node("Mul", "on tn", "k"), node("Mul", "k fn", "i"), node("Add", "c9 i", "z"), node("Add", "x z")]
    parts = {"a": weights(12), "b": weights(12), "two": np.float32(2)}
    write("truth", truth + numbers, [12], parts)
    gelu = [node("Div", "x root", "a"), node("Erf", "a", "e"), node("Add", "e one", "s"), node("Mul", "x s", "t"), node("Mul", "t half")]
    write("gelu-erf", gelu, [12], {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)})
    gelu = [node("Pow", "x three", "p"), node("Mul", "k p", "b"), node("Add", "x b", "s"), node("Mul", "r s", "a"), node("Tanh", "a", "t")]
    gelu += [node("Add", "one t", "o"), node("Mul", "half x", "h"), node("Mul", "h o")]
    parts = {"three": 3, "k": 0.044715, "r": 0.7978846, "one": 1, "half": 0.5}
    write("gelu-tanh", gelu, [12], {name: np.float32(value) for name, value in parts.items()})
    norm = [node("ReduceMean", "x", "m", axes=[-1]), node("Sub", "x m", "d"), node("Pow", "d two", "q"), node("ReduceMean", "q", "v", axes=[-1])]
    norm += [node("Add", "v e", "w"), node("Sqrt", "w", "r"), node("Div", "d r", "n"), node("Mul", "n g", "s"), node("Add", "s b")]
    parts = {"two": np.float32(2), "e": np.float32(0.01), "g": weights(4), "b": weights(4)}
    write("layernorm-quotient", norm, [3, 4], parts)
    norm = [node("Transpose", "x", "t", perm=[0, 2, 1]), node("ReduceMean", "t", "m", axes=[1]), node("Neg", "m", "o"), node("Sub", "t m", "d")]
    norm += [node("Mul", "d d", "q"), node("ReduceMean", "q", "v", axes=[1]), node("Add", "v e", "w"), node("Sqrt", "w", "r")]
    norm += [node("Reciprocal", "r", "i"), node("Mul", "i g", "s"), node("Transpose", "s", "u", perm=[0, 2, 1]), node("Mul", "x u", "f")]
    norm += [node("Transpose", "o", "p", perm=[0, 2, 1]), node("Mul", "p u", "h"), node("Add", "h b", "j"), node("Add", "f j")]
    write("layernorm-reciprocal", norm, [3, 4], {"e": np.float32(0.01), "g": weights(4, 1), "b": weights(4)})
    write("quotient", [node("Tanh", "x", "t"), node("Div", "x t", "q"), node("Div", "one q")], [12], {"one": np.float32(1)})
    scores = [node("Transpose", "x", ["k"], perm=[0, 2, 1]), node("MatMul", "x k", ["scores"])]
    scores += [node("Trilu", "ones", ["allowed"], upper=0), node("Equal", "allowed zero", ["hidden"])]
    shares = [node("Softmax", "masked", ["shares"]), node("MatMul", "shares x")]
    added = [node("Where", "hidden least zero", ["mask"]), node("Add", "scores mask", ["masked"])]
    parts = {"ones": np.ones((3, 3), np.float32), "zero": np.float32(0), "least": np.float32(-np.inf)}
    write("mask-added", [*scores, *added, *shares], [3, 4], parts)
    chosen = [node("Where", "hidden least scores", ["masked"])]
    write("mask-chosen", [*scores, *chosen, *shares], [3, 4], {**parts, "least": np.float32(-1e9)})
    write("gru-loop", *gru_loop())
    write("gru-loop-turned", *gru_loop(split=(1, 2, 0)))
    write("gru-loop-early", *gru_loop(limit=2))
    trees = two_trees("BRANCH_EQ", "BRANCH_NEQ") | dict(nodes_missing_value_tracks_true=[1, 0, 0, 0, 0, 0])
    votes = dict(target_treeids=[0, 0, 1, 1], target_nodeids=[1, 2, 1, 2], target_ids=[0, 1, 0, 1], target_weights=[0.1, -0.2, 0.3, 0.4])
    average = node("TreeEnsembleRegressor", "x", domain="ai.onnx.ml", n_targets=2, aggregate_function="AVERAGE", base_values=[1.0, 2.0], **trees, **votes)
    write("trees-average", [average], [12], domain=True)
    labels = dict(classlabels_ints=[0, 1], post_transform="LOGISTIC", coefficients=weights(12).tolist(), intercepts=[0.5])
    zipped = [node("LinearClassifier", "x", ["label", "s"], domain="ai.onnx.ml", **labels), node("Normalizer", "s", "p", domain="ai.onnx.ml", norm="L1")]
    write("zipmap", [*zipped, node("ZipMap", "p", domain="ai.onnx.ml", classlabels_int64s=[0, 1])], [12], domain=True)

    def oldest(model):
        model.opset_import[0].version = 11

    write("softmax-flat", [node("Softmax", "x", axis=1)], [3, 4], edit=oldest)
    nested = [node("Relu", "x")]
    for level in range(12):
        inner = helper.make_graph(nested, "g", [], [])
        nested = [node("Loop", "m c", body=inner)]
    write("loops-within", nested, [12])


def gru_loop(split=(0, 1, 2), limit=3):
    """Three steps of four features through two units, as tf2onnx writes Keras' GRU."""
    names = lambda *names: [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in names]
    scalars = {"limit": np.float32(limit), "step": np.int32(1), "unit": np.float32(1)}
    scalars |= {"from": ints(0, 0), "one": ints(0, 2), "two": ints(0, 4), "both": ints(0, 1), "first": ints(0)}
    far = 2**31 - 1
    scalars |= {"to": ints(far, 2), "toone": ints(far, 4), "totwo": ints(far, far)}
    gates = [f"x{gate}" for gate in split]
    body = [
        node("Split", "b_", ["b0", "b1"], axis=0),
        node("Squeeze", "b0 first", "v"),
        node("Squeeze", "b1 first", "u"),
        node("Gather", "turned i_", ["row"]),
        node("MatMul", "row w_", ["xw"]),
        node("Add", "xw v", ["xs"]),
        node("Split", "xs", gates, axis=-1),
        node("MatMul", "h_ r_", ["hr"]),
        node("Add", "hr u", ["hs"]),
        node("Slice", "hs from to both", ["h0"]),
        node("Slice", "hs one toone both", ["h1"]),
        node("Slice", "hs two totwo both", ["h2"]),
        node("Add", "x0 h0", ["zs"]),
        node("Sigmoid", "zs", ["z"]),
        node("Add", "x1 h1", ["rs"]),
        node("Sigmoid", "rs", ["k"]),
        node("Mul", "k h2", ["kh"]),
        node("Add", "x2 kh", ["cs"]),
        node("Tanh", "cs", ["c"]),
        node("Sub", "unit z", ["rest"]),
        node("Mul", "rest c", ["new"]),
        node("Mul", "z h_", ["old"]),
        node("Add", "old new", ["next"]),
        node("Identity", "next", ["scan"]),
        node("Add", "i_ step", ["j"]),
        node("Cast", "j", ["jf"], to=1),
        node("Less", "jf limit", ["going"]),
    ]
    inner = [numpy_helper.from_array(value, name) for name, value in scalars.items()]
    inputs = names("n_", "c_", "i_", "h_", "w_", "r_", "b_")
    outputs = names("going", "j", "next", "w_", "r_", "b_", "scan")
    graph = helper.make_graph(body, "body", inputs, outputs, inner)
    outside = [
        node("Transpose", "x", ["turned"], perm=[1, 0, 2]),
        node("Shape", "x", ["s"]),
        node("Slice", "s zero end zero", ["n"]),
        node("Concat", "n units", ["t"], axis=0),
        node("Expand", "nothing t", ["h"]),
        node("Loop", "trips true start h w r b", ["l0", "l1", "l2", "l3", "l4", "l5"], body=graph),
        node("Slice", "l5 minus far zero", ["cut"]),
        node("Squeeze", "cut zero"),
    ]
    held = {"trips": np.int64(3), "true": np.bool_(True), "start": np.int32(0), "nothing": np.float32(0), "units": ints(2)}
    held |= {"zero": ints(0), "end": ints(1), "minus": ints(-1), "far": ints(far)}
    held |= {"w": weights(4, 6), "r": weights(2, 6), "b": weights(2, 6)}
    return outside, [3, 4], {name: np.asarray(value) for name, value in held.items()}


def hostile():
    held = {"w": weights(12, 3)}
    gemm = lambda source="x", to=("y",): node("Gemm", f"{source} w", to)
    write("cycle", [node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b")], [12])
    write("own-input", [node("Add", "x y")], [12])
    write("missing-initializer", [node("Gemm", "x nowhere")], [12])
    write("computed-twice", [node("Relu", "x"), node("Tanh", "x")], [12])
    write("deep", [node("Relu", "x" if i == 0 else f"v{i}", ["y" if i == 499 else f"v{i + 1}"]) for i in range(500)], [12])

    def dims(*dims):
        def edit(model):
            del model.graph.initializer[0].dims[:]
            model.graph.initializer[0].dims.extend(dims)

        return edit

    write("overflow", [gemm()], [12], held, edit=dims(1 << 33, 1 << 33))
    write("negative", [gemm()], [12], held, edit=dims(-12, -3))
    write("zero", [gemm()], [12], held, edit=dims(0, 1 << 40))
    write("huge-row", [node("Relu", "x")], [1 << 40, 1 << 40])
    write("huge-reshape", [node("Reshape", "x s")], [12], {"s": ints(-1, 1 << 62, 4)})
    write("huge-pad", [node("Pad", "x p")], [12], {"p": ints(0, 1 << 40, 0, 1 << 40)})
    write("huge-pool", [node("MaxPool", "x", kernel_shape=[1 << 40], pads=[1 << 40, 1 << 40])], [1, 12])
    write("huge-stride", [node("Conv", "x w", strides=[1 << 62], dilations=[1 << 62])], [2, 6], {"w": weights(3, 2, 3)})
    write("huge-slice", [node("Slice", "x a b")], [12], {"a": ints(-(1 << 63)), "b": ints((1 << 63) - 1)})
    write("huge-axis", [node("Softmax", "x", axis=(1 << 63) - 1)], [12])
    write("least-axis", [node("Concat", "x x", axis=-(1 << 63))], [12])
    write("no-divisor", [node("Div", "x c")], [12], {"c": np.zeros(12, np.float32)})
    write("not-finite", [node("Mul", "x c")], [12], {"c": np.full(12, np.inf, np.float32)})
    write("largest", [node("Mul", "x c", "m"), node("Mul", "m c")], [12], {"c": np.full(12, 3e38, np.float32)})

    def outside(model):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../../etc/passwd")
        tensor.external_data.add(key="length", value=str(1 << 60))

    write("outside", [gemm()], [12], held, edit=outside)


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    operators()
    classical()
    hostile()
    forms()
    written_out()
    sizes = [file.stat().st_size for file in OUT.iterdir()]
    print(f"{len(sizes)} seeds, {sum(sizes)} bytes; onnx {onnx.__version__}")
