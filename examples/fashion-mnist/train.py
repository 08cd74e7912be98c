#!/usr/bin/env python3
"""Trains the example's ResNet-20 on Fashion-MNIST and writes every file of this folder.

    ./fetch.sh                      # the full data set, into data-full/
    python train.py                 # resnet20.onnx and the three .npz files

The 60,000 training images are split once, by a fixed permutation:

    search        5,000   never trained on; judges the steps of a run
    calibration  10,000   trained on; for calibration and fine-tuning
    remaining    45,000   trained on; not stored here

The 10,000 test images are the holdout. They choose nothing: the model written is the one of
the last epoch, and the test images are classified once, after it.

The run can be stopped at any time: started again with the same arguments it goes on from the
last whole epoch and ends in the same weights.
"""

import argparse
import copy
import gzip
import hashlib
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

SPLIT_SEED = 20170825
SEARCH_IMAGES = 5_000
CALIBRATION_IMAGES = 10_000
PIXEL_MEAN = 0.2860
PIXEL_STD = 0.3530


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in, channels_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut = None
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential()
            self.shortcut.add_module("conv", nn.Conv2d(channels_in, channels_out, 1, stride, bias=False))
            self.shortcut.add_module("bn", nn.BatchNorm2d(channels_out))

    def forward(self, x):
        identity = x if self.shortcut is None else self.shortcut(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return F.relu(x + identity)


class ResNet20(nn.Module):
    """ResNet-20 (He et al. 2016, section 4.2) for images [N, 1, 28, 28] with pixels in [0, 1]."""

    def __init__(self, widths=(16, 32, 64), classes=10):
        super().__init__()
        self.register_buffer("mean", torch.full((1, 1, 1, 1), PIXEL_MEAN))
        self.register_buffer("std", torch.full((1, 1, 1, 1), PIXEL_STD))
        self.conv1 = nn.Conv2d(1, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        channels = widths[0]
        for stage, width in enumerate(widths, start=1):
            blocks = []
            for block in range(3):
                stride = 2 if stage > 1 and block == 0 else 1
                blocks.append(BasicBlock(channels, width, stride))
                channels = width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image):
        x = (image - self.mean) / self.std
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        return self.fc(x)


def read_idx(path):
    """Reads one gzip-compressed IDX file of unsigned bytes."""
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path}: not an IDX file of unsigned bytes")
    rank = data[3]
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def read_split(folder, prefix):
    """Images as uint8 [N, 1, 28, 28] and labels as uint8 [N]."""
    images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
    return images[:, None], labels


def split_training_images():
    """Indices of the search, the calibration and the remaining training images."""
    order = np.random.Generator(np.random.PCG64(SPLIT_SEED)).permutation(60_000)
    return np.split(order, [SEARCH_IMAGES, SEARCH_IMAGES + CALIBRATION_IMAGES])


def augment(images, generator):
    """Shifts each image by up to 2 pixels in both directions and mirrors half of them."""
    count = images.shape[0]
    padded = F.pad(images, (2, 2, 2, 2))
    shift = torch.randint(0, 5, (2, count, 1), generator=generator)
    rows = shift[0] + torch.arange(28)
    columns = shift[1] + torch.arange(28)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    batch = torch.arange(count)[:, None, None]
    return padded[batch, 0, rows[:, :, None], columns[:, None, :]][:, None]


def one_cycle(step, steps, peak, warm_up):
    """Learning rate: linear rise to the peak, then half a cosine down to zero."""
    rise = max(1, int(steps * warm_up))
    if step < rise:
        return peak * (0.05 + 0.95 * step / rise)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


@torch.no_grad()
def update_average(average, model, decay):
    """Moves the averaged model towards the model: parameters and batch-norm statistics."""
    for target, source in zip(average.state_dict().values(), model.state_dict().values()):
        if target.dtype.is_floating_point:
            target.lerp_(source, 1 - decay)
        else:
            target.copy_(source)


@torch.no_grad()
def accuracy(model, images, labels):
    """Share of the images whose largest logit is the label's."""
    model.eval()
    right = 0
    for start in range(0, len(images), 500):
        batch = images[start : start + 500].float() / 255
        right += int((model(batch).argmax(1) == labels[start : start + 500]).sum())
    return right / len(images)


