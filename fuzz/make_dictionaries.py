#!/usr/bin/env python3
"""Writes the fuzzer's dictionaries: python3 make_dictionaries.py (in this folder; needs the onnx package)."""

import pathlib
import re

import onnx.defs

HERE = pathlib.Path(__file__).parent


def quoted(word):
    return '"' + "".join(c if c.isascii() and c.isalnum() or c in " _-.:/%" else f"\\x{ord(c):02x}" for c in word) + '"'


def write(name, words):
    lines = sorted({quoted(word) for word in words})
    (HERE / f"{name}.dict").write_text("\n".join(lines) + "\n")


def onnx_words():
    for schema in onnx.defs.get_all_schemas():
        if schema.domain == "":
            yield schema.name
            yield from schema.attributes


def manifest_words():
    source = (HERE / "../crates/kmr-manifest/src/keys.rs").read_text()
    yield from re.findall(r'"([a-z_0-9]+)"', source)
    yield from ["[[stage]]\n", "[[stage.rule]]\n", "knobs.", "{ ", " }", " = ", "true", "inf", "nan", "1e400", "0x7fffffff"]
    yield from ["30%", "300 kB", "300 KiB", "3.5 ms", "1/255", "size_bytes", "prune", "distill", "greedy", "sparsity", "bits"]


def npz_words():
    yield from ["PK\x03\x04", "PK\x01\x02", "PK\x05\x06", "PK\x06\x06", "PK\x06\x07", "\x1f\u008b", "\u0093NUMPY\x01\x00"]
    yield from ["{'descr': '", "', 'fortran_order': ", "True", "False", ", 'shape': (", "), }", ".npy", "|u1", "<f4", ">f8"]
    yield from ["4294967296", "\x01\x00", "\u00ff\u00ff\u00ff\u00ff", "\x08\x00", "\x00\x00\x08\x03"]


write("onnx", onnx_words())
write("manifest", manifest_words())
write("npz", npz_words())
