#!/usr/bin/env python3
"""What training wins back: after pruning, in eight bits after that, with and without a teacher, and in two bits.

    examples/fashion-mnist/experiments/training.py [cuts] [int8] [two_bits] [small]

Prints one row for each run. Trains on all 55,000 images: ../fetch.sh and ../full.py come first. Needs nothing but Python
and a built kmr.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
EXAMPLE = HERE.parent
KMR = os.environ.get("KMR", EXAMPLE.parent.parent / "target" / "release" / "kmr")

HEAD = """schema = 1
[model]
path = "{model}"
[models]
original = "{example}/resnet20.onnx"
[data]
scale = "1/255"
calibration = {{ path = "{example}/train-10k.npz", take = 2000 }}
training = {{ path = "{example}/data-full/train-55k.npz" }}
search = {{ path = "{example}/search-5k.npz" }}
holdout = {{ path = "{example}/test-10k.npz" }}
augment = {{ shift = 2, flip = true }}
[budget]
meter = "{meter}"
at_most = "{at_most}"
[quality]
meter = "top1"
drop_at_most = inf
[policy]
use = "knapsack"
seed = {seed}
config.proxy = {{ meter = "kl", samples = 500 }}
[output]
names = "{names}"
"""
SHRINK = """[[stage]]
name = "shrink"
{until}
[[stage.rule]]
use = "prune"
knobs.channel_sparsity = {{ values = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], per = "layer" }}
config = {{ recalibrate_batch_norm = true, recalibration_samples = 256 }}
"""
RECOVER = """[[stage]]
name = "recover"
[[stage.rule]]
use = "distill"
knobs.epochs.values = [0, 2]
config = {{ {config} }}
"""
PACK = """[[stage]]
name = "pack"
[[stage.rule]]
use = "quantize"
knobs.weight_bits = {{ values = {values}, per = "{per}" }}
config = {{ {config} }}
"""
DISTILLED = 'teacher = "original", learning_rate = 0.05'


def head(meter, at_most, model=EXAMPLE / "resnet20.onnx", seed=7, names="short"):
    return HEAD.format(example=EXAMPLE, model=model, meter=meter, at_most=at_most, seed=seed, names=names)


def shrink(until=None):
    return SHRINK.format(until=f'until = "{until}"' if until else "")


def recover(config=DISTILLED):
    return RECOVER.format(config=config)


def pack(values, per, config=""):
    return PACK.format(values=values, per=per, config=config)


def reduce(name, manifest, folder):
    """The report of a run in `folder`."""
    path = pathlib.Path(folder) / "pipeline.toml"
    path.write_text(manifest)
    command = [KMR, "run", path, "--out", f"{folder}/run", "--json", "--quiet", "--no-latency"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{name}: kmr ended with {done.returncode}: {done.stdout}")
    return json.loads(done.stdout)


def run(name, manifest, original=None):
    with tempfile.TemporaryDirectory() as folder:
        report = reduce(name, manifest, folder)
    search = [f"{step['quality']:.4f}" for step in report["steps"] if step["accepted"]]
    holdout = report["quality"]["holdout"]["after"]
    original = original or report["quality"]["holdout"]["before"]
    print(
        f"| {name} | {report['meters']['macs']['after']:,.0f} | {report['artifact']['bytes']:,} | {', '.join(search)} "
        f"| {holdout:.4f} | {100 * (original - holdout):.2f} | {report['seconds']:.0f} |",
        flush=True,
    )


def after_a_cut(at_most, runs):
    """Cuts once, and then trains what is left in several ways."""
    with tempfile.TemporaryDirectory() as folder:
        cut = reduce(f"cut to {at_most}", head("macs", at_most, names="keep") + shrink(), folder)
        original = cut["quality"]["holdout"]["before"]
        for name, seed, config in runs:
            left = head("macs", "100%", f"{folder}/run/model.onnx", seed)
            run(name, left + recover(config), original)


def cuts():
    """52 % and 72 % of the multiplications removed: three seeds of training each, and one by labels alone."""
    for cut, at_most in ((52, "48%"), (72, "28%")):
        runs = [(f"{cut} % cut, seed {seed}", seed, DISTILLED) for seed in (7, 11, 13)]
        after_a_cut(at_most, [*runs, (f"{cut} % cut, labels alone", 7, f"{DISTILLED}, alpha = 0.0")])


def int8():
    """Pruned, trained back, and all layers on integers of eight bits."""
    for size, until in ((181, "66%"), (117, "37%")):
        eight = pack("[32, 8]", "model", 'activations = "static", integer_layers = "all"')
        run(f"int8, at most {size} kB", head("size_bytes", f"{size} kB") + shrink(until) + recover() + eight)


def two_bits():
    """Every weight in two bits, and trained in its own storage."""
    stored = head("size_bytes", "9%") + pack("[32, 2]", "model")
    run("2 bits", stored)
    run("2 bits, trained", stored + recover(f"{DISTILLED.split(',')[0]}, learning_rate = 0.005"))


def small():
    """The main job with all images."""
    packed = pack("[32, 8, 6, 4, 3]", "layer")
    run("at most 80 kB", head("size_bytes", "80 kB") + shrink("50%") + recover() + packed)


EXPERIMENTS = {work.__name__: work for work in (cuts, int8, two_bits, small)}

for wanted in sys.argv[1:] or EXPERIMENTS:
    if wanted not in EXPERIMENTS:
        sys.exit(f"no experiment {wanted}; there are {', '.join(EXPERIMENTS)}")

print("| run | MACs | bytes | top-1 search, step by step | top-1 holdout | drop, points | seconds |")
print("|---|---|---|---|---|---|---|")
for wanted in sys.argv[1:] or EXPERIMENTS:
    EXPERIMENTS[wanted]()
