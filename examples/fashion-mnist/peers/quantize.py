#!/usr/bin/env python3
"""Runs other projects' quantizers on the example's model and compares all results in ONNX Runtime.

    python quantize.py --ours run/a/model.onnx run/b/model.onnx --json run/peers/comparison.json

Every quantizer gets the same checkpoint and the same calibration images; NNCF's accuracy control also
gets the search images. None sees the test images, on which every file is judged here, with the original
as the pair of each comparison. Prints tables; a quantizer that fails is a row with its error.
Exit status: 0 compared, 2 unusable input.
"""

import argparse
import contextlib
import functools
import json
import logging
import re
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime

EXAMPLE = Path(__file__).resolve().parent.parent
ORIGINAL = "original, fp32"
MAX_DROP_POINTS = 0.05  # what NNCF's accuracy control may lose on the search images


class UnusableInput(Exception):
    """What could not be read, and why."""


class LeftUnchanged(Exception):
    """A quantizer that ran without error and quantized nothing."""


def read_images(path, take=None):
    """The first `take` images as float32 in [0, 1], and their labels."""
    with np.load(path, allow_pickle=False) as arrays:
        images, labels = arrays["image"][:take], arrays["labels"][:take]
    if images.dtype != np.uint8 or len(images) != len(labels) or len(images) == 0:
        raise UnusableInput(f"{path}: {len(images)} images of {images.dtype} and {len(labels)} labels")
    return images.astype(np.float32) / np.float32(255), labels.astype(np.int64)


def open_session(model, threads=1):
    """A session on the CPU for a path or a decoded model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else Path(model).read_bytes()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def answers(session, images, batch=250):
    """The class with the largest logit for each image, all logits being finite."""
    name = session.get_inputs()[0].name
    found = []
    for start in range(0, len(images), batch):
        logits = session.run(None, {name: images[start : start + batch]})[0]
        if not np.isfinite(logits).all():
            raise ArithmeticError(f"logits from image {start} on are not finite")
        found.append(logits.argmax(1))
    return np.concatenate(found)


# The quantizers: each takes the prepared model's path, the data and the path to write.


def onnxruntime_static(model, data, out, **options):
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        """Calibration images in batches of 64."""

        def __init__(self):
            starts = range(0, len(data["calibration"]), 64)
            self.batches = iter([{data["input"]: data["calibration"][start : start + 64]} for start in starts])

        def get_next(self):
            return next(self.batches, None)

    quantize_static(model, out, Reader(), **options)


def onnxruntime_static_s8s8(model, data, out):
    onnxruntime_static(model, data, out)


def onnxruntime_static_u8s8(model, data, out):
    from onnxruntime.quantization import QuantType

    onnxruntime_static(
        model, data, out, per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8
    )


def onnxruntime_dynamic_s8(model, data, out):
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(model, out)


def onnxruntime_dynamic_u8(model, data, out):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(model, out, weight_type=QuantType.QUInt8)


def onnxruntime_4_bits(model, data, out):
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(model), bits=4, block_size=32, is_symmetric=True)
    quantizer.process()
    onnx.save(quantizer.model.model, out)


def nncf_dataset(data):
    import nncf

    return nncf.Dataset([{data["input"]: image[None]} for image in data["calibration"]])


def nncf_quantize(model, data, out):
    import nncf

    quantized = nncf.quantize(onnx.load(model), nncf_dataset(data), subset_size=len(data["calibration"]))
    onnx.save(quantized, out)


def nncf_accuracy_control(model, data, out):
    import nncf

    images, labels = data["search"]
    batches = [(images[start : start + 100], labels[start : start + 100]) for start in range(0, len(images), 100)]

    def validate(candidate, batches):
        session = open_session(candidate)
        shares = [float((answers(session, images) == labels).mean()) for images, labels in batches]
        return sum(shares) / len(shares), shares

    quantized = nncf.quantize_with_accuracy_control(
        onnx.load(model),
        nncf_dataset(data),
        nncf.Dataset(batches),
        validate,
        max_drop=MAX_DROP_POINTS / 100,
        subset_size=len(data["calibration"]),
    )
    onnx.save(quantized, out)


def nncf_weights(mode, model, data, out):
    import nncf

    options = {} if mode.startswith("INT8") else {"group_size": -1, "all_layers": True}
    opset_21 = onnx.version_converter.convert_version(onnx.load(model), 21)
    onnx.save(nncf.compress_weights(opset_21, mode=nncf.CompressWeightsMode[mode], **options), out)


PEERS = {
    "ONNX Runtime static, S8S8 (its default)": onnxruntime_static_s8s8,
    "ONNX Runtime static, U8S8 per channel": onnxruntime_static_u8s8,
    "ONNX Runtime dynamic, S8 (its default)": onnxruntime_dynamic_s8,
    "ONNX Runtime dynamic, U8": onnxruntime_dynamic_u8,
    "ONNX Runtime MatMulNBits, 4 bits": onnxruntime_4_bits,
    "NNCF quantize": nncf_quantize,
    f"NNCF accuracy control, drop at most {MAX_DROP_POINTS} points": nncf_accuracy_control,
    "NNCF weights only, int8": functools.partial(nncf_weights, "INT8_SYM"),
    "NNCF weights only, int4": functools.partial(nncf_weights, "INT4_SYM"),
}


def weights(path):
    """The stored bytes of every tensor of more than one number."""
    return {onnx.numpy_helper.to_array(tensor).tobytes() for tensor in onnx.load(path).graph.initializer if tensor.dims}


def first_line(error):
    """An error's class and first line, without ONNX Runtime's place in its source."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {re.sub(r'^.*Status Message: (?:.* was false[.] )?', '', line)}"[:200]


