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


def classical():
    write("scaler", [node("Scaler", "x", domain="ai.onnx.ml", offset=[1.0] * 12, scale=[0.5] * 12)], [12], domain=True)
    write("normalizer", [node("Normalizer", "x", domain="ai.onnx.ml", norm="L2")], [12], domain=True)
    linear = dict(coefficients=weights(24).tolist(), intercepts=[0.5, 1.0])
    write("linear", [node("LinearRegressor", "x", domain="ai.onnx.ml", targets=2, **linear)], [12], domain=True)
    labels = dict(classlabels_ints=[0, 1], post_transform="SOFTMAX")
    write("classifier", [node("LinearClassifier", "x", ["label", "y"], domain="ai.onnx.ml", **linear, **labels)], [12], domain=True)
    trees = dict(
        nodes_treeids=[0, 0, 0, 1, 1, 1],
        nodes_nodeids=[0, 1, 2, 0, 1, 2],
        nodes_featureids=[3, 0, 0, 7, 0, 0],
        nodes_values=[0.5, 0.0, 0.0, -0.25, 0.0, 0.0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_LT", "LEAF", "LEAF"],
        nodes_truenodeids=[1, 0, 0, 1, 0, 0],
        nodes_falsenodeids=[2, 0, 0, 2, 0, 0],
    )
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
    sizes = [file.stat().st_size for file in OUT.iterdir()]
    print(f"{len(sizes)} seeds, {sum(sizes)} bytes; onnx {onnx.__version__}")
