#!/usr/bin/env python3
"""Judges a model file with ONNX Runtime alone, apart from everything else in this project.

    python check_onnxruntime.py run/model.onnx --report run/report.json --original resnet20.onnx

Prints the top-1 accuracy on the holdout, the file's length and the channels of every convolution.
With --report, compares them with what the report claims; with --original, also says which
convolutions lost channels. Exit status: 0 all claims hold, 1 one does not, 2 unusable input.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

TOLERANCE_POINTS = 0.1


class UnusableInput(Exception):
    """What could not be read, and why."""


def read_images(path):
    """Images as float32 in [0, 1] and labels, from an .npz with `image` and `labels`."""
    with np.load(path, allow_pickle=False) as arrays:
        images, labels = arrays["image"], arrays["labels"]
    if images.dtype == np.uint8:
        images = images.astype(np.float32) / 255
    if len(images) != len(labels) or len(images) == 0:
        raise UnusableInput(f"{path}: {len(images)} images and {len(labels)} labels")
    return images, labels.astype(np.int64)


def open_model(path, content):
    """The decoded model, checked, and its session."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        model = onnx.load_model_from_string(content)
        onnx.checker.check_model(model, full_check=True)
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # protobuf, checker and runtime share no narrower class
        raise UnusableInput(f"{path}: {error}") from error
    return model, session


def top1(session, images, labels, batch):
    """Share of the images, between 0 and 1, whose largest logit is the label's."""
    name = session.get_inputs()[0].name
    right = 0
    for start in range(0, len(images), batch):
        logits = session.run(None, {name: images[start : start + batch]})[0]
        if not np.isfinite(logits).all():
            raise UnusableInput(f"logits from image {start} on are not finite")
        right += int((logits.argmax(1) == labels[start : start + batch]).sum())
    return right / len(images)


def convolutions(model):
    """(weight name, input channels, output channels) of every convolution, in graph order."""
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    shapes |= {tensor.values.name: list(tensor.dims) for tensor in model.graph.sparse_initializer}
    shapes |= {
        node.output[0]: list(attribute.t.dims or attribute.sparse_tensor.dims)
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name in ("value", "sparse_value")
    }
    found = []
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        shape = shapes.get(node.input[1])
        if shape:
            found.append((node.input[1], shape[1] * groups, shape[0]))
        else:
            found.append((node.input[1], None, None))
    return found


def field(report, name):
    """The value at a dotted name in the report."""
    value = report
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise UnusableInput(f"the report has no field {name}")
        value = value[key]
    return value


def failed_claims(report, content, accuracy, samples):
    """One line for each claim of the report that does not hold."""
    failures = []
    claimed = field(report, "artifact.bytes")
    if claimed != len(content):
        failures.append(f"artifact.bytes is {claimed}, the file has {len(content)}")
    claimed = field(report, "artifact.sha256")
    found = hashlib.sha256(content).hexdigest()
    if claimed != found:
        failures.append(f"artifact.sha256 is {claimed}, the file's is {found}")
    claimed = field(report, "quality.holdout.after")
    if not abs(claimed - accuracy) * 100 <= TOLERANCE_POINTS:
        failures.append(f"quality.holdout.after is {claimed}, ONNX Runtime finds {accuracy}")
    claimed = field(report, "quality.holdout.samples")
    if claimed != samples:
        failures.append(f"quality.holdout.samples is {claimed}, judged here on {samples}")
    if report.get("outcome") == "feasible" and field(report, "budget.meter") == "size_bytes":
        limit = field(report, "budget.limit")
        if len(content) > limit:
            failures.append(f"the file has {len(content)} bytes, more than the budget of {limit}")
    return failures


def main():
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--holdout", type=Path, default=here / "test-10k.npz")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--original", type=Path, help="model before compression")
    parser.add_argument("--batch", type=int, default=250)
    arguments = parser.parse_args()

    content = arguments.model.read_bytes()
    model, session = open_model(arguments.model, content)
    images, labels = read_images(arguments.holdout)
    accuracy = top1(session, images, labels, arguments.batch)

    before = {}
    if arguments.original:
        before = {name: (i, o) for name, i, o in convolutions(onnx.load(arguments.original))}
    print(f"top-1    {accuracy:.4f} on {len(images)} images")
    print(f"length   {len(content)} bytes")
    print("channels")
    for name, inputs, outputs in convolutions(model):
        was = before.get(name)
        change = f"   was {was[0]} -> {was[1]}" if was and was != (inputs, outputs) else ""
        print(f"  {name:32} {inputs} -> {outputs}{change}")

    if arguments.report:
        failures = failed_claims(json.loads(arguments.report.read_text()), content, accuracy, len(images))
        for failure in failures:
            print(f"claim does not hold: {failure}", file=sys.stderr)
        if failures:
            return 1
        print("every claim of the report holds")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (UnusableInput, OSError, KeyError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
