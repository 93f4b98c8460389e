"""Trains a small LSTM and a small GRU on seeded synthetic order flow, and writes them next to this file.

    python recurrent.py [--out DIR]

Both read a window of 20 steps with 6 features and answer with the return expected next. Each becomes `<name>.onnx`,
written as PyTorch exports such nets with `batch_first`, and `<name>_reference.npy`, ONNX Runtime's answers to
`recurrent_input.npy`; `recurrent_calibration.npy` has rows for the compiler. The script fails, and writes nothing, if a
net explains less of held-out returns than it ought to.
"""

import argparse
import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from threadpoolctl import threadpool_limits

SEED = 20_240_601
STEPS, FEATURES, HIDDEN, LAYERS = 20, 6, 24, 2
ITERATIONS, BATCH, RATE = 500, 128, 4e-3
CALIBRATION_ROWS, REQUEST_ROWS = 200, 200


def windows(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Order flow whose pressure decays and now and then turns, and the return that it leads to."""
    regime = np.where(random.random((count, 1)) < 0.5, -1.0, 1.0)
    turns = np.cumprod(np.where(random.random((count, STEPS + 1)) < 0.06, -1.0, 1.0), axis=1) * regime
    noise = random.standard_normal((count, STEPS + 1, FEATURES))
    flow = np.zeros((count, STEPS + 1))
    for step in range(1, STEPS + 1):
        flow[:, step] = 0.85 * flow[:, step - 1] + 0.3 * turns[:, step] + 0.2 * noise[:, step, 0]
    rows = noise.copy()
    rows[:, :, 0] = flow + 0.3 * noise[:, :, 1]
    rows[:, :, 1] = np.abs(noise[:, :, 2]) * (1.0 + 0.5 * np.abs(flow)) - 1.0
    rows[:, :, 2] = turns + 0.8 * noise[:, :, 3]
    target = np.tanh(flow[:, -1]) + 0.25 * flow[:, -1] * flow[:, -4] + 0.05 * noise[:, -1, 5]
    return rows[:, :STEPS].astype(np.float32), target[:, None]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


class Net:
    """Recurrent layers and a linear one on the last step. Gates are in ONNX's order."""

    def __init__(self, random: np.random.Generator, kind: str) -> None:
        self.kind, self.gates = kind, 4 if kind == "LSTM" else 3
        bound = 1.0 / np.sqrt(HIDDEN)
        draw = lambda *shape: random.uniform(-bound, bound, shape)
        self.parameters = []
        for layer in range(LAYERS):
            inputs = FEATURES if layer == 0 else HIDDEN
            rows = self.gates * HIDDEN
            self.parameters += [draw(rows, inputs), draw(rows, HIDDEN), draw(rows), draw(rows)]
        self.parameters += [draw(1, HIDDEN), draw(1)]

    def forward(self, x: np.ndarray) -> tuple[np.ndarray, list]:
        x, caches = x.transpose(1, 0, 2), []
        for layer in range(LAYERS):
            w, r, b, c = self.parameters[4 * layer : 4 * layer + 4]
            hidden = np.zeros((x.shape[1], HIDDEN))
            cell, steps, outputs = np.zeros_like(hidden), [], []
            for step in x:
                share, state = step @ w.T + b, hidden @ r.T + c
                if self.kind == "LSTM":
                    i, o, f, g = np.split(share + state, 4, axis=1)
                    i, o, f, g = sigmoid(i), sigmoid(o), sigmoid(f), np.tanh(g)
                    before, cell = cell, f * cell + i * g
                    steps.append((step, hidden, before, i, o, f, g, cell))
                    hidden = o * np.tanh(cell)
                else:
                    (a, e, m), (p, q, s) = np.split(share, 3, axis=1), np.split(state, 3, axis=1)
                    z, k = sigmoid(a + p), sigmoid(e + q)
                    n = np.tanh(m + k * s)
                    steps.append((step, hidden, z, k, n, s))
                    hidden = (1.0 - z) * n + z * hidden
                outputs.append(hidden)
            caches.append(steps)
            x = np.stack(outputs)
        caches.append(x[-1])
        return x[-1] @ self.parameters[-2].T + self.parameters[-1], caches

    def gradients(self, error: np.ndarray, caches: list) -> list:
        last = caches.pop()
        gradients = [error.T @ last, error.sum(axis=0)]
        above = [np.zeros_like(last) for _ in range(STEPS)]
        above[-1] = error @ self.parameters[-2]
        for layer in reversed(range(LAYERS)):
            w, r, _, _ = self.parameters[4 * layer : 4 * layer + 4]
            dw, dr, db, dc = np.zeros_like(w), np.zeros_like(r), np.zeros(len(w)), np.zeros(len(w))
            dh, dcell, below = np.zeros_like(last), np.zeros_like(last), []
            for step in reversed(range(STEPS)):
                dh = dh + above[step]
                if self.kind == "LSTM":
                    x, hidden, before, i, o, f, g, cell = caches[layer][step]
                    t = np.tanh(cell)
                    dcell = dcell + dh * o * (1.0 - t * t)
                    parts = [dcell * g * i * (1 - i), dh * t * o * (1 - o)]
                    parts += [dcell * before * f * (1 - f), dcell * i * (1 - g * g)]
                    share = state = np.concatenate(parts, axis=1)
                    dcell, carried = dcell * f, 0.0
                else:
                    x, hidden, z, k, n, s = caches[layer][step]
                    dn = dh * (1 - z) * (1 - n * n)
                    dz, dk = dh * (hidden - n) * z * (1 - z), dn * s * k * (1 - k)
                    share = np.concatenate([dz, dk, dn], axis=1)
                    state = np.concatenate([dz, dk, dn * k], axis=1)
                    carried = dh * z
                dw += share.T @ x
                dr += state.T @ hidden
                db += share.sum(axis=0)
                dc += state.sum(axis=0)
                dh = state @ r + carried
                below.append(share @ w)
            above = below[::-1]
            gradients = [dw, dr, db, dc] + gradients
        return gradients

    def export(self) -> onnx.ModelProto:
        node, constants = helper.make_node, []

        def constant(name: str, value: np.ndarray) -> str:
            constants.append(numpy_helper.from_array(value, name))
            return name

        one = constant("one", np.array([1]))
        nodes, value = [node("Transpose", ["input"], ["steps0"], perm=[1, 0, 2])], "steps0"
        for layer in range(LAYERS):
            w, r, b, c = (p.astype(np.float32) for p in self.parameters[4 * layer : 4 * layer + 4])
            names = [constant(f"{n}{layer}", v[None]) for n, v in (("w", w), ("r", r), ("b", np.concatenate([b, c])))]
            options = {} if self.kind == "LSTM" else {"linear_before_reset": 1}
            nodes.append(node(self.kind, [value, *names], [f"y{layer}"], hidden_size=HIDDEN, **options))
            value = f"steps{layer + 1}"
            nodes.append(node("Squeeze", [f"y{layer}", one], [value]))
        nodes.append(node("Transpose", [value], ["all"], perm=[1, 0, 2]))
        nodes.append(node("Gather", ["all", constant("last", np.array(-1))], ["final"], axis=1))
        head = [constant(n, p.astype(np.float32)) for n, p in zip(("head", "offset"), self.parameters[-2:])]
        nodes.append(node("Gemm", ["final", *head], ["output"], transB=1))
        shapes = ["rows", STEPS, FEATURES], ["rows", 1]
        put, out = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(("input", "output"), shapes)
        )
        graph = helper.make_graph(nodes, self.kind.lower(), [put], [out], constants)
        opset = helper.make_opsetid("", 17)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=8, producer_name="haca-bench")
        onnx.checker.check_model(model, full_check=True)
        return model


