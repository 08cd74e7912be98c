"""Holds the PEFT folders that kmr writes to what the `peft` package makes of them, and the other way round.

    cargo build -p kmr-formats --example peft_folder
    python peft_folder.py TARGET/debug/examples/peft_folder

needs torch, transformers and peft. Models are tiny and random; nothing is downloaded.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

PROGRAM = sys.argv[1]


class Images(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.body = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Conv2d(8, 6, 3, padding=1))
        self.head = torch.nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def llama():
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32))


def bert():
    return BertModel(BertConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4))


TOKENS = torch.arange(24).reshape(2, 12) % 97
CASES = {
    "llama": (llama, ["q_proj", "v_proj", "down_proj", "lm_head"], lambda model: model(TOKENS).logits),
    "bert": (bert, ["query", "value", "output.dense"], lambda model: model(TOKENS).last_hidden_state),
    "images": (Images, ["stem", "body.1", "head"], lambda model: model(torch.linspace(-1, 1, 600).reshape(2, 3, 10, 10))),
}


def made(make):
    torch.manual_seed(3)
    return make().eval()


def layers(model, ends):
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and any(
            name == end or name.endswith("." + end) for end in ends
        ):
            yield name, module


def product(a, b):
    return (b.reshape(b.shape[0], -1) @ a.reshape(a.shape[0], -1)).reshape(b.shape[0], *a.shape[1:])


def check(name, varied):
    make, ends, run = CASES[name]
    generator = np.random.default_rng(5)
    merged = made(make)
    arrays = {}
    for position, (layer, module) in enumerate(list(layers(merged, ends))):
        rank, scaling = (2 + position % 3, 0.5 + 0.25 * (position % 2)) if varied else (4, 2.0)
        weight = module.weight
        a = generator.normal(size=(rank, *weight.shape[1:])).astype(np.float32)
        b = generator.normal(size=(weight.shape[0], rank, *[1] * (weight.ndim - 2))).astype(np.float32)
        arrays |= {f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b,
                   f"{layer}.lora_scaling": np.float32(scaling)}
        with torch.no_grad():
            weight += scaling * torch.from_numpy(product(a, b))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        folder = Path(folder)
        np.savez(folder / "adapters.npz", **arrays)
        subprocess.run([PROGRAM, "write", folder / "adapters.npz", folder / "peft"], check=True)
        adapted = PeftModel.from_pretrained(made(make), folder / "peft").eval()
        expected, got, plain = run(merged), run(adapted), run(made(make))
        off = (expected - got).abs().max().item()
        moved = (expected - plain).abs().max().item()
        assert off < 1e-4 * max(1.0, expected.abs().max().item()), (name, off)
        assert moved > 1e-2, (name, moved)

        # What PEFT itself saves is read as what it is.
        torch.manual_seed(4)
        own = get_peft_model(made(make), LoraConfig(
            r=4, lora_alpha=6, target_modules=ends, use_rslora=varied, init_lora_weights=False))
        own.save_pretrained(folder / "own", save_embedding_layers=False)
        subprocess.run([PROGRAM, "read", folder / "own", folder / "read.npz"], check=True)
        read = np.load(folder / "read.npz")
        merged = made(make)
        count = 0
        for layer, module in layers(merged, ends):
            a, b, scaling = (read[f"{layer}.lora_{part}"] for part in ("A.weight", "B.weight", "scaling"))
            module.weight += torch.from_numpy(scaling * product(a, b))
            count += 1
        back = (run(merged) - run(own.eval())).abs().max().item()
        assert back < 1e-4, (name, back)
        print(f"{name}, {'varied' if varied else 'equal'} ranks: {count} layers; kmr's folder in PEFT is off by "
              f"{off:.1e} (adapters move answers by {moved:.2f}), PEFT's in kmr by {back:.1e}")


for name in CASES:
    for varied in (False, True):
        check(name, varied)
