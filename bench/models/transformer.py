"""Trains a small transformer encoder on seeded synthetic market data, and writes it next to this file.

    python transformer.py [--out DIR]

It reads a window of 32 steps with 8 features and answers with the return expected next: PyTorch's own encoder layers
(two, of width 32, with two heads, layer normalisation first, and GELU), the mean over the steps, and a linear layer. It
becomes `transformer.onnx`, as PyTorch exports it, and `transformer_reference.npy`, ONNX Runtime's answers to
`transformer_input.npy`; `transformer_calibration.npy` has rows for the compiler. The script fails, and writes nothing,
if the net explains less of held-out returns than it ought to.
"""

import argparse
import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

SEED = 20_240_602
STEPS, FEATURES, WIDTH, HEADS, LAYERS, HIDDEN = 32, 8, 32, 2, 2, 128
ITERATIONS, BATCH, RATE = 700, 64, 2e-3
CALIBRATION_ROWS, REQUEST_ROWS = 120, 120


def windows(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Order flow with bursts, of which the latest before a calm matters, and the return that it leads to."""
    noise = random.standard_normal((count, STEPS, FEATURES))
    bursts = (random.random((count, STEPS)) < 0.12) * random.choice([-1.0, 1.0], (count, STEPS))
    flow, memory = np.zeros((count, STEPS)), np.zeros(count)
    for step in range(STEPS):
        memory = np.where(bursts[:, step] != 0.0, bursts[:, step], 0.93 * memory)
        flow[:, step] = memory
    rows = noise.copy()
    rows[:, :, 0] = bursts * 2.0 + 0.2 * noise[:, :, 0]
    rows[:, :, 1] = np.abs(bursts) + 0.3 * noise[:, :, 1]
    rows[:, :, 2] = 0.5 * flow + 0.8 * noise[:, :, 2]
    target = flow[:, -1] + 0.5 * rows[:, :, 1].mean(axis=1) * flow[:, -9] + 0.02 * noise[:, -1, 7]
    return rows.astype(np.float32), target[:, None].astype(np.float32)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(FEATURES, WIDTH)
        self.position = nn.Parameter(torch.randn(STEPS, WIDTH) * 0.2)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, HIDDEN, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, LAYERS, norm=nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embedding(x) + self.position).mean(dim=1))


def train() -> tuple[Encoder, float]:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    random = np.random.default_rng(SEED)
    net = Encoder()
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, ITERATIONS)
    for _ in range(ITERATIONS):
        x, y = (torch.from_numpy(part) for part in windows(random, BATCH))
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
        schedule.step()
    x, y = windows(np.random.default_rng(SEED + 1), 1000)
    net.eval()
    with torch.no_grad():
        answer = net(torch.from_numpy(x)).numpy()
    return net, 1.0 - float(((answer - y) ** 2).mean() / y.var())


def export(net: Encoder) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "transformer.onnx"
        torch.onnx.export(
            net,
            (torch.zeros(2, STEPS, FEATURES),),
            str(path),
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes={"x": {0: torch.export.Dim("rows")}},
            opset_version=18,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        model = onnx.load(path)
    # What the exporter says of its own source files, and the inferred shapes, are not part of the model.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        del value.metadata_props[:]
    del model.graph.value_info[:], model.metadata_props[:], model.graph.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    out = arguments.parse_args().out
    net, explained = train()
    if explained < 0.8:
        raise SystemExit(f"R2 of {explained:.3f} on held-out windows, expected 0.8 or more")
    rows, _ = windows(np.random.default_rng(SEED + 2), CALIBRATION_ROWS + REQUEST_ROWS)
    calibration, requests = np.split(rows, [CALIBRATION_ROWS])
    model = export(net)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (reference,) = session.run(None, {"input": requests})
    with torch.no_grad():
        difference = np.abs(net(torch.from_numpy(requests)).numpy() - reference).max()
    if difference > 1e-5:
        raise SystemExit(f"the export differs from the net by {difference:.1e}")
    print(f"transformer: {LAYERS} layers of {WIDTH}, R2 {explained:.3f} on held-out windows")
    (out / "transformer.onnx").write_bytes(model)
    for name, array in {"calibration": calibration, "input": requests, "reference": reference}.items():
        np.save(out / f"transformer_{name}.npy", np.ascontiguousarray(array, dtype="<f4"))


if __name__ == "__main__":
    main()
