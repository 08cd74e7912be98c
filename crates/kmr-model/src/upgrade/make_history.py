#!/usr/bin/env python3
"""Writes history.txt, the definitions of ONNX's own operators that changed: python3 make_history.py

Needs the onnx package. A line is: operator, last set of the old definition, first set of the new one (the same number
twice is a deprecation), and what changed: `types` if the new definition takes the same attributes, inputs and outputs
and at least the types of the old one, `signature` for everything else. Whether a model means the same afterwards is for
people to say: adapters.rs has a row for every `signature`.
"""

import pathlib

import onnx.defs

FIRST, LAST = 7, 25


def attributes(schema):
    return {
        name: (attribute.type, attribute.required, attribute.default_value.SerializeToString())
        for name, attribute in schema.attributes.items()
    }


def parameters(parameters):
    return [(p.option, p.is_homogeneous, p.min_arity) for p in parameters]


def types_grew(old, new):
    return all(
        len(a.types) == 0 or set(a.types) <= set(b.types)
        for olds, news in ((old.inputs, new.inputs), (old.outputs, new.outputs))
        for a, b in zip(olds, news)
    )


def kind(old, new):
    same = (
        attributes(old) == attributes(new)
        and parameters(old.inputs) == parameters(new.inputs)
        and parameters(old.outputs) == parameters(new.outputs)
        and types_grew(old, new)
        and not new.deprecated
    )
    return "types" if same else "signature"


def main():
    history = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            history.setdefault(schema.name, []).append(schema)
    lines = []
    for name, schemas in sorted(history.items()):
        schemas.sort(key=lambda schema: schema.since_version)
        for old, new in zip(schemas, schemas[1:]):
            if FIRST < new.since_version <= LAST:
                lines.append(f"{name} {new.since_version} {kind(old, new)}")
    text = f"# Made by make_history.py from onnx {onnx.__version__}: operator, operator set, what changed there.\n"
    text += "\n".join(lines) + "\n"
    (pathlib.Path(__file__).parent / "history.txt").write_text(text)


main()
