"""Times kmr's and PyTorch's training kernels on the shapes of a ResNet-20, in turn, and prints the ratios.

Needs PyTorch. From the repository:

    cargo bench -p kmr-kernels --no-run
    python crates/kmr-kernels/benches/pytorch_training.py target/release/deps/training-*

Every operation is timed in rounds, first in one program, then in the other. A row gives the best time of
each program, their ratio, and the median over the rounds of the ratio of medians, which other work on the
machine disturbs. A ratio below 1 means that kmr is the faster one. The last lines add up the best times
of one training step: each row as often as the network has it.

On a busy machine, take `--threads 1 --processor-time`: threads of two programs rarely get all cores at
once. Without GLIBC_TUNABLES=glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=1073741824,
what PyTorch takes is largely fresh memory.
"""

import argparse
import math
import os
import statistics
import subprocess
import time

import torch

# How often, in, out, size, kernel, stride, groups.
CONVOLUTIONS = [
    (1, 1, 16, 28, 3, 1, 1),
    (6, 16, 16, 28, 3, 1, 1),
    (1, 16, 32, 28, 3, 2, 1),
    (1, 16, 32, 28, 1, 2, 1),
    (5, 32, 32, 14, 3, 1, 1),
    (1, 32, 64, 14, 3, 2, 1),
    (1, 32, 64, 14, 1, 2, 1),
    (5, 64, 64, 7, 3, 1, 1),
]
# Not in the network: a depthwise convolution and pruned ones.
OTHERS = [(0, 64, 64, 14, 3, 1, 64), (0, 11, 23, 28, 3, 1, 1), (0, 23, 11, 14, 3, 1, 1), (0, 45, 50, 7, 3, 1, 1)]
# How often each operation on the output of a convolution is there, by the shape of that convolution.
NORMALIZATIONS = [(7, 16, 16, 28, 3, 1, 1), (7, 32, 32, 14, 3, 1, 1), (7, 64, 64, 7, 3, 1, 1)]
SUMS = [(3, 16, 16, 28, 3, 1, 1), (3, 32, 32, 14, 3, 1, 1), (3, 64, 64, 7, 3, 1, 1)]


def rows():
    for operation in ("forward", "input", "weights"):
        for count, *shape in CONVOLUTIONS + OTHERS:
            # Nobody asks for the gradient by the images.
            if operation != "input" or shape[0] != 1:
                yield operation, count, shape
    for operation in ("normalize", "denormalize"):
        for count, *shape in NORMALIZATIONS:
            yield operation, count, shape
    for operation in ("add_relu", "relu_gradient"):
        for count, *shape in SUMS:
            yield operation, count, shape


def function(operation, batch, shape, memory_format):
    """The operation in PyTorch, without arguments."""
    ins, outs, size, kernel, stride, groups = shape
    pad = kernel // 2
    make = lambda *sizes: torch.randn(sizes).contiguous(memory_format=memory_format)
    x, w = make(batch, ins, size, size), make(outs, ins // groups, kernel, kernel)
    y = make(*torch.conv2d(x, w, None, stride, pad, 1, groups).shape)
    dy = make(*y.shape)
    scale, bias, mean, variance = torch.ones(outs), torch.zeros(outs), torch.zeros(outs), torch.ones(outs)
    norm = lambda: torch.native_batch_norm(y, scale, bias, mean, variance, True, 0.1, 1e-5)
    _, saved_mean, saved_inverse = norm()
    backward = lambda mask: torch.ops.aten.convolution_backward(
        dy, x, w, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], groups, mask
    )
    return {
        "forward": lambda: torch.conv2d(x, w, None, stride, pad, 1, groups),
        "input": lambda: backward([True, False, False]),
        "weights": lambda: backward([False, True, False]),
        "normalize": norm,
        "denormalize": lambda: torch.ops.aten.native_batch_norm_backward(
            dy, y, scale, mean, variance, saved_mean, saved_inverse, True, 1e-5, [True] * 3
        ),
        "add_relu": lambda: torch.relu_(y + dy),
        "relu_gradient": lambda: torch.ops.aten.threshold_backward(dy, y, 0),
    }[operation]


def measure(run, runs, clock):
    times = []
    for _ in range(runs):
        start = clock()
        run()
        times.append((clock() - start) * 1e3)
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", nargs="+")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=int, default=7, help="runs in a round; two more come first, untimed")
    parser.add_argument("--processor-time", action="store_true", help="as in training.rs; with one thread")
    parser.add_argument("--channels-last", action="store_true", help="PyTorch's other order of memory")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    memory_format = torch.channels_last if arguments.channels_last else torch.contiguous_format
    binary = max((path for path in arguments.binary if os.access(path, os.X_OK)), key=os.path.getmtime)
    clock = time.process_time if arguments.processor_time else time.perf_counter
    command = [binary, "--serve", str(arguments.threads)] + ["--processor-time"] * arguments.processor_time
    ours = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    totals = {}
    for operation, count, shape in rows():
        theirs = function(operation, arguments.batch, shape, memory_format)
        best, ratios = [math.inf, math.inf], []
        for _ in range(arguments.rounds):
            print(operation, arguments.batch, *shape, arguments.runs + 2, file=ours.stdin, flush=True)
            kmr = [float(number) for number in ours.stdout.readline().split()][2:]
            pytorch = measure(theirs, arguments.runs + 2, clock)[2:]
            best = [min(best[0], *kmr), min(best[1], *pytorch)]
            ratios.append(statistics.median(kmr) / statistics.median(pytorch))
        ins, outs, size, kernel, stride, groups = shape
        print(
            f"{operation:13} {count} x {ins:2} -> {outs:2} at {size:2}, {kernel}x{kernel} stride {stride}, {groups:2} groups:"
            f" kmr {best[0]:7.3f} ms, PyTorch {best[1]:7.3f} ms, ratio {best[0] / best[1]:.2f},"
            f" of medians {statistics.median(ratios):.2f}",
            flush=True,
        )
        total = totals.setdefault(operation, [0.0, 0.0])
        total[0] += count * best[0]
        total[1] += count * best[1]
    ours.stdin.close()
    ours.wait()
    totals["all"] = [sum(column) for column in zip(*totals.values())]
    for operation, (kmr, pytorch) in totals.items():
        print(f"{operation:13} a step: kmr {kmr:7.2f} ms, PyTorch {pytorch:7.2f} ms, ratio {kmr / pytorch:.2f}")


if __name__ == "__main__":
    main()
