#!/usr/bin/env python3
"""The loss and the perplexity of models on windows of text, in ONNX Runtime.

    python3 evaluate.py holdout.npz MODEL...

Needs numpy and onnxruntime. Every character but the first of a window is predicted; the interval is 95 % of the mean
over windows.
"""

import sys

import numpy as np
import onnxruntime as ort


def losses(path, ids, batch=32):
    """The mean loss of each window in nat."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    runtime = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found = []
    for begin in range(0, len(ids), batch):
        rows = ids[begin : begin + batch]
        (logits,) = runtime.run(None, {"ids": rows})
        logits = logits[:, :-1].astype(np.float64)
        most = logits.max(-1, keepdims=True)
        total = np.log(np.exp(logits - most).sum(-1)) + most[..., 0]
        chosen = np.take_along_axis(logits, rows[:, 1:, None], -1)[..., 0]
        found.append((total - chosen).mean(-1))
    return np.concatenate(found)


def main():
    ids = np.load(sys.argv[1])["ids"]
    for path in sys.argv[2:]:
        own = losses(path, ids)
        margin = 1.96 * own.std(ddof=1) / len(own) ** 0.5
        print(f"{path}: {own.mean():.4f} ± {margin:.4f} nat, perplexity {np.exp(own.mean()):.3f} per character")


main()
