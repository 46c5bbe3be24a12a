#!/usr/bin/env bash
# Sets up what the tests need and runs them. Afterwards plain `.venv/bin/pytest` works too.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    cat <<'EOF'
usage: bash tests/run.sh [pytest arguments]

  bash tests/run.sh                       # the default suite
  bash tests/run.sh -m slow               # the slow tests
  bash tests/run.sh --skipped-before      # those that were skipped when they last ran, after what they lacked was installed
  bash tests/run.sh tests/setup -k lock   # some of them; paths are those of the checkout

As many test files run at a time as there are cores, and one more, if there are 4 GB of free memory for each (pytest-xdist;
-n 0 for one); slow tests two at a time, with 6 GB for each. The summary names the longest tests, and the files that took longer than tests/durations.json has it.

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

files=$(($(nproc) + 1)) memory=4 # one more than cores, since some tests wait; GiB for each
if [[ " $* " == *' slow '* ]]; then
    files=2 memory=6
fi
if ((files > $(free_gib) / memory)); then
    files=$(($(free_gib) / memory))
fi
parallel=()
if (($(nproc) > 1 && files > 1)); then
    # Reordered, files with few tests, the longest, would come last; restarted, a process that crashed makes the run wait for ever.
    parallel=(-n "$files" --dist loadfile --no-loadscope-reorder --max-worker-restart=0)
fi
exec "$venv/bin/python" -m pytest "${parallel[@]}" "$@"
