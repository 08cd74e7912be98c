#!/usr/bin/env python3
"""Prune then quantize, quantize then prune, and both at once, at three byte budgets.

Prints one row for each: bytes, accuracy on the search data and on the holdout, and a 95 % interval of the holdout's
drop from paired samples. Needs nothing but Python and a built kmr.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
EXAMPLE = HERE.parent
ROOT = EXAMPLE.parent.parent

PRUNE = """
[[stage.rule]]
use = "prune"
knobs.channel_sparsity = { values = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], per = "layer" }
config = { recalibrate_batch_norm = true, recalibration_samples = 256 }
"""
QUANTIZE = """
[[stage.rule]]
use = "quantize"
knobs.weight_bits = { values = [32, 8, 6, 4, 3, 2], per = "layer" }
"""
# The first stage stops where the second can still reach the budget.
ORDERS = {
    "prune, then quantize": [("prune", "80%", PRUNE), ("quantize", None, QUANTIZE)],
    "quantize, then prune": [("quantize", "{until}", QUANTIZE), ("prune", None, PRUNE)],
    "joint": [("fit", None, PRUNE + QUANTIZE)],
}
BUDGETS = [16, 10, 7]


def manifest(budget, stages, policy):
    text = f"""schema = 1
[model]
path = "{EXAMPLE / 'resnet20.onnx'}"
[data]
scale = "1/255"
calibration = {{ path = "{EXAMPLE / 'train-10k.npz'}", take = 2000 }}
search = {{ path = "{EXAMPLE / 'search-5k.npz'}", take = 2500 }}
holdout = {{ path = "{EXAMPLE / 'test-10k.npz'}" }}
[budget]
meter = "size_bytes"
at_most = "{budget}%"
[quality]
meter = "top1"
drop_at_most = inf
[output]
names = "short"
[policy]
use = "{policy}"
seed = 7
on_no_progress = "{'stop' if policy == 'scheduled' else 'skip'}"
"""
    if policy == "knapsack":
        text += 'config = { proxy = { meter = "kl", samples = 256 }, refine = { generations = 2, lambda = 2 } }\n'
    for name, until, rules in stages:
        text += f'[[stage]]\nname = "{name}"\n'
        if until:
            text += f'until = "{until.format(until=budget + 2)}{"%" if until == "{until}" else ""}"\n'
        text += rules
    return text


def interval(holdout):
    """The holdout's drop in points with its 95 % interval: paired samples, normal approximation."""
    samples, lost, gained = holdout["samples"], holdout["lost"], holdout["gained"]
    drop = (lost - gained) / samples
    deviation = math.sqrt(max(lost + gained - (lost - gained) ** 2 / samples, 0)) / samples
    return f"{100 * drop:+.2f} ({100 * (drop - 1.96 * deviation):+.2f} to {100 * (drop + 1.96 * deviation):+.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kmr", default=ROOT / "target/release/kmr", type=pathlib.Path)
    parser.add_argument("--budgets", type=int, nargs="*", default=BUDGETS)
    parser.add_argument("--keep", type=pathlib.Path, help="folder for manifests and runs")
    arguments = parser.parse_args()
    folder = arguments.keep or pathlib.Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    print("| budget | order | exit | bytes | top-1 search | top-1 holdout | drop, points (95 %) | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for budget in arguments.budgets:
        for order, stages in ORDERS.items():
            name = f"{order.replace(', ', '-').replace(' ', '-')}-{budget}"
            path = folder / f"{name}.toml"
            path.write_text(manifest(budget, stages, "knapsack"))
            began = time.monotonic()
            run = subprocess.run(
                [arguments.kmr, "run", path, "--out", folder / name, "--no-latency", "-q"], capture_output=True, text=True
            )
            seconds = time.monotonic() - began
            report = folder / name / "report.json"
            if not report.exists():
                print(f"| {budget} % | {order} | {run.returncode} | {run.stderr.strip().splitlines()[0]} | | | | |")
                continue
            report = json.loads(report.read_text())
            quality = report["quality"]
            holdout = quality["holdout"]
            print(
                f"| {budget} % | {order} | {run.returncode} | {report['artifact']['bytes']:,} |"
                f" {quality['search']['after']:.4f} | {holdout['after']:.4f} | {interval(holdout)} | {seconds:.0f} |"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
