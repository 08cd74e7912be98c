#!/usr/bin/env python3
"""Prunes the example's model with Torch-Pruning, trains what is left, and compares in ONNX Runtime.

    ../fetch.sh && python ../full.py    # data-full/train-55k.npz, for the training
    python prune.py --macs 0.48 0.28 --ours run/a/model.onnx --json run/peers/pruned.json

Channels go by Torch-Pruning's group magnitude, ranked over the whole network, until no more than a given
share of the multiplications is left. The rest is trained as usual: SGD on the hard labels, with the
augmentation of train.py. ONNX Runtime then makes eight-bit integers of it, as in quantize.py. Only the
training looks at labels; none of it sees the test images, on which every file is judged here, with the
original as the pair of each comparison. Prints a table.
Exit status: 0 compared, 2 unusable input.
"""

import argparse
import contextlib
import copy
import importlib.metadata
import json
import logging
import math
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
import torch_pruning
from torch import nn

from quantize import (
    EXAMPLE,
    ORIGINAL,
    UnusableInput,
    judge,
    onnxruntime_static_u8s8,
    open_session,
    our_row,
    read_images,
    run_peer,
)

sys.path.insert(0, str(EXAMPLE))
import train  # noqa: E402

PRUNING_STEPS = 400  # Torch-Pruning's own benchmark goes towards no channels at all in this many
BATCH = 100
PEAK = 0.05  # of the learning rate
WARM_UP = 0.2  # the share of the steps before the peak
WEIGHT_DECAY = 5e-4


def read_model(path):
    """train.py's network with the weights of its exported file."""
    tensors = {
        tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in onnx.load(path).graph.initializer
    }
    model = train.ResNet20()
    expected = {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    if set(tensors) != expected:
        raise UnusableInput(f"{path}: not the network of train.py: {sorted(set(tensors) ^ expected)[:3]}")
    model.load_state_dict(tensors, strict=False)
    return model.eval()


def count_macs(model):
    """Multiplications of the convolutions and the linear layer for one image."""
    total = 0

    def add(module, _, output):
        nonlocal total
        total += module.weight.numel() * math.prod(output.shape[2:])

    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for layer in layers:
            hooks.callback(layer.register_forward_hook(add).remove)
        model(torch.zeros(1, 1, 28, 28))
    return total


def count_macs_in_file(path):
    """The same from the shapes in a file, however its weights are stored; None if they cannot be told."""
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.value_info, *graph.output]:
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    total = 0
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        weight, output = shapes.get(node.input[1], []), shapes.get(node.output[0], [])
        total += math.prod(weight) * math.prod(output[2:] if node.op_type == "Conv" else [])
        if not weight or not output or 0 in weight + output[1:]:
            return None
    return total


def prune(model, shares):
    """For each share of the multiplications, in falling order: the pruned model and the seconds of pruning."""
    seconds, start = 0.0, time.perf_counter()
    pruner = torch_pruning.pruner.BasePruner(
        model,
        torch.rand(2, 1, 28, 28),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=PRUNING_STEPS,
        ignored_layers=[model.fc],
        round_to=None,
    )
    original = left = count_macs(model)
    step = 0
    for share in sorted(shares, reverse=True):
        while left > share * original:
            if (step := step + 1) > PRUNING_STEPS:
                raise UnusableInput(f"{share:g} of the multiplications is less than pruning can leave ({left:,})")
            pruner.step()
            left = count_macs(model)
        seconds += time.perf_counter() - start
        yield share, copy.deepcopy(model), seconds
        start = time.perf_counter()


def fine_tune(model, images, labels, epochs, seed):
    """Trains a copy and returns it."""
    model = copy.deepcopy(model).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=PEAK, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY
    )
    batches = len(images) // BATCH
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(1_000 * seed + epoch)
        order = torch.randperm(len(images), generator=generator)
        total = 0.0
        for batch in range(batches):
            rate = train.one_cycle(epoch * batches + batch, epochs * batches, PEAK, WARM_UP)
            for group in optimizer.param_groups:
                group["lr"] = rate
            chosen = order[batch * BATCH : (batch + 1) * BATCH]
            x = train.augment(images[chosen], generator).float() / 255
            loss = F.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.item()
            if batch % 100 == 99 or batch == batches - 1:
                print(f"  epoch {epoch + 1}/{epochs} batch {batch + 1}/{batches} loss {total / (batch + 1):.4f}",
                      file=sys.stderr, flush=True)  # fmt: skip
    return model.eval()


