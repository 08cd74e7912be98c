"""Compares kmr's forward pass with ONNX Runtime's: the greatest difference, and samples per second.

Needs numpy and onnxruntime. From the repository:

    cargo bench -p kmr-compute --no-run
    python crates/kmr-compute/benches/onnxruntime_forward.py MODEL target/release/deps/forward-*

A ratio above 1 means that kmr is the faster one.
"""

import os
import subprocess
import sys
import tempfile
import time

import numpy
import onnxruntime


def main():
    model = sys.argv[1]
    binary = max((path for path in sys.argv[2:] if os.access(path, os.X_OK)), key=os.path.getmtime)
    with tempfile.TemporaryDirectory() as folder:
        source, result = os.path.join(folder, "input"), os.path.join(folder, "output")
        for threads in (1, 2):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            declared = session.get_inputs()[0]
            for batch in (1, 100, 256):
                shape = [size if isinstance(size, int) else batch for size in declared.shape]
                value = numpy.random.default_rng(7).random(shape, numpy.float32)
                value.tofile(source)
                command = [binary, model, str(batch), "--threads", str(threads), "--input", source, "--output", result]
                ours, theirs = 0.0, 0.0
                for _ in range(3):
                    ours = max(ours, float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
                    for _ in range(8):
                        start = time.perf_counter()
                        expected = session.run(None, {declared.name: value})[0]
                        theirs = max(theirs, batch / (time.perf_counter() - start))
                difference = numpy.abs(numpy.fromfile(result, numpy.float32).reshape(expected.shape) - expected).max()
                print(
                    f"{threads} threads, batch {batch:3}: kmr {ours:8.0f}/s, ONNX Runtime {theirs:8.0f}/s,"
                    f" ratio {ours / theirs:.2f}, greatest difference {difference:.2e}"
                )


if __name__ == "__main__":
    main()
