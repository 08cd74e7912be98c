"""Writes `onnx.txt.zst`: what the shape inference of the Python package `onnx` finds in the conformance models.

The models are those of `crates/kmr-conformance/archives`. Before inference, the declared types of inner values
and of outputs are dropped, in subgraphs too: what is left must be inferred. Data propagation is on; inference is
strict, and where that fails, it is not, and the case is marked with `~`.

    = SUITE/CASE
    VALUE TYPE
    NODE/ATTRIBUTE/VALUE TYPE        inside a subgraph of the node with this first output

A type is an element type's number and a shape, such as `1[2,batch,?]`; `1*` is a tensor of unknown rank, and
`seq(...)` and `optional(...)` wrap. Names are JSON strings where they hold spaces. Symbols that onnx makes up
are written as `?`. Needs onnx 1.23 and zstandard:

    python make.py
"""

import io
import json
import pathlib
import sys
import tarfile

import onnx
import zstandard

FOLDER = pathlib.Path(__file__).parent
ARCHIVES = FOLDER.parents[2] / "kmr-conformance" / "archives"


def models():
    """Every model of the archives, by its case."""
    for archive in sorted(ARCHIVES.glob("*.tar.zst")):
        plain = zstandard.ZstdDecompressor().stream_reader(archive.open("rb")).read()
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            for entry in tar:
                if entry.name.endswith("/model.onnx"):
                    yield entry.name.removesuffix("/model.onnx"), onnx.load_from_string(tar.extractfile(entry).read())


def subgraphs(node):
    """The subgraphs of a node, by attribute."""
    return [(a.name, a.g) for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]


def strip(graph):
    """Drops what the file declares about the values that can be inferred."""
    del graph.value_info[:]
    for output in graph.output:
        output.ClearField("type")
    for node in graph.node:
        for _, inner in subgraphs(node):
            strip(inner)


def size(dimension):
    """One dimension, as far as it is known."""
    if dimension.HasField("dim_value"):
        return str(dimension.dim_value) if dimension.dim_value >= 0 else "?"
    name = dimension.dim_param
    return "?" if not name or name.startswith("unk__") else json.dumps(name).replace(" ", "\\u0020")[1:-1]


def show(declared):
    """A type; nothing where the element type is not known."""
    kind = declared.WhichOneof("value")
    if kind == "tensor_type":
        tensor = declared.tensor_type
        if not tensor.elem_type:
            return None
        if not tensor.HasField("shape"):
            return f"{tensor.elem_type}*"
        return f"{tensor.elem_type}[{','.join(map(size, tensor.shape.dim))}]"
    wraps = {"sequence_type": "seq", "optional_type": "optional"}
    if kind in wraps:
        inner = show(getattr(declared, kind).elem_type)
        return inner and f"{wraps[kind]}({inner})"
    return None


def lines(graph, prefix=""):
    """What was inferred about the values that nodes make."""
    types = {value.name: value.type for value in [*graph.value_info, *graph.output]}
    for node in graph.node:
        for output in node.output:
            found = show(types[output]) if output in types else None
            if found:
                yield f"{json.dumps(prefix + output)[1:-1]} {found}".replace("\\\\", "\\")
        first = next((output for output in node.output if output), "")
        for attribute, inner in subgraphs(node):
            yield from lines(inner, f"{prefix}{first}/{attribute}/")


def main():
    text, known = [], 0
    for case, model in models():
        strip(model.graph)
        mark = ""
        try:
            inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError:
            mark = "~"
            inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
        found = list(lines(inferred.graph))
        known += len(found)
        text += [f"= {mark}{case}", *found]
    plain = ("\n".join(text) + "\n").encode()
    (FOLDER / "onnx.txt.zst").write_bytes(zstandard.ZstdCompressor(level=19).compress(plain))
    print(f"{known} values", file=sys.stderr)


main()
