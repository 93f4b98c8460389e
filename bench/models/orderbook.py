"""Trains a small convolutional and recurrent net on a seeded synthetic limit order book, and writes it next to this
file.

    python orderbook.py [--out DIR]

The shape is that of DeepLOB, smaller: convolutions first over price and size of a level, then over time, then over the
levels, three branches over time, an LSTM, a linear layer. It reads 40 updates of 10 levels on both sides and answers with
the mid price's return over the next updates. It becomes `orderbook.onnx`, as PyTorch exports it, and
`orderbook_reference.npy`, ONNX Runtime's answers to `orderbook_input.npy`; `orderbook_calibration.npy` has rows for the
compiler. The script fails, and writes nothing, if the net explains less of held-out returns than it ought to.
"""

import argparse
import io
import pathlib
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

SEED = 20_240_603
STEPS, LEVELS = 40, 10
CHANNELS, BRANCH, HIDDEN = 16, 16, 32
ITERATIONS, BATCH, RATE = 900, 64, 2e-3
CALIBRATION_ROWS, REQUEST_ROWS = 40, 40
EXPECTED = 0.6


def book(random: np.random.Generator, updates: int) -> tuple[np.ndarray, np.ndarray]:
    """Updates of an order book: for each level ask price, ask size, bid price, bid size, as deviations from usual ones;
    and the mid price. Hidden pressure decays, shows in the sizes near the touch, and moves the price later."""
    pressure = np.zeros(updates)
    shocks = random.standard_normal(updates) * np.where(random.random(updates) < 0.1, 1.0, 0.1)
    for t in range(1, updates):
        pressure[t] = 0.95 * pressure[t - 1] + shocks[t]
    moves = 0.12 * np.roll(np.tanh(pressure), 3) + 0.03 * random.standard_normal(updates)
    mid = np.cumsum(moves)
    depth = np.arange(LEVELS)
    reach = np.exp(-depth / 3.0)
    noise = random.standard_normal((updates, LEVELS, 4))
    rows = np.empty((updates, LEVELS, 4))
    spread = 0.5 + 0.1 * np.abs(pressure)[:, None] + 0.05 * np.abs(noise[:, :1, 0])
    gaps = np.cumsum(0.3 + 0.1 * np.abs(noise[:, :, 1]), axis=1) - 0.3
    rows[:, :, 0] = spread + gaps
    rows[:, :, 2] = -spread - gaps * (1.0 + 0.1 * noise[:, :, 2])
    rows[:, :, 1] = np.log1p(np.exp(1.0 - 0.8 * pressure[:, None] * reach + 0.4 * noise[:, :, 0]))
    rows[:, :, 3] = np.log1p(np.exp(1.0 + 0.8 * pressure[:, None] * reach + 0.4 * noise[:, :, 3]))
    return rows.reshape(updates, 4 * LEVELS).astype(np.float32), mid


def windows(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows of the book `[count, 1, STEPS, 4 * LEVELS]`, and the return over the 5 updates after each."""
    random = np.random.default_rng(seed)
    rows, mid = book(random, 40 * count // 4 + STEPS + 100)
    starts = random.integers(50, len(rows) - STEPS - 6, count)
    x = np.stack([rows[start : start + STEPS] for start in starts])[:, None]
    ends = starts + STEPS - 1
    return torch.from_numpy(x), torch.from_numpy((mid[ends + 5] - mid[ends]).astype(np.float32)[:, None])


def convolution(inputs: int, outputs: int, kernel: tuple[int, int], **options) -> list[nn.Module]:
    """Normalized in training; the export folds that into the weights."""
    return [nn.Conv2d(inputs, outputs, kernel, **options), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.01)]


def block(inputs: int, across: tuple[int, int], stride: tuple[int, int]) -> list[nn.Module]:
    """A convolution across the columns, then one over time."""
    return convolution(inputs, CHANNELS, across, stride=stride) + convolution(CHANNELS, CHANNELS, (4, 1))


def branch(*kernels: int) -> nn.Sequential:
    layers, inputs = [], CHANNELS
    for kernel in kernels:
        layers += convolution(inputs, BRANCH, (kernel, 1), padding=(kernel // 2, 0))
        inputs = BRANCH
    return nn.Sequential(*layers)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Sequential(
            *block(1, (1, 2), (1, 2)), *block(CHANNELS, (1, 2), (1, 2)), *block(CHANNELS, (1, LEVELS), (1, 1))
        )
        self.short, self.long = branch(1, 3), branch(1, 5)
        self.largest = nn.Sequential(nn.MaxPool2d((3, 1), stride=1, padding=(1, 0)), branch(1))
        self.recurrent = nn.LSTM(3 * BRANCH, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.levels(x)
        x = torch.cat((self.short(x), self.long(x), self.largest(x)), dim=1)
        states, _ = self.recurrent(x.squeeze(3).permute(0, 2, 1))
        return self.head(states[:, -1])


def train() -> tuple[Net, float]:
    torch.manual_seed(SEED)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS)
    x, y = windows(SEED, 12_000)
    order = torch.randperm(len(x))
    for iteration in range(ITERATIONS):
        batch = order[torch.arange(iteration * BATCH, (iteration + 1) * BATCH) % len(x)]
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x[batch]), y[batch]).backward()
        optimizer.step()
        schedule.step()
    net.eval()
    x, y = windows(SEED + 1, 2_000)
    with torch.no_grad():
        return net, 1.0 - float(((net(x) - y) ** 2).mean() / y.var())


def export(net: Net) -> bytes:
    file = io.BytesIO()
    options = {"input_names": ["input"], "output_names": ["output"], "opset_version": 17, "dynamo": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"input": {0: "rows"}, "output": {0: "rows"}}
        torch.onnx.export(net, (torch.zeros(1, 1, STEPS, 4 * LEVELS),), file, dynamic_axes=axes, **options)
    onnx.checker.check_model(onnx.load_from_string(file.getvalue()), full_check=True)
    return file.getvalue()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    out = arguments.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    net, explained = train()
    print(f"orderbook: R2 {explained:.3f} on held-out windows")
    if explained < EXPECTED:
        raise SystemExit(f"R2 of {explained:.3f} on held-out windows, expected {EXPECTED} or more")
    model = export(net)
    rows, _ = windows(SEED + 2, CALIBRATION_ROWS + REQUEST_ROWS)
    calibration, requests = np.split(rows.numpy(), [CALIBRATION_ROWS])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {"input": requests})
    with torch.no_grad():
        print(f"largest difference of the export from the net: {np.abs(answers - net(torch.from_numpy(requests)).numpy()).max():.1e}")
    (out / "orderbook.onnx").write_bytes(model)
    for name, array in (("calibration", calibration), ("input", requests), ("reference", answers)):
        np.save(out / f"orderbook_{name}.npy", np.ascontiguousarray(array, dtype="<f4"))


if __name__ == "__main__":
    main()
