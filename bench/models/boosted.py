"""Trains boosted trees of LightGBM and XGBoost and pipelines of scikit-learn, and writes them next to this file.

    python boosted.py [--out DIR]

Regressors learn the diabetes data, classifiers the breast cancer data of scikit-learn. Each becomes `<name>.onnx` as the
exporter of its library writes it, and `<name>_reference.npy`, ONNX Runtime's answers to `<data>_input.npy`;
`<data>_calibration.npy` has rows for the compiler. The script fails, and writes nothing, if a model is worse than it ought to
be or if ONNX Runtime does not answer as the library does.
"""

import argparse
import pathlib

import numpy as np
import onnx
import onnxruntime
from lightgbm import LGBMClassifier, LGBMRegressor
from onnxmltools import convert_lightgbm, convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as MlFloats
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from xgboost import XGBClassifier, XGBRegressor

SEED = 20_240_710
OPSET = 15
SKLEARN_OPSETS = {"": 17, "ai.onnx.ml": 3}
CALIBRATION_ROWS = 200
FEW = dict(n_estimators=60, max_depth=4, learning_rate=0.08, random_state=SEED, n_jobs=1)


def pick(rows: np.ndarray, count: int) -> np.ndarray:
    return np.ascontiguousarray(rows[np.random.default_rng(SEED).permutation(len(rows))[:count]], dtype="<f4")


def run(graph: onnx.ModelProto, rows: np.ndarray) -> np.ndarray:
    """Scores of ONNX Runtime on one thread: the last output, of which a ZipMap makes a list of maps."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    answers = session.run(None, {session.get_inputs()[0].name: rows})[-1]
    if isinstance(answers, list):
        answers = [[row[label] for label in sorted(row)] for row in answers]
    return np.asarray(answers, dtype=np.float32).reshape(len(rows), -1)


def models():
    """Name, data, what trains, and how it is exported."""
    quiet = dict(verbosity=-1, deterministic=True, force_row_wise=True, num_leaves=15)
    floats = lambda rows: [("input", MlFloats([None, rows.shape[1]]))]
    light = lambda model, rows: convert_lightgbm(model, initial_types=floats(rows), target_opset=OPSET, zipmap=False)
    extreme = lambda model, rows: convert_xgboost(model, initial_types=floats(rows), target_opset=OPSET)
    sklearn = lambda model, rows: to_onnx(model, rows[:1], target_opset=SKLEARN_OPSETS)
    perceptron = MLPClassifier((24, 12), activation="tanh", alpha=0.01, max_iter=600, random_state=SEED)
    yield "lightgbm_regressor", "diabetes", LGBMRegressor(**FEW, **quiet), light
    yield "lightgbm_classifier", "cancer", LGBMClassifier(**FEW, **quiet), light
    yield "xgboost_regressor", "diabetes", XGBRegressor(**FEW, tree_method="exact"), extreme
    yield "xgboost_classifier", "cancer", XGBClassifier(**FEW, tree_method="exact"), extreme
    yield "pipeline_linear", "diabetes", make_pipeline(StandardScaler(), LinearRegression()), sklearn
    yield "pipeline_logistic", "cancer", make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500)), sklearn
    yield "pipeline_mlp", "cancer", make_pipeline(StandardScaler(), perceptron), sklearn


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    out = arguments.parse_args().out
    graphs, arrays, splits = {}, {}, {}
    for name, (rows, target) in {
        "diabetes": load_diabetes(return_X_y=True, scaled=False),
        "cancer": load_breast_cancer(return_X_y=True),
    }.items():
        rows = rows.astype(np.float32)
        splits[name] = train_test_split(rows, target, test_size=110, random_state=SEED)
        arrays[f"{name}_calibration"] = pick(splits[name][0], CALIBRATION_ROWS)
        arrays[f"{name}_input"] = splits[name][1]
    with threadpool_limits(limits=1):
        for name, data, model, export in models():
            train_x, test_x, train_y, test_y = splits[data]
            model.fit(train_x, train_y)
            quality, least = model.score(test_x, test_y), 0.3 if data == "diabetes" else 0.9
            if quality < least:
                raise SystemExit(f"{name}: {quality:.3f} on held-out rows, expected {least} or more")
            graph = export(model, train_x)
            graph.ir_version, graph.graph.name = 8, name
            # Converters list the versions they need in the order of a hash table.
            graph.opset_import.sort(key=lambda opset: opset.domain)
            answers = run(graph, test_x)
            own = model.predict_proba(test_x) if data == "cancer" else model.predict(test_x)[:, None]
            error = np.abs(answers - own).max() / np.ptp(own)
            # An export rounds the thresholds of trees to float32, which may move a row to another leaf.
            if np.median(np.abs(answers - own)) > 1e-5 * np.ptp(own):
                raise SystemExit(f"{name}: the exported graph is off by {error:.2e} of the output range")
            graphs[name] = graph.SerializeToString(deterministic=True)
            arrays[f"{name}_reference"] = answers
            operators = sorted({node.op_type for node in graph.graph.node})
            print(f"{name}: {quality:.3f}, {len(graphs[name])} bytes, {error:.1e}; {', '.join(operators)}")
    for name, content in graphs.items():
        (out / f"{name}.onnx").write_bytes(content)
    for name, array in arrays.items():
        np.save(out / f"{name}.npy", np.ascontiguousarray(array, dtype="<f4"))


if __name__ == "__main__":
    main()
