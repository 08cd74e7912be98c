#!/usr/bin/env python3
"""Times single operators in ONNX Runtime in floating point and on integers, and prints the ratios.

    pip install numpy onnx onnxruntime
    python plugins/quantize/times.py

One thread. Each pair is timed in turns, and the median of each is taken.
"""

import statistics
import time

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ROUNDS, CALLS = 15, 20


def session(shape, nodes, constants):
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def chain(kind, shape, weight, groups, integer):
    """Four layers of one kind behind one another, between bytes: conversions at the ends count little."""
    random = numpy.random.default_rng(7)
    constants = {"scale": numpy.float32(0.02), "zero": numpy.uint8(128)}
    nodes = [helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["v0"])]
    for layer in range(4):
        codes = random.integers(-60, 60, weight, dtype=numpy.int8)
        if integer:
            constants[f"scale{layer}"] = numpy.float32(0.005)
            constants[f"codes{layer}"] = codes
            nodes.append(helper.make_node("DequantizeLinear", [f"codes{layer}", f"scale{layer}"], [f"w{layer}"]))
        else:
            constants[f"w{layer}"] = codes.astype(numpy.float32) * numpy.float32(0.005)
        if kind == "Conv":
            padding = {"pads": [weight[2] // 2] * 4, "group": groups}
            nodes.append(helper.make_node("Conv", [f"v{layer}", f"w{layer}"], [f"s{layer}"], **padding))
        else:
            nodes.append(helper.make_node("MatMul", [f"v{layer}", f"w{layer}"], [f"s{layer}"]))
        if integer:
            nodes.append(helper.make_node("QuantizeLinear", [f"s{layer}", "scale", "zero"], [f"q{layer}"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"q{layer}", "scale", "zero"], [f"v{layer + 1}"]))
        else:
            nodes.append(helper.make_node("Relu", [f"s{layer}"], [f"v{layer + 1}"]))
    nodes.append(helper.make_node("QuantizeLinear", ["v4", "scale", "zero"], ["y"]))
    return session(shape, nodes, constants)


def ratio(kind, shape, weight, groups):
    pair = [chain(kind, shape, weight, groups, integer) for integer in (False, True)]
    feed = {"x": numpy.random.default_rng(3).integers(0, 255, shape, dtype=numpy.uint8)}
    seconds = [[], []]
    for session in pair:
        session.run(None, feed)
    for _ in range(ROUNDS):
        for taken, session in zip(seconds, pair):
            start = time.perf_counter()
            for _ in range(CALLS):
                session.run(None, feed)
            taken.append(time.perf_counter() - start)
    return statistics.median(seconds[1]) / statistics.median(seconds[0])


CASES = {
    "convolution 3x3, 32 channels, 28x28": ("Conv", [1, 32, 28, 28], [32, 32, 3, 3], 1),
    "convolution 3x3, 128 channels, 14x14": ("Conv", [1, 128, 14, 14], [128, 128, 3, 3], 1),
    "convolution 1x1, 128 channels, 14x14": ("Conv", [1, 128, 14, 14], [128, 128, 1, 1], 1),
    "matrix product, 64 rows, 256 x 256": ("MatMul", [64, 256], [256, 256], 1),
    "convolution 3x3 of each channel, 128, 14x14": ("Conv", [1, 128, 14, 14], [128, 1, 3, 3], 128),
}

print("| operator | time on integers / in floating point |\n|---|---|")
for name, case in CASES.items():
    print(f"| {name} | {ratio(*case):.2f} |")