def train(model, images, labels, search, arguments):
    """Trains in place of `model` and returns the averaged model of the last epoch."""
    average = copy.deepcopy(model)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": arguments.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=arguments.lr,
        momentum=0.9,
        nesterov=True,
    )
    batches = len(images) // arguments.batch
    steps = batches * arguments.epochs
    first_epoch = 0
    checkpoint = arguments.checkpoint
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["schedule"] != [arguments.seed, arguments.epochs, arguments.batch, arguments.lr]:
            raise SystemExit(f"{checkpoint} belongs to a run with other arguments: remove it or name another")
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first_epoch = state["epoch"]
    for epoch in range(first_epoch, arguments.epochs):
        started = time.monotonic()
        generator = torch.Generator().manual_seed(arguments.seed * 1_000 + epoch)
        order = torch.randperm(len(images), generator=generator)
        model.train()
        total = 0.0
        for batch in range(batches):
            step = epoch * batches + batch
            rate = one_cycle(step, steps, arguments.lr, arguments.warm_up)
            for group in optimizer.param_groups:
                group["lr"] = rate
            chosen = order[batch * arguments.batch : (batch + 1) * arguments.batch]
            x = augment(images[chosen], generator).float() / 255
            logits = model(x.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, labels[chosen], label_smoothing=arguments.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            update_average(average, model, min(arguments.average, (1 + step) / (10 + step)))
            total += loss.item()
            if batch % 100 == 99:
                print(f"epoch {epoch + 1} batch {batch + 1}/{batches} loss {total / (batch + 1):.4f} "
                      f"{(time.monotonic() - started) / (batch + 1) * batches:.0f} s/epoch", flush=True)
        scratch = checkpoint.with_suffix(".part")
        torch.save(
            {
                "schedule": [arguments.seed, arguments.epochs, arguments.batch, arguments.lr],
                "epoch": epoch + 1,
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
            },
            scratch,
        )
        os.replace(scratch, checkpoint)
        print(f"epoch {epoch + 1}/{arguments.epochs} loss {total / batches:.4f} "
              f"search {accuracy(average, *search):.4f} {time.monotonic() - started:.0f} s", flush=True)
    return average


def export(model, path, fold=False):
    """Writes the model as ONNX: `image` [N, 1, 28, 28] to `logits` [N, 10].

    Batch norms stay nodes of their own, unless `fold` puts them into the convolutions.
    """
    model = copy.deepcopy(model).to(memory_format=torch.contiguous_format).eval()
    torch.onnx.export(
        model,
        (torch.rand(2, 1, 28, 28),),
        str(path),
        opset_version=17,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        do_constant_folding=fold,
        training=torch.onnx.TrainingMode.EVAL if fold else torch.onnx.TrainingMode.PRESERVE,
        dynamo=False,
    )
    give_every_parameter_its_own_tensor(path)


def give_every_parameter_its_own_tensor(path):
    """Undoes the exporter's sharing of equal parameters, which it expresses by Identity nodes.

    The biases of the two batch norms that meet in an addition start equal and get equal gradients,
    so they are equal for ever, yet are two parameters of the network.
    """
    import onnx

    graph = (model := onnx.load(path)).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Identity" and n.input[0] in tensors]:
        own = graph.initializer.add()
        own.CopyFrom(tensors[node.input[0]])
        own.name = node.output[0]
        graph.node.remove(node)
    onnx.save(model, path)


def verify_export(model, path, images, labels):
    """Compares ONNX Runtime with the trained model; returns ONNX Runtime's accuracy."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model.eval()
    for batch in (1, 7):
        x = images[:batch].float() / 255
        with torch.no_grad():
            expected = model(x).numpy()
        found = session.run(["logits"], {"image": x.numpy()})[0]
        error = float(np.abs(found - expected).max())
        if found.shape != (batch, 10) or not error <= 1e-4:
            raise SystemExit(f"{path}: batch {batch} differs from the trained model by {error}")
    right = 0
    for start in range(0, len(images), 500):
        x = images[start : start + 500].float() / 255
        found = session.run(["logits"], {"image": x.numpy()})[0].argmax(1)
        right += int((found == labels[start : start + 500].numpy()).sum())
    return right / len(images)


def write_images(path, images, labels):
    np.savez_compressed(path, image=np.ascontiguousarray(images), labels=np.ascontiguousarray(labels))


def main():
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=here / "data-full", help="folder of the four .gz files")
    parser.add_argument("--out", type=Path, default=here, help="folder to write to")
    parser.add_argument("--checkpoint", type=Path, help="file to resume from (OUT/checkpoint.pt)")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.3, help="peak of the learning rate")
    parser.add_argument("--warm-up", type=float, default=0.2, help="share of the steps before the peak")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--label-smoothing", type=float, default=0.05)
    parser.add_argument("--average", type=float, default=0.998, help="decay of the averaged weights")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data-only", action="store_true", help="write the .npz files and stop")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.checkpoint = arguments.checkpoint or arguments.out / "checkpoint.pt"

    images, labels = read_split(arguments.data, "train")
    test_images, test_labels = read_split(arguments.data, "t10k")
    search, calibration, remaining = split_training_images()
    write_images(arguments.out / "search-5k.npz", images[search], labels[search])
    write_images(arguments.out / "train-10k.npz", images[calibration], labels[calibration])
    write_images(arguments.out / "test-10k.npz", test_images, test_labels)
    if arguments.data_only:
        return

    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True)
    tensors = lambda x, y: (torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y.astype(np.int64)))
    trained_on = np.concatenate([calibration, remaining])
    model = ResNet20().to(memory_format=torch.channels_last)
    search_split = tensors(images[search], labels[search])
    average = train(model, *tensors(images[trained_on], labels[trained_on]), search_split, arguments)

    path = arguments.out / "resnet20.onnx"
    export(average, path)
    test_split = tensors(test_images, test_labels)
    in_torch = accuracy(average, *test_split)
    in_onnxruntime = verify_export(average, path, *test_split)
    if in_torch != in_onnxruntime:
        raise SystemExit(f"test accuracy differs: {in_torch} trained, {in_onnxruntime} exported")
    print(json.dumps({
        "parameters": sum(p.numel() for p in model.parameters()),
        "search": accuracy(average, *search_split),
        "test": in_torch,
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }, indent=2))


if __name__ == "__main__":
    main()
