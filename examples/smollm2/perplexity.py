#!/usr/bin/env python3
"""Perplexity of models on Brown's news, in ONNX Runtime, with the tokens of `transformers`: a check on what kmr says.

    pip install numpy onnxruntime torch transformers gguf
    examples/smollm2/perplexity.py ORIGINAL.onnx MODEL.onnx...

The text is cut into windows of 512 tokens that share nothing; each is judged on its own. Of each further model the
difference of the mean loss to that of the one before it is given, with a 95 % interval over windows, which are drawn again
(paired bootstrap, 10,000 times, seed 7).
"""

import argparse
import pathlib

import numpy
import onnxruntime
import transformers

DATA = pathlib.Path(__file__).resolve().parent / "data"


def windows(text, length, count):
    tokenizer = transformers.AutoTokenizer.from_pretrained(DATA, gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)]
    return numpy.array(whole[:count], numpy.int64)


def losses(path, batches):
    """The mean loss of the next token in each window."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    found = []
    for window in batches:
        ids = window[None]
        known = {"input_ids": ids, "attention_mask": numpy.ones_like(ids), "position_ids": numpy.arange(ids.size)[None]}
        logits = session.run(None, {name: known[name] for name in names})[0][0, :-1].astype(numpy.float64)
        top = logits.max(1, keepdims=True)
        normal = numpy.log(numpy.exp(logits - top).sum(1)) + top[:, 0]
        found.append((normal - logits[numpy.arange(ids.size - 1), window[1:]]).mean())
    return numpy.array(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=pathlib.Path)
    parser.add_argument("--text", type=pathlib.Path, default=DATA / "brown" / "news.txt")
    parser.add_argument("--windows", type=int, default=28)
    arguments = parser.parse_args()
    batches = windows(arguments.text.read_text(encoding="utf-8"), 512, arguments.windows)
    print("| model | bytes | perplexity | loss above the model before (95 %) |\n|---|---|---|---|")
    before = None
    for path in arguments.models:
        found = losses(path, batches)
        change = ""
        if before is not None:
            drawn = numpy.random.default_rng(7).integers(0, len(found), (10_000, len(found)))
            low, high = numpy.percentile((found - before)[drawn].mean(1), (2.5, 97.5))
            change = f"{(found - before).mean():+.4f} ({low:+.4f} to {high:+.4f})"
        print(f"| {path} | {path.stat().st_size:,} | {numpy.exp(found.mean()):.2f} | {change} |", flush=True)
        before = found


main()
