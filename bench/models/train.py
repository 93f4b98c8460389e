"""Trains the two models that are shipped with HACA, and writes them next to this file.

    python train.py [--out DIR]

Each model becomes `<name>.onnx`, `<name>_calibration.npy` (rows it was trained on, for the compiler),
`<name>_input.npy` (rows to be sent as requests) and `<name>_reference.npy` (what ONNX Runtime answers for
them). All arrays are float32, C order, little-endian, `[rows, columns]`. The data sets come inside
scikit-learn, so nothing is downloaded. The script fails, and writes nothing, if a model is worse than it
ought to be or if the exported graph disagrees with the trained one.
"""

import argparse
import io
import pathlib
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_diabetes, load_digits
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

SEED = 20_240_517
# The versions that every maintained ONNX Runtime reads, and the last ones before trees became a new operator.
OPSETS = {"": 17, "ai.onnx.ml": 3}
IR_VERSION = 8
CALIBRATION_ROWS = 300
REQUEST_ROWS = 400
TOTAL_BYTES = 1 << 20


@dataclass
class Shipped:
    """One trained model with everything that is written for it."""

    name: str
    graph: onnx.ModelProto
    calibration: np.ndarray
    rows: np.ndarray
    reference: np.ndarray
    summary: str


def run(graph: onnx.ModelProto, rows: np.ndarray) -> np.ndarray:
    """Answers of ONNX Runtime on one thread, where sums have one order."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (answers,) = session.run(None, {"input": rows})
    return answers


def agree(name: str, exported: np.ndarray, trained: np.ndarray) -> float:
    """Largest difference over the range of the outputs; an export that loses more than float32 does is a bug."""
    error = float(np.max(np.abs(exported - trained)) / np.ptp(trained))
    if error > 1e-5:
        raise SystemExit(f"{name}: the exported graph is off by {error:.2e} of the output range")
    return error


def pick(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` distinct rows, drawn once and for all."""
    drawn = np.random.default_rng(SEED).permutation(len(rows))[:count]
    return np.ascontiguousarray(rows[drawn], dtype="<f4")


def mlp() -> Shipped:
    """Digits: 8x8 pixels of 0..16 in, 64 and 32 hidden units with ReLU, ten logits out."""
    pixels, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, digits, test_size=500, random_state=SEED, stratify=digits
    )
    # Pixels are divided by 16 in training; a power of two folds into the first weights without a rounding.
    network = MLPClassifier((64, 32), alpha=0.05, max_iter=400, random_state=SEED)
    network.fit(train_x / 16.0, train_y)

    weights = [w.astype(np.float32) for w in network.coefs_]
    weights[0] /= np.float32(16.0)
    biases = [b.astype(np.float32) for b in network.intercepts_]
    nodes, constants, value = [], [], "input"
    for layer, (weight, bias) in enumerate(zip(weights, biases), start=1):
        last = layer == len(weights)
        constants += [
            numpy_helper.from_array(weight, f"w{layer}"),
            numpy_helper.from_array(bias, f"b{layer}"),
        ]
        summed = "output" if last else f"sum{layer}"
        nodes.append(
            helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [summed], name=f"gemm{layer}")
        )
        if not last:
            value = f"hidden{layer}"
            nodes.append(helper.make_node("Relu", [summed], [value], name=f"relu{layer}"))
    graph = helper.make_model(
        helper.make_graph(
            nodes,
            "digits_mlp",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", 64])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", 10])],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSETS[""])],
        ir_version=IR_VERSION,
        producer_name="haca-bench",
    )
    onnx.checker.check_model(graph, full_check=True)

    held_out = run(graph, test_x.astype(np.float32))
    accuracy = accuracy_score(test_y, held_out.argmax(axis=1))
    if accuracy < 0.97:
        raise SystemExit(f"mlp: accuracy of {accuracy:.3f} on held-out digits, expected 0.97 or more")
    hidden = test_x / 16.0
    for weight, bias in zip(network.coefs_[:-1], network.intercepts_[:-1]):
        hidden = np.maximum(hidden @ weight + bias, 0.0)
    error = agree("mlp", held_out, hidden @ network.coefs_[-1] + network.intercepts_[-1])

    rows = pick(test_x, REQUEST_ROWS)
    return Shipped(
        "mlp",
        graph,
        pick(train_x, CALIBRATION_ROWS),
        rows,
        run(graph, rows),
        f"64-64-32-10, ReLU; accuracy {accuracy:.3f} on {len(test_x)} held-out digits; "
        f"ONNX Runtime against scikit-learn {error:.1e} of range",
    )


def gbt() -> Shipped:
    """Diabetes: ten measurements in their own units in, progression of the disease after a year out."""
    measurements, progression = load_diabetes(return_X_y=True, scaled=False)
    # Rounded first, so that training and serving see the same numbers on the same side of each threshold.
    measurements = measurements.astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        measurements, progression, test_size=110, random_state=SEED
    )
    ensemble = GradientBoostingRegressor(
        n_estimators=150,
        max_depth=4,
        learning_rate=0.03,
        subsample=0.6,
        max_features=0.4,
        min_samples_leaf=6,
        random_state=SEED,
    )
    ensemble.fit(train_x, train_y)
    graph = convert_sklearn(
        ensemble,
        "diabetes_gbt",
        initial_types=[("input", FloatTensorType([None, 10]))],
        final_types=[("output", FloatTensorType([None, 1]))],
        target_opset=OPSETS,
    )
    # The converter lists the versions it needs in the order of a hash table.
    del graph.opset_import[:]
    graph.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in OPSETS.items())
    graph.ir_version = IR_VERSION
    onnx.checker.check_model(graph, full_check=True)

    held_out = run(graph, test_x)
    r2 = r2_score(test_y, held_out[:, 0])
    if r2 < 0.35:
        raise SystemExit(f"gbt: R2 of {r2:.3f} on held-out patients, expected 0.35 or more")
    error = agree("gbt", run(graph, measurements), ensemble.predict(measurements)[:, None])

    rows = pick(measurements, REQUEST_ROWS)
    return Shipped(
        "gbt",
        graph,
        pick(train_x, CALIBRATION_ROWS),
        rows,
        run(graph, rows),
        f"{ensemble.n_estimators_} trees of depth {ensemble.max_depth} on 10 features; "
        f"R2 {r2:.3f} on {len(test_x)} held-out patients; "
        f"ONNX Runtime against scikit-learn {error:.1e} of range",
    )


def files(model: Shipped) -> dict[str, bytes]:
    """The model's files by name."""
    contents = {f"{model.name}.onnx": model.graph.SerializeToString(deterministic=True)}
    arrays = {"calibration": model.calibration, "input": model.rows, "reference": model.reference}
    for part, array in arrays.items():
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(array, dtype="<f4"))
        contents[f"{model.name}_{part}.npy"] = buffer.getvalue()
    return contents


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    out = arguments.parse_args().out
    # One thread: sums of floats then have one order, and a second run writes the same bytes.
    with threadpool_limits(limits=1):
        models = [mlp(), gbt()]
    shipped = {model.name: files(model) for model in models}
    total = sum(len(content) for contents in shipped.values() for content in contents.values())
    if total > TOTAL_BYTES:
        raise SystemExit(f"the shipped files would take {total} bytes, more than {TOTAL_BYTES}")
    for model in models:
        operators = sorted({node.op_type for node in model.graph.graph.node})
        print(f"{model.name}: {model.summary}; operators {', '.join(operators)}")
        for name, content in shipped[model.name].items():
            (out / name).write_bytes(content)
            print(f"  {name:22} {len(content):8} bytes")


if __name__ == "__main__":
    main()
