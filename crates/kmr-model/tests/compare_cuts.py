#!/usr/bin/env python3
"""Checks models that the example `cut_channels` has written.

For every FOLDER given: each `*.cut.onnx` must pass `onnx.checker` with shape inference, run in ONNX Runtime, and give
the outputs of its `*.silenced.onnx`, the whole model in which nothing reads the channels that were cut: to a
thousandth of the greatest output, or to what inputs that differ by a millionth make of it.

Needs onnx, onnxruntime and numpy.
"""

import pathlib
import sys

import numpy as np
import onnx
import onnxruntime as ort

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


def session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Without fusions both models do the same arithmetic.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds_for(runner, shapes, numbers):
    feeds = {}
    for given in runner.get_inputs():
        shape = shapes.get(given.name) or [size if isinstance(size, int) else 1 for size in given.shape]
        kind = TYPES[given.type]
        if np.issubdtype(kind, np.floating):
            feeds[given.name] = numbers.standard_normal(shape).astype(kind)
        else:
            feeds[given.name] = numbers.integers(0, 100, shape).astype(kind)
    return feeds


def check(folder):
    shapes = {}
    for line in (folder / "feeds.txt").read_text().splitlines():
        name, _, sizes = line.rpartition("=")
        shapes[name] = [int(size) for size in sizes.split("x")] if sizes else []
    checked, failures, worst = 0, [], 0.0
    for path in sorted(folder.glob("*.cut.onnx")):
        checked += 1
        try:
            onnx.checker.check_model(str(path), full_check=True)
            cut = session(path)
            silenced = session(str(path).replace(".cut.onnx", ".silenced.onnx"))
            feeds = feeds_for(cut, shapes, np.random.default_rng(3))
            near = {
                name: (value * (1 + 1e-6)).astype(value.dtype) if np.issubdtype(value.dtype, np.floating) else value
                for name, value in feeds.items()
            }
            results = [cut.run(None, feeds), silenced.run(None, feeds), silenced.run(None, near)]
            for got, want, beside in zip(*results):
                assert got.shape == want.shape, f"shape {got.shape} is not {want.shape}"
                got, want, beside = (value.astype(np.float64) for value in (got, want, beside))
                assert np.array_equal(np.isnan(got), np.isnan(want)), "NaN in one of both"
                scale = max(1e-6, np.nanmax(np.abs(want), initial=0))
                difference = np.nanmax(np.abs(got - want), initial=0) / scale
                noise = 4 * np.nanmax(np.abs(beside - want), initial=0) / scale
                worst = max(worst, difference)
                assert difference <= max(1e-3, noise), f"differs by {difference:.2e} of the greatest output"
        except Exception as error:  # every failure is listed
            failures.append(f"{path.name}: {str(error).splitlines()[0]}")
    return checked, failures, worst


def main():
    total, bad = 0, 0
    for name in sys.argv[1:]:
        checked, failures, worst = check(pathlib.Path(name))
        total, bad = total + checked, bad + len(failures)
        print(f"{name}: {checked - len(failures)} of {checked} cuts right, greatest difference {worst:.1e}")
        for failure in failures:
            print(f"  {failure}")
    print(f"{total - bad} of {total}")
    return 1 if bad or not total else 0


if __name__ == "__main__":
    sys.exit(main())
