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

Two test files run at a time where there are two cores (pytest-xdist; -n 0 for one), two slow tests where there are also
12 GB of free memory. The summary names the longest tests, and the files that took longer than tests/durations.json has it.

The virtual environment is .venv of this checkout, or MS_CODEGEEX_VENV. `pytest --help` explains pytest's arguments.
EOF
    exit 0
fi

free_memory() {  # GB; 0 if unknown
    local name value
    while read -r name value _; do
        if [[ $name == MemAvailable: ]]; then echo $((value >> 20)); return; fi
    done 2>/dev/null </proc/meminfo || true
    echo 0
}

venv=$(bash "$root/ascend_scripts/setup.sh" --tests)
export PATH="$venv/bin:$PATH"
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.tcache_count=60000} # as in tests/conftest.py
cd -- "$root"

parallel=()
if (($(nproc) > 1)); then
    if [[ " $* " != *' slow '* ]]; then
        parallel=(-n 2 --dist loadfile --no-loadscope-reorder) # files with few tests, the longest, would come last
    elif (($(free_memory) >= 12)); then
        parallel=(-n 2 --dist worksteal) # single tests take minutes, and some files an hour
    fi
fi
exec "$venv/bin/python" -m pytest "${parallel[@]}" "$@"
