"""Proves one row of a model with EZKL, in this process, and prints the figures as one line of JSON.

    python ezkl_peer.py DIR ROUNDS

DIR holds network.onnx and input.json. Settings are those that made it fastest among the ones tried: fixed parameters,
public input and output, decomposition in base 128 with four legs, calibrated for resources. Only `prove` and `verify` are
timed; each figure is the median of its rounds. Needs the package `ezkl` 23 from PyPI.
"""

import asyncio
import inspect
import json
import os
import statistics
import sys
import time


async def done(call):
    return await call if inspect.isawaitable(call) else call


async def main(directory, rounds):
    import ezkl

    os.chdir(directory)
    args = ezkl.PyRunArgs()
    args.input_visibility = "public"
    args.output_visibility = "public"
    args.param_visibility = "fixed"
    args.decomp_base = 128
    args.decomp_legs = 4
    args.variables = [("rows", 1)]
    await done(ezkl.gen_settings("network.onnx", "settings.json", py_run_args=args))
    await done(ezkl.calibrate_settings("input.json", "network.onnx", "settings.json", "resources"))
    await done(ezkl.compile_circuit("network.onnx", "network.ezkl", "settings.json"))
    with open("settings.json") as file:
        settings = json.load(file)
    log_rows = settings["run_args"]["logrows"]
    ezkl.gen_srs("srs", log_rows)
    await done(ezkl.setup("network.ezkl", "vk", "pk", "srs"))
    await done(ezkl.gen_witness("input.json", "network.ezkl", "witness.json"))
    prove, verify = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        await done(ezkl.prove("witness.json", "network.ezkl", "pk", "proof.json", srs_path="srs"))
        prove.append(time.perf_counter() - start)
        start = time.perf_counter()
        assert await done(ezkl.verify("proof.json", "settings.json", "vk", srs_path="srs"))
        verify.append(time.perf_counter() - start)
    with open("proof.json") as file:
        proof = json.load(file)["hex_proof"]
    figures = {
        "version": ezkl.__version__,
        "prove_s": statistics.median(prove),
        "verify_ms": 1e3 * statistics.median(verify),
        "proof_bytes": (len(proof) - 2) // 2,
        "log_rows": log_rows,
        "input_scale": settings["run_args"]["input_scale"],
        "param_scale": settings["run_args"]["param_scale"],
    }
    print("HACA " + json.dumps(figures))


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