def export(model, path, images, labels):
    """Writes the model as train.py does, and compares the file with it on a few images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        train.export(model, path)
    train.verify_export(model, path, images[:500], labels[:500])


def print_table(rows):
    """The comparison as Markdown."""
    original = rows[ORIGINAL]
    print("| model | MACs | bytes | of fp32 | top-1 | drop, points (95 %) | lost / gained | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        if "error" in row:
            print(f"| {name} | {row['error'].replace('|', '/')} | | | | | | {seconds} |")
            continue
        low, high = row["drop_interval"]
        drop = "" if row is original else f"{row['drop_points']:+.2f} ({low:+.2f} to {high:+.2f})"
        flips = "" if row is original else f"{row['lost']} / {row['gained']}"
        macs = "" if row["macs"] is None else f"{row['macs']:,}"
        print(
            f"| {name} | {macs} | {row['bytes']:,} | {100 * row['bytes'] / original['bytes']:.1f} % "
            f"| {row['top1_percent']:.2f} | {drop} | {flips} | {seconds} |"
        )


def compare(arguments, folder):
    """All rows: the original, two files for each share and seed, and ours."""
    with np.load(arguments.train, allow_pickle=False) as arrays:
        images, labels = torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["labels"].astype(np.int64))
    data = {
        "input": open_session(arguments.original).get_inputs()[0].name,
        "calibration": read_images(arguments.calibration, arguments.take)[0],
    }
    rows = {ORIGINAL: {"path": str(arguments.original), "seconds": None}}
    for share, pruned, pruning_seconds in prune(read_model(arguments.original), arguments.macs):
        for seed in arguments.seed:
            name = f"Torch-Pruning, {100 * share:g} % of the MACs" + f", seed {seed}" * (len(arguments.seed) > 1)
            print(f"{name}: {count_macs(pruned):,} MACs", file=sys.stderr, flush=True)
            start = time.perf_counter()
            path = folder / f"pruned-{100 * share:g}-seed-{seed}.onnx"
            export(fine_tune(pruned, images, labels, arguments.epochs, seed), path, images, labels)
            seconds = pruning_seconds + time.perf_counter() - start
            rows[name] = {"path": str(path), "seconds": seconds, "share": share, "seed": seed}
            quantized = run_peer(onnxruntime_static_u8s8, path, data, path.with_suffix(".int8.onnx"))
            quantized["seconds"] += seconds
            rows[f"{name}, then int8"] = quantized | {"share": share, "seed": seed}
    rows |= {str(path): our_row(path) for path in arguments.ours}
    judge(rows, *read_images(arguments.holdout))
    if "error" in rows[ORIGINAL]:
        raise UnusableInput(f"{arguments.original}: {rows[ORIGINAL]['error']}")
    for row in rows.values():
        if "error" not in row:
            row["macs"] = count_macs_in_file(row["path"])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, default=EXAMPLE / "resnet20.onnx")
    parser.add_argument("--macs", type=float, nargs="*", default=[0.48, 0.28], metavar="SHARE",
                        help="shares of the multiplications to leave (0.48 0.28)")  # fmt: skip
    parser.add_argument("--train", type=Path, default=EXAMPLE / "data-full" / "train-55k.npz",
                        help="images to train on (those of full.py; train-10k.npz is the small variant)")  # fmt: skip
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, nargs="+", default=[1], metavar="N", help="one training for each (1)")
    parser.add_argument("--calibration", type=Path, default=EXAMPLE / "train-10k.npz")
    parser.add_argument("--take", type=int, default=512, help="calibration images, from the first on (512)")
    parser.add_argument("--holdout", type=Path, default=EXAMPLE / "test-10k.npz")
    parser.add_argument("--ours", type=Path, nargs="*", default=[], metavar="MODEL", help="more files to compare")
    parser.add_argument("--threads", type=int, default=1,
                        help="of the training (1; more are slower on cores that others use)")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep the files there")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write everything as JSON")
    arguments = parser.parse_args()

    logging.disable(logging.WARNING)
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = compare(arguments, folder)
    print_table(rows)
    if arguments.json:
        packages = ("torch", "torch-pruning", "onnx", "onnxruntime")
        versions = {package: importlib.metadata.version(package) for package in packages}
        arguments.json.write_text(json.dumps({"versions": versions, "models": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (UnusableInput, OSError, KeyError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
