#!/usr/bin/env bash
# Sets up what the tests need and runs them. Afterwards plain `.venv/bin/pytest` works too.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    cat <<'EOF'
usage: bash tests/run.sh [pytest arguments]

  bash tests/run.sh                       # the default suite
  bash tests/run.sh -m slow               # the slow tests
  bash tests/run.sh --skipped-before      # those that the run before skipped, after what they lacked was installed
  bash tests/run.sh tests/setup -k lock   # some of them; paths are those of the checkout

Two test files run at a time where there are two cores (pytest-xdist; -n 0 for one). For slow tests this needs 12 GB of
free memory, too. The summary names the longest tests, and the files that took longer than tests/durations.json has it.

The virtual environment is .venv of this checkout, or MS_CODEGEEX_VENV. `pytest --help` explains pytest's arguments.
EOF
    exit 0
fi

venv=$(bash "$root/ascend_scripts/setup.sh" --tests)
export PATH="$venv/bin:$PATH"
unset PYTHONDONTWRITEBYTECODE # as in tests/conftest.py; without bytecode, pytest would rewrite its tests each time
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.tcache_count=60000} # as in tests/conftest.py
cd -- "$root"

free_gib() {
    local name kib _
    while read -r name kib _; do
        if [[ $name == MemAvailable: ]]; then
            echo $((kib / 1024 / 1024))
            return
        fi
    done </proc/meminfo
    echo 0
}

parallel=()
if (($(nproc) > 1)) && { [[ " $* " != *' slow '* ]] || (($(free_gib) >= 12)); }; then
    parallel=(-n 2 --dist loadfile --no-loadscope-reorder) # files with few tests, the longest, would come last
fi
exec "$venv/bin/python" -m pytest "${parallel[@]}" "$@"
