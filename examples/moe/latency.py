#!/usr/bin/env python3
"""Times dense feed-forward layers against the same layers split into experts, in ONNX Runtime with one thread.

    python3 latency.py [ROUNDS]

Needs numpy, onnx and onnxruntime. Weights are noise, and so is what is chosen: what is timed does not depend on either.
Time is the processor's, of the one thread that computes, so that other work on the machine does not count; the two are
run in turn, and the medians are told.
"""

import sys
import time

import numpy as np
import onnxruntime as ort

from form import TensorProto, Writer, experts, network

LAYERS = [("MiniLM", 384, 1536, "gelu", False), ("SmolLM2", 576, 1536, "silu", True)]
TOKENS = [1, 4, 16, 64, 256, 1024]
SPLITS = [(8, 1), (8, 2), (8, 4), (8, 6), (16, 4)]


def weights(graph, name, width, neurons, gated, random):
    for part in ["gate", "up", "down"] if gated else ["up", "down"]:
        shape = (width, neurons) if part == "down" else (neurons, width)
        values = random.standard_normal(shape).astype(np.float32) / shape[1] ** 0.5
        graph.tensor(f"{name}.{part}_proj.weight", values)


def session(graph, width):
    shape = ["tokens", width]
    model = graph.model("layer", [("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT, shape)])
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def dense(width, neurons, activation, gated):
    graph = Writer()
    weights(graph, "mlp", width, neurons, gated, np.random.default_rng(1))
    made = network(graph, "x", "mlp", "mlp", activation, gated)
    graph.node("Identity", [made], "y")
    return session(graph, width)


def split(width, neurons, activation, gated, count, top_k):
    graph, random = Writer(), np.random.default_rng(1)
    for number in range(count):
        weights(graph, f"mlp.experts.{number}", width, neurons // count, gated, random)
    graph.tensor("mlp.gate.weight", random.standard_normal((count, width)).astype(np.float32))
    sizes = {"width": width, "count": count, "top_k": top_k}
    experts(graph, "x", "mlp", "y", **sizes, weighted=False, activation=activation, gated=gated)
    return session(graph, width)


def time_of(runtime, x):
    start = time.thread_time()
    runtime.run(None, {"x": x})
    return time.thread_time() - start


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    print(f"onnxruntime {ort.__version__}, one thread, microseconds of processor time")
    for name, width, neurons, activation, gated in LAYERS:
        runtimes = [dense(width, neurons, activation, gated)]
        runtimes += [split(width, neurons, activation, gated, *sizes) for sizes in SPLITS]
        heads = ["dense", *(f"{top_k} of {count}" for count, top_k in SPLITS)]
        print(f"\n{name}: {width} -> {neurons}, {activation}{', gated' if gated else ''}")
        print(f"{'tokens':>8}" + "".join(f"{head:>18}" for head in heads))
        for tokens in TOKENS:
            x = np.random.default_rng(2).standard_normal((tokens, width)).astype(np.float32)
            runs = max(5, min(rounds, rounds * 64 // tokens))
            times = np.array([[time_of(runtime, x) for runtime in runtimes] for _ in range(runs)][2:])
            medians = np.median(times, 0) * 1e6
            cells = [f"{medians[0]:>18.0f}"] + [f"{m:>10.0f} ({m / medians[0]:.2f})" for m in medians[1:]]
            print(f"{tokens:>8}" + "".join(cells), flush=True)


main()
