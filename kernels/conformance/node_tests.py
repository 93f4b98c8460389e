"""Writes ONNX's own backend node tests as models that HACA serves: one input, whose first dimension is the batch.

    python node_tests.py OUT

ONNX's node tests come with the PyPI package `onnx`. Most have several inputs and no batch dimension, so each is adapted:

- Its first float32 input is the row that is asked. All other inputs become initialisers with the values of the test.
- `own`: where the operator gives the first dimension to the batch, that dimension is the batch, and each of its entries a
  row. `prepended`: elsewhere a batch dimension is put before the others; axes, permutations, pads and shapes are moved
  by one, and a default that means all dimensions is written out. `transposed`: the batch, which is the second dimension of a
  recurrent layer's input and outputs, is brought to the front.
- `joined`: of an operator on two or more computed inputs a second form is made, in which all of them are cut out of one row
  by Slice and Reshape.
- Opset 22 is declared, the newest that is imported.

ONNX's reference evaluator runs each adapted model on the rows of the test: unless it gives what the test expects, the test
is listed as one that cannot be adapted. Rows for calibration are those of the test and 64 changed copies.

OUT gets `cases.tsv` (operator, case, adaptation, rows of the test, outputs or the reason why there is no adaptation) and for
each case `CASE.onnx`, `CASE.rows.npy` and for each output `CASE.OUTPUT.npy`.
"""

import pathlib
import sys
import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.reference import ReferenceEvaluator

OPSET = 22
CHANGED_ROWS = 64

# The operators of issue and SPEC.md: those of other node tests are listed by name alone.
OWN = {"Conv", "BatchNormalization", "MaxPool", "AveragePool", "GlobalAveragePool", "Gemm", "Flatten"}
ML = {"TreeEnsembleRegressor", "TreeEnsembleClassifier", "LinearRegressor", "LinearClassifier", "Scaler", "Normalizer"}
OWN |= ML
PREPENDED = {
    "MatMul", "Add", "Sub", "Mul", "Div", "LayerNormalization", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "Gelu",
    "Softmax", "ReduceMean", "ReduceSum", "ReduceMax", "ArgMax", "Concat", "Slice", "Split", "Gather", "Reshape", "Transpose",
    "Squeeze", "Unsqueeze", "Pad", "Identity", "Cast",
}
TRANSPOSED = {"LSTM", "GRU"}
JOINED = {"MatMul", "Add", "Sub", "Mul", "Div", "Concat"}


class NotAdapted(Exception):
    """Why a test has no form with one input whose first dimension is the batch."""


def attributes(node):
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def set_attribute(node, name, value):
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


