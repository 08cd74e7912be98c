#!/usr/bin/env python3
"""Trains a small transformer with routed experts on the Brown corpus, character by character, and writes it as ONNX.

    ./fetch.sh
    python3 train.py                     # moe.onnx, calibration.npz, search.npz, holdout.npz

Needs torch (CPU), numpy and onnx. One thread and fixed seeds: the same versions on the same processor give the same
model. The graph is the one of kmr_model::experts: tokens are gathered for each expert, and only chosen experts compute.
"""

import argparse
import pathlib
import re
import time

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional

from form import TensorProto, Writer, experts

HERE = pathlib.Path(__file__).parent
WIDTH, HEADS, LAYERS = 96, 4, 3
EXPERTS, TOP_K, NEURONS = 8, 2, 112
LENGTH, BATCH = 128, 24
SYMBOLS = "\n abcdefghijklmnopqrstuvwxyz0123456789.,;:?!'\"`()-$&/%"
# Texts of ca (press reportage) judge, all others train.
SEARCH, HOLDOUT = range(1, 15), range(15, 45)


def text(path):
    """The words of a text without their tags, in lower case."""
    words = (word.rsplit("/", 1)[0] for word in path.read_text(encoding="latin-1").split())
    plain = " ".join(words).lower().replace("``", '"').replace("''", '"')
    return re.sub(f"[^{re.escape(SYMBOLS)}]", "", plain) + "\n"


def encoded(paths):
    number = {symbol: at for at, symbol in enumerate(SYMBOLS)}
    return np.array([number[symbol] for path in paths for symbol in text(path)], dtype=np.int64)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList(
            nn.ModuleDict(
                {
                    "gate_proj": nn.Linear(WIDTH, NEURONS, bias=False),
                    "up_proj": nn.Linear(WIDTH, NEURONS, bias=False),
                    "down_proj": nn.Linear(NEURONS, WIDTH, bias=False),
                }
            )
            for _ in range(EXPERTS)
        )

    def forward(self, x):
        tokens = x.reshape(-1, WIDTH)
        shares = self.gate(tokens).softmax(-1)
        weights, chosen = shares.topk(TOP_K)
        weights = weights / weights.sum(-1, keepdim=True)
        total = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            rows, places = (chosen == number).nonzero(as_tuple=True)
            own = tokens[rows]
            made = expert["down_proj"](functional.silu(expert["gate_proj"](own)) * expert["up_proj"](own))
            total = total.index_add(0, rows, made * weights[rows, places, None])
        # Switch Transformers (arXiv 2101.03961), equation 4: keeps experts about equally busy.
        busy = functional.one_hot(chosen, EXPERTS).float().mean((0, 1))
        balance = EXPERTS * (busy * shares.mean(0)).sum()
        return total.reshape(x.shape), balance


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.o_proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.mlp_norm = nn.LayerNorm(WIDTH)
        self.mlp = Experts()

    def forward(self, x):
        batch, length, _ = x.shape
        heads = self.qkv(self.input_norm(x)).reshape(batch, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.o_proj(mixed.permute(0, 2, 1, 3).reshape(batch, length, WIDTH))
        made, balance = self.mlp(self.mlp_norm(x))
        return x + made, balance


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(len(SYMBOLS), WIDTH)
        self.position = nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        nn.init.normal_(self.embed.weight, std=0.05)
        nn.init.normal_(self.position.weight, std=0.05)

    def forward(self, ids):
        x = self.embed(ids) + self.position.weight[: ids.shape[1]]
        balance = 0.0
        for layer in self.layers:
            x, own = layer(x)
            balance = balance + own / LAYERS
        return self.norm(x) @ self.embed.weight.T, balance


def train(model, data, steps, peak=3e-3):
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, pct_start=0.1)
    random = np.random.default_rng(7)
    start, mean = time.time(), None
    for step in range(steps):
        at = random.integers(0, len(data) - LENGTH - 1, BATCH)
        rows = torch.from_numpy(np.stack([data[begin : begin + LENGTH + 1] for begin in at]))
        logits, balance = model(rows[:, :-1])
        loss = functional.cross_entropy(logits.reshape(-1, len(SYMBOLS)), rows[:, 1:].reshape(-1))
        optimizer.zero_grad()
        (loss + 0.01 * balance).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step}  loss {mean:.4f}  balance {balance:.3f}  {time.time() - start:.0f} s", flush=True)


