"""Writes the archives of this folder: the backend test cases of the ONNX project.

`onnx-1.12.tar.zst` holds all of Debian's `libonnx-testdata` 1.12 that comes with data: the suites `node`,
`simple`, `pytorch-operator` and `pytorch-converted`. Its suite `real` is left out: it holds addresses alone.

`onnx-1.23.tar.zst` holds, as the suite `node-1.23`, the node cases of the Python package `onnx` 1.23 that the
other archive lacks: those of new names, and those that ask for another version of an operator. Left out is what is
large and has a smaller sibling that asks the same: cases above LIMIT bytes. Their names are printed.

Members are `SUITE/CASE/model.onnx`, `SUITE/CASE/SET/input_N.pb` and `SUITE/CASE/SET/output_N.pb`, in the order
of their names. Needs numpy, onnx 1.23, zstandard and the data folder of libonnx-testdata as the argument:

    python make.py /usr/share/libonnx-testdata/data
"""

import io
import pathlib
import sys
import tarfile

import onnx
import zstandard
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

FOLDER = pathlib.Path(__file__).parent
SUITES = ["node", "simple", "pytorch-operator", "pytorch-converted"]
LIMIT = 500_000


def debian(data):
    """The members of the older archive, by name."""
    members = {}
    for suite in SUITES:
        for model in sorted((data / suite).glob("*/model.onnx")):
            case = model.parent
            members[f"{suite}/{case.name}/model.onnx"] = model.read_bytes()
            for file in case.glob("test_data_set_*/*.pb"):
                number = file.parent.name.removeprefix("test_data_set_")
                members[f"{suite}/{case.name}/{number}/{file.name}"] = file.read_bytes()
    return members


def operators(model):
    """The operators of a model, with the versions that they are since."""
    versions = {known.domain or "ai.onnx": known.version for known in model.opset_import}
    found = set()
    for node in model.graph.node:
        domain = node.domain or "ai.onnx"
        version = versions.get(domain, 1)
        if onnx.defs.has(node.op_type, max_inclusive_version=version, domain=node.domain):
            version = onnx.defs.get_schema(node.op_type, version, node.domain).since_version
        found.add((domain, node.op_type, version))
    return found


def message(value, declared):
    """The message of a value that the graph declares so, as ONNX's own tools write it."""
    kind = declared.type.WhichOneof("value")
    if kind == "tensor_type":
        if not isinstance(value, onnx.TensorProto):
            value = numpy_helper.from_array(value, declared.name)
    elif kind == "sequence_type":
        value = numpy_helper.from_list(value, declared.name)
    elif kind == "optional_type":
        value = numpy_helper.from_optional(value, declared.name)
    else:
        raise ValueError(f"{declared.name} is a {kind}")
    return value.SerializeToString(deterministic=True)


def package(known):
    """The members of the newer archive: the cases of the package that are not `known`, as operators by name."""
    members = {}
    for case in collect_testcases(None):
        if known.get(case.name) == operators(case.model):
            continue
        assert (case.rtol, case.atol) == (1e-3, 1e-7), case.name
        graph, prefix = case.model.graph, f"node-1.23/{case.name}"
        files = {f"{prefix}/model.onnx": case.model.SerializeToString(deterministic=True)}
        for number, (inputs, outputs) in enumerate(case.data_sets):
            for kind, values, declared in [("input", inputs, graph.input), ("output", outputs, graph.output)]:
                for position, value in enumerate(values):
                    name = f"{prefix}/{number}/{kind}_{position}.pb"
                    files[name] = message(value, declared[position])
        if sum(map(len, files.values())) > LIMIT:
            print("left out:", case.name)
            continue
        members |= files
    return members


def write(name, members):
    """A tar of the members in the order of their names, compressed."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(members):
            entry = tarfile.TarInfo(path)
            entry.size = len(members[path])
            tar.addfile(entry, io.BytesIO(members[path]))
    # The window must cover the archive, whose cases share much; readers of 64 MiB windows are common.
    parameters = zstandard.ZstdCompressionParameters.from_level(22, window_log=26, write_content_size=True)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compress(plain.getvalue())
    (FOLDER / name).write_bytes(packed)
    cases = sum(path.endswith("/model.onnx") for path in members)
    print(f"{name}: {cases} cases, {len(plain.getvalue())} bytes, {len(packed)} compressed")


def main():
    older = debian(pathlib.Path(sys.argv[1]))
    write("onnx-1.12.tar.zst", older)
    models = {path.split("/")[1]: file for path, file in older.items() if path.endswith("/model.onnx")}
    known = {name: operators(onnx.load_from_string(file)) for name, file in models.items()}
    write("onnx-1.23.tar.zst", package(known))


main()
