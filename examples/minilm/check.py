#!/usr/bin/env python3
"""Compares the embeddings of a written model with those of `transformers`, on the texts of lee50.tsv.

    pip install numpy onnxruntime torch transformers
    python examples/minilm/check.py MODEL.onnx...

Prints the mean cosine of embeddings, and the Pearson correlation of cosines of pairs with people's scores.
"""

import csv
import pathlib
import sys

import numpy
import onnxruntime
import torch
import transformers

DATA = pathlib.Path(__file__).resolve().parent / "data"
FOLDER = DATA / "all-minilm-l6-v2"


def normalized(rows):
    return rows / numpy.linalg.norm(rows, axis=1, keepdims=True)


def reference(batches):
    model = transformers.AutoModel.from_pretrained(FOLDER).eval()
    found = []
    with torch.no_grad():
        for batch in batches:
            hidden = model(**{name: torch.from_numpy(value) for name, value in batch.items()}).last_hidden_state
            mask = torch.from_numpy(batch["attention_mask"])[..., None]
            found.append(((hidden * mask).sum(1) / mask.sum(1)).numpy())
    return normalized(numpy.concatenate(found))


def written(path, batches):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    feeds = ({name: value for name, value in batch.items() if name in names} for batch in batches)
    return normalized(numpy.concatenate([session.run(None, feed)[0] for feed in feeds]))


pairs = list(csv.DictReader(open(DATA / "lee50.tsv", encoding="utf-8"), delimiter="\t", quoting=csv.QUOTE_NONE))
texts = sorted({pair[side] for pair in pairs for side in ("first", "second")})
tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
batches = [
    dict(tokenizer(text, truncation=True, max_length=256, return_tensors="np", return_token_type_ids=True))
    for text in texts
]
batches = [{name: value.astype(numpy.int64) for name, value in batch.items()} for batch in batches]
scores = numpy.array([float(pair["score"]) for pair in pairs])
place = {text: at for at, text in enumerate(texts)}


def pearson(rows):
    cosines = [rows[place[pair["first"]]] @ rows[place[pair["second"]]] for pair in pairs]
    return numpy.corrcoef(cosines, scores)[0, 1]


original = reference(batches)
print(f"transformers: Pearson {pearson(original):.4f} on {len(pairs)} pairs of {len(texts)} texts")
for path in sys.argv[1:]:
    rows = written(path, batches)
    cosine = (rows * original).sum(1).mean()
    size = pathlib.Path(path).stat().st_size
    print(f"{path}: {size:,} bytes, cosine {cosine:.5f}, Pearson {pearson(rows):.4f}")
