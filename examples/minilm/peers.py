#!/usr/bin/env python3
"""Other projects' quantizers on the same model, and any of ours, judged on the same texts in ONNX Runtime.

    pip install numpy onnx onnxruntime nncf tokenizers scikit-learn
    python examples/minilm/peers.py [--only-ours] [MODEL.onnx...]

Every quantizer gets the ONNX file that `kmr convert` makes of the folder. Prints for each file: bytes; mean cosine of its
embeddings to the original's on 500 movie reviews and on the 50 documents of lee50.tsv; Pearson correlation of cosines with
people's scores; the share of 1,000 further reviews that a logistic regression on the embeddings of 2,000 gets right. No
quantizer sees any of these texts. A quantizer that fails is a row with its error.
"""

import argparse
import csv
import logging
import os
import pathlib
import subprocess
import tempfile
import time

import numpy
import onnx
import onnxruntime
import tokenizers
from sklearn.linear_model import LogisticRegression

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE / "data"
KMR = os.environ.get("KMR", HERE.parent.parent / "target" / "release" / "kmr")


def rows_of(name):
    with open(DATA / name, encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


class Judge:
    """The texts, and what is found of a model on them."""

    def __init__(self, original):
        self.tokenizer = tokenizers.Tokenizer.from_file(str(DATA / "all-minilm-l6-v2" / "tokenizer.json"))
        self.tokenizer.enable_truncation(256)
        self.tokenizer.no_padding()
        reviews = rows_of("movies.tsv")
        self.holdout = [row["text"] for row in reviews[:500]]
        self.known, self.asked = reviews[500:2500], reviews[2500:3500]
        self.pairs = rows_of("lee50.tsv")
        self.documents = sorted({pair[side] for pair in self.pairs for side in ("first", "second")})
        session = self.session(original)
        self.reference = [self.embedded(session, texts) for texts in (self.holdout, self.documents)]

    @staticmethod
    def session(path):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def embedded(self, session, texts):
        names = {value.name for value in session.get_inputs()}
        found = []
        for text in texts:
            encoding = self.tokenizer.encode(text)
            ids = numpy.array([encoding.ids], numpy.int64)
            feed = {"input_ids": ids, "attention_mask": numpy.ones_like(ids), "token_type_ids": numpy.zeros_like(ids)}
            row = session.run(None, {name: value for name, value in feed.items() if name in names})[0][0]
            found.append(row / numpy.linalg.norm(row))
        return numpy.array(found)

    def judged(self, path):
        session = self.session(path)
        found = [self.embedded(session, texts) for texts in (self.holdout, self.documents)]
        cosines = [(one * other).sum(1).mean() for one, other in zip(found, self.reference)]
        place = {text: at for at, text in enumerate(self.documents)}
        near = [found[1][place[pair["first"]]] @ found[1][place[pair["second"]]] for pair in self.pairs]
        pearson = numpy.corrcoef(near, [float(pair["score"]) for pair in self.pairs])[0, 1]
        return *cosines, pearson, self.probe(session)

    def probe(self, session):
        known, asked = (self.embedded(session, [row["text"] for row in rows]) for rows in (self.known, self.asked))
        classifier = LogisticRegression(max_iter=1000).fit(known, [row["label"] for row in self.known])
        return classifier.score(asked, [row["label"] for row in self.asked])


def onnxruntime_dynamic(model, out):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(model, out, per_channel=True, weight_type=QuantType.QInt8)


def onnxruntime_4_bits(model, out):
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    tables = {"op_types_to_quantize": ("MatMul", "Gather"), "quant_axes": (("MatMul", 0), ("Gather", 1))}
    config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, **tables)
    quantizer = MatMulNBitsQuantizer(onnx.load(model), algo_config=config)
    quantizer.process()
    onnx.save(quantizer.model.model, out)


def nncf_int8(model, out):
    import nncf

    onnx.save(nncf.compress_weights(onnx.load(model), mode=nncf.CompressWeightsMode.INT8_ASYM), out)


def nncf_int4(model, out):
    import nncf

    mode = nncf.CompressWeightsMode.INT4_SYM
    onnx.save(nncf.compress_weights(onnx.load(model), mode=mode, group_size=128, all_layers=True), out)


PEERS = {
    "ONNX Runtime, dynamic, per channel": onnxruntime_dynamic,
    "NNCF, int8 weights": nncf_int8,
    "ONNX Runtime, 4 bits in blocks of 32": onnxruntime_4_bits,
    "NNCF, int4 weights in groups of 128": nncf_int4,
}


def row(name, path, judge, seconds=None):
    size = path.stat().st_size
    movies, lee, pearson, probe = judge.judged(path)
    took = "" if seconds is None else f"{seconds:.0f}"
    print(f"| {name} | {size:,} | {movies:.4f} | {lee:.4f} | {pearson:.4f} | {probe:.3f} | {took} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only-ours", action="store_true", help="leave the other projects out")
    parser.add_argument("models", nargs="*", type=pathlib.Path)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    print("| | bytes | cosine, reviews | cosine, documents | Pearson | probe | seconds |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        original = folder / "original.onnx"
        subprocess.run([KMR, "convert", DATA / "all-minilm-l6-v2", original, "--quiet"], check=True)
        judge = Judge(original)
        row("original", original, judge)
        for name, quantize in ({} if arguments.only_ours else PEERS).items():
            out = folder / "peer.onnx"
            out.unlink(missing_ok=True)
            try:
                started = time.monotonic()
                quantize(original, out)
                row(name, out, judge, time.monotonic() - started)
            except Exception as error:  # a peer's failure is a result
                print(f"| {name} | {type(error).__name__}: {str(error).splitlines()[0][:100]} | | | | | |", flush=True)
        for path in arguments.models:
            row(f"`{path}`", path, judge)


main()
