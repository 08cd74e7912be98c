#!/bin/sh
# Fetches the full Fashion-MNIST data set (30 MB) into data-full/ beside this script, or into the
# folder given. It comes from the Debian package dataset-fashion-mnist; no root is needed and
# nothing is installed. Needs apt-get, dpkg and sha256sum.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
target=${1:-$here/data-full}

sums='b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7  train-images-idx3-ubyte.gz
0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056  train-labels-idx1-ubyte.gz
cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa  t10k-images-idx3-ubyte.gz
8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05  t10k-labels-idx1-ubyte.gz'

verify() { (cd "$1" && printf '%s\n' "$sums" | sha256sum --check --quiet -); }

mkdir -p "$target"
target=$(CDPATH='' cd -- "$target" && pwd)
if verify "$target" >/dev/null 2>&1; then
    echo "already there and verified: $target"
    exit 0
fi

scratch=$(mktemp -d "$target/.fetch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch"
mkdir "$scratch/unpacked"
if ! (cd "$scratch" && apt-get download dataset-fashion-mnist); then
    echo "the package dataset-fashion-mnist could not be downloaded;" \
        "'apt-get update' refreshes the package lists" >&2
    exit 1
fi
dpkg -x "$scratch"/dataset-fashion-mnist_*.deb "$scratch/unpacked"
files=$scratch/unpacked/usr/share/datasets/fashion-mnist
if ! verify "$files"; then
    echo "the package holds other files than expected; nothing was kept" >&2
    exit 1
fi
mv "$files"/*.gz "$target/"
echo "fetched and verified: $target"
