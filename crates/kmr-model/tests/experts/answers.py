#!/usr/bin/env python3
"""Runs layers of routed experts that kmr wrote in ONNX Runtime, against plain numpy and the layers of transformers.

    cargo build -p kmr-model --example routed_experts
    python3 answers.py PATH/TO/examples/routed_experts

Needs onnx, onnxruntime and numpy; torch and transformers for their part, which is told to be left out where they are
missing. Exits with 1 if an answer is apart by more than 2e-5 of the greatest.
"""

import itertools
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

WIDTH, NEURONS, EXPERTS = 12, 7, 5
CHOICES = ["softmax", "renormalized", "chosen", "unweighted"]
FLAGS = [[], ["gated"], ["gated", "biased"], ["biased", "inputs_first"], ["gated", "shared"], ["gated", "shared_gate"]]


def erf(x):
    from math import erf as one

    return np.vectorize(one, otypes=[float])(x) if x.size else x


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: 0.5 * x * (1 + erf(x / 2**0.5)),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
}


def softmax(x):
    shares = np.exp(x - x.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def reference(tensors, x, top_k, choice, activation, inputs_first):
    """The layer in float64, token by token."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def linear(name, x):
        weight = tensors[f"{name}.weight"]
        return x @ (weight if inputs_first else weight.T) + tensors.get(f"{name}.bias", 0)

    def network(name, x):
        up = linear(f"{name}.up_proj", x)
        if f"{name}.gate_proj.weight" in tensors:
            return linear(f"{name}.down_proj", activation(linear(f"{name}.gate_proj", x)) * up)
        return linear(f"{name}.down_proj", activation(up))

    rows = []
    for token in x.reshape(-1, x.shape[-1]).astype(np.float64):
        scores = linear("mlp.gate", token)
        best = np.argsort(-scores, kind="stable")[:top_k]
        weights = {
            "softmax": softmax(scores)[best],
            "renormalized": softmax(scores)[best] / softmax(scores)[best].sum(),
            "chosen": softmax(scores[best]),
            "unweighted": np.ones(top_k),
        }[choice]
        row = sum(weight * network(f"mlp.experts.{expert}", token) for expert, weight in zip(best, weights))
        if "mlp.shared_expert.up_proj.weight" in tensors:
            share = 1.0
            if "mlp.shared_expert_gate.weight" in tensors:
                share = 1 / (1 + np.exp(-linear("mlp.shared_expert_gate", token)))
            row = row + share * network("mlp.shared_expert", token)
        rows.append(row)
    return np.array(rows).reshape(x.shape)


def write(program, path, top_k, choice, activation, flags):
    sizes = [str(size) for size in (WIDTH, NEURONS, EXPERTS, top_k)]
    subprocess.run([program, path, *sizes, choice, activation, *flags], check=True)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def session(path):
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def inputs():
    random = np.random.default_rng(7)
    for shape in [(1, 1), (1, 2), (3, 1), (2, 7), (1, 33), (0, 4)]:
        yield random.standard_normal((*shape, WIDTH)).astype(np.float32)
    # Every token alike: all but k experts get none.
    yield np.repeat(random.standard_normal((1, 1, WIDTH)).astype(np.float32), 9, axis=1)


def apart(found, wanted):
    if found.shape != wanted.shape:
        return np.inf
    return np.abs(found - wanted).max(initial=0) / max(np.abs(wanted).max(initial=0), 1)


def against_numpy(program, path):
    count, worst = 0, 0.0
    for top_k, choice, flags in itertools.product(range(1, EXPERTS + 1), CHOICES, FLAGS):
        name = list(ACTIVATIONS)[(top_k + len(flags)) % 4]
        tensors = write(program, path, top_k, choice, name, flags)
        runtime = session(path)
        for x in inputs():
            (found,) = runtime.run(None, {"x": x})
            wanted = reference(tensors, x, top_k, choice, ACTIVATIONS[name], "inputs_first" in flags)
            worst, count = max(worst, apart(found, wanted)), count + 1
    return count, worst


def against_transformers(program, path):
    import torch
    from transformers import MixtralConfig, Qwen2MoeConfig, Qwen3MoeConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
    from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

    def blocks(top_k):
        sizes = {"hidden_size": WIDTH, "num_experts_per_tok": top_k, "hidden_act": "silu"}
        yield "renormalized", [], MixtralSparseMoeBlock(
            MixtralConfig(**sizes, intermediate_size=NEURONS, num_local_experts=EXPERTS)
        )
        for normalized, choice in [(True, "renormalized"), (False, "softmax")]:
            sizes["norm_topk_prob"] = normalized
            own = {"moe_intermediate_size": NEURONS, "num_experts": EXPERTS}
            yield choice, [], Qwen3MoeSparseMoeBlock(Qwen3MoeConfig(**sizes, **own))
            yield choice, ["shared_gate"], Qwen2MoeSparseMoeBlock(
                Qwen2MoeConfig(**sizes, **own, shared_expert_intermediate_size=NEURONS)
            )

    def fill(block, tensors):
        """The tensors under the names of this version of transformers, which stacks experts."""
        stacked = {}
        for name, parameter in block.state_dict().items():
            if name.endswith("gate_up_proj"):
                stacked[name] = np.stack(
                    [
                        np.concatenate([tensors[f"mlp.experts.{e}.{part}_proj.weight"] for part in ("gate", "up")])
                        for e in range(EXPERTS)
                    ]
                )
            elif name.endswith("experts.down_proj"):
                stacked[name] = np.stack([tensors[f"mlp.experts.{e}.down_proj.weight"] for e in range(EXPERTS)])
            else:
                stacked[name] = tensors[f"mlp.{name}"]
            assert stacked[name].shape == tuple(parameter.shape), name
        block.load_state_dict({name: torch.tensor(value) for name, value in stacked.items()})

    count, worst = 0, 0.0
    for top_k in range(1, EXPERTS + 1):
        for choice, flags, block in blocks(top_k):
            tensors = write(program, path, top_k, choice, "silu", ["gated", *flags])
            fill(block, tensors)
            runtime = session(path)
            for x in inputs():
                if not x.size:
                    continue
                (found,) = runtime.run(None, {"x": x})
                with torch.no_grad():
                    wanted = block.eval()(torch.tensor(x))
                wanted = (wanted[0] if isinstance(wanted, tuple) else wanted).numpy()
                worst, count = max(worst, apart(found, wanted)), count + 1
    return count, worst


def main():
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/experts.onnx"
        for name, check in [("numpy", against_numpy), ("transformers", against_transformers)]:
            try:
                count, worst = check(sys.argv[1], path)
            except ImportError as missing:
                print(f"{name}: left out, {missing}")
                continue
            print(f"{name}: {count} answers, at most {worst:.1e} apart")
            failed |= not worst < 2e-5
    sys.exit(failed)


main()
