"""Writes the model of EZKL's notebook `tree_models/lightgbm`, and a row of its data, as ezkl_peer.py takes them.

    python lightgbm_example.py DIR

Twelve rounds of boosting on scikit-learn's iris data, a tree for each of its three classes, as products of matrices. Prints
how many trees and leaves it has. Needs lightgbm, scikit-learn, hummingbird-ml and torch.
"""

import json
import os
import sys

import numpy
import torch
from hummingbird.ml import convert
from lightgbm import LGBMClassifier
from sklearn.datasets import load_iris

os.chdir(sys.argv[1])
iris = load_iris()
rows = iris.data.astype(numpy.float32)
model = LGBMClassifier(n_estimators=12, verbose=-1).fit(rows, iris.target)
trees = model.booster_.dump_model()["tree_info"]
network = convert(model, "torch", rows[:1]).model
torch.onnx.export(
    network,
    (torch.from_numpy(rows[:1]),),
    "network.onnx",
    opset_version=18,
    input_names=["input"],
    output_names=["output"],
    dynamic_axes={"input": {0: "rows"}, "output": {0: "rows"}},
    dynamo=False,
)
with open("input.json", "w") as file:
    json.dump({"input_data": [rows[0].tolist()]}, file)
print("HACA " + json.dumps({"trees": len(trees), "leaves": sum(tree["num_leaves"] for tree in trees)}))