def run_peer(quantizer, original, data, out):
    """A row of the comparison: the file and the seconds it took, preparation included, or the error.

    Preparation is ONNX Runtime's, for all alike: it folds the batch norms into the convolutions.
    """
    start = time.perf_counter()
    row = {}
    try:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared = out.with_suffix(".prepared.onnx")
        with contextlib.redirect_stdout(sys.stderr):
            quant_pre_process(original, prepared)
            quantizer(prepared, data, out)
        row["path"] = str(out)
        if weights(out) == weights(prepared):
            raise LeftUnchanged("no weight was quantized")
    except Exception as error:  # whatever a foreign library raises is its row
        row["error"] = first_line(error)
    return row | {"seconds": time.perf_counter() - start}


def our_row(path):
    """A row for a file of ours; the time is the one its report gives."""
    report = path.with_name("report.json")
    return {
        "path": str(path),
        "seconds": json.loads(report.read_text()).get("seconds") if report.is_file() else None,
    }


def paired_difference(before, after):
    """Top-1 drop in points from two right-or-wrong arrays, its flips and a 95 % interval.

    The interval is Bonett and Price's for paired proportions (2012, the adjusted Wald interval).
    """
    samples = len(before)
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    p_lost, p_gained = (lost + 1) / (samples + 2), (gained + 1) / (samples + 2)
    middle = p_lost - p_gained
    half = 1.959964 * ((p_lost + p_gained - middle**2) / (samples + 2)) ** 0.5
    return {
        "drop_points": 100 * (lost - gained) / samples,
        "drop_interval": [100 * (middle - half), 100 * (middle + half)],
        "lost": lost,
        "gained": gained,
    }


def judge(rows, images, labels):
    """Adds bytes, top-1 and the difference from the original to every row that has a file."""
    before = None
    for row in rows.values():
        if "error" in row:
            continue
        try:
            row["bytes"] = Path(row["path"]).stat().st_size
            right = answers(open_session(row["path"]), images) == labels
        except Exception as error:  # a file that ONNX Runtime refuses is a result
            row["error"] = first_line(error)
            continue
        before = right if before is None else before
        row["top1_percent"] = 100 * float(right.mean())
        row |= paired_difference(before, right)