def train(kind: str) -> tuple[onnx.ModelProto, float]:
    random = np.random.default_rng(SEED)
    net = Net(random, kind)
    mean = [np.zeros_like(p) for p in net.parameters]
    square = [np.zeros_like(p) for p in net.parameters]
    for iteration in range(1, ITERATIONS + 1):
        x, y = windows(random, BATCH)
        answer, caches = net.forward(x)
        gradients = net.gradients((answer - y) / BATCH, caches)
        rate = RATE * (1.0 - iteration / (ITERATIONS + 1))
        for place, gradient in enumerate(gradients):
            mean[place] = 0.9 * mean[place] + 0.1 * gradient
            square[place] = 0.999 * square[place] + 0.001 * gradient**2
            step = mean[place] / (1 - 0.9**iteration)
            net.parameters[place] -= rate * step / (np.sqrt(square[place] / (1 - 0.999**iteration)) + 1e-8)
    x, y = windows(np.random.default_rng(SEED + 1), 2000)
    answer, _ = net.forward(x)
    return net.export(), 1.0 - float(((answer - y) ** 2).mean() / y.var())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    out = arguments.parse_args().out
    rows, _ = windows(np.random.default_rng(SEED + 2), CALIBRATION_ROWS + REQUEST_ROWS)
    calibration, requests = np.split(rows, [CALIBRATION_ROWS])
    files = {"recurrent_calibration": calibration, "recurrent_input": requests}
    models = {}
    with threadpool_limits(limits=1):
        for kind in ("LSTM", "GRU"):
            model, explained = train(kind)
            if explained < 0.8:
                raise SystemExit(f"{kind}: R2 of {explained:.3f} on held-out windows, expected 0.8 or more")
            models[kind.lower()] = model.SerializeToString(deterministic=True)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(models[kind.lower()], options, providers=["CPUExecutionProvider"])
            (files[f"{kind.lower()}_reference"],) = session.run(None, {"input": requests})
            print(f"{kind}: {LAYERS} x {HIDDEN}, R2 {explained:.3f} on held-out windows")
    for name, content in models.items():
        (out / f"{name}.onnx").write_bytes(content)
    for name, array in files.items():
        np.save(out / f"{name}.npy", np.ascontiguousarray(array, dtype="<f4"))


if __name__ == "__main__":
    main()