class Case:
    """A test under adaptation: its one node, the row's input, and the constants."""

    def __init__(self, test):
        self.name = test.name.removeprefix("test_")
        graph = test.model.graph
        self.node = onnx.NodeProto()
        self.node.CopyFrom(graph.node[0])
        self.operator = self.node.op_type
        inputs, outputs = ([self.array(value) for value in values] for values in test.data_sets[0])
        names = [value.name for value in graph.input]
        self.inputs = dict(zip(names, inputs))
        self.outputs = dict(zip([value.name for value in graph.output], outputs))
        if self.operator == "LayerNormalization":
            # Mean and inverse deviation serve training; a served model answers with the first output.
            del self.node.output[1:]
            self.outputs = dict(list(self.outputs.items())[:1])
        self.row = self.node.input[0] if self.node.input else ""
        if self.row not in self.inputs:
            raise NotAdapted("its first input is left out")
        if self.inputs[self.row].dtype != np.float32:
            raise NotAdapted(f"its input is of {self.inputs[self.row].dtype}, float32 is served")
        self.constants = {name: value for name, value in self.inputs.items() if name != self.row}
        self.before, self.after = [], []

    @staticmethod
    def array(value):
        if isinstance(value, TensorProto):
            return numpy_helper.to_array(value)
        if not isinstance(value, np.ndarray) and not np.isscalar(value):
            raise NotAdapted("it takes or gives no tensor")
        return np.asarray(value)

    def constant(self, index):
        """The test's value of the node's input `index`, or None."""
        name = self.node.input[index] if index < len(self.node.input) else ""
        return self.constants.get(name) if name else None

    def set_constant(self, index, value):
        """Gives the node's input `index` this value."""
        while len(self.node.input) <= index:
            self.node.input.append("")
        name = self.node.input[index] or f"constant{index}"
        self.node.input[index] = name
        self.constants[name] = value

    # Ways of adapting

    def own(self):
        x = self.inputs[self.row]
        if x.ndim == 0:
            raise NotAdapted("its input is a scalar")
        given = attributes(self.node)
        if self.operator == "Flatten" and given.get("axis", 1) not in (1, 1 - x.ndim):
            raise NotAdapted("the batch would not stay a dimension of its own")
        if self.operator == "Gemm" and given.get("transA", 0):
            raise NotAdapted("transA takes the dimension of the batch for the sum")
        for name, value in self.outputs.items():
            if (value.ndim == 0 or value.shape[0] != x.shape[0]) and self.operator != "BatchNormalization":
                raise NotAdapted(f"its output {name} has no batch")
        return x, self.outputs

    def prepended(self):
        x, given = self.inputs[self.row], attributes(self.node)
        rank = x.ndim
        shift = lambda axis, rank=rank: int(axis) + 1 if axis >= 0 else int(axis)
        operator = self.operator
        if operator in ("Softmax", "LayerNormalization"):
            set_attribute(self.node, "axis", shift(given.get("axis", -1)))
        elif operator in ("ArgMax", "Gather", "Split"):
            set_attribute(self.node, "axis", shift(given.get("axis", 0)))
        elif operator == "Concat":
            set_attribute(self.node, "axis", shift(given["axis"]))
            if rank == 0:
                raise NotAdapted("its inputs are scalars")
        elif operator.startswith("Reduce"):
            axes = self.constant(1) if len(self.node.input) > 1 else given.get("axes")
            if axes is None or len(axes) == 0:
                if given.get("noop_with_empty_axes", 0):
                    raise NotAdapted("without axes it does nothing")
                axes = range(rank)
            axes = np.array([shift(axis) for axis in axes], dtype=np.int64)
            if "axes" in given:
                set_attribute(self.node, "axes", axes.tolist())
            else:
                self.set_constant(1, axes)
        elif operator == "Slice":
            starts = self.constant(1)
            axes = self.constant(3)
            axes = range(len(starts)) if axes is None else axes
            self.set_constant(3, np.array([shift(axis) for axis in axes], dtype=np.int64))
        elif operator == "Reshape":
            shape = self.constant(1)
            first = 1 if given.get("allowzero", 0) else 0
            # A zero copies the dimension at its own place, which is the next one now.
            self.set_constant(1, np.concatenate([[first], shape]).astype(np.int64))
        elif operator == "Transpose":
            perm = given.get("perm", list(reversed(range(rank))))
            set_attribute(self.node, "perm", [0, *(axis + 1 for axis in perm)])
        elif operator in ("Squeeze", "Unsqueeze"):
            axes = self.constant(1)
            axes = [i for i, length in enumerate(x.shape) if length == 1] if axes is None else axes
            self.set_constant(1, np.array([shift(axis) for axis in axes], dtype=np.int64))
        elif operator == "Pad":
            pads, axes = self.constant(1), self.constant(3)
            if axes is not None:
                self.set_constant(3, np.array([shift(axis) for axis in axes], dtype=np.int64))
            else:
                begins, ends = np.split(pads, 2)
                self.set_constant(1, np.concatenate([[0], begins, [0], ends]).astype(np.int64))
        elif operator == "MatMul":
            other = self.constant(1)
            if rank == 1:
                raise NotAdapted("a vector has no row in front of which a batch could stand")
            if rank == 2 and other.ndim == 2:
                return self.own()
        if operator in ("Add", "Sub", "Mul", "Div", "Clip"):
            for index in range(1, len(self.node.input)):
                if (value := self.constant(index)) is not None and value.ndim > rank:
                    raise NotAdapted("it broadcasts its first input")
        if operator == "Concat":
            for index in range(1, len(self.node.input)):
                self.set_constant(index, self.constant(index)[None])
        return x[None], {name: value[None] for name, value in self.outputs.items()}

    def transposed(self):
        x, given = self.inputs[self.row], attributes(self.node)
        if given.get("layout", 0):
            return self.own_recurrent(x)
        self.before = [helper.make_node("Transpose", ["row"], [self.row], perm=[1, 0, 2])]
        outputs = {}
        for index, name in enumerate(self.node.output):
            if not name:
                continue
            perm = [2, 0, 1, 3] if index == 0 else [1, 0, 2]
            inner = f"{name} of steps"
            self.node.output[index] = inner
            self.after.append(helper.make_node("Transpose", [inner], [name], perm=perm))
            outputs[name] = self.outputs[name].transpose(perm)
        self.row = "row"
        self.one_state_for_all(1)
        return x.transpose(1, 0, 2), outputs

    def own_recurrent(self, x):
        self.one_state_for_all(0)
        return x, self.outputs

    def one_state_for_all(self, axis):
        """Initial states and lengths are given for each row of the batch; a model has one."""
        for index in (4, 5, 6):
            value = self.constant(index)
            if value is not None and value.ndim and value.shape[axis if index > 4 else 0] > 1:
                place = axis if index > 4 else 0
                if not (value == np.take(value, [0], place)).all():
                    raise NotAdapted("its states or lengths differ by row")

    def joined(self):
        """All inputs cut out of one row."""
        names = list(self.node.input)
        parts = [self.inputs[name] for name in names]
        if any(part.dtype != np.float32 for part in parts):
            raise NotAdapted("an input is not of float32")
        if any(part.ndim == 0 for part in parts):
            raise NotAdapted("an input is a scalar")
        if self.operator == "MatMul" and any(part.ndim == 1 for part in parts):
            raise NotAdapted("a vector has no row in front of which a batch could stand")
        rank = max(part.ndim for part in parts)
        given = attributes(self.node)
        if self.operator == "Concat":
            set_attribute(self.node, "axis", given["axis"] + 1 if given["axis"] >= 0 else given["axis"])
        self.constants = {}
        start = 0
        for index, part in enumerate(parts):
            # With a batch in front, broadcasting needs equal ranks.
            shape = [1] * (rank - part.ndim) + list(part.shape)
            ends = {"start": [start], "end": [start + part.size], "axis": [1], "shape": [-1, *shape]}
            for what, value in ends.items():
                self.constants[f"{what}{index}"] = np.array(value, dtype=np.int64)
            cut, place = f"cut{index}", f"part{index}"
            self.before.append(helper.make_node("Slice", ["row", f"start{index}", f"end{index}", f"axis{index}"], [cut]))
            self.before.append(helper.make_node("Reshape", [cut, f"shape{index}"], [place]))
            self.node.input[index] = place
            start += part.size
        self.row = "row"
        row = np.concatenate([part.reshape(-1) for part in parts])[None]
        return row, {name: value[None] for name, value in self.outputs.items()}

    # The result

    def model(self, x, outputs):
        """The adapted model."""
        constants = [numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in self.constants.items()]
        put = helper.make_tensor_value_info(self.row, TensorProto.FLOAT, ["rows", *x.shape[1:]])
        kind = lambda value: helper.np_dtype_to_tensor_dtype(value.dtype)
        gives = [helper.make_tensor_value_info(n, kind(v), ["rows", *v.shape[1:]]) for n, v in outputs.items()]
        graph = helper.make_graph([*self.before, self.node, *self.after], self.name, [put], gives, constants)
        opsets = [helper.make_opsetid("", OPSET)]
        if self.operator in ML:
            opsets.append(helper.make_opsetid("ai.onnx.ml", 5))
        return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="onnx node tests")


