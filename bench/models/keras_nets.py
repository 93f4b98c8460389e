"""Writes small nets as Keras and tf2onnx export them, with ONNX Runtime's answers, into keras/ next to this file.

    python keras_nets.py [--out DIR]          needs tensorflow-cpu, tf2onnx and onnxruntime

Weights are drawn from a seed and not trained: what is checked is that the compiler reads what the exporters write. Each
net is `<name>.onnx`, by `model.export`; those named in OPSET_18 are `<name>_18.onnx` too, by tf2onnx itself. Beside them are
`<name>_calibration.npy` for the compiler, `<name>_input.npy` and `<name>_reference.npy`. The nets of REFUSED are files alone.
"""

import argparse
import os
import pathlib
import tempfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx
from keras import layers

SEED = 20_240_601
ROWS = 40
OPSET_18 = ("gru", "attention", "separable")
REFUSED = ("bidirectional", "simple_rnn", "gru_before")


def sequential(*parts):
    return keras.Sequential([keras.Input(parts[0]), *parts[1:]])


def mlp():
    hidden = [layers.Dense(16), layers.BatchNormalization(), layers.ReLU(), layers.Dropout(0.2)]
    return sequential((10,), *hidden, layers.Dense(8, activation="tanh"), layers.Dense(3, activation="softmax"))


def conv1d():
    return sequential(
        (16, 4),
        layers.Conv1D(8, 3, padding="causal", activation="relu"),
        layers.MaxPooling1D(2),
        layers.Conv1D(8, 3, padding="same", dilation_rate=2),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.AveragePooling1D(2),
        layers.Flatten(),
        layers.Dense(1),
    )


def residual():
    """Causal convolutions of growing reach, each with a way around it."""
    x = put = keras.Input((16, 4))
    for dilation in (1, 2, 4):
        way = layers.Conv1D(4, 2, padding="causal", dilation_rate=dilation, activation="relu")(x)
        x = layers.Add()([x, way])
    return keras.Model(put, layers.Dense(1)(x[:, -1, :]))


def orderbook():
    """The family of DeepLOB: price and size, levels, time, branches, an LSTM."""
    put = keras.Input((12, 8, 1))
    leaky = lambda x: layers.LeakyReLU(negative_slope=0.01)(x)
    x = leaky(layers.Conv2D(4, (1, 2), strides=(1, 2))(put))
    x = leaky(layers.BatchNormalization()(layers.Conv2D(4, (4, 1), padding="same")(x)))
    x = leaky(layers.Conv2D(4, (1, 4))(x))
    one = layers.Conv2D(4, (3, 1), padding="same")(leaky(layers.Conv2D(4, (1, 1), padding="same")(x)))
    two = layers.MaxPooling2D((3, 1), strides=(1, 1), padding="same")(x)
    two = layers.Conv2D(4, (1, 1), padding="same")(two)
    x = layers.Reshape((12, 8))(layers.concatenate([one, two], axis=3))
    return keras.Model(put, layers.Dense(3, activation="softmax")(layers.LSTM(6)(x)))


def slopes():
    """Convolutions by channel, strides, and a slope for each channel."""
    return sequential(
        (8, 8, 2),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.Conv2D(3, 3, strides=2, padding="same"),
        layers.PReLU(shared_axes=[1, 2]),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2),
    )


def separable():
    """Layer normalisation behind a convolution, whose transposes the exporter pushes into it."""
    parts = [layers.SeparableConv1D(8, 3, padding="same"), layers.LayerNormalization()]
    return sequential((16, 4), *parts, layers.GlobalMaxPooling1D(), layers.Dense(1))


def attention(**options):
    put = keras.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4)(put, put, **options)
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Add()([x, put]))
    gelu = lambda x: keras.activations.gelu(x, approximate=True)
    y = layers.Dense(8)(layers.Dense(16, activation=gelu)(x))
    x = layers.LayerNormalization()(layers.Add()([x, y]))
    return keras.Model(put, layers.Dense(1)(layers.GlobalAveragePooling1D()(x)))


