"""Compares a training step of the example's ResNet-20 with PyTorch's: seconds, and their ratio.

Needs torch and numpy. From the repository:

    cargo bench -p kmr-compute --no-run
    python crates/kmr-compute/benches/pytorch_step.py target/release/deps/step-*

The two take turns; a ratio below 1 means that kmr is the faster one.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

EXAMPLE = pathlib.Path(__file__).parents[3] / "examples" / "fashion-mnist"
sys.path.insert(0, str(EXAMPLE))

from train import ResNet20  # noqa: E402

BATCH, STEPS, ROUNDS = 100, 10, 5


def steps(network, optimizer, images, labels):
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return times


def main():
    binary = max((path for path in sys.argv[1:] if os.access(path, os.X_OK)), key=os.path.getmtime)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(7)
        network = ResNet20().train()
        optimizer = torch.optim.SGD(network.parameters(), 1e-4, momentum=0.9, nesterov=True, weight_decay=5e-4)
        images, labels = torch.rand(BATCH, 1, 28, 28), torch.randint(0, 10, (BATCH,))
        ratios = []
        for _ in range(ROUNDS):
            command = [binary, str(EXAMPLE / "resnet20.onnx"), str(BATCH), str(STEPS), "--threads", str(threads)]
            lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            ours = statistics.median(map(float, lines))
            theirs = statistics.median(steps(network, optimizer, images, labels))
            ratios.append(ours / theirs)
            print(f"{threads} threads: kmr {ours:.3f} s, PyTorch {theirs:.3f} s, ratio {ratios[-1]:.2f}", flush=True)
        print(f"{threads} threads: median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