def changed(x):
    """Rows like those of the test, which widen the ranges that scales are fitted to."""
    random = np.random.default_rng(1)
    scale = float(np.abs(x).max()) or 1.0
    rows = x[random.integers(0, len(x), CHANGED_ROWS)]
    noise = random.standard_normal((2, *rows.shape))
    return (rows * (1 + 0.1 * noise[0]) + 0.05 * scale * noise[1]).astype(np.float32)


def adapt(test, way, out):
    """Writes one test in one form, and gives its line."""
    case = Case(test)
    x, outputs = getattr(case, way)()
    wanted = {name: value for name, value in outputs.items() if value.size}
    if not wanted or any(value.dtype.kind not in "fi" for value in wanted.values()):
        raise NotAdapted("it gives no numbers")
    if x.size == 0:
        raise NotAdapted("its input is empty")
    model = case.model(x, wanted)
    try:
        onnx.checker.check_model(model)
        found = ReferenceEvaluator(model).run(list(wanted), {case.row: x})
    except Exception as error:  # Whatever it is, there is no adapted model to compare with.
        raise NotAdapted(f"the adapted model does not run: {str(error).splitlines()[0][:90]}") from error
    for value, (name, expected) in zip(found, wanted.items()):
        value = np.asarray(value)
        if value.shape != expected.shape or not np.allclose(value, expected, rtol=1e-3, atol=1e-5, equal_nan=True):
            raise NotAdapted(f"the adapted model gives another {name} than the test expects")
    name = f"{case.name}_joined" if way == "joined" else case.name
    (out / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
    rows = np.concatenate([x, changed(x)]) if np.isfinite(x).all() else x
    np.save(out / f"{name}.rows.npy", np.ascontiguousarray(rows, dtype="<f4"))
    for output, value in wanted.items():
        np.save(out / f"{name}.{output}.npy", np.ascontiguousarray(value, dtype="<f4"))
    return name, str(len(x)), ",".join(wanted)


def main():
    warnings.simplefilter("ignore")
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    np.random.seed(0)
    lines, rest = [], {}
    for test in collect_testcases(None):
        nodes = test.model.graph.node
        name = test.name.removeprefix("test_")
        # A function's body written out, or an operator of training.
        single = len(nodes) == 1 and "_expanded" not in name and nodes[0].domain in ("", "ai.onnx.ml")
        operator = nodes[0].op_type if single else ""
        if operator not in OWN | PREPENDED | TRANSPOSED:
            base = operator or "several nodes"
            rest.setdefault(base, []).append(name)
            continue
        ways = ["own"] if operator in OWN else ["transposed"] if operator in TRANSPOSED else ["prepended"]
        ways += ["joined"] if operator in JOINED else []
        for way in ways:
            form = f"{name}_joined" if way == "joined" else name
            try:
                written, rows, outputs = adapt(test, way, out)
                lines.append((operator, written, way, rows, outputs))
            except NotAdapted as reason:
                lines.append((operator, form, "none", "0", str(reason)))
    lines += [(operator, str(len(names)), "rest", "0", "") for operator, names in sorted(rest.items())]
    text = "".join("\t".join(field.replace("\t", " ") for field in line) + "\n" for line in lines)
    (out / "cases.tsv").write_text(f"onnx {onnx.__version__}\n{text}")


if __name__ == "__main__":
    main()