def write(model, path):
    graph = Writer()
    for name, parameter in model.state_dict().items():
        if name.endswith(("qkv.weight", "o_proj.weight")):
            parameter = parameter.T.contiguous()
        graph.tensor(name, parameter.numpy())
    size = WIDTH // HEADS
    graph.tensor("output", model.embed.weight.detach().numpy().T.copy())
    graph.tensor("heads", np.array([0, LENGTH, 3, HEADS, size]))
    graph.tensor("joined", np.array([0, LENGTH, WIDTH]))
    graph.tensor("scale", np.array(size**-0.5, dtype=np.float32))
    graph.tensor("mask", np.triu(np.full((LENGTH, LENGTH), -1e9, dtype=np.float32), 1))
    embedded = graph.node("Gather", ["embed.weight", "ids"], "embedded")
    x = graph.node("Add", [embedded, "position.weight"], "positioned")
    for layer in range(LAYERS):
        of = lambda part: f"layers.{layer}.{part}"
        norm = lambda value, name: graph.node(
            "LayerNormalization", [value, f"{name}.weight", f"{name}.bias"], f"{name}.y", axis=-1, epsilon=1e-5
        )
        qkv = graph.node("MatMul", [norm(x, of("input_norm")), of("qkv.weight")], of("qkv"))
        split = graph.node("Reshape", [qkv, "heads"], of("split"))
        turned = graph.node("Transpose", [split], of("turned"), perm=[2, 0, 3, 1, 4])
        parts = [graph.node("Gather", [turned, graph.tensor(f"number.{at}", np.array(at))], of(part), axis=0)
                 for at, part in enumerate(["query", "key", "value"])]
        key = graph.node("Transpose", [parts[1]], of("key.turned"), perm=[0, 1, 3, 2])
        scores = graph.node("Mul", [graph.node("MatMul", [parts[0], key], of("products")), "scale"], of("scaled"))
        masked = graph.node("Add", [scores, "mask"], of("masked"))
        mixed = graph.node("MatMul", [graph.node("Softmax", [masked], of("attention"), axis=-1), parts[2]], of("mixed"))
        back = graph.node("Transpose", [mixed], of("back"), perm=[0, 2, 1, 3])
        made = graph.node("MatMul", [graph.node("Reshape", [back, "joined"], of("joined")), of("o_proj.weight")], of("o"))
        x = graph.node("Add", [x, made], of("attended"))
        experts(
            graph, norm(x, of("mlp_norm")), of("mlp"), of("mlp.made"), width=WIDTH, count=EXPERTS, top_k=TOP_K
        )
        x = graph.node("Add", [x, of("mlp.made")], of("y"))
    last = graph.node("LayerNormalization", [x, "norm.weight", "norm.bias"], "normed", axis=-1, epsilon=1e-5)
    graph.node("MatMul", [last, "output"], "logits")
    ids = ("ids", TensorProto.INT64, ["batch", LENGTH])
    logits = ("logits", TensorProto.FLOAT, ["batch", LENGTH, len(SYMBOLS)])
    onnx.save(graph.model("moe", [ids], [logits]), path)


def windows(data, count):
    """Windows of ids that do not overlap, spread over all of `data`."""
    at = np.linspace(0, len(data) // LENGTH - 1, count).astype(int)
    return np.stack([data[begin * LENGTH : (begin + 1) * LENGTH] for begin in at])


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--data", type=pathlib.Path, default=HERE / "data" / "package")
    arguments.add_argument("--out", type=pathlib.Path, default=HERE)
    arguments.add_argument("--steps", type=int, default=1200)
    arguments = arguments.parse_args()
    torch.manual_seed(7)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    files = sorted(arguments.data.glob("c[a-r][0-9][0-9]"))
    press = {f"ca{at:02}" for at in [*SEARCH, *HOLDOUT]}
    data = encoded([file for file in files if file.name not in press])
    search = encoded([arguments.data / f"ca{at:02}" for at in SEARCH])
    holdout = encoded([arguments.data / f"ca{at:02}" for at in HOLDOUT])
    model = Model()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(data):,} characters")
    train(model, data, arguments.steps)
    write(model, arguments.out / "moe.onnx")
    for name, source, count in [("calibration", data, 64), ("search", search, 128), ("holdout", holdout, 384)]:
        np.savez_compressed(arguments.out / f"{name}.npz", ids=windows(source, count))
    with torch.no_grad():
        ids = torch.from_numpy(windows(holdout, 384))
        logits, _ = model(ids)
        loss = functional.cross_entropy(logits[:, :-1].reshape(-1, len(SYMBOLS)), ids[:, 1:].reshape(-1))
    print(f"holdout: {loss:.4f} nat, perplexity {loss.exp():.3f} per character")


main()