def gates():
    put = keras.Input((6,))
    x = layers.Multiply()([layers.Dense(4, activation="sigmoid")(put), layers.Dense(4, activation="swish")(put)])
    x = layers.Maximum()([layers.Concatenate()([x, put]), layers.Dense(10)(put)])
    return keras.Model(put, layers.Dense(1)(x))


def recurrent(*parts):
    return sequential((6, 3), *parts, layers.Dense(1))


NETS = {
    "mlp": mlp,
    "conv1d": conv1d,
    "residual": residual,
    "orderbook": orderbook,
    "slopes": slopes,
    "separable": separable,
    "attention": attention,
    "gates": gates,
    "lstm": lambda: recurrent(layers.LSTM(8, return_sequences=True), layers.LSTM(8)),
    "lstm_steps": lambda: recurrent(layers.LSTM(8, return_sequences=True), layers.TimeDistributed(layers.Dense(2))),
    "gru": lambda: recurrent(layers.GRU(8, return_sequences=True), layers.GRU(8)),
    "gru_plain": lambda: recurrent(layers.GRU(8, use_bias=False)),
    "gru_unrolled": lambda: sequential((3, 2), layers.GRU(3, unroll=True), layers.Dense(1)),
    "causal": lambda: attention(use_causal_mask=True),
    "bidirectional": lambda: recurrent(layers.Bidirectional(layers.LSTM(4))),
    "simple_rnn": lambda: recurrent(layers.SimpleRNN(4)),
    "gru_before": lambda: recurrent(layers.GRU(4, reset_after=False)),
}


def draw(model: keras.Model, random: np.random.Generator) -> None:
    for weight in model.weights:
        value = weight.numpy()
        if not np.issubdtype(value.dtype, np.floating):
            continue
        if "variance" in weight.path:
            value = random.uniform(0.5, 2.0, value.shape)
        elif value.ndim > 1 and "bias" not in weight.path and "alpha" not in weight.path:
            value = random.normal(0.0, 1.0, value.shape) / np.sqrt(value.size / value.shape[-1])
        else:
            value = value + random.normal(0.0, 0.3, value.shape)
        weight.assign(value.astype(np.float32))


def exported(model: keras.Model, opset: int | None) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder) / "model.onnx")
        if opset is None:
            model.export(path, format="onnx", verbose=False)
        else:
            spec = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="input")]
            function = tf.function(lambda x: model(x, training=False), input_signature=spec)
            tf2onnx.convert.from_function(function, input_signature=spec, opset=opset, output_path=path)
        content = onnx.load(path)
        onnx.checker.check_model(content, full_check=True)
        return content.SerializeToString(deterministic=True)


def answers(content: bytes, rows: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: rows})[0]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent / "keras")
    out = arguments.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    save = lambda name, array: np.save(out / f"{name}.npy", np.ascontiguousarray(array, dtype="<f4"))
    for name, make in NETS.items():
        random = np.random.default_rng(SEED)
        keras.utils.set_random_seed(SEED)
        keras.backend.clear_session()
        model = make()
        draw(model, random)
        rows = random.normal(0.0, 1.0, (2 * ROWS, *model.input_shape[1:])).astype(np.float32)
        calibration, requests = np.split(rows, 2)
        own = model(requests, training=False).numpy()
        for suffix, opset in [("", None)] + [("_18", 18)] * (name in OPSET_18):
            content = exported(model, opset)
            reference = answers(content, requests)
            error = float(np.abs(reference - own).max())
            if error > 1e-5:
                raise SystemExit(f"{name}{suffix}: ONNX Runtime is {error:.1e} from Keras")
            (out / f"{name}{suffix}.onnx").write_bytes(content)
            if name not in REFUSED:
                save(f"{name}{suffix}_reference", reference)
            print(f"{name}{suffix}: {len(content)} bytes, range {np.ptp(reference):.2f}, {error:.1e} from Keras")
        if name not in REFUSED:
            save(f"{name}_calibration", calibration)
            save(f"{name}_input", requests)


if __name__ == "__main__":
    main()
