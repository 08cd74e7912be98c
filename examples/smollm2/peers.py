#!/usr/bin/env python3
"""GPTQModel on the same model, with the same calibration text, judged on the same windows as perplexity.py.

    pip install numpy torch transformers gguf gptqmodel
    examples/smollm2/peers.py 4:64 4:64:asymmetric 3:64 4:128

Each argument is bits:group, with zero points if it says so. The model is the folder that `kmr convert` makes of the GGUF
file, in float32; the 16 windows of 512 tokens are the first ones of Brown's editorials, as in the manifests here. Prints
perplexity on 28 windows of the news, seconds, and bytes of the quantized layers: codes, scales, zero points and group
indices. A setting that fails is a row with its error.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE / "data"
KMR = os.environ.get("KMR", HERE.parent.parent / "target" / "release" / "kmr")
MODEL = DATA / "SmolLM2-135M-Instruct.Q4_1.gguf"

# On two cores GPTQModel 7.7 takes one worker, and then fails because its loader wants two.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, os.cpu_count() or 2)))


def windows(tokenizer, name, count):
    ids = tokenizer((DATA / "brown" / name).read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    return [ids[start : start + 512] for start in range(0, 512 * count, 512)]


def perplexity(model, batches):
    found = []
    with torch.inference_mode():
        for ids in batches:
            ids = torch.tensor([ids])
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1].float()
            found.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item())
    return float(numpy.exp(numpy.mean(found)))


def quantized(folder, bits, group, symmetric, calibration, out):
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    started = time.monotonic()
    model = GPTQModel.load(str(folder), QuantizeConfig(bits=bits, group_size=group, sym=symmetric), device="cpu")
    batches = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in calibration]
    model.quantize(batches, batch_size=1)
    model.save(str(out))
    seconds = time.monotonic() - started
    return GPTQModel.load(str(out), device="cpu", backend=BACKEND.TORCH).model, seconds


def layer_bytes(folder):
    from safetensors import safe_open

    parts, total = ("qweight", "scales", "qzeros", "g_idx"), 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            total += sum(file.get_tensor(name).nbytes for name in file.keys() if name.rpartition(".")[2] in parts)
    return total


def main():
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        subprocess.run([KMR, "convert", MODEL, scratch / "original.onnx", "--quiet"], check=True)
        command = [KMR, "convert", scratch / "original.onnx", scratch / "original", "--like", MODEL, "--quiet"]
        subprocess.run(command, check=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(scratch / "original")
        calibration, news = windows(tokenizer, "editorial.txt", 16), windows(tokenizer, "news.txt", 28)
        print("| | perplexity | seconds | bytes of quantized layers |\n|---|---|---|---|")
        model = transformers.AutoModelForCausalLM.from_pretrained(scratch / "original", dtype=torch.float32)
        print(f"| original | {perplexity(model, news):.2f} | | |", flush=True)
        for setting in sys.argv[1:]:
            bits, group, *more = setting.split(":")
            bits, group, symmetric = int(bits), int(group), more != ["asymmetric"]
            out = scratch / setting.replace(":", "_")
            try:
                model, seconds = quantized(scratch / "original", bits, group, symmetric, calibration, out)
                row = f"{perplexity(model, news):.2f} | {seconds:.0f} | {layer_bytes(out):,}"
            except Exception as error:  # a peer's failure is a result
                row = f"{type(error).__name__}: {str(error).splitlines()[0][:120]} | |"
            points = "" if symmetric else ", zero points"
            print(f"| GPTQModel, {bits} bits in groups of {group}{points} | {row} |", flush=True)


main()
