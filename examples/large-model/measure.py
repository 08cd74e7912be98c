#!/usr/bin/env python3
"""Measures how much memory kmr takes for a large model: anonymous and shared memory, without the pages of mapped files.

Makes a folder of `transformers` with a Llama of random weights in bfloat16 (the same for the same seed), then opens,
converts and quantizes it, and prints the peak of RssAnon + RssShmem of each command, sampled every 20 ms. Needs Linux and
numpy; the folder takes 4.6 GB with the default of 10 layers, what kmr writes another 8 GB for as long as this runs.

    cargo build --release
    python3 examples/large-model/measure.py target/release/kmr /var/tmp/large-model
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np

HIDDEN, INTERMEDIATE, HEADS, VOCABULARY = 4096, 11008, 32, 32000
GIBIBYTE = 1 << 30
CHUNK = 1 << 24


def tensors(layers, hidden, intermediate, vocabulary):
    """The tensors of each shard, by name and shape; a shard for each of the groups of layers."""
    layer = {
        "input_layernorm": [hidden],
        "self_attn.q_proj": [hidden, hidden],
        "self_attn.k_proj": [hidden, hidden],
        "self_attn.v_proj": [hidden, hidden],
        "self_attn.o_proj": [hidden, hidden],
        "post_attention_layernorm": [hidden],
        "mlp.gate_proj": [intermediate, hidden],
        "mlp.up_proj": [intermediate, hidden],
        "mlp.down_proj": [hidden, intermediate],
    }
    shards = [{"model.embed_tokens.weight": [vocabulary, hidden]}]
    for number in range(layers):
        if number % 4 == 0 and number > 0:
            shards.append({})
        shards[-1].update({f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()})
    shards.append({"model.norm.weight": [hidden], "lm_head.weight": [vocabulary, hidden]})
    return shards


def blocks(name, shape, seed):
    """The bytes of a tensor, block by block: norms are 1, other weights between 2^-7 and 2^-5 in magnitude."""
    count = int(np.prod(shape))
    if len(shape) == 1:
        yield np.full(count, 0x3F80, np.uint16).tobytes()
        return
    random = np.random.default_rng([seed, *name.encode()])
    for start in range(0, count, CHUNK):
        bits = random.integers(0, 1 << 16, min(CHUNK, count - start), np.uint16)
        yield (bits & 0x80FF | 0x3C00).tobytes()


def make(folder, layers, seed, sizes):
    hidden, intermediate, heads, vocabulary = sizes
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "num_hidden_layers": layers,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    shards = tensors(layers, hidden, intermediate, vocabulary)
    index, total = {}, 0
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        header, offset = {"__metadata__": {"format": "pt"}}, 0
        for name, shape in shard.items():
            end = offset + 2 * int(np.prod(shape))
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
            offset = end
            index[name] = file
        total += offset
        header = json.dumps(header).encode()
        header += b" " * (-len(header) % 8)
        with open(folder / file, "wb") as out:
            out.write(len(header).to_bytes(8, "little") + header)
            for name, shape in shard.items():
                for block in blocks(name, shape, seed):
                    out.write(block)
    index = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def resident(process):
    """Bytes of anonymous and shared memory, or None when the process is gone."""
    try:
        status = pathlib.Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines())
    if "RssAnon" not in fields:
        return None
    return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


def peak(label, command, log):
    """Runs a command; its peak in bytes."""
    started, most = time.monotonic(), 0
    trace = open(f"{log}.{label.replace(' ', '-')}.trace", "w")
    with open(log, "a") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
        while process.poll() is None:
            now = resident(process.pid) or 0
            most = max(most, now)
            trace.write(f"{time.monotonic() - started:.2f} {now >> 20}\n")
            time.sleep(0.02)
    seconds = time.monotonic() - started
    if process.returncode != 0:
        sys.exit(f"{label} ended with {process.returncode}; see {log}")
    print(f"{label:<24}{most / GIBIBYTE:8.3f} GiB{seconds:8.0f} s", flush=True)
    return most


def manifest(folder, samples, seed, vocabulary):
    ids = np.random.default_rng(seed).integers(0, vocabulary, (samples, 8))
    np.savez(folder / "tokens.npz", input_ids=ids, attention_mask=np.ones_like(ids))
    text = """schema = 1

[model]
path = "llama"

[data]
search = { path = "tokens.npz" }

[budget]
meter = "size_bytes"
at_most = "40%"

[quality]
meter = "next_token_kl"
drop_at_most = 100.0

[policy]
use = "scheduled"

[[stage]]
name = "pack"

[[stage.rule]]
use = "quantize"
knobs.weight_bits = { values = [32, 4], per = "model" }
config = { method = "min_max", granularity = 128 }
"""
    path = folder / "quantize.toml"
    path.write_text(text)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kmr", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path, help="is made, and removed in the end")
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--samples", type=int, default=2, help="of eight tokens, that the search judges by")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs=4, default=[HIDDEN, INTERMEDIATE, HEADS, VOCABULARY])
    parser.add_argument("--at-most", type=float, default=2.0, help="GiB that no command may exceed")
    parser.add_argument("--keep", action="store_true", help="leaves the folder where it is")
    arguments = parser.parse_args()
    folder, kmr = arguments.folder, str(arguments.kmr)
    model = folder / "llama"
    if model.exists():
        print(f"using {model}")
    else:
        total = make(model, arguments.layers, arguments.seed, arguments.sizes)
        print(f"made {model}: {total / 2e9:.2f} billion parameters, {total / 1e9:.2f} GB")
    log = folder / "kmr.log"
    most = [
        peak("measure", [kmr, "measure", str(model), "--input", "input_ids=1,8", "--input", "attention_mask=1,8"], log),
        peak("convert", [kmr, "convert", str(model), str(folder / "model.onnx")], log),
    ]
    for file in folder.glob("model.onnx*"):
        file.unlink()
    path = manifest(folder, arguments.samples, arguments.seed, arguments.sizes[3])
    infer = [kmr, "infer", str(model), "--inputs", str(folder / "tokens.npz"), "--outputs", str(folder / "logits.npz")]
    most.append(peak("infer", [*infer, "--engine", "builtin"], log))
    run = [kmr, "run", str(path), "--out", str(folder / "run"), "--engine", "builtin"]
    most.append(peak("quantize to 4 bits", run, log))
    report = json.loads((folder / "run/report.json").read_text())
    sizes = report["meters"]["size_bytes"]
    print(f"{sizes['before'] / 1e9:.2f} GB became {sizes['after'] / 1e9:.2f} GB")
    if not arguments.keep:
        shutil.rmtree(folder)
    if max(most) > arguments.at_most * GIBIBYTE:
        sys.exit(f"more than {arguments.at_most} GiB")


if __name__ == "__main__":
    main()
