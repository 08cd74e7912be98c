#!/usr/bin/env python3
"""Upgrades models and compares the answers in ONNX Runtime, bit for bit.

    cargo build --release -p kmr-model --example upgrade
    python3 upgrade_answers.py PATH/TO/examples/upgrade OPSET MODEL_OR_FOLDER...

Needs onnx, onnxruntime and numpy. A folder stands for every .onnx file in it. Inputs are those of test_data_set_0
beside the model where there is one, and drawn by a fixed seed where not. Exits with 1 if an upgraded model does not pass
the checker, does not run, or answers otherwise.
"""

import pathlib
import subprocess
import sys
import tempfile
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}


def session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Rewriting would compare the rewriting of two models rather than the models.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(path, session):
    folder = path.parent / "test_data_set_0"
    stored = []
    for file in sorted(folder.glob("input_*.pb"), key=lambda file: int(file.stem.split("_")[1])):
        tensor = onnx.TensorProto()
        tensor.ParseFromString(file.read_bytes())
        stored.append(numpy_helper.to_array(tensor))
    if len(stored) == len(session.get_inputs()) and stored:
        return {value.name: array for value, array in zip(session.get_inputs(), stored)}
    draw = np.random.default_rng(7)
    result = {}
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) and size > 0 else 1 for size in value.shape]
        kind = TYPES[value.type]
        if np.issubdtype(kind, np.floating):
            result[value.name] = draw.standard_normal(shape).astype(kind)
        else:
            result[value.name] = draw.integers(0, 2, shape).astype(kind)
    return result


def judge(tool, opset, path, folder):
    try:
        old = session(path)
        inputs = feeds(path, old)
        before = old.run(None, inputs)
    except Exception:
        return "ONNX Runtime does not run the original", ""
    upgraded = folder / "upgraded.onnx"
    run = subprocess.run([tool, path, upgraded, str(opset)], capture_output=True, text=True)
    if run.returncode != 0:
        reason = run.stderr.strip()
        for kind in ("beside the model", "training information", "cannot become", "cannot be upgraded"):
            if kind in reason:
                return f"refused: {kind}", reason
        return "FAILED to convert", reason
    try:
        onnx.checker.check_model(str(upgraded), full_check=False)
    except Exception as error:
        try:
            onnx.checker.check_model(str(path), full_check=False)
        except Exception:
            error = None
        if error is not None:
            return "FAILED the checker", str(error)
    try:
        after = session(upgraded).run(None, inputs)
    except Exception as error:
        if "NOT_IMPLEMENTED" in str(error) or "is under development" in str(error) or "Unsupported model IR" in str(error):
            return "ONNX Runtime does not know the new definition", str(error)
        return "FAILED to run", str(error)
    for a, b in zip(before, after):
        if isinstance(a, np.ndarray) and a.dtype != object:
            if a.shape != b.shape or a.dtype != b.dtype or a.tobytes() != b.tobytes():
                far = np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))) if a.shape == b.shape and a.size else "shape"
                return "FAILED: another answer", f"{a.shape} {b.shape}, farthest {far}"
        elif str(a) != str(b):
            return "FAILED: another answer", ""
    return "bit-identical", ""


def main():
    tool, opset, paths = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    models = [m for p in map(pathlib.Path, paths) for m in (sorted(p.rglob("*.onnx")) if p.is_dir() else [p])]
    counts = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for path in models:
            verdict, detail = judge(tool, opset, path, pathlib.Path(folder))
            counts[verdict] += 1
            if verdict.startswith(("FAILED", "refused")):
                print(f"{path}: {verdict}: {detail[:300]}")
    for verdict, count in counts.most_common():
        print(f"{count:5}  {verdict}")
    sys.exit(any(verdict.startswith("FAILED") for verdict in counts))


main()
