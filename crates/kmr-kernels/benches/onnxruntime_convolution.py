"""Times kmr's convolution and ONNX Runtime's on the same shapes, one after the other, and prints the ratios.

Needs onnx, onnxruntime and numpy. From the repository:

    cargo bench -p kmr-kernels --no-run
    python crates/kmr-kernels/benches/onnxruntime_convolution.py target/release/deps/convolution-*

A ratio above 1 means that kmr is the faster one.
"""

import math
import os
import subprocess
import sys
import time

import numpy
import onnx
import onnxruntime

# in, out, size, kernel, stride: a ResNet-20 at 28x28, whole and pruned.
SHAPES = [
    (1, 16, 28, 3, 1),
    (16, 16, 28, 3, 1),
    (16, 32, 28, 3, 2),
    (16, 32, 28, 1, 2),
    (32, 32, 14, 3, 1),
    (32, 64, 14, 3, 2),
    (32, 64, 14, 1, 2),
    (64, 64, 7, 3, 1),
    (11, 23, 28, 3, 1),
    (23, 11, 14, 3, 1),
]
RUNS = 10


def session(ins, outs, kernel, stride, threads):
    weight = numpy.full((outs, ins, kernel, kernel), 0.01, numpy.float32)
    bias = numpy.full(outs, 0.5, numpy.float32)
    node = onnx.helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], pads=[kernel // 2] * 4, strides=[stride] * 2, kernel_shape=[kernel] * 2
    )
    graph = onnx.helper.make_graph(
        [node],
        "convolution",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", ins, "h", "w"])],
        [onnx.helper.make_tensor_value_info("y", 1, ["n", outs, "oh", "ow"])],
        [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(bias, "b")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def runtime(network, batch, ins, size):
    value = numpy.full((batch, ins, size, size), 0.25, numpy.float32)
    best = math.inf
    for _ in range(RUNS):
        start = time.perf_counter()
        network.run(None, {"x": value})
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def main():
    binary = max((path for path in sys.argv[1:] if os.access(path, os.X_OK)), key=os.path.getmtime)
    for threads in (1, 2):
        ours = subprocess.Popen(
            [binary, "--serve", str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        ratios = []
        for ins, outs, size, kernel, stride in SHAPES:
            network = session(ins, outs, kernel, stride, threads)
            for batch in (1, 16, 128, 256):
                best = [math.inf, math.inf]
                for _ in range(3):
                    ours.stdin.write(f"{batch} {ins} {outs} {size} {kernel} {stride} {RUNS}\n")
                    ours.stdin.flush()
                    best[0] = min(best[0], float(ours.stdout.readline()))
                    best[1] = min(best[1], runtime(network, batch, ins, size))
                ratios.append(best[1] / best[0])
                print(
                    f"{threads} threads, {batch:3} x {ins:2} -> {outs:2} at {size:2}, {kernel}x{kernel} stride {stride}:"
                    f" kmr {best[0]:8.4f} ms, ONNX Runtime {best[1]:8.4f} ms, ratio {ratios[-1]:.2f}"
                )
        ours.stdin.close()
        ours.wait()
        print(f"{threads} threads: geometric mean {math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}, least {min(ratios):.2f}")


if __name__ == "__main__":
    main()
