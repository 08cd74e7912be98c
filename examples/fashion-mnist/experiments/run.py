#!/usr/bin/env python3
"""Runs the experiments and prints their results as tables. Needs a built `kmr` and nothing else.

    examples/fashion-mnist/experiments/run.py [sweep] [policies] [granularity] [bits]
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
KMR = os.environ.get("KMR", HERE.parents[2] / "target" / "release" / "kmr")


@functools.cache
def run(name, allowed=(0,)):
    """The report of one manifest, and the number of candidates that were measured."""
    with tempfile.TemporaryDirectory() as out:
        command = [KMR, "run", HERE / f"{name}.toml", "--out", out, "--json", "--quiet"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode not in allowed:
            sys.exit(f"{name}: kmr ended with {done.returncode}: {done.stdout}")
        journal = (pathlib.Path(out) / "journal.ndjson").read_text().splitlines()
        events = [json.loads(line) for line in journal]
        measured = sum(
            1
            for event in events
            if event["event"] in ("probed", "tried")
            and (event.get("probe") or event.get("trial") or {}).get("measurement", None)
        )
        return json.loads(done.stdout), measured


def sweep():
    """Parameters, MACs and bytes fall strictly with the knob; accuracy at each value."""
    report, _ = run("sweep", allowed=(30,))
    meters = report["meters"]
    rows = [(0.0, {name: reading["before"] for name, reading in meters.items()}, meters["top1"]["before"])]
    for step in report["steps"]:
        value = step["value"]
        rows.append((value, step["costs"], step["quality"]))
    print("| sparsity | params | MACs | bytes | top-1 (search) |\n|---|---|---|---|---|")
    for value, costs, quality in rows:
        numbers = [f"{costs[name]:,.0f}" for name in ("params", "macs", "size_bytes")]
        print(f"| {value} | {' | '.join(numbers)} | {quality:.4f} |")
    for name in ("params", "macs", "size_bytes"):
        column = [costs[name] for _, costs, _ in rows]
        if not all(after < before for before, after in zip(column, column[1:])):
            sys.exit(f"{name} does not fall strictly: {column}")
    print("\nparams, MACs and bytes fall strictly at every step")


def compare(names):
    print("| run | bytes | top-1 search | top-1 holdout | steps | candidates measured | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        report, measured = run(name)
        quality = report["quality"]
        print(
            f"| {name} | {report['artifact']['bytes']:,} | {quality['search']['after']:.4f} "
            f"| {quality['holdout']['before']:.4f} -> {quality['holdout']['after']:.4f} "
            f"| {len(report['steps'])} | {measured} | {report['seconds']:.0f} |"
        )


EXPERIMENTS = {
    "sweep": sweep,
    "policies": lambda: compare(["greedy", "scheduled"]),
    "granularity": lambda: compare(["global", "greedy"]),
    "bits": lambda: compare(["bits_per_model", "bits_per_layer", "bits_per_channel_group"]),
}

for wanted in sys.argv[1:] or EXPERIMENTS:
    if wanted not in EXPERIMENTS:
        sys.exit(f"no experiment {wanted}; there are {', '.join(EXPERIMENTS)}")
    print(f"\n## {wanted}\n")
    EXPERIMENTS[wanted]()
