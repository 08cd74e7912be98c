#!/usr/bin/env python3
"""Writes `data-full/train-55k.npz`: all 55,000 images that the model was trained on, those of `train-10k.npz` first.

    ./fetch.sh         # the full data set
    python full.py     # needs numpy alone

The 5,000 images of `search-5k.npz` are not among them.
"""

import gzip
from pathlib import Path

import numpy as np

# As in train.py.
SPLIT_SEED = 20170825
SEARCH_IMAGES = 5_000


def read_idx(path):
    data = gzip.decompress(path.read_bytes())
    rank = data[3]
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def main():
    folder = Path(__file__).parent / "data-full"
    images = read_idx(folder / "train-images-idx3-ubyte.gz")[:, None]
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz")
    order = np.random.Generator(np.random.PCG64(SPLIT_SEED)).permutation(60_000)[SEARCH_IMAGES:]
    shipped = np.load(Path(__file__).parent / "train-10k.npz")
    name = next(name for name in shipped if name != "labels")
    arrays = {name: images[order], "labels": labels[order].astype(shipped["labels"].dtype)}
    if not all(np.array_equal(arrays[key][:10_000], shipped[key]) for key in arrays):
        raise SystemExit("train-10k.npz holds other images: has the data set or the split changed?")
    np.savez_compressed(folder / "train-55k.npz", **arrays)
    print(folder / "train-55k.npz", arrays[name].shape)


if __name__ == "__main__":
    main()