def measure_latency(rows, images, rounds):
    """Adds the median milliseconds of a batch, and the median ratio to the original in the same round."""
    usable = [name for name, row in rows.items() if "error" not in row]
    for threads in (1, 2):
        sessions = {name: open_session(rows[name]["path"], threads) for name in usable}
        for batch, repeats in ((1, 20), (64, 1)):
            times = {name: [] for name in usable}
            for round_ in range(rounds + 1):
                for name, session in sessions.items():
                    feed = {session.get_inputs()[0].name: images[:batch]}
                    start = time.perf_counter()
                    for _ in range(repeats):
                        session.run(None, feed)
                    if round_ > 0:  # the first warms up
                        times[name].append(1000 * (time.perf_counter() - start) / repeats)
            for name in usable:
                ratios = [own / fp32 for own, fp32 in zip(times[name], times[ORIGINAL])]
                rows[name].setdefault("latency", {})[f"batch {batch}, {threads} thread{'s' * (threads > 1)}"] = {
                    "milliseconds": statistics.median(times[name]),
                    "ratio": statistics.median(ratios),
                }


def print_tables(rows):
    """The comparison as Markdown."""
    original = next(iter(rows.values()))
    print("| model | bytes | of fp32 | top-1 | drop, points (95 %) | lost / gained | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        seconds = "" if row.get("seconds") is None else f"{row['seconds']:.1f}"
        if "error" in row:
            print(f"| {name} | {row['error'].replace('|', '/')} | | | | | {seconds} |")
            continue
        low, high = row["drop_interval"]
        drop = "" if row is original else f"{row['drop_points']:+.2f} ({low:+.2f} to {high:+.2f})"
        flips = "" if row is original else f"{row['lost']} / {row['gained']}"
        print(
            f"| {name} | {row['bytes']:,} | {100 * row['bytes'] / original['bytes']:.1f} % "
            f"| {row['top1_percent']:.2f} | {drop} | {flips} | {seconds} |"
        )
    if "latency" not in original:
        return
    cases = list(original["latency"])
    print(f"\n| median ms (ratio to fp32) | {' | '.join(cases)} |\n|---|{'---|' * len(cases)}")
    for name, row in rows.items():
        if "latency" in row:
            readings = [row["latency"][case] for case in cases]
            cells = [f"{reading['milliseconds']:.2f} ({reading['ratio']:.2f})" for reading in readings]
            print(f"| {name} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, default=EXAMPLE / "resnet20.onnx")
    parser.add_argument("--calibration", type=Path, default=EXAMPLE / "train-10k.npz")
    parser.add_argument("--take", type=int, default=512, help="calibration images, from the first on (512)")
    parser.add_argument("--search", type=Path, default=EXAMPLE / "search-5k.npz")
    parser.add_argument("--holdout", type=Path, default=EXAMPLE / "test-10k.npz")
    parser.add_argument("--ours", type=Path, nargs="*", default=[], metavar="MODEL", help="more files to compare")
    parser.add_argument("--skip-peers", action="store_true", help="compare only the files given by --ours")
    parser.add_argument("--skip-latency", action="store_true")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of the latency measurement (30)")
    parser.add_argument("--out", type=Path, default=EXAMPLE / "run-peers", help="folder for the peers' files")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write everything as JSON")
    arguments = parser.parse_args()

    logging.disable(logging.WARNING)
    images, labels = read_images(arguments.holdout)
    data = {
        "input": open_session(arguments.original).get_inputs()[0].name,
        "calibration": read_images(arguments.calibration, arguments.take)[0],
        "search": read_images(arguments.search),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = {ORIGINAL: {"path": str(arguments.original), "seconds": None}}
    for number, (name, quantizer) in enumerate({} if arguments.skip_peers else PEERS.items()):
        print(name, file=sys.stderr)
        rows[name] = run_peer(quantizer, arguments.original, data, arguments.out / f"{number}.onnx")
    rows |= {str(path): our_row(path) for path in arguments.ours}
    judge(rows, images, labels)
    if "error" in rows[ORIGINAL]:
        raise UnusableInput(f"{arguments.original}: {rows[ORIGINAL]['error']}")
    if not arguments.skip_latency:
        measure_latency(rows, images, arguments.rounds)
    print_tables(rows)
    if arguments.json:
        versions = {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}
        arguments.json.write_text(json.dumps({"versions": versions, "models": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (UnusableInput, OSError, KeyError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
