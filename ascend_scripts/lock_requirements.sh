#!/usr/bin/env bash
# Makes the locks requirements[-mindspore-2.7|-mindspore-2.8|-mindspore-2.10|-gpu|-compiler|-test|-release].txt from their .in files,
# the first also from pyproject.toml (maintainers only; needs uv and a network).
# With --upgrade, moves every pin to its newest version; without it, changes only what the .in files require.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

lock() {  # lock NAME [uv arguments]: the leading comment of NAME.in becomes the header of NAME.txt
    local name=$1 line
    shift
    uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --only-binary :all: \
        --no-emit-index-url --no-header "$name.in" --output-file "$name.txt" "$@" >/dev/null
    {
        while IFS= read -r line && [[ $line == '#'* ]]; do printf '%s\n' "$line"; done <"$name.in"
        printf '\n%s\n' "$(<"$name.txt")"
    } >"$name.new"
    mv -- "$name.new" "$name.txt"
}

# What mindformers, nltk, fsspec and gigatoken require but is not needed here; for this lock only, since the tests need
# one of them. jieba has no wheel: requirements-source.txt.
left_out=(aiohttp awkward ftfy jieba joblib opencv-python-headless pybind11 setproctitle transformers typer)

lock requirements pyproject.toml --extra all --extra mindformers \
    --excludes <(printf '%s\n' "${left_out[@]}") "$@"
for engine in 2.7 2.8 2.10; do lock "requirements-mindspore-$engine" --no-deps "$@"; done
lock requirements-gpu "$@"
lock requirements-compiler "$@"
lock requirements-test --constraints requirements.txt "$@"
lock requirements-release --overrides <(echo 'jsonschema>=4.18') --excludes <(echo docopt) "$@"
